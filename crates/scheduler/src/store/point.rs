//! A recovery point's row, and which of the snapshots it is made of still exist.

use snapferry_api::recovery_point::SnapshotsState;
use snapferry_types::catalogue::{RecoveryPointKind, RecoveryPointMeta, VaultMeta};
use snapferry_types::{HypervisorId, MediaAgentId, RecoveryPointId, SnapshotId, TaskId, VolumeId};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::row::Read as _;
use super::{StoreError, kept};

/// Selects what [`PointRow::read`] reads.
pub(super) const COLUMNS: &str = "SELECT p.id, p.hypervisor_id, p.media_agent_id, p.task_id, p.point_in_time_ms, \
     p.logical_bytes, p.read_bytes, p.stored_bytes, p.meta, p.kind, p.copy_of, p.keep_until_ms, p.missing \
     FROM recovery_point p";

/// A recovery point as the database has it.
#[derive(Debug, Clone)]
pub(super) struct PointRow {
    pub(super) id: RecoveryPointId,
    pub(super) hypervisor: HypervisorId,
    /// Where its blocks are; nothing for one of snapshots.
    pub(super) media_agent: Option<MediaAgentId>,
    /// The task that made it.
    pub(super) task: TaskId,
    pub(super) point_in_time_ms: i64,
    pub(super) logical_bytes: u64,
    pub(super) read_bytes: u64,
    pub(super) stored_bytes: u64,
    pub(super) kind: RecoveryPointKind,
    pub(super) copy_of: Option<RecoveryPointId>,
    pub(super) keep_until_ms: Option<i64>,
    /// Ids of its snapshots, and of copies of them, that somebody else has deleted.
    pub(super) missing: Vec<String>,
    pub(super) meta: RecoveryPointMeta,
}

