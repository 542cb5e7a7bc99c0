//! A simulated AWS.

pub mod store;
