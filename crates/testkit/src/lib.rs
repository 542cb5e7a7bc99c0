//! Real brokers, databases and processes for tests.
