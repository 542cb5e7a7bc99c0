//! Steps that commit: ledger entries, checkpoints, sentences, recovery points. Each needs the current fence; repeating
//! one changes nothing.

use std::collections::HashSet;

use snapferry_api::job::Work;
use snapferry_api::protect::Retention;
use snapferry_types::catalogue::{RECOVERY_POINT_META_VERSION, RecoveryPointKind, RecoveryPointMeta};
use snapferry_types::ledger::{LedgerEntry, ObjectKind};
use snapferry_types::{Fence, LedgerId, RecoveryPointId, SnapshotId, TaskId, TaskKind};
use sqlx::AnyConnection;

use super::row::{big, to_json};
use super::share::{self, OtherShares};
use super::task::{self, TaskRow};
use super::{Store, StoreError, hypervisor, kept, ledger, note};

/// Largest checkpoint in bytes.
const MAX_CHECKPOINT: usize = 1 << 20;
/// Largest metadata of a recovery point in bytes.
const MAX_META: usize = 4 << 20;

const MS_PER_DAY: i64 = 86_400_000;

/// A step that commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// An AWS object is about to be made, exists, is kept, was handed over, is gone.
    Ledger(LedgerEntry),
    /// Replaces the checkpoint.
    Checkpoint(Vec<u8>),
    /// A sentence for the history.
    Note {
        /// Whether someone should look.
        warning: bool,
        /// The sentence.
        text: String,
    },
    /// The library has sealed a recovery point.
    Sealed(SealedPoint),
    /// The library has deleted a recovery point.
    Deleted(RecoveryPointId),
    /// A share is about to be taken back.
    Release(LedgerId),
    /// Snapshots that a restore was to read are not there.
    Lost(HashSet<SnapshotId>),
}

/// A recovery point that the library has sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedPoint {
    /// Its id.
    pub id: RecoveryPointId,
    /// `RecoveryPointMeta` as JSON.
    pub metadata: Vec<u8>,
    /// Size of the volumes.
    pub logical_bytes: u64,
    /// Bytes read from AWS.
    pub read_bytes: u64,
    /// Bytes added to the library.
    pub stored_bytes: u64,
}

impl Store {
    /// Takes a step over; of a share, answers what else the ledger knows of it.
    ///
    /// # Errors
    /// [`StoreError::Stale`] for a fence that is not current, [`StoreError::Invalid`] for a step that makes no sense.
    pub async fn record(&self, id: TaskId, fence: Fence, step: Step) -> Result<OtherShares, StoreError> {
        let now_ms = self.clock.wall_ms();
        let mut tx = self.begin().await?;
        let row = self.leased(&mut tx, id, fence).await?;
        let (mut others, mut told) = (OtherShares::default(), Vec::new());
        match step {
            Step::Ledger(entry) if entry.kind == ObjectKind::Share => {
                self.share_turn(&mut tx, &entry.object_ids).await?;
                ledger::record(&mut tx, &row, &entry, now_ms).await?;
                others = share::others(&mut tx, &entry).await?;
            }
            Step::Ledger(entry) => ledger::record(&mut tx, &row, &entry, now_ms).await?,
            Step::Checkpoint(body) => checkpoint(&mut tx, id, body).await?,
            Step::Note { warning, text } => note::add(&mut tx, row.job, id, now_ms, warning, &text).await?,
            Step::Sealed(point) => self.sealed(&mut tx, &row, point, now_ms).await?,
            Step::Deleted(point) => deleted(&mut tx, &row, point, now_ms).await?,
            Step::Release(share) => others = self.release(&mut tx, &row, share, now_ms).await?,
            Step::Lost(snapshots) => told = self.lost_to(&mut tx, &row, &snapshots).await?,
        }
        tx.commit().await?;
        told.push(row.job);
        told.into_iter().for_each(|job| self.changed(job));
        Ok(others)
    }

