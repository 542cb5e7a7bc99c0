//! The outbox: publishes committed offers and forgets each once the broker confirmed it. An offer that is refused,
//! returned or unanswered stays and is published again after a pause; one that was withdrawn or claimed meanwhile is
//! gone from the outbox by itself. Publishing twice is harmless: a claim grants once.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use snapferry_queue::{PublishError, QueueName, TicketPublisher};
use snapferry_service::Backoff;
use snapferry_wire::Ticket;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::store::{OutboxEntry, Store, StoreError};

/// Offers read at a time.
const BATCH: u32 = 200;
/// Offers under way at a time.
const CONCURRENCY: usize = 16;
/// Longest time between two looks.
const TICK: Duration = Duration::from_secs(2);
const BACKOFF_BASE: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Publishes committed offers.
pub struct Outbox {
    store: Arc<Store>,
    publisher: Arc<dyn TicketPublisher>,
    metrics: Metrics,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

/// What a look at the outbox came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Published {
    /// Offers that were confirmed.
    pub n_confirmed: usize,
    /// Offers that stay.
    pub n_failed: usize,
}

impl Outbox {
    /// An outbox on a publisher.
    #[must_use]
    pub fn new(store: Arc<Store>, publisher: Arc<dyn TicketPublisher>, metrics: Metrics) -> Self {
        Self { store, publisher, metrics }
    }

    /// Publishes until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut changes = self.store.changes();
        let mut backoff = Backoff::new(BACKOFF_BASE, BACKOFF_MAX);
        loop {
            let failed = match self.flush().await {
                Ok(published) => published.n_failed > 0,
                Err(error) => {
                    tracing::warn!(%error, "read the outbox");
                    true
                }
            };
            if failed {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                }
                continue;
            }
            backoff.reset();
            if !super::wait_for_change(&mut changes, TICK, &stop).await {
                return;
            }
        }
    }

    /// Publishes what is in the outbox now.
    ///
    /// # Errors
    /// [`StoreError`] when the outbox cannot be read; a failed publish is counted, not an error.
    pub async fn flush(&self) -> Result<Published, StoreError> {
        let mut total = Published::default();
        loop {
            let entries = self.store.outbox(BATCH).await?;
            self.metrics.outbox.set(i64::try_from(entries.len()).unwrap_or(i64::MAX));
            if entries.is_empty() {
                return Ok(total);
            }
            let outcomes = futures::stream::iter(entries.into_iter().map(|entry| self.publish(entry)))
                .buffer_unordered(CONCURRENCY)
                .collect::<Vec<_>>()
                .await;
            let n_confirmed = outcomes.iter().filter(|confirmed| **confirmed).count();
            total.n_confirmed += n_confirmed;
            total.n_failed = outcomes.len() - n_confirmed;
            if total.n_failed > 0 {
                return Ok(total);
            }
        }
    }

    async fn publish(&self, entry: OutboxEntry) -> bool {
        let queue = match entry.queue.parse::<QueueName>() {
            Ok(queue) => queue,
            Err(error) => {
                tracing::error!(dispatch = %entry.dispatch, %error, "an offer names no queue");
                return false;
            }
        };
        let ticket = Ticket { task: entry.task, dispatch: entry.dispatch, kind: entry.kind };
        let mut outcome = self.publisher.publish(&queue, &ticket).await;
        if matches!(outcome, Err(PublishError::Unroutable { .. })) {
            tracing::warn!(%queue, "the broker has no such queue; declaring it");
            self.count("unroutable");
            outcome = match self.publisher.declare(&queue).await {
                Ok(()) => self.publisher.publish(&queue, &ticket).await,
                Err(error) => Err(error),
            };
        }
        let word = match &outcome {
            Ok(()) => "confirmed",
            Err(PublishError::Unroutable { .. }) => "unroutable",
            Err(PublishError::Nacked { .. }) => "nacked",
            Err(PublishError::Unknown { .. }) => "unknown",
            Err(PublishError::Unavailable { .. }) => "unavailable",
        };
        self.count(word);
        if let Err(error) = outcome {
            tracing::warn!(dispatch = %entry.dispatch, task = %entry.task, %error, "the offer stays in the outbox");
            return false;
        }
        match self.store.published(entry.dispatch).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(dispatch = %entry.dispatch, %error, "note a confirmed offer; it will go out twice");
                false
            }
        }
    }

    fn count(&self, outcome: &str) {
        self.metrics.published.with_label_values(&[outcome]).inc();
    }
}
