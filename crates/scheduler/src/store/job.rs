//! Jobs: taken in with all their tasks or not at all, and shown.

use std::collections::HashMap;

use snapferry_api::Page;
use snapferry_api::job::{Attempt, CreateJob, Job, JobQuery, JobState, JobSummary, Note, Priority, Task};
use snapferry_types::{HypervisorId, JobId, TaskKind, TaskState};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::row::{Read as _, to_json};
use super::task::{self, TaskRow};
use super::{Store, StoreError, history, note, page_of, timestamp};

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
        let drafts = match (self.drafts(&mut tx, submission).await, &submission.idempotency_key) {
            (Err(StoreError::Conflict(why)), Some(key)) => {
                // It may be this very request, committed by another connection a moment ago, that is in the way.
                let job = earlier(&mut tx, key, &request).await?.ok_or(StoreError::Conflict(why))?;
                return Ok(Submitted { job, new: false });
            }
            (drafts, _) => drafts?,
        };
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
        // Tasks of one moment are offered in the order of their ids, which is that of the drafts.
        let mut ids = drafts.tasks.iter().map(|draft| draft.id).collect::<Vec<_>>();
        ids.sort_unstable();
        for (id, draft) in ids.into_iter().zip(drafts.tasks) {
            let row = TaskRow { id, job, priority, created_ms: now_ms, ready_ms: now_ms, ..draft };
            task::insert(&mut tx, &row).await?;
        }
        tx.commit().await?;
        self.changed(job);
        Ok(Submitted { job, new: true })
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
        let tasks: Vec<_> = rows
            .into_iter()
            .map(|row| {
                let notes = notes.remove(&row.id).unwrap_or_default();
                let history = attempts.remove(&row.id).unwrap_or_default();
                view(row, notes, history)
            })
            .collect();
        Ok(Job { summary: summary(&row, &states)?, error: Job::error_of(&tasks), tasks })
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
