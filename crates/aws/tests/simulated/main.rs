//! The crate against a simulated AWS: every step, every fault, over real HTTP with real signatures.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod attaching;
mod in_place;
mod preflight;
mod reading;
mod sessions;
mod steps;
mod vaulting;
mod world;
mod writing;
