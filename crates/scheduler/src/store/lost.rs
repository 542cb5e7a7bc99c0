//! Snapshots that are kept and may have been deleted by somebody else.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use snapferry_api::job::Work;
use snapferry_types::ledger::LedgerEntry;
use snapferry_types::{AccountId, HypervisorId, JobId, LedgerId, RecoveryPointId, Region, SnapshotId};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::db::Dialect;
use super::ledger::{COLUMNS, read};
use super::point::PointRow;
use super::row::{Read as _, to_json};
use super::task::{OPEN, TaskRow};
use super::{Store, StoreError, note, task};

/// Kept snapshots of recovery points that are there, but for those that a task is about to delete or replace.
const KEPT: &str = "FROM ledger l JOIN recovery_point p ON p.task_id = l.task_id AND p.deleted_ms IS NULL \
     WHERE l.kind = 'snapshot' AND l.state = 'kept' AND l.purpose IN ('backup_source', 'recovery_point', 'vault')";

/// Kept snapshots of a tenant in one account and region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptSnapshots {
    /// Where.
    pub account: AccountId,
    /// Where.
    pub region: Region,
    /// Ledger entries, with the ids.
    pub entries: Vec<LedgerEntry>,
}

impl KeptSnapshots {
    /// All ids; one that is no snapshot id is left out.
    #[must_use]
    pub fn ids(&self) -> Vec<SnapshotId> {
        let ids = self.entries.iter().flat_map(|entry| &entry.object_ids);
        ids.filter_map(|id| id.parse().ok()).collect()
    }
}

/// What was found to be lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lost {
    /// Snapshots, those that were known to be lost among them.
    pub missing: BTreeSet<SnapshotId>,
    /// Those that were not known to be lost.
    pub new: BTreeSet<SnapshotId>,
    /// Recovery points that lost some.
    pub recovery_points: BTreeSet<RecoveryPointId>,
}