impl PointRow {
    pub(super) fn read(row: &AnyRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.parsed("id")?,
            hypervisor: row.parsed("hypervisor_id")?,
            media_agent: row.opt_parsed("media_agent_id")?,
            task: row.parsed("task_id")?,
            point_in_time_ms: row.int("point_in_time_ms")?,
            logical_bytes: row.number("logical_bytes")?,
            read_bytes: row.number("read_bytes")?,
            stored_bytes: row.number("stored_bytes")?,
            kind: row.word("kind", RecoveryPointKind::from_word)?,
            copy_of: row.opt_parsed("copy_of")?,
            keep_until_ms: row.opt_int("keep_until_ms")?,
            missing: row.json("missing")?,
            meta: row.json("meta")?,
        })
    }

    /// One that was not deleted.
    pub(super) async fn find(
        conn: &mut AnyConnection,
        id: RecoveryPointId,
    ) -> Result<Option<Self>, StoreError> {
        let statement = format!("{COLUMNS} WHERE p.id = $1 AND p.deleted_ms IS NULL");
        let row =
            sqlx::query(sqlx::AssertSqlSafe(statement)).bind(id.to_string()).fetch_optional(conn).await?;
        row.as_ref().map(Self::read).transpose()
    }

    /// [`Self::find`], or that there is none.
    pub(super) async fn load(conn: &mut AnyConnection, id: RecoveryPointId) -> Result<Self, StoreError> {
        Self::find(conn, id).await?.ok_or_else(|| StoreError::not_found("recovery point", id))
    }

    /// What a task has made.
    pub(super) async fn of_task(conn: &mut AnyConnection, task: TaskId) -> Result<Option<Self>, StoreError> {
        let statement =
            format!("{COLUMNS} WHERE p.task_id = $1 AND p.deleted_ms IS NULL ORDER BY p.id DESC LIMIT 1");
        let row =
            sqlx::query(sqlx::AssertSqlSafe(statement)).bind(task.to_string()).fetch_optional(conn).await?;
        row.as_ref().map(Self::read).transpose()
    }

    /// Copies of it, newest first.
    pub(super) async fn copies(&self, conn: &mut AnyConnection) -> Result<Vec<Self>, StoreError> {
        let statement =
            format!("{COLUMNS} WHERE p.copy_of = $1 AND p.deleted_ms IS NULL ORDER BY p.id DESC LIMIT 100");
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(statement)).bind(self.id.to_string()).fetch_all(conn).await?;
        rows.iter().map(Self::read).collect()
    }

    /// The recovery point that has the snapshots whose blocks this one is made of: itself, or what it is a copy of.
    pub(super) async fn holder(&self, conn: &mut AnyConnection) -> Result<Option<Self>, StoreError> {
        match (self.kind, self.copy_of) {
            (RecoveryPointKind::Copy, Some(source)) => Self::find(conn, source).await,
            (RecoveryPointKind::Copy, None) => Ok(None),
            (RecoveryPointKind::Streamed | RecoveryPointKind::Snapshot, _) => Ok(Some(self.clone())),
        }
    }

    /// Whether its own snapshots of these volumes (of all when empty) exist.
    pub(super) async fn has_snapshots(
        &self,
        conn: &mut AnyConnection,
        volumes: &[VolumeId],
    ) -> Result<bool, StoreError> {
        if self.kind == RecoveryPointKind::Copy {
            return Ok(false);
        }
        let kept = self.existing(kept::snapshots_of(conn, self.task).await?);
        let of_volumes = self.meta.volumes.iter().map(|volume| (&volume.volume_id, &volume.snapshot_id));
        Ok(has_all(of_volumes, volumes, &kept))
    }

    /// The first of its vaults with copies of these volumes (of all when empty) that exist. A share is none: it is gone with
    /// what was shared.
    pub(super) async fn vault(
        &self,
        conn: &mut AnyConnection,
        volumes: &[VolumeId],
    ) -> Result<Option<VaultMeta>, StoreError> {
        if self.meta.vaults.is_empty() {
            return Ok(None);
        }
        let kept = self.existing(kept::vault_copies_of(conn, self.task).await?);
        let has_all = |vault: &&VaultMeta| {
            has_all(vault.snapshots.iter().map(|(volume, copy)| (volume, copy)), volumes, &kept)
        };
        Ok(self.meta.vaults.iter().find(has_all).cloned())
    }

    /// Those of its kept snapshots that nobody has deleted.
    pub(super) fn existing(&self, kept: Vec<String>) -> Vec<String> {
        kept.into_iter().filter(|id| !self.missing.contains(id)).collect()
    }

    /// What became of its snapshots, of which `kept` are in the ledger.
    pub(super) fn snapshots_state(&self, kept: &[String]) -> SnapshotsState {
        if self.kind == RecoveryPointKind::Copy {
            return SnapshotsState::None;
        }
        self.state_of(self.meta.volumes.iter().map(|one| &one.snapshot_id), kept)
    }

    /// What became of some of its snapshots, of which `kept` are in the ledger.
    pub(super) fn state_of<'a>(
        &self,
        mut snapshots: impl Iterator<Item = &'a SnapshotId> + Clone,
        kept: &[String],
    ) -> SnapshotsState {
        let is_in = |ids: &[String], one: &SnapshotId| ids.iter().any(|id| id == one.as_str());
        if snapshots.clone().any(|one| is_in(&self.missing, one)) {
            return SnapshotsState::Missing;
        }
        let has_any = snapshots.clone().next().is_some();
        if has_any && snapshots.all(|one| is_in(kept, one)) {
            SnapshotsState::Kept
        } else {
            SnapshotsState::None
        }
    }
}

/// Whether the snapshots of the wanted volumes (of all when `wanted` is empty) are among those kept.
fn has_all<'a>(
    of_volumes: impl Iterator<Item = (&'a VolumeId, &'a SnapshotId)>,
    wanted: &[VolumeId],
    kept: &[String],
) -> bool {
    let mut wanted = of_volumes.filter(|(volume, _)| wanted.is_empty() || wanted.contains(volume)).peekable();
    wanted.peek().is_some() && wanted.all(|(_, snapshot)| kept.iter().any(|id| id == snapshot.as_str()))
}
