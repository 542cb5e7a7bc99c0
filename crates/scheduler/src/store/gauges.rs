//! Counts for the metrics: one statement, at most once in some seconds.

use crate::store::row::Read as _;
use crate::store::{Store, StoreError};

/// What there is at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gauges {
    /// Access nodes that were heard of and want work.
    pub nodes_online: i64,
    /// All access nodes.
    pub nodes: i64,
    /// MediaAgents that were heard of.
    pub media_agents_online: i64,
    /// All MediaAgents.
    pub media_agents: i64,
    /// Milliseconds that the task which waits longest to be offered has been ready; 0 when none is.
    pub longest_wait_ms: i64,
    /// Recovery points that are not deleted.
    pub recovery_points: i64,
    /// AWS objects in the ledger that are not known to be gone.
    pub objects: i64,
}

impl Store {
    /// What there is now; nodes and MediaAgents count as online when they were heard since `since_ms`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn gauges(&self, since_ms: i64) -> Result<Gauges, StoreError> {
        let row = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM access_node WHERE slots > 0 AND last_seen_ms >= $1) AS nodes_online, \
             (SELECT COUNT(*) FROM access_node) AS nodes, \
             (SELECT COUNT(*) FROM media_agent WHERE last_seen_ms >= $1) AS media_agents_online, \
             (SELECT COUNT(*) FROM media_agent) AS media_agents, \
             (SELECT MIN(ready_ms) FROM task WHERE state = 'ready') AS oldest_ms, \
             (SELECT COUNT(*) FROM recovery_point WHERE deleted_ms IS NULL) AS recovery_points, \
             (SELECT COUNT(*) FROM ledger WHERE state <> 'gone') AS objects",
        )
        .bind(since_ms)
        .fetch_one(self.db.read())
        .await?;
        let waited = |oldest_ms: i64| self.clock.wall_ms().saturating_sub(oldest_ms).max(0);
        Ok(Gauges {
            nodes_online: row.int("nodes_online")?,
            nodes: row.int("nodes")?,
            media_agents_online: row.int("media_agents_online")?,
            media_agents: row.int("media_agents")?,
            longest_wait_ms: row.opt_int("oldest_ms")?.map_or(0, waited),
            recovery_points: row.int("recovery_points")?,
            objects: row.int("objects")?,
        })
    }
}
