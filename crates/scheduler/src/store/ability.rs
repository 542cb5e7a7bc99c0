//! Which access nodes can do a task that names its transport: HotAdd and Import need what not every node has. Such a task
//! goes to a node that can, and waits while all of those are busy. When none of them is there, one that was never begun
//! is offered all the same, for any node refuses it with the reason; one that was begun waits, because refusing it would
//! throw away what was moved already.

use snapferry_api::job::Work;
use snapferry_types::{AccessNodeId, Transport, TransportWish};
use sqlx::AnyConnection;

use super::row::Read as _;
use super::{Store, StoreError, note};

/// The transports that nodes differ in.
const DEMANDING: [Transport; 2] = [Transport::HotAdd, Transport::Import];
/// Tasks of one round that are told that they wait.
const TOLD: i64 = 100;
/// How the sentence begins that tells it; once for each task.
const WAITS: &str = "waits for an access node that can do";

/// What the nodes of a queue can do by one transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Able {
    /// Those that can have more free slots than such tasks are offered to them.
    Now,
    /// One of them can when it has a free slot, or those of another queue of the task's region can.
    Later,
    /// None that was heard can.
    Nobody,
}

impl Store {
    /// Tells tasks that were begun, and that no node can go on with, that they wait.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn tell_waiting(&self, since_ms: i64) -> Result<(), StoreError> {
        for transport in DEMANDING {
            let statement = format!(
                "SELECT t.id, t.job_id, t.region FROM task t WHERE t.state = 'ready' AND t.epoch > 0 AND {} \
                 AND NOT EXISTS (SELECT 1 FROM note n WHERE n.task_id = t.id AND n.text LIKE '{WAITS}%') \
                 ORDER BY t.id LIMIT $1",
                wishes(transport)
            );
            let mut conn = self.reader().await?;
            let rows = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(TOLD).fetch_all(&mut *conn).await?;
            if rows.is_empty() {
                continue;
            }
            let able = nodes(&mut conn, transport, since_ms).await?;
            drop(conn);
            for row in &rows {
                let region = row.text("region")?;
                if able.iter().any(|node| node.region == region) {
                    continue;
                }
                let (job, task) = (row.parsed("job_id")?, row.parsed("id")?);
                let text = format!("{WAITS} {} in {region}: none was heard lately", transport.as_str());
                let mut tx = self.begin().await?;
                note::add(&mut tx, job, task, self.clock.wall_ms(), true, &text).await?;
                tx.commit().await?;
                self.changed(job);
            }
        }
        Ok(())
    }
}

/// A condition on tasks `t` of a region that the nodes of a queue, heard since `since_ms`, may be offered. Only a node of
/// the tenant's region can attach or import there.
pub(super) async fn condition(
    conn: &mut AnyConnection,
    queue: &str,
    region: &str,
    since_ms: i64,
) -> Result<String, StoreError> {
    let mut condition = String::from("1 = 1");
    for transport in DEMANDING {
        let wishes = wishes(transport);
        let rest = match of_queue(conn, transport, queue, region, since_ms).await? {
            Able::Now => continue,
            Able::Later => format!(" AND NOT ({wishes})"),
            Able::Nobody => format!(" AND NOT (t.epoch > 0 AND {wishes})"),
        };
        condition.push_str(&rest);
    }
    Ok(condition)
}

/// Why a node is not to have a task, where it cannot do it and another one can, or will.
pub(super) async fn refusal(
    conn: &mut AnyConnection,
    work: &Work,
    region: &str,
    was_begun: bool,
    node: AccessNodeId,
    since_ms: i64,
) -> Result<Option<String>, StoreError> {
    let Some(transport) = wish(work).only().filter(|one| DEMANDING.contains(one)) else { return Ok(None) };
    let able = nodes_in(conn, transport, region, since_ms).await?;
    if able.iter().any(|one| one.id == node.to_string()) || (able.is_empty() && !was_begun) {
        return Ok(None);
    }
    Ok(Some(format!("this node cannot do {}, which the task asks for", transport.as_str())))
}

/// What a task asks for.
const fn wish(work: &Work) -> TransportWish {
    match work {
        Work::StreamingBackup(backup) => backup.transport,
        Work::BackupCopy(copy) => copy.transport,
        Work::Restore(restore) => restore.transport,
        Work::IntelliSnap(_) | Work::DeleteRecoveryPoint(_) | Work::Replication(_) | Work::Conversion(_) => {
            TransportWish::Automatic
        }
    }
}

/// The same in SQL, of a task `t`. A quotation mark within a text is escaped in JSON, so nothing else looks like it.
fn wishes(transport: Transport) -> String {
    format!("t.work LIKE '%\"transport\":\"{}\"%'", transport.as_str())
}

async fn of_queue(
    conn: &mut AnyConnection,
    transport: Transport,
    queue: &str,
    region: &str,
    since_ms: i64,
) -> Result<Able, StoreError> {
    let able = nodes_in(conn, transport, region, since_ms).await?;
    if able.is_empty() {
        return Ok(Able::Nobody);
    }
    let n_free: i64 = able.iter().filter(|node| node.queue == queue).map(|node| node.n_free.max(0)).sum();
    let statement = format!(
        "SELECT COUNT(*) AS n FROM task t WHERE t.state = 'dispatched' AND t.queue = $1 AND {}",
        wishes(transport)
    );
    let offered = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(queue).fetch_one(conn).await?.int("n")?;
    Ok(if offered < n_free { Able::Now } else { Able::Later })
}

/// A node that can.
struct Node {
    id: String,
    region: String,
    queue: String,
    n_free: i64,
}

/// Those of [`nodes`] in one region.
async fn nodes_in(
    conn: &mut AnyConnection,
    transport: Transport,
    region: &str,
    since_ms: i64,
) -> Result<Vec<Node>, StoreError> {
    let mut able = nodes(conn, transport, since_ms).await?;
    able.retain(|node| node.region == region);
    Ok(able)
}

/// The nodes that can do a transport; one that does not say what it can may be able to.
async fn nodes(
    conn: &mut AnyConnection,
    transport: Transport,
    since_ms: i64,
) -> Result<Vec<Node>, StoreError> {
    let statement = format!(
        "SELECT n.id, n.region, n.queue, n.slots - COALESCE(l.n, 0) AS free FROM access_node n LEFT JOIN \
         (SELECT node_id, COUNT(*) AS n FROM task WHERE state IN ('running', 'suspect') GROUP BY node_id) l \
         ON l.node_id = n.id WHERE n.slots > 0 AND n.last_seen_ms >= $1 AND (n.transports = '[]' OR n.transports LIKE '%\"{}\"%')",
        transport.as_str()
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(since_ms).fetch_all(conn).await?;
    rows.iter()
        .map(|row| {
            let (id, region, queue) = (row.text("id")?, row.text("region")?, row.text("queue")?);
            Ok(Node { id, region, queue, n_free: row.int("free")? })
        })
        .collect()
}
