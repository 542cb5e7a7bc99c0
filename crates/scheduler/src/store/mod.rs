//! The store: what was asked for and what is known, in SQLite or PostgreSQL. The database owns the truth; the queue
//! and the memory of this process can be lost at any time.
//!
//! Every change of a task's state is `TaskState::after` inside a transaction, written with a compare-and-set on state
//! and epoch ([`task`]). Every operation may be repeated. The store calls nobody: not AWS, not the queue.

mod ability;
mod access;
mod base;
mod catalogue;
mod control;
mod copy;
mod crossing;
mod db;
mod dispatch;
mod draft;
mod ending;
mod error;
mod expired;
mod fleet;
mod gauges;
mod history;
mod hold;
mod hypervisor;
mod job;
mod kept;
mod lease;
mod ledger;
mod lost;
mod media_agent;
mod note;
mod page;
mod point;
mod record;
mod row;
mod schema;
mod share;
mod source;
mod spec;
mod staged;
mod task;

use std::sync::Arc;

use snapferry_types::JobId;
use sqlx::AnyConnection;
use sqlx::pool::PoolConnection;
use tokio::sync::broadcast;

use self::db::{Db, Tx};
pub use self::dispatch::{Offer, OutboxEntry, WaitingGroup};
pub use self::ending::{FinishOutcome, Limits};
pub use self::error::StoreError;
pub use self::expired::Expired;
pub use self::fleet::{NodeFigures, Pool};
pub use self::gauges::Gauges;
pub use self::history::AttemptReport;
pub use self::job::{Submission, Submitted};
pub use self::lease::{ClaimBy, ClaimVerdict, Grant};
pub use self::ledger::ReapableLine;
pub use self::lost::{KeptSnapshots, Lost};
pub use self::media_agent::{AskedUpkeep, MediaAgentFigures};
use self::page::page_of;
pub use self::record::{SealedPoint, Step};
pub(crate) use self::row::timestamp;
pub use self::share::OtherShares;
pub use self::staged::ImagesOfNode;
pub use self::task::{Desired, LeasedTask, TaskRow};
use crate::clock::Clock;
use crate::vault::{Vault, random32};

/// What the vault seals at the first start, to tell a wrong master key at the next.
const VAULT_CHECK: &str = "master key check";

/// Jobs whose changes a slow listener may miss before it is told to look at everything.
const CHANGES_CAPACITY: usize = 1_024;

/// The scheduler's database.
#[derive(Debug)]
pub struct Store {
    db: Db,
    vault: Vault,
    clock: Arc<dyn Clock>,
    generation: u64,
    owner: String,
    changes: broadcast::Sender<JobId>,
}

impl Store {
    /// Opens the database at `url` (`sqlite:PATH` or `postgres://…`), making or upgrading its tables.
    ///
    /// # Errors
    /// [`StoreError`]; a master key that does not belong to the database is [`StoreError::Vault`].
    pub async fn open(url: &str, vault: Vault, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let db = Db::open(url).await?;
        let mut tx = db.begin().await?;
        check_vault(&mut tx, &vault).await?;
        let generation = meta(&mut tx, "generation").await?.unwrap_or_else(|| "1".to_owned());
        let generation = generation.parse().map_err(|error: std::num::ParseIntError| {
            StoreError::Corrupt { column: "meta.generation", reason: error.to_string() }
        })?;
        let owner = hex::encode(random32()?);
        sqlx::query(
            "INSERT INTO meta (name, value) VALUES ('owner', $1) \
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )
        .bind(owner.clone())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        let (changes, _) = broadcast::channel(CHANGES_CAPACITY);
        Ok(Self { db, vault, clock, generation, owner, changes })
    }

    /// Refuses when another process has opened the database since: two would not see each other's renewals, so the
    /// older one stops. What both wrote meanwhile is sound, because every write is a compare-and-set.
    ///
    /// # Errors
    /// [`StoreError::Superseded`].
    pub async fn check_owner(&self) -> Result<(), StoreError> {
        let owner = meta(&mut *self.reader().await?, "owner").await?;
        if owner.as_ref() == Some(&self.owner) { Ok(()) } else { Err(StoreError::Superseded) }
    }

    /// Generation of the database: a part of every fence.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Raises the generation, after the database lost committed work (a failover, a restored copy): every grant from
    /// before is void then. To be called before the scheduler serves.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn raise_generation(&mut self) -> Result<u64, StoreError> {
        let next = self.generation.saturating_add(1);
        let mut tx = self.db.begin().await?;
        sqlx::query("UPDATE meta SET value = $1 WHERE name = 'generation'")
            .bind(next.to_string())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        self.generation = next;
        Ok(next)
    }

    /// Ids of jobs as they change, for listeners; a hint only.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<JobId> {
        self.changes.subscribe()
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(self.db.read()).await?;
        Ok(())
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.db.close().await;
    }

    async fn begin(&self) -> Result<Tx, StoreError> {
        self.db.begin().await
    }

    async fn reader(&self) -> Result<PoolConnection<sqlx::Any>, StoreError> {
        Ok(self.db.read().acquire().await?)
    }

    fn changed(&self, job: JobId) {
        // Nobody listening is fine.
        let _receivers = self.changes.send(job);
    }
}

async fn meta(conn: &mut AnyConnection, name: &str) -> Result<Option<String>, StoreError> {
    let row = sqlx::query("SELECT value FROM meta WHERE name = $1").bind(name).fetch_optional(conn).await?;
    row.map(|row| row::Read::text(&row, "value")).transpose()
}

async fn check_vault(conn: &mut AnyConnection, vault: &Vault) -> Result<(), StoreError> {
    match meta(conn, "vault").await? {
        Some(sealed) => {
            let sealed = hex::decode(&sealed)
                .map_err(|error| StoreError::Corrupt { column: "meta.vault", reason: error.to_string() })?;
            vault.open(VAULT_CHECK, &sealed)?;
        }
        None => {
            let sealed = hex::encode(vault.seal(VAULT_CHECK, VAULT_CHECK.as_bytes())?);
            sqlx::query("INSERT INTO meta (name, value) VALUES ('vault', $1)")
                .bind(sealed)
                .execute(conn)
                .await?;
        }
    }
    Ok(())
}
