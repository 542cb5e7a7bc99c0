//! Access nodes as they announce themselves, and where work can go.

use snapferry_api::Page;
use snapferry_api::fleet::AccessNode;
use snapferry_api::page::PageQuery;
use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::{AccessNodeId, HypervisorId, IncarnationId, InstanceId, MediaAgentId, Transport};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::row::{Read as _, to_json};
use super::{Store, StoreError, page_of, timestamp};

/// What an agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of NodeHelloRequest")]
pub struct NodeFigures {
    pub id: AccessNodeId,
    pub incarnation: IncarnationId,
    pub name: String,
    pub region: String,
    pub availability_zone: String,
    pub os: String,
    pub group: String,
    pub queue: String,
    pub slots: u32,
    pub free_slots: u32,
    pub version: String,
    /// Empty when it does not say.
    pub transports: Vec<Transport>,
}

/// Access nodes that share a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Their queue.
    pub queue: String,
    /// Their region.
    pub region: String,
    /// Tasks they take at a time, all together.
    pub slots: u64,
    /// Tasks they have.
    pub leased: u64,
    /// Offers on their queue.
    pub offered: u64,
}

impl Pool {
    /// How many more offers keep the queue short: free slots and a quarter of all, less what is offered already.
    #[must_use]
    pub fn room(&self) -> u64 {
        let free = self.slots.saturating_sub(self.leased);
        (free + self.slots.div_ceil(4)).saturating_sub(self.offered)
    }
}

impl Store {
    /// An agent is there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn node_seen(&self, node: &NodeFigures) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO access_node (id, incarnation, name, region, availability_zone, os, node_group, queue, slots, \
             free_slots, version, last_seen_ms, transports) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
             ON CONFLICT (id) DO UPDATE SET incarnation = excluded.incarnation, name = excluded.name, \
             region = excluded.region, availability_zone = excluded.availability_zone, os = excluded.os, \
             node_group = excluded.node_group, queue = excluded.queue, slots = excluded.slots, \
             free_slots = excluded.free_slots, version = excluded.version, last_seen_ms = excluded.last_seen_ms, \
             transports = excluded.transports",
        )
        .bind(node.id.to_string())
        .bind(node.incarnation.to_string())
        .bind(node.name.clone())
        .bind(node.region.clone())
        .bind(node.availability_zone.clone())
        .bind(node.os.clone())
        .bind(node.group.clone())
        .bind(node.queue.clone())
        .bind(i64::from(node.slots))
        .bind(i64::from(node.free_slots))
        .bind(node.version.clone())
        .bind(self.clock.wall_ms())
        .bind(to_json(&node.transports))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Processes under which the nodes announced themselves last.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn incarnations(&self) -> Result<Vec<(AccessNodeId, IncarnationId)>, StoreError> {
        let rows = sqlx::query("SELECT id, incarnation FROM access_node WHERE slots > 0")
            .fetch_all(self.db.read())
            .await?;
        rows.iter().map(|row| Ok((row.parsed("id")?, row.parsed("incarnation")?))).collect()
    }

    /// Pools of the nodes heard since `since_ms`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn pools(&self, since_ms: i64) -> Result<Vec<Pool>, StoreError> {
        let rows = sqlx::query(
            "SELECT n.queue, n.region, CAST(SUM(n.slots) AS BIGINT) AS slots, \
             (SELECT COUNT(*) FROM task t WHERE t.queue = n.queue AND t.state IN ('running', 'suspect')) AS leased, \
             (SELECT COUNT(*) FROM task t WHERE t.queue = n.queue AND t.state = 'dispatched') AS offered \
             FROM access_node n WHERE n.last_seen_ms >= $1 AND n.slots > 0 GROUP BY n.queue, n.region \
             ORDER BY n.queue",
        )
        .bind(since_ms)
        .fetch_all(self.db.read())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Pool {
                    queue: row.text("queue")?,
                    region: row.text("region")?,
                    slots: row.number("slots")?,
                    leased: row.number("leased")?,
                    offered: row.number("offered")?,
                })
            })
            .collect()
    }

    /// A page of the access nodes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn access_nodes(
        &self,
        query: &PageQuery,
        limit: u32,
        online_since_ms: i64,
    ) -> Result<Page<AccessNode>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, name, region, availability_zone, os, node_group, slots, free_slots, version, last_seen_ms \
             FROM access_node WHERE id > $1 ORDER BY id LIMIT $2",
        )
        .bind(query.after.clone().unwrap_or_default())
        .bind(i64::from(limit) + 1)
        .fetch_all(self.db.read())
        .await?;
        let read = |row: &AnyRow| {
            let seen_ms = row.int("last_seen_ms")?;
            let slots: u32 = row.number("slots")?;
            Ok(AccessNode {
                id: row.parsed("id")?,
                name: row.text("name")?,
                region: row.text("region")?,
                availability_zone: row.text("availability_zone")?,
                os: row.text("os")?,
                group: row.text("node_group")?,
                slots,
                free_slots: row.number("free_slots")?,
                version: row.text("version")?,
                online: slots > 0 && seen_ms >= online_since_ms,
                last_seen: timestamp(seen_ms),
            })
        };
        page_of(&rows, limit, read, |node| node.id.to_string())
    }
}

/// The incarnation under which a node announced itself last.
pub(super) async fn incarnation(
    conn: &mut AnyConnection,
    node: AccessNodeId,
) -> Result<Option<(IncarnationId, String)>, StoreError> {
    let row = sqlx::query("SELECT incarnation, queue FROM access_node WHERE id = $1")
        .bind(node.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(|row| Ok((row.parsed("incarnation")?, row.text("queue")?))).transpose()
}

/// Where a MediaAgent listens.
pub(super) async fn endpoint(conn: &mut AnyConnection, id: MediaAgentId) -> Result<String, StoreError> {
    let row = sqlx::query("SELECT endpoint FROM media_agent WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(conn)
        .await?;
    row.ok_or_else(|| StoreError::not_found("MediaAgent", id))?.text("endpoint")
}

/// Where the next backup or copy of an instance goes: where its last one of that kind is, or else its last one of any, or
/// else to the MediaAgent that stores least, of those heard since `since_ms`.
pub(super) async fn choose_media_agent(
    conn: &mut AnyConnection,
    hypervisor: HypervisorId,
    instance: &InstanceId,
    kind: RecoveryPointKind,
    since_ms: i64,
) -> Result<Option<MediaAgentId>, StoreError> {
    let row = sqlx::query(
        "SELECT m.id FROM media_agent m LEFT JOIN recovery_point p ON p.media_agent_id = m.id \
         AND p.hypervisor_id = $1 AND p.instance_id = $2 AND p.deleted_ms IS NULL WHERE m.last_seen_ms >= $3 \
         GROUP BY m.id, m.stored_bytes ORDER BY MAX(CASE WHEN p.kind = $4 THEN p.point_in_time_ms ELSE 0 END) DESC, \
         COALESCE(MAX(p.point_in_time_ms), 0) DESC, m.stored_bytes, m.id LIMIT 1",
    )
    .bind(hypervisor.to_string())
    .bind(instance.to_string())
    .bind(since_ms)
    .bind(kind.as_str())
    .fetch_optional(conn)
    .await?;
    row.map(|row| row.parsed("id")).transpose()
}
