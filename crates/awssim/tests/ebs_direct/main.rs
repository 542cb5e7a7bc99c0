//! The EBS direct APIs over real HTTP, with a world in which everybody may do everything.

mod admin;
mod client;
mod faults;
mod protocol;
mod world;
