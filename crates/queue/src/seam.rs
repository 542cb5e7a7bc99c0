//! The seam that the scheduler and the agents are written against. [`EmbeddedQueue`](crate::EmbeddedQueue) and the
//! RabbitMQ client implement it and pass one conformance suite.

use std::num::NonZeroU16;
use std::sync::Arc;

use async_trait::async_trait;
use snapferry_wire::ticket::Ticket;
use tokio_util::sync::CancellationToken;

use crate::delivery::Delivery;
use crate::error::PublishError;
use crate::name::QueueName;
use crate::stats::QueueStats;

/// The scheduler's side.
#[async_trait]
pub trait TicketPublisher: Send + Sync {
    /// Makes the queue unless it is there. Repeatable.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] when the broker cannot be asked or refuses.
    async fn declare(&self, queue: &QueueName) -> Result<(), PublishError>;

    /// Publishes one ticket and waits for the broker's confirmation, for a bounded time. Calls may run side by side.
    ///
    /// # Errors
    /// [`PublishError`], which says whether the message may have arrived. Publishing twice is harmless.
    async fn publish(&self, queue: &QueueName, ticket: &Ticket) -> Result<(), PublishError>;
}

/// The agents' side: a subscription to one queue. Dropping it ends the subscription: what it delivered and what was
/// not settled is delivered again, to anyone, marked as redelivered.
#[async_trait]
pub trait TicketConsumer: Send {
    /// The next ticket, waited for without end: an unreachable broker, a deleted queue or a closed channel are
    /// logged, counted and repaired here. `None` only once the stop token is cancelled. At most `prefetch`
    /// deliveries are out unsettled at a time. Cancel-safe: dropping the future loses no ticket.
    async fn next(&mut self) -> Option<Delivery>;
}

/// Both sides of the queue.
pub trait TaskQueue: Send + Sync {
    /// A publisher; all of them share their connections.
    fn publisher(&self) -> Arc<dyn TicketPublisher>;

    /// Subscribes to a queue, which is declared when it is not there. Nothing is connected before the first
    /// [`TicketConsumer::next`].
    fn consume(
        &self,
        queue: &QueueName,
        prefetch: NonZeroU16,
        stop: CancellationToken,
    ) -> Box<dyn TicketConsumer>;

    /// The counters of all publishers and consumers of this client.
    fn stats(&self) -> Arc<QueueStats>;
}
