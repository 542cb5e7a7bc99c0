//! Jobs: taken in with all their tasks or not at all, and shown.

use std::collections::HashMap;

use snapferry_api::Page;
use snapferry_api::job::{
    Attempt, CreateJob, Job, JobQuery, JobState, JobSummary, Note, Priority, Progress, StreamingBackup, Task,
    Work,
};
use snapferry_types::{Fence, HypervisorId, JobId, Region, TaskId, TaskKind, TaskState};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::row::{Read as _, to_json};
use super::task::{self, Desired, TaskRow};
use super::{Store, StoreError, catalogue, history, hypervisor, note, page_of, timestamp};

/// A request for work, checked.
#[derive(Debug, Clone)]
pub struct Submission<'a> {
    /// The request.
    pub request: &'a CreateJob,
    /// The caller's key, made unique for the caller.
    pub idempotency_key: Option<String>,
    /// The tenant that the caller may work for; anyone when absent.
    pub only: Option<HypervisorId>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// The job.
    pub job: JobId,
    /// False when the key had made it before.
    pub new: bool,
}

const SUMMARY: &str = "SELECT j.id, j.kind, j.hypervisor_id, h.name AS hypervisor_name, j.priority, j.created_ms, \
     j.cancel_requested FROM job j JOIN hypervisor h ON h.id = j.hypervisor_id";

impl Store {
    /// Takes a job in: the job and its tasks are committed when this returns.
    ///
    /// # Errors
    /// [`StoreError`]; an unknown or foreign thing is [`StoreError::NotFound`].
    pub async fn submit(&self, submission: &Submission<'_>) -> Result<Submitted, StoreError> {
        let request = to_json(submission.request);
        let mut tx = self.begin().await?;
        if let Some(key) = &submission.idempotency_key
            && let Some(job) = earlier(&mut tx, key, &request).await?
        {
            return Ok(Submitted { job, new: false });
        }
        let now_ms = self.clock.wall_ms();
        let job = JobId::generate();
        let drafts = self.drafts(&mut tx, submission).await?;
        let priority = band(submission.request.priority);
        let inserted = sqlx::query(
            "INSERT INTO job (id, hypervisor_id, kind, priority, idempotency_key, request, created_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (idempotency_key) DO NOTHING",
        )
        .bind(job.to_string())
        .bind(drafts.hypervisor.to_string())
        .bind(submission.request.work.kind().as_str())
        .bind(priority)
        .bind(submission.idempotency_key.clone())
        .bind(request.clone())
        .bind(now_ms)
        .execute(&mut *tx)
        .await?;
        if inserted.rows_affected() == 0 {
            // The same key was committed by another connection a moment ago.
            let key = submission.idempotency_key.clone().unwrap_or_default();
            let job = earlier(&mut tx, &key, &request).await?;
            let job = job.ok_or_else(|| StoreError::Conflict("the request is being taken in".to_owned()))?;
            return Ok(Submitted { job, new: false });
        }
        for draft in drafts.tasks {
            let row = TaskRow { job, priority, created_ms: now_ms, ready_ms: now_ms, ..draft };
            task::insert(&mut tx, &row).await?;
        }
        tx.commit().await?;
        self.changed(job);
        Ok(Submitted { job, new: true })
    }

