//! The right to work: claimed, renewed, lost, ended. Epoch and state decide; the deadlines themselves are kept in
//! memory by the watch over leases, on a clock that nobody can turn.

use snapferry_api::job::{Progress, TaskError};
use snapferry_types::spec::TaskSpec;
use snapferry_types::state::TaskEvent;
use snapferry_types::{AccessNodeId, DispatchId, Fence, IncarnationId, TaskId, TaskState};
use sqlx::AnyConnection;

use super::control::{move_idle, must_be_taken_back};
use super::ending::{FinishOutcome, Limits, settle, wait};
use super::history::AttemptReport;
use super::row::Read as _;
use super::task::{self, Desired, LeasedTask, TaskRow};
use super::{Store, StoreError, ability, dispatch, fleet, history, note};

/// Who claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimBy {
    /// The task.
    pub task: TaskId,
    /// The offer.
    pub dispatch: DispatchId,
    /// The node.
    pub node: AccessNodeId,
    /// The node's process.
    pub incarnation: IncarnationId,
    /// Nodes heard since then, milliseconds since 1970, count as there.
    pub heard_since_ms: i64,
}

/// A granted claim.
#[derive(Debug, Clone)]
pub struct Grant {
    /// What to do.
    pub spec: TaskSpec,
    /// What is wanted of it: one that was cancelled is granted to be taken back.
    pub desired: Desired,
}

/// The answer to a claim.
#[derive(Debug, Clone)]
pub enum ClaimVerdict {
    /// Go on.
    Granted(Box<Grant>),
    /// The offer is not open any more.
    Gone(String),
    /// Open, but not for this node.
    NotYou(String),
}

