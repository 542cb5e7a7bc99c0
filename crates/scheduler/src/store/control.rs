//! What people want of a job that is taken in: cancel it, suspend it, let it go on, do it earlier or later. Tasks that
//! nobody works on change at once; the agents of the others learn it with their next renewal.

use snapferry_api::job::Priority;
use snapferry_types::state::TaskEvent;
use snapferry_types::{JobId, TaskId, TaskState};
use sqlx::AnyConnection;

use super::job::band;
use super::task::{self, Desired, TaskRow, is_in_place};
use super::{Store, StoreError, note};

impl Store {
    /// Cancels what is left of a job.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]. A job that is done stays as it is.
    pub async fn cancel_job(&self, id: JobId) -> Result<(), StoreError> {
        self.want(id, Desired::Cancel).await
    }

    /// Suspends what is left of a job. A task that an agent works on stops at a safe point and keeps its progress.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]. A job that is done, or being cancelled, stays as it is.
    pub async fn suspend_job(&self, id: JobId) -> Result<(), StoreError> {
        self.want(id, Desired::Suspend).await
    }

    /// Lets suspended tasks of a job go on, and takes a suspension back that no agent has heard of yet.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]. A job that is done, or being cancelled, stays as it is.
    pub async fn resume_job(&self, id: JobId) -> Result<(), StoreError> {
        self.want(id, Desired::Run).await
    }

    /// Changes the band of a job's tasks that are not done.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_priority(&self, id: JobId, priority: Priority) -> Result<(), StoreError> {
        let band = band(priority);
        let mut tx = self.begin().await?;
        let changed = sqlx::query("UPDATE job SET priority = $1 WHERE id = $2")
            .bind(band)
            .bind(id.to_string())
            .execute(&mut *tx)
            .await?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::not_found("job", id));
        }
        sqlx::query(
            "UPDATE task SET priority = $1 WHERE job_id = $2 \
             AND state NOT IN ('succeeded', 'failed', 'cancelled', 'dead')",
        )
        .bind(band)
        .bind(id.to_string())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        self.changed(id);
        Ok(())
    }

    async fn want(&self, id: JobId, desired: Desired) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let tasks = task::of_job(&mut tx, id).await?;
        if tasks.is_empty() {
            return Err(StoreError::not_found("job", id));
        }
        let now_ms = self.clock.wall_ms();
        for one in tasks.iter().filter(|row| !row.state.is_terminal()) {
            // Read again under the row's lock: a claim may have come between.
            let Some(before) = self.lock_task(&mut tx, one.id).await? else { continue };
            if before.state.is_terminal() || before.desired == Desired::Cancel {
                continue;
            }
            let mut after = before.clone();
            after.desired = desired;
            if !before.state.is_leased() {
                move_idle(&mut after, now_ms)?;
            }
            if after == before {
                continue;
            }
            if before.state == TaskState::Dispatched {
                withdraw_offers(&mut tx, before.id).await?;
            }
            task::save(&mut tx, &before, &after).await?;
            note::add(&mut tx, id, before.id, now_ms, false, asked_for(desired)).await?;
        }
        if desired == Desired::Cancel {
            sqlx::query("UPDATE job SET cancel_requested = 1 WHERE id = $1")
                .bind(id.to_string())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        self.changed(id);
        Ok(())
    }
}

/// Moves a task that nobody works on to where it is wanted: at once, or when its attempt has ended.
pub(super) fn move_idle(row: &mut TaskRow, now_ms: i64) -> Result<(), StoreError> {
    match (row.desired, row.state) {
        // The agent that takes it next hears that it is cancelled, and takes back what was begun.
        (Desired::Cancel, TaskState::Suspended) if must_be_taken_back(row) => {
            row.apply(TaskEvent::ResumedByUser, now_ms)
        }
        (Desired::Cancel, _) if must_be_taken_back(row) => Ok(()),
        (Desired::Cancel, _) => row.apply(TaskEvent::CancelledByUser, now_ms),
        (Desired::Suspend, TaskState::Suspended) => Ok(()),
        (Desired::Suspend, _) => row.apply(TaskEvent::SuspendedByUser, now_ms),
        (Desired::Run, TaskState::Suspended) => row.apply(TaskEvent::ResumedByUser, now_ms),
        (Desired::Run, _) => Ok(()),
    }
}

/// Whether an earlier attempt may have left an instance with some of its volumes exchanged: what only an agent can put
/// right.
pub(super) fn must_be_taken_back(row: &TaskRow) -> bool {
    row.fence.epoch > 0 && is_in_place(&row.work)
}

const fn asked_for(desired: Desired) -> &'static str {
    match desired {
        Desired::Cancel => "cancelling was asked for",
        Desired::Suspend => "suspending was asked for",
        Desired::Run => "going on was asked for",
    }
}

async fn withdraw_offers(conn: &mut AnyConnection, task: TaskId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM outbox WHERE task_id = $1").bind(task.to_string()).execute(conn).await?;
    Ok(())
}
