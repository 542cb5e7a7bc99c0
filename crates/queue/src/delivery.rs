//! A ticket that waits for its verdict.

use std::fmt;

use async_trait::async_trait;
use snapferry_wire::ticket::Ticket;

/// What became of an acknowledgement or a return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The queue took it.
    Done,
    /// The queue had taken the delivery back before: the consumer or its connection is gone. The ticket comes
    /// again to someone and its claim is refused, so this is no error for a worker.
    Stale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ack,
    GiveBack,
}

/// The queue's side of a delivery.
#[async_trait]
pub(crate) trait Settle: Send + Sync {
    async fn settle(&mut self, verdict: Verdict) -> Settled;
}

/// A delivered ticket. It blocks one place of its consumer's prefetch until it is acknowledged or given back; when
/// dropped without either, it stays with its consumer and comes again when that consumer is dropped.
#[must_use = "a delivery blocks its consumer until it is acknowledged or given back"]
pub struct Delivery {
    /// The offer.
    pub ticket: Ticket,
    /// Delivered before, to anyone. A hint for logs: never count attempts by it.
    pub redelivered: bool,
    settle: Box<dyn Settle>,
}

impl Delivery {
    pub(crate) fn new(ticket: Ticket, redelivered: bool, settle: Box<dyn Settle>) -> Self {
        Self { ticket, redelivered, settle }
    }

    /// The verdict on the claim is known (granted or gone): the message has done its work.
    pub async fn ack(mut self) -> Settled {
        self.settle.settle(Verdict::Ack).await
    }

    /// No verdict in time or no free slot: back to the front of the queue, for anyone.
    pub async fn give_back(mut self) -> Settled {
        self.settle.settle(Verdict::GiveBack).await
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("ticket", &self.ticket)
            .field("redelivered", &self.redelivered)
            .finish_non_exhaustive()
    }
}
