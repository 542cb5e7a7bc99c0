//! The crate against a simulated AWS: every step, every fault, over real HTTP with real signatures.

mod reading;
mod sessions;
mod steps;
mod world;
mod writing;
