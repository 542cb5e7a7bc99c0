//! MediaAgents as they announce themselves, and the upkeep that people ask of them: a number that grows with each
//! request, told in the answer to a hello until the MediaAgent says that it is done.

use snapferry_api::Page;
use snapferry_api::fleet::{LastScrub, Maintenance, MediaAgent};
use snapferry_api::page::PageQuery;
use snapferry_types::MediaAgentId;
use sqlx::any::AnyRow;

use super::row::{Read as _, big, to_json};
use super::{Store, StoreError, page_of, timestamp};

const COLUMNS: &str = "SELECT id, name, endpoint, version, stored_bytes, free_bytes, recovery_points, scrub, \
                       last_seen_ms FROM media_agent";

/// What a MediaAgent says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of MediaAgentHelloRequest")]
pub struct MediaAgentFigures {
    pub id: MediaAgentId,
    pub name: String,
    pub endpoint: String,
    pub version: String,
    pub stored_bytes: u64,
    pub free_bytes: u64,
    pub recovery_points: u64,
    pub scrub_done: u64,
    pub collect_done: u64,
    pub last_scrub: Option<LastScrub>,
}

/// Upkeep that was asked for and is not known to be done; 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AskedUpkeep {
    /// Number of the scrub.
    pub scrub: u64,
    /// Number of the collection.
    pub collect: u64,
}

impl Store {
    /// A MediaAgent is there; answers what is asked of it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn media_agent_seen(&self, agent: &MediaAgentFigures) -> Result<AskedUpkeep, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "INSERT INTO media_agent (id, name, endpoint, version, stored_bytes, free_bytes, recovery_points, \
             last_seen_ms, scrub) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $11) ON CONFLICT (id) DO UPDATE SET \
             name = excluded.name, endpoint = excluded.endpoint, version = excluded.version, \
             stored_bytes = excluded.stored_bytes, free_bytes = excluded.free_bytes, \
             recovery_points = excluded.recovery_points, last_seen_ms = excluded.last_seen_ms, \
             scrub = COALESCE(excluded.scrub, media_agent.scrub), \
             scrub_done = CASE WHEN media_agent.scrub_done < $9 THEN $9 ELSE media_agent.scrub_done END, \
             collect_done = CASE WHEN media_agent.collect_done < $10 THEN $10 ELSE media_agent.collect_done END \
             RETURNING scrub_asked, scrub_done, collect_asked, collect_done",
        )
        .bind(agent.id.to_string())
        .bind(agent.name.clone())
        .bind(agent.endpoint.clone())
        .bind(agent.version.clone())
        .bind(big(agent.stored_bytes))
        .bind(big(agent.free_bytes))
        .bind(big(agent.recovery_points))
        .bind(self.clock.wall_ms())
        .bind(big(agent.scrub_done))
        .bind(big(agent.collect_done))
        .bind(agent.last_scrub.as_ref().map(to_json))
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        let open = |asked: u64, done: u64| if asked > done { asked } else { 0 };
        Ok(AskedUpkeep {
            scrub: open(row.number("scrub_asked")?, row.number("scrub_done")?),
            collect: open(row.number("collect_asked")?, row.number("collect_done")?),
        })
    }

    /// Asks a MediaAgent for upkeep; asking again before it is done changes nothing.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn ask_maintenance(&self, id: MediaAgentId, work: Maintenance) -> Result<(), StoreError> {
        let statement = match work {
            Maintenance::Scrub => "UPDATE media_agent SET scrub_asked = scrub_done + 1 WHERE id = $1",
            Maintenance::CollectGarbage => {
                "UPDATE media_agent SET collect_asked = collect_done + 1 WHERE id = $1"
            }
        };
        let mut tx = self.begin().await?;
        let asked = sqlx::query(statement).bind(id.to_string()).execute(&mut *tx).await?;
        if asked.rows_affected() == 0 {
            return Err(StoreError::not_found("MediaAgent", id));
        }
        tx.commit().await?;
        Ok(())
    }

    /// A MediaAgent.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn media_agent(
        &self,
        id: MediaAgentId,
        online_since_ms: i64,
    ) -> Result<MediaAgent, StoreError> {
        let statement = format!("{COLUMNS} WHERE id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(id.to_string())
            .fetch_optional(self.db.read())
            .await?;
        read(&row.ok_or_else(|| StoreError::not_found("MediaAgent", id))?, online_since_ms)
    }

    /// A page of the MediaAgents.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn media_agents(
        &self,
        query: &PageQuery,
        limit: u32,
        online_since_ms: i64,
    ) -> Result<Page<MediaAgent>, StoreError> {
        let statement = format!("{COLUMNS} WHERE id > $1 ORDER BY id LIMIT $2");
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(query.after.clone().unwrap_or_default())
            .bind(i64::from(limit) + 1)
            .fetch_all(self.db.read())
            .await?;
        page_of(&rows, limit, |row| read(row, online_since_ms), |agent| agent.id.to_string())
    }
}

fn read(row: &AnyRow, online_since_ms: i64) -> Result<MediaAgent, StoreError> {
    let seen_ms = row.int("last_seen_ms")?;
    let free_bytes: u64 = row.number("free_bytes")?;
    let last_scrub = match row.opt_text("scrub")? {
        Some(_) => Some(row.json("scrub")?),
        None => None,
    };
    Ok(MediaAgent {
        id: row.parsed("id")?,
        name: row.text("name")?,
        endpoint: row.text("endpoint")?,
        version: row.text("version")?,
        stored_bytes: row.number("stored_bytes")?,
        free_bytes: (free_bytes > 0).then_some(free_bytes),
        recovery_points: row.number("recovery_points")?,
        last_scrub,
        online: seen_ms >= online_since_ms,
        last_seen: timestamp(seen_ms),
    })
}
