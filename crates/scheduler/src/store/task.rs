//! A task's row. [`TaskRow::apply`] is the only way its state changes, and [`save`] writes it only if state and epoch
//! in the database are still those that were read.

use serde::{Deserialize, Serialize};
use snapferry_api::job::{Made, Progress, TaskError, Work};
use snapferry_api::restore::{Restore, RestoreTarget};
use snapferry_types::catalogue::BaseRef;
use snapferry_types::state::TaskEvent;
use snapferry_types::{
    AccessNodeId, DispatchId, Fence, HypervisorId, IncarnationId, InstanceId, JobId, MediaAgentId,
    RecoveryPointId, Region, TaskId, TaskKind, TaskState,
};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::db::Dialect;
use super::row::{Read as _, big, to_json};
use super::{Store, StoreError};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, job_id, hypervisor_id, kind, work, region, instance_id, recovery_point_id, media_agent_id, \
             state, epoch, generation, priority, created_ms, ready_ms, not_before_ms, attempts, crashes, dispatch_id, \
             queue, node_id, incarnation, desired, progress, error_class, error_message, made, base, finished_epoch, \
             started_ms, finished_ms, failures FROM task ",
            $rest
        )
    };
}

/// States of tasks that something may still follow.
pub(super) const OPEN: &str =
    "('pending', 'ready', 'dispatched', 'running', 'suspect', 'retry_wait', 'suspended')";

/// What a person wants of a running task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Go on.
    #[default]
    Run,
    /// Stop at a safe point and keep the progress.
    Suspend,
    /// Stop and clean up.
    Cancel,
}

impl Desired {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Suspend => "suspend",
            Self::Cancel => "cancel",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Run, Self::Suspend, Self::Cancel].into_iter().find(|one| one.as_str() == word)
    }
}

/// A task as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the columns of the table")]
pub struct TaskRow {
    pub id: TaskId,
    pub job: JobId,
    pub hypervisor: HypervisorId,
    pub kind: TaskKind,
    pub work: Work,
    pub region: Region,
    pub instance: Option<InstanceId>,
    pub recovery_point: Option<RecoveryPointId>,
    pub media_agent: Option<MediaAgentId>,
    pub state: TaskState,
    pub fence: Fence,
    pub priority: i64,
    pub created_ms: i64,
    pub ready_ms: i64,
    pub not_before_ms: Option<i64>,
    pub attempts: u32,
    pub crashes: u32,
    pub dispatch: Option<DispatchId>,
    pub queue: Option<String>,
    pub node: Option<AccessNodeId>,
    pub incarnation: Option<IncarnationId>,
    pub desired: Desired,
    pub progress: Progress,
    pub error: Option<TaskError>,
    pub made: Vec<Made>,
    pub base: Option<BaseRef>,
    pub finished_epoch: Option<u64>,
    pub started_ms: Option<i64>,
    pub finished_ms: Option<i64>,
    /// Attempts in a row that ended with a retryable error and moved nothing forward.
    pub failures: u32,
}

/// A task under a lease, as the watch over leases needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeasedTask {
    /// The task.
    pub id: TaskId,
    /// Running or suspect.
    pub state: TaskState,
    /// Its epoch.
    pub epoch: u64,
}

impl TaskRow {
    /// Moves the state; the row is unchanged when the event is refused.
    pub(super) fn apply(&mut self, event: TaskEvent, now_ms: i64) -> Result<(), StoreError> {
        let next = self.state.after(event)?;
        if next == TaskState::Ready {
            self.ready_ms = now_ms;
            self.dispatch = None;
            self.queue = None;
            self.not_before_ms = None;
        }
        if next.is_terminal() {
            self.finished_ms = Some(now_ms);
            self.not_before_ms = None;
        }
        self.state = next;
        Ok(())
    }

    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let error = match row.opt_text("error_class")? {
            Some(class) => {
                Some(TaskError { class, message: row.opt_text("error_message")?.unwrap_or_default() })
            }
            None => None,
        };
        let finished_epoch = row.opt_int("finished_epoch")?.and_then(|epoch| u64::try_from(epoch).ok());
        Ok(Self {
            id: row.parsed("id")?,
            job: row.parsed("job_id")?,
            hypervisor: row.parsed("hypervisor_id")?,
            kind: row.word("kind", TaskKind::from_word)?,
            work: row.json("work")?,
            region: row.parsed("region")?,
            instance: row.opt_parsed("instance_id")?,
            recovery_point: row.opt_parsed("recovery_point_id")?,
            media_agent: row.opt_parsed("media_agent_id")?,
            state: row.word("state", TaskState::from_word)?,
            fence: Fence { generation: row.number("generation")?, epoch: row.number("epoch")? },
            priority: row.int("priority")?,
            created_ms: row.int("created_ms")?,
            ready_ms: row.int("ready_ms")?,
            not_before_ms: row.opt_int("not_before_ms")?,
            attempts: row.number("attempts")?,
            crashes: row.number("crashes")?,
            dispatch: row.opt_parsed("dispatch_id")?,
            queue: row.opt_text("queue")?,
            node: row.opt_parsed("node_id")?,
            incarnation: row.opt_parsed("incarnation")?,
            desired: row.word("desired", Desired::from_word)?,
            progress: row.json("progress")?,
            error,
            made: row.json("made")?,
            base: row.opt_json("base")?,
            finished_epoch,
            started_ms: row.opt_int("started_ms")?,
            finished_ms: row.opt_int("finished_ms")?,
            failures: row.number("failures")?,
        })
    }
}

