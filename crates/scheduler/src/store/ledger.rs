//! The ledger of AWS objects: written before an object is made, moved forward only, listed for the reaper.

use snapferry_api::Page;
use snapferry_api::ledger::{LedgerLine, LedgerQuery};
use snapferry_types::catalogue::RecoveryPointMeta;
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind, Purpose};
use snapferry_types::{HypervisorId, LedgerId, SnapshotId, TaskId};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::row::{Read as _, to_json};
use super::task::TaskRow;
use super::{Store, StoreError, page_of, timestamp};

/// AWS objects of one task; one that asks for more is broken.
pub(super) const MAX_ENTRIES: i64 = 10_000;

/// No live task and no recovery point owns the object: its task is over and never kept it nor handed it over, or the
/// recovery point that it was kept for is gone.
const REAPABLE: &str = "((l.state IN ('intended', 'made') AND t.state IN ('succeeded', 'failed', 'cancelled', 'dead')) \
     OR (l.state = 'kept' AND t.state IN ('succeeded', 'failed', 'cancelled', 'dead') AND NOT EXISTS (\
     SELECT 1 FROM recovery_point p WHERE p.task_id = l.task_id AND p.deleted_ms IS NULL)))";

pub(super) const COLUMNS: &str = "SELECT l.id, l.task_id, l.hypervisor_id, l.kind, l.purpose, l.account, l.region, \
                       l.object_ids, l.state, l.changed_ms";

/// A line that the reaper may remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReapableLine {
    /// The object.
    pub entry: LedgerEntry,
    /// The tenant in whose name it was made.
    pub hypervisor: HypervisorId,
}

impl Store {
    /// A page of the ledger, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ledger(&self, query: &LedgerQuery, limit: u32) -> Result<Page<LedgerLine>, StoreError> {
        let statement = format!(
            "{COLUMNS}, CAST(CASE WHEN {REAPABLE} THEN 1 ELSE 0 END AS BIGINT) AS reapable FROM ledger l \
             JOIN task t ON t.id = l.task_id \
             WHERE l.id > $1 AND ($2 = '' OR l.hypervisor_id = $2) AND ($3 = 1 OR l.state <> 'gone') \
             AND ($4 = 0 OR {REAPABLE}) ORDER BY l.id LIMIT $5"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(query.after.clone().unwrap_or_default())
            .bind(query.hypervisor.map(|id| id.to_string()).unwrap_or_default())
            .bind(i64::from(query.gone.unwrap_or(false)))
            .bind(i64::from(query.reapable.unwrap_or(false)))
            .bind(i64::from(limit) + 1)
            .fetch_all(self.db.read())
            .await?;
        let read_line = |row: &AnyRow| {
            let entry = read(row)?;
            let reapable = row.flag("reapable")?;
            Ok(LedgerLine {
                hypervisor: row.parsed("hypervisor_id")?,
                reapable,
                reason: reapable.then(|| reason(entry.state).to_owned()),
                entry,
                changed_at: timestamp(row.int("changed_ms")?),
            })
        };
        page_of(&rows, limit, read_line, |line| line.entry.id.to_string())
    }

    /// What the reaper may remove and that has not changed since `before_ms`, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reapable(&self, before_ms: i64, limit: u32) -> Result<Vec<ReapableLine>, StoreError> {
        let statement = format!(
            "{COLUMNS} FROM ledger l JOIN task t ON t.id = l.task_id WHERE {REAPABLE} AND l.changed_ms <= $1 \
             ORDER BY l.changed_ms, l.id LIMIT $2"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(before_ms)
            .bind(i64::from(limit))
            .fetch_all(self.db.read())
            .await?;
        rows.iter()
            .map(|row| Ok(ReapableLine { entry: read(row)?, hypervisor: row.parsed("hypervisor_id")? }))
            .collect()
    }

    /// The snapshots that a restore made, or may have made, volumes of: those that it wrote, and those of the recovery
    /// point that it restores, with their copies.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn restored_snapshots(&self, task: TaskId) -> Result<Vec<SnapshotId>, StoreError> {
        let mut conn = self.reader().await?;
        let staged = sqlx::query(
            "SELECT object_ids FROM ledger WHERE task_id = $1 AND kind = 'snapshot' AND purpose = 'restore_staging'",
        );
        let mut ids = Vec::new();
        for row in &staged.bind(task.to_string()).fetch_all(&mut *conn).await? {
            ids.extend(row.json::<Vec<String>>("object_ids")?);
        }
        let mut snapshots: Vec<SnapshotId> = ids.iter().filter_map(|id| id.parse().ok()).collect();
        let points = sqlx::query(
            "SELECT p.meta FROM task t JOIN recovery_point n ON n.id = t.recovery_point_id \
             JOIN recovery_point p ON p.id = n.id OR p.id = n.copy_of WHERE t.id = $1 AND t.kind = 'restore'",
        );
        for row in &points.bind(task.to_string()).fetch_all(&mut *conn).await? {
            let meta: RecoveryPointMeta = row.json("meta")?;
            snapshots.extend(meta.volumes.iter().map(|volume| volume.snapshot_id.clone()));
            let vaults = meta.vaults.iter().flat_map(|vault| &vault.snapshots);
            snapshots.extend(vaults.map(|(_, snapshot)| snapshot.clone()));
        }
        Ok(snapshots)
    }

    /// Notes that an object is gone, or that it could not be removed yet (which puts it at the end of the queue).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reaped(&self, id: LedgerId, gone: bool) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let statement = if gone {
            "UPDATE ledger SET state = 'gone', changed_ms = $1 WHERE id = $2"
        } else {
            "UPDATE ledger SET changed_ms = $1 WHERE id = $2"
        };
        sqlx::query(statement).bind(self.clock.wall_ms()).bind(id.to_string()).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Takes an entry over from the agent that works on `task`: a new one, an old one moved forward, or an exact repeat. What
