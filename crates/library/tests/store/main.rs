//! Tests of the library through its public face: one binary, a module for each promise.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "helpers of tests outside a #[test] function"
)]

mod collect;
mod crash;
mod damage;
mod full_disk;
mod golden;
mod model;
mod reading;
mod rig;
mod sealing;
mod sessions;