    async fn drafts(
        &self,
        conn: &mut AnyConnection,
        submission: &Submission<'_>,
    ) -> Result<Drafts, StoreError> {
        match &submission.request.work {
            Work::StreamingBackup(backup) => {
                visible(submission, backup.hypervisor, "hypervisor", backup.hypervisor)?;
                let tenant = hypervisor::load(conn, backup.hypervisor).await?;
                if tenant.role.as_str() != "tenant" {
                    return Err(StoreError::Invalid(format!(
                        "hypervisor {} is an admin hypervisor; back up the instances of a tenant",
                        tenant.id
                    )));
                }
                let region = match &backup.region {
                    Some(asked) if !tenant.regions.contains(asked) => {
                        return Err(StoreError::Invalid(format!(
                            "hypervisor {} is not registered for region {asked}; its regions are {:?}",
                            tenant.name, tenant.regions
                        )));
                    }
                    Some(asked) => asked.clone(),
                    None => tenant.regions.first().cloned().ok_or_else(|| {
                        StoreError::Invalid(format!("hypervisor {} has no region; name one", tenant.name))
                    })?,
                };
                let tasks = backup
                    .instances
                    .iter()
                    .map(|instance| {
                        let work = Work::StreamingBackup(StreamingBackup {
                            instances: vec![instance.clone()],
                            ..backup.clone()
                        });
                        let mut row = draft(work, tenant.id, region.clone());
                        row.instance = Some(instance.clone());
                        row.media_agent = backup.media_agent;
                        row
                    })
                    .collect();
                Ok(Drafts { hypervisor: tenant.id, tasks })
            }
            Work::Restore(restore) => {
                let point = catalogue::load(conn, restore.recovery_point).await?;
                visible(submission, point.summary.hypervisor, "recovery point", restore.recovery_point)?;
                for volume in &restore.volumes {
                    if !point.volumes.iter().any(|one| one.id == *volume) {
                        return Err(StoreError::Invalid(format!(
                            "recovery point {} has no volume {volume}",
                            restore.recovery_point
                        )));
                    }
                }
                Ok(of_point(&point, submission.request.work.clone()))
            }
            Work::IntelliSnap(_) | Work::BackupCopy(_) | Work::Replication(_) | Work::Conversion(_) => {
                let kind = submission.request.work.kind().as_str();
                Err(StoreError::Invalid(format!("this scheduler does not take {kind} jobs")))
            }
            Work::DeleteRecoveryPoint(delete) => {
                let point = catalogue::load(conn, delete.recovery_point).await?;
                visible(submission, point.summary.hypervisor, "recovery point", delete.recovery_point)?;
                Ok(of_point(&point, submission.request.work.clone()))
            }
        }
    }

    /// A job with its tasks.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn job(&self, id: JobId) -> Result<Job, StoreError> {
        let mut conn = self.reader().await?;
        let statement = format!("{SUMMARY} WHERE j.id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(id.to_string())
            .fetch_optional(&mut *conn)
            .await?
            .ok_or_else(|| StoreError::not_found("job", id))?;
        let rows = task::of_job(&mut conn, id).await?;
        let states = rows.iter().map(|row| (row.state, row.finished_ms)).collect::<Vec<_>>();
        let mut notes = note::of_job(&mut conn, id).await?;
        let mut attempts = history::of_job(&mut conn, id).await?;
        let tasks = rows
            .into_iter()
            .map(|row| {
                let notes = notes.remove(&row.id).unwrap_or_default();
                let history = attempts.remove(&row.id).unwrap_or_default();
                view(row, notes, history)
            })
            .collect();
        Ok(Job { summary: summary(&row, &states)?, tasks })
    }

    /// A page of jobs, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn jobs(&self, query: &JobQuery, limit: u32) -> Result<Page<JobSummary>, StoreError> {
        let mut conn = self.reader().await?;
        let statement = format!(
            "{SUMMARY} WHERE ($1 = '' OR j.id < $1) AND ($2 = '' OR j.hypervisor_id = $2) AND ($3 = 0 OR EXISTS (\
             SELECT 1 FROM task t WHERE t.job_id = j.id \
             AND t.state NOT IN ('succeeded', 'failed', 'cancelled', 'dead'))) ORDER BY j.id DESC LIMIT $4"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(query.after.clone().unwrap_or_default())
            .bind(query.hypervisor.map(|id| id.to_string()).unwrap_or_default())
            .bind(i64::from(query.open.unwrap_or(false)))
            .bind(i64::from(limit) + 1)
            .fetch_all(&mut *conn)
            .await?;
        let states = states_between(&mut conn, &rows).await?;
        page_of(
            &rows,
            limit,
            |row| {
                let id: JobId = row.parsed("id")?;
                summary(row, states.get(&id).map_or(&[], Vec::as_slice))
            },
            |job| job.id.to_string(),
        )
    }
}

/// States and ends of the tasks of the jobs on a page, which is in descending order of ids.
async fn states_between(
    conn: &mut AnyConnection,
    page: &[AnyRow],
) -> Result<HashMap<JobId, Vec<(TaskState, Option<i64>)>>, StoreError> {
    let (Some(newest), Some(oldest)) = (page.first(), page.last()) else { return Ok(HashMap::new()) };
    let rows = sqlx::query(
        "SELECT job_id, state, COUNT(*) AS n, MAX(finished_ms) AS finished_ms FROM task \
         WHERE job_id >= $1 AND job_id <= $2 GROUP BY job_id, state",
    )
    .bind(oldest.text("id")?)
    .bind(newest.text("id")?)
    .fetch_all(conn)
    .await?;
    let mut states = HashMap::<_, Vec<_>>::new();
    for row in &rows {
        let one = (row.word("state", TaskState::from_word)?, row.opt_int("finished_ms")?);
        let n: usize = row.number("n")?;
        states.entry(row.parsed("job_id")?).or_default().extend(std::iter::repeat_n(one, n));
    }
    Ok(states)
}