impl Store {
    /// Answers a claim. Grants a dispatch at most once; the same process that asks again gets the same grant.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is granted then.
    pub async fn claim(&self, by: ClaimBy, deployment: &str) -> Result<ClaimVerdict, StoreError> {
        let mut tx = self.begin().await?;
        let Some(before) = self.lock_task(&mut tx, by.task).await? else {
            return Ok(ClaimVerdict::Gone("there is no such task".to_owned()));
        };
        if before.dispatch != Some(by.dispatch) {
            return Ok(ClaimVerdict::Gone("the offer was withdrawn or replaced".to_owned()));
        }
        if before.state.is_leased()
            && before.incarnation == Some(by.incarnation)
            && before.fence.generation == self.generation
        {
            let spec = self.spec(&mut tx, &before, deployment).await?;
            return Ok(ClaimVerdict::Granted(Box::new(Grant { spec, desired: before.desired })));
        }
        if before.state != TaskState::Dispatched {
            return Ok(ClaimVerdict::Gone(format!("the task is {}", before.state.as_str())));
        }
        match fleet::incarnation(&mut tx, by.node).await? {
            Some((incarnation, queue))
                if incarnation == by.incarnation && Some(&queue) == before.queue.as_ref() => {}
            Some((incarnation, _)) if incarnation != by.incarnation => {
                return Ok(ClaimVerdict::NotYou("another process has this access node's id".to_owned()));
            }
            Some(_) => return Ok(ClaimVerdict::NotYou("the offer is for another queue".to_owned())),
            None => return Ok(ClaimVerdict::NotYou("say hello first".to_owned())),
        }
        let was_begun = before.fence.epoch > 0;
        let region = before.region.as_str();
        let refusal =
            ability::refusal(&mut tx, &before.work, region, was_begun, by.node, by.heard_since_ms).await?;
        if let Some(reason) = refusal {
            return Ok(ClaimVerdict::NotYou(reason));
        }
        let now_ms = self.clock.wall_ms();
        let mut after = before.clone();
        after.apply(TaskEvent::Claimed, now_ms)?;
        after.fence = Fence { generation: self.generation, epoch: before.fence.epoch.saturating_add(1) };
        after.attempts = before.attempts.saturating_add(1);
        after.node = Some(by.node);
        after.incarnation = Some(by.incarnation);
        after.started_ms = Some(now_ms);
        after.progress = Progress::default();
        let spec = match self.prepare(&mut tx, &mut after).await {
            Ok(()) => self.spec(&mut tx, &after, deployment).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &spec
            && !error.retryable()
        {
            // The task cannot be described, on this or any node: it ends here.
            after.apply(TaskEvent::FailedForGood, now_ms)?;
            after.error = Some(TaskError { class: "specification".to_owned(), message: error.to_string() });
        }
        task::save(&mut tx, &before, &after).await?;
        dispatch::forget_offer(&mut tx, by.dispatch).await?;
        let text = format!("attempt {} begins", after.attempts);
        note::add(&mut tx, after.job, after.id, now_ms, false, &text).await?;
        if spec.as_ref().is_err_and(StoreError::retryable) {
            return Err(spec.err().unwrap_or_else(|| StoreError::Conflict("no specification".to_owned())));
        }
        tx.commit().await?;
        self.changed(after.job);
        Ok(match spec {
            Ok(spec) => ClaimVerdict::Granted(Box::new(Grant { spec, desired: after.desired })),
            Err(error) => ClaimVerdict::Gone(format!("the task failed: {error}")),
        })
    }

    /// Keeps a lease, and what its attempt did until now; answers what is wanted of the task.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the fence is not the current one.
    pub async fn renew(
        &self,
        id: TaskId,
        fence: Fence,
        so_far: impl Into<AttemptReport> + Send,
    ) -> Result<Desired, StoreError> {
        let so_far = so_far.into();
        let mut tx = self.begin().await?;
        let before = self.leased(&mut tx, id, fence).await?;
        let mut after = before.clone();
        after.apply(TaskEvent::Renewed, self.clock.wall_ms())?;
        after.progress = so_far.progress.clone().unwrap_or(after.progress);
        let is_changed = after != before;
        if is_changed {
            task::save(&mut tx, &before, &after).await?;
        }
        // Of a task that waits only the time of its last phase is new.
        if is_changed || !so_far.log_excerpt.is_empty() {
            history::keep_so_far(&mut tx, &after, &so_far).await?;
            tx.commit().await?;
        }
        if is_changed {
            self.changed(after.job);
        }
        Ok(after.desired)
    }

    /// Ends an attempt. Repeating it changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the fence is not the current one.
    pub async fn finish(
        &self,
        id: TaskId,
        fence: Fence,
        report: impl Into<AttemptReport> + Send,
        outcome: FinishOutcome,
        limits: &Limits,
    ) -> Result<TaskState, StoreError> {
        let report = report.into();
        let mut tx = self.begin().await?;
        let before = self
            .lock_task(&mut tx, id)
            .await?
            .ok_or_else(|| StoreError::Stale(format!("there is no task {id}")))?;
        if before.fence == fence && before.finished_epoch == Some(fence.epoch) {
            return Ok(before.state);
        }
        self.check_fence(&before, fence)?;
        let now_ms = self.clock.wall_ms();
        let mut after = before.clone();
        after.progress = report.progress.clone().unwrap_or(after.progress);
        after.finished_epoch = Some(fence.epoch);
        let word = outcome.as_str();
        let text = settle(&mut after, outcome, limits, now_ms)?;
        task::save(&mut tx, &before, &after).await?;
        let error = after.error.as_ref().filter(|_| matches!(word, "failed" | "retryable"));
        history::add(&mut tx, &before, word, error, &report, now_ms).await?;
        let warning = after.state != TaskState::Succeeded && after.error.is_some();
        note::add(&mut tx, after.job, after.id, now_ms, warning, &text).await?;
        tx.commit().await?;
        self.changed(after.job);
        Ok(after.state)
    }

    /// Tasks under a lease.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leased_tasks(&self) -> Result<Vec<LeasedTask>, StoreError> {
        let rows = sqlx::query("SELECT id, state, epoch FROM task WHERE state IN ('running', 'suspect')")
            .fetch_all(self.db.read())
            .await?;
        rows.iter()
            .map(|row| {
                Ok(LeasedTask {
                    id: row.parsed("id")?,
                    state: row.word("state", TaskState::from_word)?,
                    epoch: row.number("epoch")?,
                })
            })
            .collect()
    }

