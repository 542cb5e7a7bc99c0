//! KMS keys and what they protect, over real HTTP with real signatures: who may use a key, and how EC2 and the EBS
//! direct APIs answer when somebody may not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod client;
mod direct;
mod kms;
mod launch;
mod tags;
mod volumes;
