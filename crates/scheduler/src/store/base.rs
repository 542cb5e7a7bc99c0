//! What the next incremental of an instance builds on: the newest recovery point on the same MediaAgent, made in the
//! same way, whose snapshots all still exist. For a backup copy these are the snapshots that were copied before.

use snapferry_api::job::Work;
use snapferry_types::RecoveryPointId;
use snapferry_types::catalogue::{BaseRef, RecoveryPointKind};
use sqlx::AnyConnection;

use super::note;
use super::point::{COLUMNS, PointRow};
use super::task::TaskRow;
use super::{Store, StoreError};

/// Recovery points that are looked through for one whose snapshots still exist; the ones before it lost theirs to it.
const CANDIDATES: i64 = 20;

/// How the note begins.
const IN_FULL: &str = "read in full";

impl Store {
    /// The first attempt chooses what a backup builds on; later ones stay with it while its snapshots are kept. One that
    /// has sealed its recovery point already keeps what it was built on, which is gone by now for a good reason.
    pub(super) async fn choose_base(
        &self,
        conn: &mut AnyConnection,
        row: &mut TaskRow,
    ) -> Result<(), StoreError> {
        let (full, kind, before_ms) = match &row.work {
            Work::StreamingBackup(backup) => (backup.full, RecoveryPointKind::Streamed, i64::MAX),
            Work::BackupCopy(copy) => {
                let Some(source) = row.recovery_point else { return Ok(()) };
                let at_ms = PointRow::load(conn, source).await?.point_in_time_ms;
                (copy.full, RecoveryPointKind::Copy, at_ms)
            }
            Work::IntelliSnap(_)
            | Work::Restore(_)
            | Work::DeleteRecoveryPoint(_)
            | Work::Replication(_)
            | Work::Conversion(_) => return Ok(()),
        };
        if full || PointRow::of_task(conn, row.id).await?.is_some() {
            return Ok(());
        }
        if let Some(base) = &row.base
            && let Some(point) = PointRow::find(conn, base.recovery_point).await?
            && base_of(conn, &point).await?.is_some()
        {
            return Ok(());
        }
        let newest = newest(conn, row, kind, before_ms).await?;
        if let Newest::Lost(point) = newest {
            self.say_in_full(conn, row, point).await?;
        }
        row.base = match newest {
            Newest::Base(base) => Some(base),
            Newest::Lost(_) | Newest::None => None,
        };
        Ok(())
    }

    /// Says once, of a task that builds on nothing, why it does not.
    async fn say_in_full(
        &self,
        conn: &mut AnyConnection,
        row: &TaskRow,
        last: RecoveryPointId,
    ) -> Result<(), StoreError> {
        let said = sqlx::query("SELECT 1 FROM note WHERE task_id = $1 AND text LIKE $2")
            .bind(row.id.to_string())
            .bind(format!("{IN_FULL}%"))
            .fetch_optional(&mut *conn)
            .await?;
        if said.is_some() {
            return Ok(());
        }
        let text = format!("{IN_FULL}: the snapshots that {last} was read from do not exist any more");
        note::add(conn, row.job, row.id, self.clock.wall_ms(), false, &text).await
    }
}

/// What a task may build on.
enum Newest {
    Base(BaseRef),
    /// There are recovery points, and no snapshots of theirs any more; the newest of them.
    Lost(RecoveryPointId),
    None,
}

/// The newest recovery point of a kind from before a moment that the task can build on.
async fn newest(
    conn: &mut AnyConnection,
    row: &TaskRow,
    kind: RecoveryPointKind,
    before_ms: i64,
) -> Result<Newest, StoreError> {
    let (Some(instance), Some(media_agent)) = (&row.instance, row.media_agent) else {
        return Ok(Newest::None);
    };
    let statement = format!(
        "{COLUMNS} WHERE p.hypervisor_id = $1 AND p.instance_id = $2 AND p.media_agent_id = $3 AND p.task_id <> $4 \
         AND p.kind = $5 AND p.point_in_time_ms < $6 AND p.deleted_ms IS NULL \
         ORDER BY p.point_in_time_ms DESC, p.id DESC LIMIT $7"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(row.hypervisor.to_string())
        .bind(instance.to_string())
        .bind(media_agent.to_string())
        .bind(row.id.to_string())
        .bind(kind.as_str())
        .bind(before_ms)
        .bind(CANDIDATES)
        .fetch_all(&mut *conn)
        .await?;
    let mut newest = Newest::None;
    for row in &rows {
        let point = PointRow::read(row)?;
        if let Some(base) = base_of(conn, &point).await? {
            return Ok(Newest::Base(base));
        }
        if matches!(newest, Newest::None) {
            newest = Newest::Lost(point.id);
        }
    }
    Ok(newest)
}

/// A recovery point in a library as a base, while the snapshots that its blocks were read from exist.
async fn base_of(conn: &mut AnyConnection, point: &PointRow) -> Result<Option<BaseRef>, StoreError> {
    let Some(holder) = point.holder(conn).await? else { return Ok(None) };
    if !holder.has_snapshots(conn, &[]).await? {
        return Ok(None);
    }
    let volumes = holder.meta.volumes.into_iter();
    let snapshots = volumes.map(|volume| (volume.volume_id, volume.snapshot_id)).collect();
    Ok(Some(BaseRef { recovery_point: point.id, snapshots }))
}
