//! The daemon on a loopback port and its client against it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod damage;
mod faults;
mod harness;
mod limits;
mod objects;
mod presence;
mod round_trip;
mod upkeep;
