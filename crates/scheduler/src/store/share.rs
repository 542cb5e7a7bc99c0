//! Shares of snapshots, which several tasks may need at the same time: AWS knows a share once, the ledger once for each
//! task. Whoever lets go of it last takes it back in AWS.
//!
//! What is decided is decided in turn for each share: an entry that is written, and one that is let go, see each other.
//! Between the decision to take a share back and the end of that, whoever needs it anew waits.

use snapferry_types::LedgerId;
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind};
use sqlx::AnyConnection;

use super::db::Dialect;
use super::ledger::{COLUMNS, rank, read};
use super::row::{Read as _, to_json};
use super::task::TaskRow;
use super::{Store, StoreError};

/// What else the ledger knows of a share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OtherShares {
    /// Another open entry stands for the same share.
    pub any: bool,
    /// One of those is just being taken back.
    pub being_taken_back: bool,
}

impl Store {
    /// Others that decide on the same share wait until this transaction has ended.
    pub(super) async fn share_turn(
        &self,
        conn: &mut AnyConnection,
        object_ids: &[String],
    ) -> Result<(), StoreError> {
        // SQLite has one writer anyway.
        if self.db.dialect() == Dialect::Postgres {
            sqlx::query("SELECT pg_advisory_xact_lock(hashtext($1))")
                .bind(to_json(&object_ids))
                .execute(conn)
                .await?;
        }
        Ok(())
    }

    /// An agent is about to take a share back: it is not to when others need it; its entry is gone then.
    pub(super) async fn release(
        &self,
        conn: &mut AnyConnection,
        task: &TaskRow,
        id: LedgerId,
        now_ms: i64,
    ) -> Result<OtherShares, StoreError> {
        let entry = find(conn, id).await?.ok_or_else(|| StoreError::not_found("ledger entry", id))?;
        let is_kept = rank(entry.state) >= rank(LedgerState::Kept);
        let hypervisor = hypervisor_of(conn, id).await?;
        if hypervisor != task.hypervisor.to_string() || (entry.task != task.id && !is_kept) {
            return Err(StoreError::Invalid(format!("ledger entry {id} is of another task")));
        }
        self.let_go(conn, &entry, now_ms).await
    }

    /// The reaper is about to take a share back. True when it is not to, because others need it; its entry is gone then.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release_left_over(&self, id: LedgerId) -> Result<bool, StoreError> {
        let now_ms = self.clock.wall_ms();
        let mut tx = self.begin().await?;
        let Some(entry) = find(&mut tx, id).await? else { return Ok(true) };
        let others = self.let_go(&mut tx, &entry, now_ms).await?;
        tx.commit().await?;
        Ok(others.any)
    }

    async fn let_go(
        &self,
        conn: &mut AnyConnection,
        entry: &LedgerEntry,
        now_ms: i64,
    ) -> Result<OtherShares, StoreError> {
        let id = entry.id;
        if entry.kind != ObjectKind::Share {
            return Err(StoreError::Invalid(format!("ledger entry {id} is a {}", entry.kind.as_str())));
        }
        self.share_turn(conn, &entry.object_ids).await?;
        if entry.state == LedgerState::Gone {
            return Ok(OtherShares { any: true, being_taken_back: false });
        }
        let others = others(conn, entry).await?;
        let statement = if others.any {
            "UPDATE ledger SET state = 'gone', changed_ms = $1 WHERE id = $2"
        } else {
            "UPDATE ledger SET taken_back = 1, changed_ms = $1 WHERE id = $2"
        };
        sqlx::query(statement).bind(now_ms).bind(id.to_string()).execute(conn).await?;
        Ok(others)
    }
}

/// What else the ledger knows of the share of an entry.
pub(super) async fn others(conn: &mut AnyConnection, entry: &LedgerEntry) -> Result<OtherShares, StoreError> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS n, CAST(COALESCE(SUM(taken_back), 0) AS BIGINT) AS taken_back FROM ledger \
         WHERE kind = 'share' AND object_ids = $1 AND state <> 'gone' AND id <> $2",
    )
    .bind(to_json(&entry.object_ids))
    .bind(entry.id.to_string())
    .fetch_one(conn)
    .await?;
    Ok(OtherShares { any: row.int("n")? > 0, being_taken_back: row.int("taken_back")? > 0 })
}

async fn find(conn: &mut AnyConnection, id: LedgerId) -> Result<Option<LedgerEntry>, StoreError> {
    let statement = format!("{COLUMNS} FROM ledger l WHERE l.id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(id.to_string()).fetch_optional(conn).await?;
    row.as_ref().map(read).transpose()
}

async fn hypervisor_of(conn: &mut AnyConnection, id: LedgerId) -> Result<String, StoreError> {
    let row = sqlx::query("SELECT hypervisor_id FROM ledger WHERE id = $1").bind(id.to_string());
    row.fetch_one(conn).await?.text("hypervisor_id")
}