/// would move it backwards is refused, and so is ending what was handed over, which is the user's. Entries of other tasks
/// can only be marked gone, and only when they were kept for the same tenant.
pub(super) async fn record(
    conn: &mut AnyConnection,
    task: &TaskRow,
    entry: &LedgerEntry,
    now_ms: i64,
) -> Result<(), StoreError> {
    let found = sqlx::query("SELECT task_id, hypervisor_id, state FROM ledger WHERE id = $1")
        .bind(entry.id.to_string())
        .fetch_optional(&mut *conn)
        .await?;
    let Some(found) = found else {
        if entry.task != task.id {
            return Err(StoreError::Invalid(format!("ledger entry {} is of another task", entry.id)));
        }
        return insert(conn, task, entry, now_ms).await;
    };
    let owner: TaskId = found.parsed("task_id")?;
    let hypervisor: HypervisorId = found.parsed("hypervisor_id")?;
    let state = found.word("state", LedgerState::from_word)?;
    if owner != entry.task || hypervisor != task.hypervisor {
        return Err(StoreError::Invalid(format!("ledger entry {} is of another task", entry.id)));
    }
    if owner != task.id && !(entry.state == LedgerState::Gone && rank(state) >= rank(LedgerState::Kept)) {
        return Err(StoreError::Invalid(format!(
            "ledger entry {} is of another task and can only be marked gone",
            entry.id
        )));
    }
    if rank(entry.state) < rank(state) || (state == LedgerState::HandedOver && entry.state != state) {
        return Err(StoreError::Invalid(format!(
            "ledger entry {} is {} and cannot become {}",
            entry.id,
            state.as_str(),
            entry.state.as_str()
        )));
    }
    sqlx::query(
        "UPDATE ledger SET state = $1, object_ids = CASE WHEN $2 = '[]' THEN object_ids ELSE $2 END, \
         changed_ms = $3 WHERE id = $4",
    )
    .bind(entry.state.as_str())
    .bind(to_json(&entry.object_ids))
    .bind(now_ms)
    .bind(entry.id.to_string())
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert(
    conn: &mut AnyConnection,
    task: &TaskRow,
    entry: &LedgerEntry,
    now_ms: i64,
) -> Result<(), StoreError> {
    let n = sqlx::query("SELECT COUNT(*) AS n FROM ledger WHERE task_id = $1")
        .bind(task.id.to_string())
        .fetch_one(&mut *conn)
        .await?
        .int("n")?;
    if n >= MAX_ENTRIES {
        return Err(StoreError::Invalid(format!("task {} has {n} objects in the ledger already", task.id)));
    }
    sqlx::query(
        "INSERT INTO ledger (id, task_id, hypervisor_id, kind, purpose, account, region, object_ids, state, \
         changed_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(entry.id.to_string())
    .bind(task.id.to_string())
    .bind(task.hypervisor.to_string())
    .bind(entry.kind.as_str())
    .bind(entry.purpose.as_str())
    .bind(entry.account.to_string())
    .bind(entry.region.to_string())
    .bind(to_json(&entry.object_ids))
    .bind(entry.state.as_str())
    .bind(now_ms)
    .execute(conn)
    .await?;
    Ok(())
}

/// What `task` has from earlier attempts and may still exist.
pub(super) async fn of_task(conn: &mut AnyConnection, task: TaskId) -> Result<Vec<LedgerEntry>, StoreError> {
    let statement = format!("{COLUMNS} FROM ledger l WHERE l.task_id = $1 ORDER BY l.id LIMIT $2");
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(task.to_string())
        .bind(MAX_ENTRIES)
        .fetch_all(conn)
        .await?;
    rows.iter().map(read).collect()
}

/// Why the reaper may remove an object in this state.
const fn reason(state: LedgerState) -> &'static str {
    match state {
        LedgerState::Kept => "the recovery point that it was kept for is gone",
        LedgerState::Intended | LedgerState::Made | LedgerState::HandedOver | LedgerState::Gone => {
            "its task is over and never handed it over"
        }
    }
}

pub(super) const fn rank(state: LedgerState) -> u8 {
    match state {
        LedgerState::Intended => 0,
        LedgerState::Made => 1,
        LedgerState::Kept | LedgerState::HandedOver => 2,
        LedgerState::Gone => 3,
    }
}

pub(super) fn read(row: &AnyRow) -> Result<LedgerEntry, StoreError> {
    Ok(LedgerEntry {
        id: row.parsed("id")?,
        task: row.parsed("task_id")?,
        kind: row.word("kind", ObjectKind::from_word)?,
        purpose: row.word("purpose", Purpose::from_word)?,
        account: row.parsed("account")?,
        region: row.parsed("region")?,
        object_ids: row.json("object_ids")?,
        state: row.word("state", LedgerState::from_word)?,
    })
}