    /// A lease ran out: the task is suspect. Nothing happens when it moved on meanwhile.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn suspect(&self, leased: LeasedTask) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let Some(before) = self.lock_task(&mut tx, leased.id).await? else { return Ok(false) };
        if before.state != TaskState::Running || before.fence.epoch != leased.epoch {
            return Ok(false);
        }
        let now_ms = self.clock.wall_ms();
        let mut after = before.clone();
        after.apply(TaskEvent::LeaseExpired, now_ms)?;
        task::save(&mut tx, &before, &after).await?;
        let text = "the access node went silent; the lease ran out";
        note::add(&mut tx, after.job, after.id, now_ms, true, text).await?;
        tx.commit().await?;
        self.changed(after.job);
        Ok(true)
    }

    /// A suspect did not come back: the attempt counts as a crash. Nothing happens when it moved on meanwhile.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn give_up(
        &self,
        leased: LeasedTask,
        limits: &Limits,
    ) -> Result<Option<TaskState>, StoreError> {
        let mut tx = self.begin().await?;
        let Some(before) = self.lock_task(&mut tx, leased.id).await? else { return Ok(None) };
        if before.state != TaskState::Suspect || before.fence.epoch != leased.epoch {
            return Ok(None);
        }
        let now_ms = self.clock.wall_ms();
        let mut after = before.clone();
        after.crashes = before.crashes.saturating_add(1);
        after.error = Some(TaskError {
            class: "lease_lost".to_owned(),
            message: "the access node went silent in the middle of the work".to_owned(),
        });
        let is_over = after.crashes >= limits.max_crashes && !must_be_taken_back(&after);
        let text = if is_over && after.desired != Desired::Cancel {
            after.apply(TaskEvent::OutOfAttempts, now_ms)?;
            format!("quarantined: its access nodes went silent {} times", after.crashes)
        } else {
            after.apply(TaskEvent::GivenUp, now_ms)?;
            let crashes = after.crashes;
            wait(&mut after, crashes, limits, now_ms);
            move_idle(&mut after, now_ms)?;
            "given up; another access node will go on".to_owned()
        };
        task::save(&mut tx, &before, &after).await?;
        let report = history::so_far(&mut tx, &before).await?;
        history::add(&mut tx, &before, "lost", after.error.as_ref(), &report, now_ms).await?;
        note::add(&mut tx, after.job, after.id, now_ms, true, &text).await?;
        tx.commit().await?;
        self.changed(after.job);
        Ok(Some(after.state))
    }

    /// The task of a fence that is current and leased.
    pub(super) async fn leased(
        &self,
        conn: &mut AnyConnection,
        id: TaskId,
        fence: Fence,
    ) -> Result<TaskRow, StoreError> {
        let row = self
            .lock_task(conn, id)
            .await?
            .ok_or_else(|| StoreError::Stale(format!("there is no task {id}")))?;
        self.check_fence(&row, fence)?;
        Ok(row)
    }

    /// Refuses a fence that is not the task's current one, or that was granted before the database lost work.
    fn check_fence(&self, row: &TaskRow, fence: Fence) -> Result<(), StoreError> {
        if row.fence != fence || fence.generation != self.generation {
            return Err(StoreError::Stale(format!(
                "task {} is at generation {} epoch {}, the call has generation {} epoch {}",
                row.id, self.generation, row.fence.epoch, fence.generation, fence.epoch
            )));
        }
        if !row.state.is_leased() {
            return Err(StoreError::Stale(format!("task {} is {}", row.id, row.state.as_str())));
        }
        Ok(())
    }
}
