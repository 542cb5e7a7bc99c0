//! Recovery points as the API shows them.

use std::collections::HashMap;

use snapferry_api::Page;
use snapferry_api::recovery_point::{
    RecoveryPoint, RecoveryPointQuery, RecoveryPointSummary, RecoveryPointVault, RecoveryPointVolume,
};
use snapferry_types::RecoveryPointId;
use snapferry_types::block::BLOCK_SIZE;
use snapferry_types::catalogue::VaultMeta;
use sqlx::AnyConnection;

use super::point::{COLUMNS, PointRow};
use super::row::Read as _;
use super::{Store, StoreError, kept, page_of, timestamp};

impl Store {
    /// A recovery point that was not deleted.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn recovery_point(&self, id: RecoveryPointId) -> Result<RecoveryPoint, StoreError> {
        let mut conn = self.reader().await?;
        let point = PointRow::load(&mut conn, id).await?;
        view(&mut conn, point).await
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
            "{COLUMNS} WHERE p.deleted_ms IS NULL AND ($1 = '' OR p.id < $1) AND ($2 = '' OR p.hypervisor_id = $2) \
             AND ($3 = '' OR p.instance_id = $3) ORDER BY p.id DESC LIMIT $4"
        );
        let mut conn = self.reader().await?;
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(query.after.clone().unwrap_or_default())
            .bind(query.hypervisor.map(|id| id.to_string()).unwrap_or_default())
            .bind(query.instance.as_ref().map(ToString::to_string).unwrap_or_default())
            .bind(i64::from(limit) + 1)
            .fetch_all(&mut *conn)
            .await?;
        let kept = match (rows.first(), rows.last()) {
            (Some(newest), Some(oldest)) => {
                kept::snapshots_between(&mut conn, oldest.parsed("id")?, newest.parsed("id")?).await?
            }
            _ => HashMap::new(),
        };
        let none = Vec::new();
        let read = |row: &_| {
            let point = PointRow::read(row)?;
            Ok(summary(&point, kept.get(&point.task).unwrap_or(&none)))
        };
        page_of(&rows, limit, read, |one| one.id.to_string())
    }
}

async fn view(conn: &mut AnyConnection, point: PointRow) -> Result<RecoveryPoint, StoreError> {
    let own = kept::snapshots_of(conn, point.task).await?;
    let existing = match point.holder(conn).await? {
        Some(holder) => {
            let kept = kept::snapshots_of(conn, holder.task).await?;
            holder.existing(kept)
        }
        None => Vec::new(),
    };
    let summary = summary(&point, &own);
    let copies = kept::vault_copies_of(conn, point.task).await?;
    let vault = |one: &VaultMeta| RecoveryPointVault {
        account: one.account.clone(),
        region: one.region.clone(),
        snapshots: point.state_of(one.snapshots.iter().map(|(_, copy)| copy), &copies),
    };
    let vaults = point.meta.vaults.iter().map(vault).collect();
    let meta = point.meta;
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
            snapshot_kept: existing.iter().any(|id| id == volume.snapshot_id.as_str()),
            id: volume.volume_id,
            snapshot: volume.snapshot_id,
            incremental: volume.incremental,
        })
        .collect();
    Ok(RecoveryPoint { summary, task: point.task, base: meta.base, config: meta.instance, volumes, vaults })
}

fn summary(point: &PointRow, kept: &[String]) -> RecoveryPointSummary {
    let meta = &point.meta;
    RecoveryPointSummary {
        id: point.id,
        hypervisor: point.hypervisor,
        instance: meta.instance.instance_id.clone(),
        instance_name: meta.instance.name().map(str::to_owned),
        region: meta.instance.region.clone(),
        point_in_time: timestamp(point.point_in_time_ms),
        kind: point.kind,
        copy_of: point.copy_of,
        snapshots: point.snapshots_state(kept),
        keep_until: point.keep_until_ms.map(timestamp),
        incremental: meta.volumes.iter().any(|volume| volume.incremental),
        n_volumes: u32::try_from(meta.volumes.len()).unwrap_or(u32::MAX),
        logical_bytes: point.logical_bytes,
        read_bytes: point.read_bytes,
        stored_bytes: point.stored_bytes,
        media_agent: point.media_agent,
    }
}
