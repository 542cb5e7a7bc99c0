//! Offers of tasks: the queue between the scheduler, which publishes tickets, and the agents, which consume them.
//!
//! A message is a disposable hint that a task may be claimed; the right to work is a lease in the scheduler's
//! database. So this crate promises delivery *at least once* and no more: tickets may come twice, late or in
//! another order, an acknowledgement may come too late to count, and emptying the broker loses nothing.
//!
//! | module | noun |
//! |---|---|
//! | [`name`] | the name of a task queue |
//! | [`seam`] | the traits: [`TaskQueue`], [`TicketPublisher`], [`TicketConsumer`] |
//! | [`delivery`] | a ticket that waits for its verdict |
//! | [`error`] | how a publish fails, and what that says about the message |
//! | [`stats`] | counters |
//! | [`embedded`] | the twin in this process, for the embedded default and for tests |
//! | [`rabbit`] | the broker: connections, confirmed publishing, supervised consuming |
//!
//! It never looks into the database, never counts attempts from broker headers and never runs a task.

pub mod delivery;
pub mod embedded;
pub mod error;
pub mod name;
pub mod rabbit;
pub mod seam;
pub mod stats;

pub use delivery::{Delivery, Settled};
pub use embedded::EmbeddedQueue;
pub use error::PublishError;
pub use name::{QueueName, QueueNameError};
pub use rabbit::{BrokerUrl, RabbitConfig, RabbitConfigError, RabbitQueue};
pub use seam::{TaskQueue, TicketConsumer, TicketPublisher};
pub use stats::{QueueCounts, QueueStats};