struct Drafts {
    hypervisor: HypervisorId,
    tasks: Vec<TaskRow>,
}

fn visible(
    submission: &Submission<'_>,
    owner: HypervisorId,
    kind: &'static str,
    id: impl ToString,
) -> Result<(), StoreError> {
    if submission.only.is_none_or(|only| only == owner) {
        return Ok(());
    }
    Err(StoreError::not_found(kind, id))
}

fn of_point(point: &snapferry_api::recovery_point::RecoveryPoint, work: Work) -> Drafts {
    let mut row = draft(work, point.summary.hypervisor, point.summary.region.clone());
    row.instance = Some(point.summary.instance.clone());
    row.recovery_point = Some(point.summary.id);
    row.media_agent = point.summary.media_agent;
    Drafts { hypervisor: point.summary.hypervisor, tasks: vec![row] }
}

fn draft(work: Work, hypervisor: HypervisorId, region: Region) -> TaskRow {
    TaskRow {
        id: TaskId::generate(),
        job: JobId::from_u128(0),
        hypervisor,
        kind: work.kind(),
        work,
        region,
        instance: None,
        recovery_point: None,
        media_agent: None,
        state: TaskState::Ready,
        fence: Fence::default(),
        priority: 0,
        created_ms: 0,
        ready_ms: 0,
        not_before_ms: None,
        attempts: 0,
        crashes: 0,
        dispatch: None,
        queue: None,
        node: None,
        incarnation: None,
        desired: Desired::Run,
        progress: Progress::default(),
        failures: 0,
        error: None,
        made: Vec::new(),
        base: None,
        finished_epoch: None,
        started_ms: None,
        finished_ms: None,
    }
}

async fn earlier(conn: &mut AnyConnection, key: &str, request: &str) -> Result<Option<JobId>, StoreError> {
    let row = sqlx::query("SELECT id, request FROM job WHERE idempotency_key = $1")
        .bind(key.to_owned())
        .fetch_optional(conn)
        .await?;
    let Some(row) = row else { return Ok(None) };
    if row.text("request")? != request {
        let shown = key.rsplit('\n').next().unwrap_or_default();
        return Err(StoreError::IdempotencyMismatch(shown.to_owned()));
    }
    row.parsed("id").map(Some)
}

pub(super) const fn band(priority: Priority) -> i64 {
    match priority {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
    }
}

fn summary(row: &AnyRow, tasks: &[(TaskState, Option<i64>)]) -> Result<JobSummary, StoreError> {
    let states = tasks.iter().map(|(state, _)| *state).collect::<Vec<_>>();
    let state = JobState::of(&states, row.flag("cancel_requested")?);
    let finished_ms = tasks.iter().filter_map(|(_, at)| *at).max().filter(|_| state.is_terminal());
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(JobSummary {
        id: row.parsed("id")?,
        kind: row.word("kind", TaskKind::from_word)?,
        hypervisor: row.parsed("hypervisor_id")?,
        hypervisor_name: row.text("hypervisor_name")?,
        priority: match row.int("priority")? {
            0 => Priority::Low,
            1 => Priority::Normal,
            _ => Priority::High,
        },
        state,
        tasks_total: count(states.len()),
        tasks_done: count(states.iter().filter(|state| state.is_terminal()).count()),
        created_at: timestamp(row.int("created_ms")?),
        finished_at: finished_ms.map(timestamp),
    })
}

fn view(row: TaskRow, notes: Vec<Note>, history: Vec<Attempt>) -> Task {
    Task {
        id: row.id,
        kind: row.kind,
        instance: row.instance,
        recovery_point: row.recovery_point,
        state: row.state,
        attempts: row.attempts,
        progress: row.progress,
        started_at: row.started_ms.map(timestamp),
        finished_at: row.finished_ms.map(timestamp),
        not_before: row.not_before_ms.map(timestamp),
        error: row.error,
        made: row.made,
        notes,
        history,
        waits_for: None,
        access_node: row.node,
        media_agent: row.media_agent,
    }
}
