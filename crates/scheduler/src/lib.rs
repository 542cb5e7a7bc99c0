//! The scheduler: takes jobs in, offers their tasks, grants the right to work on them, knows what was stored and what
//! was made in AWS, and serves the public HTTP API.
//!
//! | module | noun |
//! |---|---|
//! | [`config`] | plain data |
//! | [`app`] | the scheduler put together |
//! | [`store`] | the database, which owns the truth |
//! | [`vault`] | what seals secrets in it |
//! | [`dispatch`] | who is next, offers, the outbox |
//! | [`lease`] | the right to work |
//! | [`http`] | the public API |
//! | [`retention`] | asking for the deletion of what need not be kept |
//! | [`discovery`], [`reconcile`], [`reaper`] | the only calls to AWS: looking, and removing what nobody owns |
//!
//! It never calls an agent or a MediaAgent, and never touches a block.

pub mod app;
pub mod clock;
pub mod config;
pub mod discovery;
pub mod dispatch;
pub mod http;
pub mod lease;
pub mod metrics;
pub mod reaper;
pub mod reconcile;
pub mod retention;
pub mod store;
pub mod vault;

pub use app::{BuildError, Scheduler, publisher};
pub use config::Config;
