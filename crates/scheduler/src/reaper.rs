//! The reaper: removes AWS objects that no live task and no recovery point owns. What it would remove is listed at
//! `GET /v1/ledger?reapable=true`, which is its dry run.
//!
//! Each removal may be repeated: AWS's "does not exist" counts as removed, and the ledger line is written after AWS has
//! answered. An object that was only intended is looked for by its ledger tag first. A line that cannot be served goes
//! to the end of the queue.

use std::sync::Arc;
use std::time::Duration;

use snapferry_aws::ec2::{find_by_ledger_tag, remove_object};
use snapferry_aws::{Account, SessionPurpose, SessionScope};
use snapferry_types::ledger::LedgerState;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::ReaperConfig;
use crate::dispatch::millis;
use crate::metrics::Metrics;
use crate::store::{ReapableLine, Store, StoreError};

/// Lines of one round.
const BATCH: u32 = 100;

/// Removes what nobody owns.
#[derive(Debug)]
pub struct Reaper {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    config: ReaperConfig,
    metrics: Metrics,
}

/// What a round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Lines whose objects are gone now.
    pub n_removed: usize,
    /// Lines that stay.
    pub n_failed: usize,
}

impl Reaper {
    /// A reaper.
    #[must_use]
    pub fn new(store: Arc<Store>, clock: Arc<dyn Clock>, config: ReaperConfig, metrics: Metrics) -> Self {
        Self { store, clock, config, metrics }
    }

    /// Rounds until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.round(&stop).await {
                tracing::warn!(%error, "a round of the reaper failed");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(self.config.interval_ms)) => {}
            }
        }
    }

    /// One round.
    ///
    /// # Errors
    /// [`StoreError`]; what AWS refuses is counted and logged, and tried again later.
    pub async fn round(&self, stop: &CancellationToken) -> Result<Reaped, StoreError> {
        let before_ms =
            self.clock.wall_ms().saturating_sub(millis(Duration::from_millis(self.config.delay_ms)));
        let mut done = Reaped::default();
        for line in self.store.reapable(before_ms, BATCH).await? {
            if stop.is_cancelled() {
                break;
            }
            let gone = match self.remove(&line).await {
                Ok(ids) => {
                    tracing::info!(entry = %line.entry.id, task = %line.entry.task, kind = line.entry.kind.as_str(),
                        ids = ids.join(","), "removed what nobody owns");
                    true
                }
                Err(error) => {
                    tracing::warn!(entry = %line.entry.id, task = %line.entry.task, %error, "remove what nobody owns");
                    false
                }
            };
            self.store.reaped(line.entry.id, gone).await?;
            self.metrics.reaped.with_label_values(&[if gone { "removed" } else { "failed" }]).inc();
            if gone { done.n_removed += 1 } else { done.n_failed += 1 }
        }
        Ok(done)
    }

    async fn remove(&self, line: &ReapableLine) -> Result<Vec<String>, anyhow::Error> {
        let entry = &line.entry;
        // Vaulted snapshots and what moves blocks are in the service account.
        let access = self.store.object_access(line.hypervisor, &entry.account, &entry.region).await?;
        let purpose = SessionPurpose::task(entry.task, SessionScope::CleanUp);
        let account = Account::open(&access, purpose).await?;
        let mut ids = entry.object_ids.clone();
        if ids.is_empty() || entry.state == LedgerState::Intended {
            ids.extend(find_by_ledger_tag(&account, entry.kind, entry.id).await?);
            ids.sort();
            ids.dedup();
        }
        for id in &ids {
            remove_object(&account, entry.kind, id).await?;
        }
        Ok(ids)
    }
}
