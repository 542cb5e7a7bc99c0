//! The public face of Snapferry as types: what the HTTP API of the scheduler takes and answers, with OpenAPI schemas,
//! and a [`Client`] with one method for each call. Command line and console use only this; nothing here knows how the
//! scheduler keeps its data.
//!
//! Secrets go in and never come out: they exist in [`hypervisor::CreateHypervisor`] alone. What is named `Option` and
//! speaks of access nodes, MediaAgents or the service account is left out of every answer to a tenant's token.

pub mod client;
pub mod crossing;
pub mod fleet;
pub mod hypervisor;
pub mod instance;
pub mod job;
pub mod ledger;
pub mod page;
pub mod problem;
pub mod protect;
pub mod recovery_point;
pub mod restore;
pub mod secret;

pub use client::{Client, ClientError};
pub use page::{Page, PageQuery};
pub use problem::{Problem, ProblemCode};
pub use secret::Secret;
