//! Recovery points: what is stored, and which of them the next backup of an instance can build on.

use snapferry_api::Page;
use snapferry_api::recovery_point::{
    RecoveryPoint, RecoveryPointQuery, RecoveryPointSummary, RecoveryPointVolume, SnapshotsState,
};
use snapferry_types::block::BLOCK_SIZE;
use snapferry_types::catalogue::{BaseRef, RecoveryPointMeta};
use snapferry_types::{HypervisorId, InstanceId, MediaAgentId, RecoveryPointId, TaskId};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::row::Read as _;
use super::{Store, StoreError, ledger, page_of, timestamp};

/// Recovery points that are looked through for one whose snapshots still exist; the ones before it lost theirs to it.
const BASE_CANDIDATES: i64 = 20;

const COLUMNS: &str = "SELECT id, hypervisor_id, media_agent_id, task_id, point_in_time_ms, logical_bytes, \
                       read_bytes, stored_bytes, meta FROM recovery_point";

impl Store {
    /// A recovery point that was not deleted.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn recovery_point(&self, id: RecoveryPointId) -> Result<RecoveryPoint, StoreError> {
        load(&mut *self.reader().await?, id).await
    }

    /// A page of the catalogue, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn recovery_points(
        &self,
        query: &RecoveryPointQuery,
        limit: u32,
    ) -> Result<Page<RecoveryPointSummary>, StoreError> {
        let statement = format!(
            "{COLUMNS} WHERE deleted_ms IS NULL AND ($1 = '' OR id < $1) AND ($2 = '' OR hypervisor_id = $2) \
             AND ($3 = '' OR instance_id = $3) ORDER BY id DESC LIMIT $4"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(query.after.clone().unwrap_or_default())
            .bind(query.hypervisor.map(|id| id.to_string()).unwrap_or_default())
            .bind(query.instance.as_ref().map(ToString::to_string).unwrap_or_default())
            .bind(i64::from(limit) + 1)
            .fetch_all(self.db.read())
            .await?;
        page_of(&rows, limit, |row| read(row).map(|(summary, _)| summary), |one| one.id.to_string())
    }
}

pub(super) async fn load(conn: &mut AnyConnection, id: RecoveryPointId) -> Result<RecoveryPoint, StoreError> {
    let statement = format!("{COLUMNS} WHERE id = $1 AND deleted_ms IS NULL");
    let row = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(id.to_string())
        .fetch_optional(&mut *conn)
        .await?
        .ok_or_else(|| StoreError::not_found("recovery point", id))?;
    let task: TaskId = row.parsed("task_id")?;
    let (summary, meta) = read(&row)?;
    let kept = ledger::kept_snapshots(conn, task).await?;
    let volumes = meta
        .volumes
        .into_iter()
        .map(|volume| RecoveryPointVolume {
            device_name: meta
                .instance
                .volumes
                .iter()
                .find(|one| one.volume_id == volume.volume_id)
                .map(|one| one.device_name.clone()),
            size_bytes: u64::from(volume.n_blocks) * BLOCK_SIZE as u64,
            snapshot_kept: kept.iter().any(|id| id == volume.snapshot_id.as_str()),
            id: volume.volume_id,
            snapshot: volume.snapshot_id,
            incremental: volume.incremental,
        })
        .collect();
    Ok(RecoveryPoint { summary, task, base: meta.base, config: meta.instance, volumes })
}

/// The newest recovery point of an instance on a MediaAgent whose snapshots all still exist, not counting `task`'s own.
pub(super) async fn base(
    conn: &mut AnyConnection,
    hypervisor: HypervisorId,
    instance: &InstanceId,
    media_agent: MediaAgentId,
    task: TaskId,
) -> Result<Option<BaseRef>, StoreError> {
    let statement = format!(
        "{COLUMNS} WHERE hypervisor_id = $1 AND instance_id = $2 AND media_agent_id = $3 AND task_id <> $4 \
         AND deleted_ms IS NULL ORDER BY point_in_time_ms DESC, id DESC LIMIT $5"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(hypervisor.to_string())
        .bind(instance.to_string())
        .bind(media_agent.to_string())
        .bind(task.to_string())
        .bind(BASE_CANDIDATES)
        .fetch_all(&mut *conn)
        .await?;
    for row in &rows {
        let (summary, meta) = read(row)?;
        let kept = ledger::kept_snapshots(conn, row.parsed("task_id")?).await?;
        if !meta.volumes.is_empty()
            && meta.volumes.iter().all(|volume| kept.iter().any(|id| id == volume.snapshot_id.as_str()))
        {
            let snapshots =
                meta.volumes.into_iter().map(|volume| (volume.volume_id, volume.snapshot_id)).collect();
            return Ok(Some(BaseRef { recovery_point: summary.id, snapshots }));
        }
    }
    Ok(None)
}

fn read(row: &AnyRow) -> Result<(RecoveryPointSummary, RecoveryPointMeta), StoreError> {
    let meta: RecoveryPointMeta = row.json("meta")?;
    let summary = RecoveryPointSummary {
        id: row.parsed("id")?,
        hypervisor: row.parsed("hypervisor_id")?,
        instance: meta.instance.instance_id.clone(),
        instance_name: meta.instance.name().map(str::to_owned),
        region: meta.instance.region.clone(),
        point_in_time: timestamp(row.int("point_in_time_ms")?),
        kind: meta.kind,
        copy_of: meta.copy_of,
        snapshots: SnapshotsState::default(),
        keep_until: None,
        incremental: meta.volumes.iter().any(|volume| volume.incremental),
        n_volumes: u32::try_from(meta.volumes.len()).unwrap_or(u32::MAX),
        logical_bytes: row.number("logical_bytes")?,
        read_bytes: row.number("read_bytes")?,
        stored_bytes: row.number("stored_bytes")?,
        media_agent: Some(row.parsed("media_agent_id")?),
    };
    Ok((summary, meta))
}
