//! The only crate that knows AWS.
