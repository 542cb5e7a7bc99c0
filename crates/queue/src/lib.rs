//! Offers of tasks.
