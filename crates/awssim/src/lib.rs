//! A simulated AWS.

pub mod admin;
pub mod ebs;
pub mod faults;
pub mod store;
