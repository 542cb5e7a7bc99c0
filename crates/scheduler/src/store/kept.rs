//! Kept objects: snapshots that are a recovery point, or the base of an instance's next incremental, and their copies.

use std::collections::HashMap;

use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::ledger::LedgerEntry;
use snapferry_types::{InstanceId, MediaAgentId, RecoveryPointId, TaskId};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::StoreError;
use super::ledger::{COLUMNS, MAX_ENTRIES, read};
use super::row::Read as _;
use super::task::TaskRow;

/// What a sealed recovery point is made of is kept with it: the base of the next incremental of a streaming backup, the
/// snapshots of an IntelliSnap backup and their copies elsewhere. A copy in a library keeps nothing in AWS.
pub(super) async fn keep(
    conn: &mut AnyConnection,
    task: TaskId,
    kind: RecoveryPointKind,
    now_ms: i64,
) -> Result<(), StoreError> {
    let (purpose, other) = match kind {
        RecoveryPointKind::Streamed => ("backup_source", "backup_source"),
        RecoveryPointKind::Snapshot => ("recovery_point", "vault"),
        RecoveryPointKind::Copy => return Ok(()),
    };
    sqlx::query(
        "UPDATE ledger SET state = 'kept', changed_ms = $1 \
         WHERE task_id = $2 AND purpose IN ($3, $4) AND state = 'made'",
    )
    .bind(now_ms)
    .bind(task.to_string())
    .bind(purpose)
    .bind(other)
    .execute(conn)
    .await?;
    Ok(())
}

/// Ids of the snapshots of the instance's volumes that are kept for what `task` made.
pub(super) async fn snapshots_of(conn: &mut AnyConnection, task: TaskId) -> Result<Vec<String>, StoreError> {
    ids_of(
        sqlx::query(
            "SELECT object_ids FROM ledger WHERE task_id = $1 AND state = 'kept' \
             AND purpose IN ('backup_source', 'recovery_point')",
        )
        .bind(task.to_string())
        .fetch_all(conn)
        .await?,
    )
}

/// Ids of the copies of those snapshots that are kept in vaults for what `task` made.
pub(super) async fn vault_copies_of(
    conn: &mut AnyConnection,
    task: TaskId,
) -> Result<Vec<String>, StoreError> {
    ids_of(
        sqlx::query(
            "SELECT object_ids FROM ledger WHERE task_id = $1 AND state = 'kept' AND kind = 'snapshot' \
             AND purpose = 'vault'",
        )
        .bind(task.to_string())
        .fetch_all(conn)
        .await?,
    )
}

fn ids_of(rows: Vec<AnyRow>) -> Result<Vec<String>, StoreError> {
    let ids = rows.iter().map(|row| row.json::<Vec<String>>("object_ids")).collect::<Result<Vec<_>, _>>()?;
    Ok(ids.into_iter().flatten().collect())
}

/// [`snapshots_of`] the tasks that made the recovery points from `oldest` to `newest`.
pub(super) async fn snapshots_between(
    conn: &mut AnyConnection,
    oldest: RecoveryPointId,
    newest: RecoveryPointId,
) -> Result<HashMap<TaskId, Vec<String>>, StoreError> {
    let rows = sqlx::query(
        "SELECT l.task_id, l.object_ids FROM ledger l JOIN recovery_point p ON p.task_id = l.task_id \
         WHERE p.id >= $1 AND p.id <= $2 AND l.state = 'kept' AND l.purpose IN ('backup_source', 'recovery_point')",
    )
    .bind(oldest.to_string())
    .bind(newest.to_string())
    .fetch_all(conn)
    .await?;
    let mut kept = HashMap::<_, Vec<String>>::new();
    for row in &rows {
        let ids: Vec<String> = row.json("object_ids")?;
        kept.entry(row.parsed("task_id")?).or_default().extend(ids);
    }
    Ok(kept)
}

/// Kept snapshots of earlier streaming backups of an instance on the same MediaAgent.
pub(super) async fn superseded(
    conn: &mut AnyConnection,
    task: &TaskRow,
    instance: &InstanceId,
    media_agent: MediaAgentId,
) -> Result<Vec<LedgerEntry>, StoreError> {
    let statement = format!(
        "{COLUMNS} FROM ledger l JOIN task t ON t.id = l.task_id WHERE t.instance_id = $1 AND t.id <> $2 \
         AND t.hypervisor_id = $3 AND t.media_agent_id = $4 AND l.purpose = 'backup_source' AND l.state = 'kept' \
         ORDER BY l.id LIMIT $5"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(instance.to_string())
        .bind(task.id.to_string())
        .bind(task.hypervisor.to_string())
        .bind(media_agent.to_string())
        .bind(MAX_ENTRIES)
        .fetch_all(conn)
        .await?;
    rows.iter().map(read).collect()
}

/// Everything that is kept for a recovery point that is to be deleted, in whatever account and region it is.
pub(super) async fn of_point(
    conn: &mut AnyConnection,
    point: RecoveryPointId,
) -> Result<Vec<LedgerEntry>, StoreError> {
    let statement = format!(
        "{COLUMNS} FROM ledger l JOIN recovery_point p ON p.task_id = l.task_id \
         WHERE p.id = $1 AND l.purpose IN ('backup_source', 'recovery_point', 'vault') AND l.state = 'kept' \
         ORDER BY l.id LIMIT $2"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(point.to_string())
        .bind(MAX_ENTRIES)
        .fetch_all(conn)
        .await?;
    rows.iter().map(read).collect()
}