impl Store {
    /// A task; for tests and for the reaper.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn task(&self, id: TaskId) -> Result<TaskRow, StoreError> {
        let row = sqlx::query(select!("WHERE id = $1"))
            .bind(id.to_string())
            .fetch_optional(self.db.read())
            .await?
            .ok_or_else(|| StoreError::not_found("task", id))?;
        TaskRow::read(&row)
    }

    /// A task that the transaction will change.
    pub(super) async fn lock_task(
        &self,
        conn: &mut AnyConnection,
        id: TaskId,
    ) -> Result<Option<TaskRow>, StoreError> {
        let statement = match self.db.dialect() {
            Dialect::Sqlite => select!("WHERE id = $1"),
            Dialect::Postgres => select!("WHERE id = $1 FOR UPDATE"),
        };
        let row = sqlx::query(statement).bind(id.to_string()).fetch_optional(conn).await?;
        row.as_ref().map(TaskRow::read).transpose()
    }
}

pub(super) async fn of_job(conn: &mut AnyConnection, job: JobId) -> Result<Vec<TaskRow>, StoreError> {
    let rows =
        sqlx::query(select!("WHERE job_id = $1 ORDER BY id")).bind(job.to_string()).fetch_all(conn).await?;
    rows.iter().map(TaskRow::read).collect()
}

/// The job of a task.
pub(super) async fn job_of(conn: &mut AnyConnection, id: TaskId) -> Result<JobId, StoreError> {
    let row =
        sqlx::query("SELECT job_id FROM task WHERE id = $1").bind(id.to_string()).fetch_one(conn).await?;
    row.parsed("job_id")
}

pub(super) async fn insert(conn: &mut AnyConnection, row: &TaskRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO task (id, job_id, hypervisor_id, kind, work, region, instance_id, recovery_point_id, \
         media_agent_id, state, priority, created_ms, ready_ms, in_place) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(row.id.to_string())
    .bind(row.job.to_string())
    .bind(row.hypervisor.to_string())
    .bind(row.kind.as_str())
    .bind(to_json(&row.work))
    .bind(row.region.to_string())
    .bind(row.instance.as_ref().map(ToString::to_string))
    .bind(row.recovery_point.map(|id| id.to_string()))
    .bind(row.media_agent.map(|id| id.to_string()))
    .bind(row.state.as_str())
    .bind(row.priority)
    .bind(row.created_ms)
    .bind(row.ready_ms)
    .bind(i64::from(is_in_place(&row.work)))
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether the work changes the instance itself, so that nothing else may be done with it meanwhile.
pub(super) const fn is_in_place(work: &Work) -> bool {
    matches!(work, Work::Restore(Restore { target: RestoreTarget::InPlace { .. }, .. }))
}

/// Open tasks that name a recovery point, a copy of it, or the one that it is a copy of.
pub(super) async fn open_around(
    conn: &mut AnyConnection,
    point: RecoveryPointId,
    copy_of: Option<RecoveryPointId>,
) -> Result<Vec<TaskRow>, StoreError> {
    let statement = format!(
        "{} state IN {OPEN} AND (recovery_point_id = $1 OR recovery_point_id = $2 \
         OR recovery_point_id IN (SELECT id FROM recovery_point WHERE copy_of = $1)) ORDER BY id",
        select!("WHERE")
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(point.to_string())
        .bind(copy_of.map(|id| id.to_string()).unwrap_or_default())
        .fetch_all(conn)
        .await?;
    rows.iter().map(TaskRow::read).collect()
}

/// Writes what may change of `after`, if the database still has the state and epoch of `before`.
pub(super) async fn save(
    conn: &mut AnyConnection,
    before: &TaskRow,
    after: &TaskRow,
) -> Result<(), StoreError> {
    let (class, message) = match &after.error {
        Some(error) => (Some(error.class.clone()), Some(error.message.clone())),
        None => (None, None),
    };
    let written = sqlx::query(
        "UPDATE task SET state = $1, epoch = $2, generation = $3, ready_ms = $4, not_before_ms = $5, attempts = $6, \
         crashes = $7, dispatch_id = $8, queue = $9, node_id = $10, incarnation = $11, desired = $12, progress = $13, \
         error_class = $14, error_message = $15, made = $16, base = $17, finished_epoch = $18, started_ms = $19, \
         finished_ms = $20, recovery_point_id = $21, media_agent_id = $22, failures = $23 \
         WHERE id = $24 AND state = $25 AND epoch = $26",
    )
    .bind(after.state.as_str())
    .bind(big(after.fence.epoch))
    .bind(big(after.fence.generation))
    .bind(after.ready_ms)
    .bind(after.not_before_ms)
    .bind(i64::from(after.attempts))
    .bind(i64::from(after.crashes))
    .bind(after.dispatch.map(|id| id.to_string()))
    .bind(after.queue.clone())
    .bind(after.node.map(|id| id.to_string()))
    .bind(after.incarnation.map(|id| id.to_string()))
    .bind(after.desired.as_str())
    .bind(to_json(&after.progress))
    .bind(class)
    .bind(message)
    .bind(to_json(&after.made))
    .bind(after.base.as_ref().map(to_json))
    .bind(after.finished_epoch.map(big))
    .bind(after.started_ms)
    .bind(after.finished_ms)
    .bind(after.recovery_point.map(|id| id.to_string()))
    .bind(after.media_agent.map(|id| id.to_string()))
    .bind(i64::from(after.failures))
    .bind(after.id.to_string())
    .bind(before.state.as_str())
    .bind(big(before.fence.epoch))
    .execute(conn)
    .await?;
    if written.rows_affected() == 1 {
        return Ok(());
    }
    Err(StoreError::Stale(format!("task {} changed while it was being changed", after.id)))
}
