//! Reconciling: which of the snapshots that we keep are still in their accounts. Those that somebody else has deleted are
//! noted at their recovery points, which are then no longer offered as what they are not.
//!
//! Runs twice: the same is found. Dies in between: what was noted stays, the rest is found in the next round. Only what a
//! successful call did not list is missing; an account that cannot be looked at changes nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use snapferry_api::hypervisor::{HypervisorQuery, Role};
use snapferry_api::recovery_point::Reconciled;
use snapferry_aws::ec2::existing_snapshots;
use snapferry_aws::{Account, AwsError, SessionPurpose, SessionScope};
use snapferry_types::access::AccountAccess;
use snapferry_types::{HypervisorId, SnapshotId};
use tokio_util::sync::CancellationToken;

use crate::config::ReconcileConfig;
use crate::discovery::DiscoveryError;
use crate::metrics::Metrics;
use crate::store::{KeptSnapshots, Lost, Store, StoreError};

/// The first round begins this long after the start, at the latest.
const FIRST_ROUND: Duration = Duration::from_secs(60);
/// One account and region is looked at for at most this long.
const LONGEST_LOOK: Duration = Duration::from_secs(120);
/// Hypervisors read at a time.
const PAGE: u32 = 200;

/// Says which snapshots exist.
#[async_trait]
pub trait SnapshotLookup: Send + Sync {
    /// Those of `ids` that are in the access's account and region.
    ///
    /// # Errors
    /// [`DiscoveryError::Aws`] when AWS refused or did not answer; nothing is known then.
    async fn existing(
        &self,
        access: &AccountAccess,
        ids: &[SnapshotId],
    ) -> Result<HashSet<SnapshotId>, DiscoveryError>;
}

/// Asks AWS.
#[derive(Debug, Clone, Copy, Default)]
pub struct AwsSnapshots;

#[async_trait]
impl SnapshotLookup for AwsSnapshots {
    async fn existing(
        &self,
        access: &AccountAccess,
        ids: &[SnapshotId],
    ) -> Result<HashSet<SnapshotId>, DiscoveryError> {
        let failed = |error: AwsError| {
            let (account, region) = (&access.account, &access.region);
            DiscoveryError::Aws(format!("look for snapshots of account {account} in {region}: {error}"))
        };
        let purpose = SessionPurpose::named("reconcile", SessionScope::Discover);
        let account = Account::open(access, purpose).await.map_err(failed)?;
        // What another account's credentials do not see would look deleted.
        account.verify().await.map_err(failed)?;
        existing_snapshots(&account, ids).await.map_err(failed)
    }
}

/// Compares what is kept with what is there.
pub struct Reconciler {
    store: Arc<Store>,
    lookup: Arc<dyn SnapshotLookup>,
    config: ReconcileConfig,
    metrics: Metrics,
}

impl std::fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciler").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Reconciler {
    /// A reconciler.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        lookup: Arc<dyn SnapshotLookup>,
        config: ReconcileConfig,
        metrics: Metrics,
    ) -> Self {
        Self { store, lookup, config, metrics }
    }

    /// Rounds over all tenants until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let interval = Duration::from_millis(self.config.interval_ms);
        let mut wait = interval.min(FIRST_ROUND);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = interval;
            if let Err(error) = self.round(&stop).await {
                tracing::warn!(%error, "a round of reconciling failed");
            }
        }
    }

    /// One round over all tenants. A tenant that cannot be looked at is logged and counted.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn round(&self, stop: &CancellationToken) -> Result<(), StoreError> {
        let mut query = HypervisorQuery::default();
        loop {
            let page = self.store.hypervisors(&query, PAGE).await?;
            for one in page.items {
                if stop.is_cancelled() {
                    return Ok(());
                }
                if matches!(one.role, Role::Tenant { .. })
                    && let Err(error) = self.tenant(one.id).await
                {
                    tracing::warn!(hypervisor = %one.id, %error, "kept snapshots could not be looked for");
                }
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Looks for the kept snapshots of one tenant, in every account and region where it has some.
    ///
    /// # Errors
    /// [`DiscoveryError`] of the first place that could not be looked at, after the others were; what was found missing in
    /// those is noted all the same.
    pub async fn tenant(&self, id: HypervisorId) -> Result<Reconciled, DiscoveryError> {
        if matches!(self.store.hypervisor(id).await?.role, Role::Admin { .. }) {
            let reason = format!("hypervisor {id} is an admin hypervisor; name a tenant");
            return Err(StoreError::Invalid(reason).into());
        }
        let mut n_checked = 0_u64;
        let mut all = Lost::default();
        let mut failure = None;
        for kept in self.store.kept_snapshots(id).await? {
            match self.place(id, &kept).await {
                Ok(lost) => {
                    n_checked += u64::try_from(kept.ids().len()).unwrap_or(u64::MAX);
                    self.metrics.reconciled.with_label_values(&["looked"]).inc();
                    all.missing.extend(lost.missing);
                    all.recovery_points.extend(lost.recovery_points);
                }
                Err(error) => {
                    self.metrics.reconciled.with_label_values(&["failed"]).inc();
                    failure.get_or_insert(error);
                }
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(Reconciled {
                n_checked,
                missing: all.missing.into_iter().collect(),
                recovery_points: all.recovery_points.into_iter().collect(),
            }),
        }
    }

    async fn place(&self, id: HypervisorId, kept: &KeptSnapshots) -> Result<Lost, DiscoveryError> {
        let access = self.store.object_access(id, &kept.account, &kept.region).await?;
        let ids = kept.ids();
        let looked = tokio::time::timeout(LONGEST_LOOK, self.lookup.existing(&access, &ids)).await;
        let existing = looked.map_err(|_| {
            DiscoveryError::Aws(format!("AWS did not answer for {} within {LONGEST_LOOK:?}", kept.region))
        })??;
        let lost = self.store.note_lost(kept, &existing).await?;
        if !lost.new.is_empty() {
            let snapshots = lost.new.iter().map(SnapshotId::as_str).collect::<Vec<_>>().join(",");
            tracing::warn!(hypervisor = %id, account = %kept.account, region = %kept.region, snapshots,
                "kept snapshots were deleted by somebody else");
            self.metrics.snapshots_lost.inc_by(u64::try_from(lost.new.len()).unwrap_or(u64::MAX));
        }
        Ok(lost)
    }
}
