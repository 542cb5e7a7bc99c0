//! The process kit.
