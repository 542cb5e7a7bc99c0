//! The history of a job: sentences, numbered within it.

use std::collections::HashMap;

use snapferry_api::job::Note;
use snapferry_types::{JobId, TaskId};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::row::{Read as _, big};
use super::{Store, StoreError, timestamp};

/// Longest sentence, in characters; a longer one is cut.
const MAX_CHARS: usize = 2_000;
/// Sentences of one task; later ones are dropped, but warnings and ends are not counted out before 1,000.
const MAX_NOTES: i64 = 1_000;
/// Sentences of a task in one answer.
const SHOWN_NOTES: usize = 200;
/// Sentences of a job in one answer: the newest.
const SHOWN_OF_JOB: i64 = 5_000;
/// Sentences read at a time by a listener.
const BATCH: i64 = 200;

pub(super) async fn add(
    conn: &mut AnyConnection,
    job: JobId,
    task: TaskId,
    at_ms: i64,
    warning: bool,
    text: &str,
) -> Result<(), StoreError> {
    let n = sqlx::query("SELECT COUNT(*) AS n FROM note WHERE task_id = $1")
        .bind(task.to_string())
        .fetch_one(&mut *conn)
        .await?
        .int("n")?;
    if n >= MAX_NOTES {
        return Ok(());
    }
    let seq = sqlx::query("UPDATE job SET note_seq = note_seq + 1 WHERE id = $1 RETURNING note_seq")
        .bind(job.to_string())
        .fetch_one(&mut *conn)
        .await?
        .int("note_seq")?;
    sqlx::query(
        "INSERT INTO note (job_id, seq, task_id, at_ms, warning, text) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(job.to_string())
    .bind(seq)
    .bind(task.to_string())
    .bind(at_ms)
    .bind(i64::from(warning))
    .bind(text.chars().take(MAX_CHARS).collect::<String>())
    .execute(conn)
    .await?;
    Ok(())
}

/// The newest sentences of each task of a job, oldest first.
pub(super) async fn of_job(
    conn: &mut AnyConnection,
    job: JobId,
) -> Result<HashMap<TaskId, Vec<Note>>, StoreError> {
    let rows = sqlx::query(
        "SELECT seq, task_id, at_ms, warning, text FROM note WHERE job_id = $1 ORDER BY seq DESC LIMIT $2",
    )
    .bind(job.to_string())
    .bind(SHOWN_OF_JOB)
    .fetch_all(conn)
    .await?;
    let mut notes = HashMap::<TaskId, Vec<Note>>::new();
    for row in &rows {
        let note = read(row)?;
        let of_task = notes.entry(note.task).or_default();
        if of_task.len() < SHOWN_NOTES {
            of_task.push(note);
        }
    }
    for of_task in notes.values_mut() {
        of_task.reverse();
    }
    Ok(notes)
}

impl Store {
    /// The next sentences of a job after number `after`, oldest first, at most 200.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn notes_after(&self, job: JobId, after: u64) -> Result<Vec<Note>, StoreError> {
        let rows = sqlx::query(
            "SELECT seq, task_id, at_ms, warning, text FROM note WHERE job_id = $1 AND seq > $2 \
             ORDER BY seq LIMIT $3",
        )
        .bind(job.to_string())
        .bind(big(after))
        .bind(BATCH)
        .fetch_all(self.db.read())
        .await?;
        rows.iter().map(read).collect()
    }
}

fn read(row: &AnyRow) -> Result<Note, StoreError> {
    Ok(Note {
        seq: row.number("seq")?,
        task: row.parsed("task_id")?,
        at: timestamp(row.int("at_ms")?),
        warning: row.flag("warning")?,
        text: row.text("text")?,
    })
}
