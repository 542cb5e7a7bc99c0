//! The EBS direct APIs over real HTTP, with a world in which everybody may do everything.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod admin;
mod client;
mod faults;
mod protocol;
mod world;
