//! The database behind the store: SQLite (one writer, several readers, write-ahead log, every commit synced) or
//! PostgreSQL, with one set of statements. Only two things differ: how a binary column is called, and that
//! PostgreSQL locks the row that a transaction is about to change while SQLite has one writer anyway.

use std::time::Duration;

use sqlx::any::{Any, AnyPoolOptions};
use sqlx::{AnyConnection, AnyPool, Connection as _, Executor as _, Transaction};

use super::error::StoreError;
use super::schema;

const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(15);
const SQLITE_READERS: u32 = 4;
const POSTGRES_CONNECTIONS: u32 = 12;

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

/// A transaction; dropped without a commit, it changes nothing.
pub(super) type Tx = Transaction<'static, Any>;

#[derive(Debug, Clone)]
pub(super) struct Db {
    writer: AnyPool,
    reader: AnyPool,
    dialect: Dialect,
}

impl Db {
    /// Connects, and brings the schema up to date.
    pub(super) async fn open(url: &str) -> Result<Self, StoreError> {
        let db = Self::connect(url).await?;
        schema::migrate(&db).await?;
        Ok(db)
    }

    /// Connects.
    pub(super) async fn connect(url: &str) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let db = if let Some(path) = url.strip_prefix("sqlite:") {
            Self::open_sqlite(url, path).await?
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let pool = AnyPoolOptions::new()
                .max_connections(POSTGRES_CONNECTIONS)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .connect(url)
                .await?;
            Self { writer: pool.clone(), reader: pool, dialect: Dialect::Postgres }
        } else {
            let url = url.split('@').next_back().unwrap_or_default().to_owned();
            return Err(StoreError::Url { url, reason: "unknown kind of database".to_owned() });
        };
        Ok(db)
    }

    async fn open_sqlite(url: &str, path: &str) -> Result<Self, StoreError> {
        let refuse = |reason: String| StoreError::Url { url: url.to_owned(), reason };
        let path = path.trim_start_matches("//");
        if path.is_empty() || path.starts_with(':') || path.contains(['?', '#', '%']) {
            return Err(refuse("expected the path of a file".to_owned()));
        }
        let path = std::path::absolute(path).map_err(|error| refuse(error.to_string()))?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| refuse(error.to_string()))?;
        }
        let url = format!("sqlite://{}?mode=rwc", path.display());
        let options = |n| {
            AnyPoolOptions::new().max_connections(n).acquire_timeout(ACQUIRE_TIMEOUT).after_connect(
                |connection: &mut AnyConnection, _| {
                    Box::pin(async move {
                        connection
                            .execute(
                                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                                 PRAGMA busy_timeout = 10000; PRAGMA foreign_keys = ON",
                            )
                            .await
                            .map(drop)
                    })
                },
            )
        };
        // SQLite itself takes a transaction back when the disk is full; sqlx, whose own ROLLBACK then fails, counts it as open
        // for as long as the connection lives.
        let writer = options(1)
            .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
            .connect(&url)
            .await?;
        let reader = options(SQLITE_READERS).connect(&url).await?;
        Ok(Self { writer, reader, dialect: Dialect::Sqlite })
    }

    /// Where reads outside of transactions go.
    pub(super) const fn read(&self) -> &AnyPool {
        &self.reader
    }

    /// A transaction that may write.
    pub(super) async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(match self.dialect {
            Dialect::Sqlite => self.writer.begin_with("BEGIN IMMEDIATE").await?,
            Dialect::Postgres => self.writer.begin().await?,
        })
    }

    pub(super) const fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(super) async fn close(&self) {
        self.writer.close().await;
        self.reader.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_that_was_full_costs_the_transaction_and_no_later_one() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::connect(&format!("sqlite:{}/full.db", folder.path().display())).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        tx.execute("CREATE TABLE filled (bytes BLOB)").await.unwrap();
        tx.commit().await.unwrap();
        // As if the disk ended here; it holds for this connection.
        db.writer.acquire().await.unwrap().execute("PRAGMA max_page_count = 16").await.unwrap();

        let mut tx = db.begin().await.unwrap();
        let full = tx.execute("INSERT INTO filled VALUES (zeroblob(1000000))").await.unwrap_err();
        assert!(full.to_string().contains("full"), "{full}");
        drop(tx);

        let mut tx = db.begin().await.unwrap();
        tx.execute("INSERT INTO filled VALUES (zeroblob(1000000))").await.unwrap();
        tx.commit().await.unwrap();
        let row = sqlx::query("SELECT COUNT(*) FROM filled").fetch_one(db.read()).await.unwrap();
        assert_eq!(sqlx::Row::get::<i64, _>(&row, 0), 1);
        db.close().await;
    }
}
