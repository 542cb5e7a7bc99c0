//! The reaper: removes AWS objects that no live task and no recovery point owns, in rounds and when it is asked to
//! (`POST /v1/ledger/reap`, with a dry run).
//!
//! Each removal may be repeated: AWS's "does not exist" counts as removed, and the ledger line is written after AWS has
//! answered. An object that was only intended is looked for by its ledger tag first. A line that cannot be served goes
//! to the end of the queue. Objects go with the care of [`remove_object`]: nothing is torn off a tenant's instance, and
//! what was restored for an instance goes with it.

use std::sync::Arc;
use std::time::Duration;

use snapferry_api::ledger::{LedgerQuery, Reap, ReapedLine};
use snapferry_aws::ec2::{Removal, find_by_ledger_tag, remove_object};
use snapferry_aws::{Account, SessionPurpose, SessionScope};
use snapferry_types::ledger::{LedgerState, ObjectKind, Purpose};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::ReaperConfig;
use crate::dispatch::millis;
use crate::metrics::Metrics;
use crate::store::{ReapableLine, Store, StoreError};

/// Lines of one round.
const BATCH: u32 = 100;

/// Lines of one call by hand.
const BY_HAND: u32 = 1_000;

/// Removes what nobody owns.
#[derive(Debug, Clone)]
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
            match self.settle(&line, stop).await? {
                None => done.n_removed += 1,
                Some(_) => done.n_failed += 1,
            }
        }
        Ok(done)
    }

    /// Removes, or in a dry run lists, what nobody owns now, without the delay of a round.
    ///
    /// # Errors
    /// [`StoreError`]; what AWS refuses is in the line.
    pub async fn reap(&self, asked: &Reap, stop: &CancellationToken) -> Result<Vec<ReapedLine>, StoreError> {
        let query =
            LedgerQuery { reapable: Some(true), hypervisor: asked.hypervisor, ..LedgerQuery::default() };
        let mut reaped = Vec::new();
        for line in self.store.ledger(&query, BY_HAND).await?.items {
            if stop.is_cancelled() {
                break;
            }
            if asked.dry_run {
                reaped.push(ReapedLine { line, removed: false, error: None });
                continue;
            }
            let object = ReapableLine { entry: line.entry.clone(), hypervisor: line.hypervisor };
            let error = self.settle(&object, stop).await?;
            reaped.push(ReapedLine { line, removed: error.is_none(), error });
        }
        Ok(reaped)
    }

    /// Removes a line's objects and notes what came of it; the reason when they could not be removed.
    async fn settle(
        &self,
        line: &ReapableLine,
        stop: &CancellationToken,
    ) -> Result<Option<String>, StoreError> {
        let (entry, task) = (line.entry.id, line.entry.task);
        // One that takes longer waits for a later round, so that it holds up no others.
        let longest = Duration::from_millis(self.config.removal_ms);
        let removed = tokio::time::timeout(longest, self.remove(line, stop)).await;
        let failed = match removed.unwrap_or_else(|_elapsed| Err(too_slow(line, longest))) {
            Ok(ids) => {
                let (kind, ids) = (line.entry.kind.as_str(), ids.join(","));
                tracing::info!(%entry, %task, kind, ids, "removed what nobody owns");
                None
            }
            Err(error) => {
                tracing::warn!(%entry, %task, %error, "remove what nobody owns");
                Some(format!("{error:#}"))
            }
        };
        self.store.reaped(entry, failed.is_none()).await?;
        let word = if failed.is_none() { "removed" } else { "failed" };
        self.metrics.reaped.with_label_values(&[word]).inc();
        Ok(failed)
    }

    async fn remove(
        &self,
        line: &ReapableLine,
        stop: &CancellationToken,
    ) -> Result<Vec<String>, anyhow::Error> {
        let entry = &line.entry;
        if entry.kind == ObjectKind::Share && self.store.release_left_over(entry.id).await? {
            // A task that goes on needs the share, too, and takes it back.
            return Ok(Vec::new());
        }
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
        let restores_instance = entry.kind == ObjectKind::Instance && entry.purpose == Purpose::RestoreResult;
        let snapshots =
            if restores_instance { self.store.restored_snapshots(entry.task).await? } else { Vec::new() };
        let what = Removal { kind: entry.kind, purpose: entry.purpose, snapshots: &snapshots };
        for id in &ids {
            remove_object(&account, what, id, stop).await?;
        }
        Ok(ids)
    }
}

/// A removal that hangs, mostly because an instance of the tenant does not let go of a volume.
fn too_slow(line: &ReapableLine, longest: Duration) -> anyhow::Error {
    let (kind, ids) = (line.entry.kind.as_str(), line.entry.object_ids.join(", "));
    let hint = if line.entry.kind == ObjectKind::Volume {
        ": the instance it is attached to does not let go of it; unmount it there, or stop the instance"
    } else {
        ""
    };
    anyhow::anyhow!("remove the {kind} {ids}: not done within {longest:?}, it is tried again later{hint}")
}
