//! A simulated AWS.

pub mod faults;
pub mod store;
