//! The agent: an OS-independent worker. It takes a slot, then an offer from its queue, claims the task from the
//! scheduler, runs the handler of the operation under the lease, and reports. It reads no database, holds no
//! long-lived secret, and can be killed at any instruction.

// The AWS clients' futures nest deeper than the compiler's default allows.
#![recursion_limit = "256"]

mod app;
mod attempt;
pub mod config;
mod context;
mod devices;
mod figures;
mod file;
mod handler;
mod identity;
mod images;
mod keeper;
mod lease;
mod ledger;
mod making;
mod node;
mod phases;
mod staging;
mod stop;
mod worker;

pub use app::{Agent, BuildError};
pub use config::AgentConfig;
pub use devices::{NoDevice, VolumeDevices};
pub use file::{AgentFile, QueueSection};
pub use identity::IdentityError;
