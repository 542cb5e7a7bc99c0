//! The storage daemon and its client.
