//! Open tasks that need a recovery point, and so keep it from being deleted.

use snapferry_api::job::Work;
use snapferry_types::{RecoveryPointId, TaskId, TaskKind};
use sqlx::AnyConnection;

use super::point::PointRow;
use super::row::Read as _;
use super::task::OPEN;
use super::{StoreError, source, task};

/// An open task that needs a recovery point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) task: TaskId,
    pub(super) kind: TaskKind,
}

/// The first open copy or restore that reads a recovery point: by its name, or because its blocks are read there.
pub(super) async fn reader(conn: &mut AnyConnection, point: &PointRow) -> Result<Option<Hold>, StoreError> {
    for row in task::open_around(conn, point.id, point.copy_of).await? {
        let reads = match &row.work {
            Work::BackupCopy(_) => row.recovery_point == Some(point.id),
            Work::Restore(_) if row.recovery_point == Some(point.id) => true,
            Work::Restore(restore) => {
                let stay = row.media_agent.is_some();
                match PointRow::find(conn, restore.recovery_point).await? {
                    Some(named) => match source::resolve(conn, restore, &named, stay).await {
                        Ok(source) => source.point() == point.id,
                        Err(error) if error.retryable() => return Err(error),
                        // It cannot be done any more, whatever happens to this one.
                        Err(_) => false,
                    },
                    None => false,
                }
            }
            Work::StreamingBackup(_)
            | Work::IntelliSnap(_)
            | Work::DeleteRecoveryPoint(_)
            | Work::Replication(_)
            | Work::Conversion(_) => false,
        };
        if reads {
            return Ok(Some(Hold { task: row.id, kind: row.kind }));
        }
    }
    Ok(None)
}

/// The first open backup or copy that builds on a recovery point, or on a copy of it.
pub(super) async fn builder(conn: &mut AnyConnection, point: &PointRow) -> Result<Option<Hold>, StoreError> {
    let statement = format!(
        "SELECT t.id, t.kind FROM task t WHERE t.state IN {OPEN} AND t.hypervisor_id = $1 AND t.base IS NOT NULL \
         AND (t.base LIKE '%' || $2 || '%' OR EXISTS (SELECT 1 FROM recovery_point c WHERE c.copy_of = $2 \
         AND t.base LIKE '%' || c.id || '%')) ORDER BY t.id LIMIT 1"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(point.hypervisor.to_string())
        .bind(point.id.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(|row| Ok(Hold { task: row.parsed("id")?, kind: row.word("kind", TaskKind::from_word)? }))
        .transpose()
}

/// The open task that deletes a recovery point.
pub(super) async fn deleter(
    conn: &mut AnyConnection,
    point: RecoveryPointId,
) -> Result<Option<TaskId>, StoreError> {
    open_of_kind(conn, point, TaskKind::DeleteRecoveryPoint).await
}

/// The open task that copies a recovery point.
pub(super) async fn copier(
    conn: &mut AnyConnection,
    point: RecoveryPointId,
) -> Result<Option<TaskId>, StoreError> {
    open_of_kind(conn, point, TaskKind::BackupCopy).await
}

async fn open_of_kind(
    conn: &mut AnyConnection,
    point: RecoveryPointId,
    kind: TaskKind,
) -> Result<Option<TaskId>, StoreError> {
    let statement = format!(
        "SELECT id FROM task WHERE recovery_point_id = $1 AND kind = $2 AND state IN {OPEN} ORDER BY id LIMIT 1"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(point.to_string())
        .bind(kind.as_str())
        .fetch_optional(conn)
        .await?;
    row.map(|row| row.parsed("id")).transpose()
}