    async fn sealed(
        &self,
        conn: &mut AnyConnection,
        row: &TaskRow,
        point: SealedPoint,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let refuse = |reason: String| StoreError::Invalid(format!("recovery point {}: {reason}", point.id));
        if point.metadata.len() > MAX_META {
            return Err(refuse(format!("metadata of {} bytes, {MAX_META} allowed", point.metadata.len())));
        }
        let meta: RecoveryPointMeta =
            serde_json::from_slice(&point.metadata).map_err(|error| refuse(error.to_string()))?;
        if meta.version > RECOVERY_POINT_META_VERSION {
            return Err(refuse(format!("metadata version {} is newer than this scheduler", meta.version)));
        }
        let owner = hypervisor::load(conn, row.hypervisor).await?;
        let copy_of = (row.kind == TaskKind::BackupCopy).then_some(row.recovery_point).flatten();
        if meta.task != row.id
            || made_by(row.kind) != Some(meta.kind)
            || meta.copy_of != copy_of
            || meta.account != owner.account
            || row.instance.as_ref() != Some(&meta.instance.instance_id)
        {
            return Err(refuse("it is not what this task was to make".to_owned()));
        }
        let media_agent = match (meta.kind.is_in_library(), row.media_agent) {
            (true, None) => return Err(refuse("the task has no MediaAgent".to_owned())),
            (true, Some(id)) => Some(id),
            (false, _) => None,
        };
        let keep = retention(&row.work);
        let at_ms = big(meta.point_in_time_ms);
        let keep_until_ms = keep.days.map(|days| at_ms.saturating_add(i64::from(days) * MS_PER_DAY));
        sqlx::query(
            "INSERT INTO recovery_point (id, hypervisor_id, instance_id, media_agent_id, task_id, \
             point_in_time_ms, logical_bytes, read_bytes, stored_bytes, meta, kind, copy_of, keep_until_ms, keep_last) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (id) DO NOTHING",
        )
        .bind(point.id.to_string())
        .bind(row.hypervisor.to_string())
        .bind(meta.instance.instance_id.to_string())
        .bind(media_agent.map(|id| id.to_string()))
        .bind(row.id.to_string())
        .bind(at_ms)
        .bind(big(point.logical_bytes))
        .bind(big(point.read_bytes))
        .bind(big(point.stored_bytes))
        .bind(to_json(&meta))
        .bind(meta.kind.as_str())
        .bind(meta.copy_of.map(|id| id.to_string()))
        .bind(keep_until_ms)
        .bind(keep.last.map(i64::from))
        .execute(&mut *conn)
        .await?;
        kept::keep(conn, row.id, meta.kind, now_ms).await?;
        if meta.kind == RecoveryPointKind::Copy {
            // The task goes on naming what it copies, which is held for it.
            return Ok(());
        }
        let mut after = row.clone();
        after.recovery_point = Some(point.id);
        task::save(conn, row, &after).await
    }
}

/// What a task of a kind makes.
const fn made_by(kind: TaskKind) -> Option<RecoveryPointKind> {
    match kind {
        TaskKind::StreamingBackup => Some(RecoveryPointKind::Streamed),
        TaskKind::IntelliSnap => Some(RecoveryPointKind::Snapshot),
        TaskKind::BackupCopy => Some(RecoveryPointKind::Copy),
        TaskKind::Restore | TaskKind::DeleteRecoveryPoint | TaskKind::Replication | TaskKind::Conversion => {
            None
        }
    }
}

/// How long the request wants it kept.
fn retention(work: &Work) -> Retention {
    let asked = match work {
        Work::StreamingBackup(backup) => backup.retention,
        Work::IntelliSnap(snap) => snap.retention,
        Work::BackupCopy(copy) => copy.retention,
        Work::Restore(_) | Work::DeleteRecoveryPoint(_) | Work::Replication(_) | Work::Conversion(_) => None,
    };
    asked.unwrap_or(Retention { days: None, last: None })
}

async fn checkpoint(conn: &mut AnyConnection, id: TaskId, body: Vec<u8>) -> Result<(), StoreError> {
    if body.len() > MAX_CHECKPOINT {
        return Err(StoreError::Invalid(format!(
            "a checkpoint has at most {MAX_CHECKPOINT} bytes, this one has {}",
            body.len()
        )));
    }
    sqlx::query(
        "INSERT INTO checkpoint (task_id, body) VALUES ($1, $2) ON CONFLICT (task_id) DO UPDATE SET body = excluded.body",
    )
    .bind(id.to_string())
    .bind(body)
    .execute(conn)
    .await?;
    Ok(())
}

async fn deleted(
    conn: &mut AnyConnection,
    row: &TaskRow,
    point: RecoveryPointId,
    now_ms: i64,
) -> Result<(), StoreError> {
    if row.kind != TaskKind::DeleteRecoveryPoint || row.recovery_point != Some(point) {
        return Err(StoreError::Invalid(format!("task {} was not to delete {point}", row.id)));
    }
    sqlx::query("UPDATE recovery_point SET deleted_ms = $1 WHERE id = $2 AND deleted_ms IS NULL")
        .bind(now_ms)
        .bind(point.to_string())
        .execute(conn)
        .await?;
    Ok(())
}
