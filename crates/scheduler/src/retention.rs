//! Retention: asks for the deletion of recovery points whose limits let them go. It deletes nothing itself: what goes is a
//! job like any other, that a person can see and whose refusals hold.
//!
//! Runs twice: the key of a job names the recovery point and how often its deletion was tried, so each is asked for once.
//! Dies between two jobs: the next round asks for the rest.

use std::sync::Arc;
use std::time::Duration;

use snapferry_api::job::{CreateJob, DeleteRecoveryPoint, Priority, Work};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::RetentionConfig;
use crate::dispatch::millis;
use crate::metrics::Metrics;
use crate::store::{Expired, Store, StoreError, Submission};

/// Recovery points of one round.
const BATCH: u32 = 1_000;
/// A deletion that did not succeed is asked for again after this.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// Lets recovery points go.
#[derive(Debug)]
pub struct Retention {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    config: RetentionConfig,
    metrics: Metrics,
}

impl Retention {
    /// A worker.
    #[must_use]
    pub fn new(store: Arc<Store>, clock: Arc<dyn Clock>, config: RetentionConfig, metrics: Metrics) -> Self {
        Self { store, clock, config, metrics }
    }

    /// Rounds until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.round(&stop).await {
                tracing::warn!(%error, "a round of the retention failed");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(self.config.interval_ms)) => {}
            }
        }
    }

    /// One round; answers how many deletions were asked for.
    ///
    /// # Errors
    /// [`StoreError`]; one that is refused because a task came between is tried in the next round.
    pub async fn round(&self, stop: &CancellationToken) -> Result<usize, StoreError> {
        let tried_ms = self.clock.wall_ms().saturating_sub(millis(TRY_AGAIN_AFTER));
        let mut n_asked = 0;
        for expired in self.store.expired(tried_ms, BATCH).await? {
            if stop.is_cancelled() {
                break;
            }
            match self.let_go(expired).await {
                Ok(true) => n_asked += 1,
                Ok(false) => {}
                Err(StoreError::Conflict(why)) => {
                    tracing::debug!(point = %expired.point, why, "retention waits");
                }
                // Somebody else was faster.
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(n_asked)
    }

    async fn let_go(&self, expired: Expired) -> Result<bool, StoreError> {
        let work = Work::DeleteRecoveryPoint(DeleteRecoveryPoint { recovery_point: expired.point });
        let request = CreateJob { work, priority: Priority::Low };
        // Callers' keys begin with the name of their token, which is never empty.
        let key = format!("\nretention/{}/{}", expired.point, expired.n_tried);
        let submission = Submission { request: &request, idempotency_key: Some(key), only: None };
        let submitted = self.store.submit(&submission).await?;
        if submitted.new {
            tracing::info!(point = %expired.point, job = %submitted.job, "retention lets a recovery point go");
            self.metrics.let_go.with_label_values(&[expired.kind.as_str()]).inc();
        }
        Ok(submitted.new)
    }
}
