//! Attempts that ended: who worked, how long on what, and what the agent's log said last.

use std::collections::HashMap;

use snapferry_api::job::{Attempt, Phase, Progress, TaskError};
use snapferry_types::{JobId, TaskId};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::row::{Read as _, to_json};
use super::task::TaskRow;
use super::{StoreError, timestamp};

/// Attempts of a task in one answer: the last.
const SHOWN: usize = 20;
/// Attempts of a job that are read for one answer: the newest.
const SHOWN_OF_JOB: i64 = 2_000;
/// Phases of one attempt that are kept.
const MAX_PHASES: usize = 100;
/// Longest log excerpt, in characters.
const MAX_EXCERPT: usize = 16 << 10;
/// The same of an attempt that goes on: some of it comes with each of its renewals.
const MAX_EXCERPT_SO_FAR: usize = 4 << 10;

/// What an agent tells of an attempt: at its end, and until then with each renewal of its lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptReport {
    /// Its last figures.
    pub progress: Option<Progress>,
    /// What it did, and for how long.
    pub phases: Vec<Phase>,
    /// The last lines of its log; in a renewal empty when there are no new ones.
    pub log_excerpt: String,
}

impl From<Option<Progress>> for AttemptReport {
    fn from(progress: Option<Progress>) -> Self {
        Self { progress, ..Self::default() }
    }
}

/// Keeps what the attempt of `row` did until now, in place of what was told before.
pub(super) async fn keep_so_far(
    conn: &mut AnyConnection,
    row: &TaskRow,
    report: &AttemptReport,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO attempt_so_far (task_id, epoch, phases, log_excerpt) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (task_id) DO UPDATE SET epoch = excluded.epoch, phases = excluded.phases, log_excerpt = CASE \
         WHEN excluded.log_excerpt = '' AND attempt_so_far.epoch = excluded.epoch THEN attempt_so_far.log_excerpt \
         ELSE excluded.log_excerpt END",
    )
    .bind(row.id.to_string())
    .bind(super::row::big(row.fence.epoch))
    .bind(to_json(&first_phases(report)))
    .bind(last_lines(report, MAX_EXCERPT_SO_FAR))
    .execute(conn)
    .await?;
    Ok(())
}

/// What the attempt of `row` told before it went silent.
pub(super) async fn so_far(conn: &mut AnyConnection, row: &TaskRow) -> Result<AttemptReport, StoreError> {
    let told =
        sqlx::query("SELECT phases, log_excerpt FROM attempt_so_far WHERE task_id = $1 AND epoch = $2")
            .bind(row.id.to_string())
            .bind(super::row::big(row.fence.epoch))
            .fetch_optional(conn)
            .await?;
    let Some(told) = told else { return Ok(AttemptReport::default()) };
    Ok(AttemptReport { progress: None, phases: told.json("phases")?, log_excerpt: told.text("log_excerpt")? })
}

fn first_phases(report: &AttemptReport) -> &[Phase] {
    report.phases.get(..MAX_PHASES).unwrap_or(&report.phases)
}

/// The end of the log. PostgreSQL has no text with NUL in it.
fn last_lines(report: &AttemptReport, most: usize) -> String {
    let skipped = report.log_excerpt.chars().count().saturating_sub(most);
    report.log_excerpt.chars().skip(skipped).map(|char| if char == '\0' { ' ' } else { char }).collect()
}

/// Notes the end of the attempt of `row`, which was started under its epoch. Repeating it changes nothing.
pub(super) async fn add(
    conn: &mut AnyConnection,
    row: &TaskRow,
    outcome: &str,
    error: Option<&TaskError>,
    report: &AttemptReport,
    now_ms: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO attempt (task_id, epoch, n, node_id, started_ms, finished_ms, outcome, error, progress, phases, \
         log_excerpt) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (task_id, epoch) DO NOTHING",
    )
    .bind(row.id.to_string())
    .bind(super::row::big(row.fence.epoch))
    .bind(i64::from(row.attempts))
    .bind(row.node.map(|id| id.to_string()))
    .bind(row.started_ms.unwrap_or(now_ms))
    .bind(now_ms)
    .bind(outcome.to_owned())
    .bind(error.map(to_json))
    .bind(to_json(report.progress.as_ref().unwrap_or(&row.progress)))
    .bind(to_json(&first_phases(report)))
    .bind(last_lines(report, MAX_EXCERPT))
    .execute(&mut *conn)
    .await?;
    sqlx::query("DELETE FROM attempt_so_far WHERE task_id = $1")
        .bind(row.id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// The last attempts of each task of a job, oldest first.
pub(super) async fn of_job(
    conn: &mut AnyConnection,
    job: JobId,
) -> Result<HashMap<TaskId, Vec<Attempt>>, StoreError> {
    let rows = sqlx::query(
        "SELECT a.task_id, a.n, a.node_id, a.started_ms, a.finished_ms, a.outcome, a.error, a.progress, a.phases, \
         a.log_excerpt FROM attempt a JOIN task t ON t.id = a.task_id WHERE t.job_id = $1 \
         ORDER BY a.finished_ms DESC, a.epoch DESC LIMIT $2",
    )
    .bind(job.to_string())
    .bind(SHOWN_OF_JOB)
    .fetch_all(conn)
    .await?;
    let mut of_task = HashMap::<TaskId, Vec<Attempt>>::new();
    for row in &rows {
        let attempts = of_task.entry(row.parsed("task_id")?).or_default();
        if attempts.len() < SHOWN {
            attempts.push(read(row)?);
        }
    }
    for attempts in of_task.values_mut() {
        attempts.reverse();
    }
    Ok(of_task)
}

fn read(row: &AnyRow) -> Result<Attempt, StoreError> {
    let error = match row.opt_text("error")? {
        Some(_) => Some(row.json("error")?),
        None => None,
    };
    Ok(Attempt {
        n: row.number("n")?,
        started_at: timestamp(row.int("started_ms")?),
        finished_at: timestamp(row.int("finished_ms")?),
        outcome: row.text("outcome")?,
        error,
        progress: row.json("progress")?,
        phases: row.json("phases")?,
        log_excerpt: row.text("log_excerpt")?,
        access_node: row.opt_parsed("node_id")?,
    })
}