impl Store {
    /// Kept snapshots of a tenant by account and region.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn kept_snapshots(&self, tenant: HypervisorId) -> Result<Vec<KeptSnapshots>, StoreError> {
        let statement =
            format!("{COLUMNS} {KEPT} AND {} AND l.hypervisor_id = $1 ORDER BY l.id", undisturbed());
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(tenant.to_string())
            .fetch_all(self.db.read())
            .await?;
        let mut places = BTreeMap::<_, Vec<LedgerEntry>>::new();
        for row in &rows {
            let entry = read(row)?;
            let entries = places.entry((entry.account.clone(), entry.region.clone())).or_default();
            if entries.last() != Some(&entry) {
                entries.push(entry);
            }
        }
        let kept = places.into_iter();
        Ok(kept.map(|((account, region), entries)| KeptSnapshots { account, region, entries }).collect())
    }

    /// Notes which of the kept snapshots are in the account, where only `existing` are. An entry that a task has moved on,
    /// deletes or replaces meanwhile is left alone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_lost(
        &self,
        kept: &KeptSnapshots,
        existing: &HashSet<SnapshotId>,
    ) -> Result<Lost, StoreError> {
        let mut lost = Lost::default();
        for entry in &kept.entries {
            let mut tx = self.begin().await?;
            let is_here = |snapshot: &SnapshotId| existing.contains(snapshot);
            let job = self.note_entry(&mut tx, entry, is_here, LookedBy::Reconcile, &mut lost).await?;
            tx.commit().await?;
            if let Some(job) = job {
                self.changed(job);
            }
        }
        Ok(lost)
    }

    /// Notes that a restore did not find snapshots of the recovery point that it names, or copies of them; answers the jobs
    /// that were told.
    pub(super) async fn lost_to(
        &self,
        conn: &mut AnyConnection,
        restore: &TaskRow,
        snapshots: &HashSet<SnapshotId>,
    ) -> Result<Vec<JobId>, StoreError> {
        let Work::Restore(work) = &restore.work else {
            return Err(StoreError::Invalid(format!("task {} restores nothing", restore.id)));
        };
        let named = PointRow::load(conn, work.recovery_point).await?;
        let Some(holder) = named.holder(conn).await? else { return Ok(Vec::new()) };
        let statement = format!(
            "{COLUMNS} {KEPT} AND {} AND l.hypervisor_id = $1 AND p.id = $2 ORDER BY l.id",
            undisturbed()
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(restore.hypervisor.to_string())
            .bind(holder.id.to_string())
            .fetch_all(&mut *conn)
            .await?;
        let (mut told, mut lost) = (Vec::new(), Lost::default());
        for row in &rows {
            let is_here = |snapshot: &SnapshotId| {
                !snapshots.contains(snapshot) && !holder.missing.iter().any(|id| id == snapshot.as_str())
            };
            told.extend(self.note_entry(conn, &read(row)?, is_here, LookedBy::Restore, &mut lost).await?);
        }
        for snapshot in &lost.new {
            tracing::warn!(%snapshot, recovery_point = %holder.id, task = %restore.id, "a restore did not find it");
        }
        Ok(told)
    }

    /// Notes of one entry which of its snapshots are there; answers the job that was told.
    async fn note_entry(
        &self,
        conn: &mut AnyConnection,
        entry: &LedgerEntry,
        is_here: impl Fn(&SnapshotId) -> bool,
        by: LookedBy,
        lost: &mut Lost,
    ) -> Result<Option<JobId>, StoreError> {
        let Some(point) = self.undisturbed_point(conn, entry.id).await? else { return Ok(None) };
        let mut missing = point.missing.iter().cloned().collect::<BTreeSet<_>>();
        let mut new = Vec::new();
        let mut n_here = 0_usize;
        for id in &entry.object_ids {
            let Ok(snapshot) = id.parse::<SnapshotId>() else { continue };
            if is_here(&snapshot) {
                n_here += 1;
                // Somebody took it out of the recycle bin.
                missing.remove(id);
                continue;
            }
            lost.missing.insert(snapshot.clone());
            lost.recovery_points.insert(point.id);
            if missing.insert(id.clone()) {
                lost.new.insert(snapshot);
                new.push(id.clone());
            }
        }
        if missing.iter().eq(point.missing.iter()) {
            return Ok(None);
        }
        let now_ms = self.clock.wall_ms();
        sqlx::query("UPDATE recovery_point SET missing = $1 WHERE id = $2")
            .bind(to_json(&missing))
            .bind(point.id.to_string())
            .execute(&mut *conn)
            .await?;
        if n_here == 0 && by == LookedBy::Reconcile {
            sqlx::query("UPDATE ledger SET state = 'gone', changed_ms = $1 WHERE id = $2")
                .bind(now_ms)
                .bind(entry.id.to_string())
                .execute(&mut *conn)
                .await?;
        }
        let job = task::job_of(conn, point.task).await?;
        if !new.is_empty() {
            let text = format!("snapshots were deleted by somebody else: {}", new.join(", "));
            note::add(conn, job, point.task, now_ms, true, &text).await?;
        }
        Ok(Some(job))
    }

    /// The recovery point of an entry that is still kept and that no task deletes or replaces.
    async fn undisturbed_point(
        &self,
        conn: &mut AnyConnection,
        entry: LedgerId,
    ) -> Result<Option<PointRow>, StoreError> {
        let statement = format!("SELECT p.id {KEPT} AND {} AND l.id = $1 ORDER BY p.id DESC", undisturbed());
        let row = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(entry.to_string())
            .fetch_optional(&mut *conn)
            .await?;
        let id = row.as_ref().map(|row: &AnyRow| row.parsed::<RecoveryPointId>("id")).transpose()?;
        let Some(id) = id else { return Ok(None) };
        if self.db.dialect() == Dialect::Postgres {
            // A restore and a look at the account may note at the same time.
            sqlx::query("SELECT id FROM recovery_point WHERE id = $1 FOR UPDATE")
                .bind(id.to_string())
                .fetch_optional(&mut *conn)
                .await?;
        }
        PointRow::find(conn, id).await
    }
}

/// Who did not find a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LookedBy {
    /// The look at the whole account.
    Reconcile,
    /// A single restore, for which AWS may have been late to tell: the next look at the account decides.
    Restore,
}

/// No task deletes the recovery point or, as the next streaming backup, replaces its snapshots.
fn undisturbed() -> String {
    format!(
        "NOT EXISTS (SELECT 1 FROM task d WHERE d.recovery_point_id = p.id AND d.kind = 'delete_recovery_point' \
         AND d.state IN {OPEN}) AND (l.purpose <> 'backup_source' OR NOT EXISTS (SELECT 1 FROM task b \
         WHERE b.instance_id = p.instance_id AND b.hypervisor_id = p.hypervisor_id AND b.id <> l.task_id \
         AND b.kind = 'streaming_backup' AND b.state IN ('running', 'suspect', 'retry_wait')))"
    )
}
