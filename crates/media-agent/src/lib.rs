//! The storage daemon and its client.
//!
//! [`MediaAgent`] puts a [`snapferry_library::Library`] behind gRPC: [`server`] answers the calls, [`app`] owns the
//! listener, the periodic jobs (expiry of sessions, collection of garbage, scrub), the figures and the heartbeat to
//! the scheduler, [`s3`] keeps the library's objects in a bucket. [`client`] is what agents use: it implements the
//! seams of the data plane over the calls.
//!
//! The daemon holds no keys: chunks and the secret part of pages arrive sealed and leave sealed. It never talks to
//! AWS's compute or block APIs, and to the scheduler it only says that it is there.

pub mod app;
pub mod client;
pub mod config;
pub mod s3;
pub mod server;
mod wire_error;

pub use app::{App, BuildError, MediaAgent, RunError};
pub use config::{BackendConfig, JobsConfig, LibrarySection, MediaAgentConfig, S3Config};
