//! The scheduler.

pub mod clock;
pub mod store;
pub mod vault;
