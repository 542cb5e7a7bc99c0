//! How an attempt ends, and what becomes of its task then.

use std::time::Duration;

use rand::RngExt as _;
use snapferry_api::job::{Made, TaskError};
use snapferry_types::state::TaskEvent;

use super::StoreError;
use super::control::{move_idle, must_be_taken_back};
use super::task::{Desired, TaskRow};

/// How often a task is tried, and how long it waits in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Attempts in a row that end with a retryable error and move nothing forward, before the task is given up.
    pub max_attempts: u32,
    /// Attempts whose agent went silent before the task is quarantined.
    pub max_crashes: u32,
    /// The first wait is at most this; each next one at most twice the one before.
    pub retry_base: Duration,
    /// No wait is longer.
    pub retry_max: Duration,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishOutcome {
    /// Done.
    Succeeded(Vec<Made>),
    /// Not done.
    Failed {
        /// Whether a retry may mend it.
        retryable: bool,
        /// Why.
        error: TaskError,
    },
    /// Stopped and cleaned up.
    Cancelled,
    /// Stopped at a safe point.
    Yielded {
        /// Because the agent is going away.
        shutting_down: bool,
    },
}

impl FinishOutcome {
    /// The word in the history and in metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Succeeded(_) => "succeeded",
            Self::Failed { retryable: true, .. } => "retryable",
            Self::Failed { retryable: false, .. } => "failed",
            Self::Cancelled => "cancelled",
            Self::Yielded { .. } => "yielded",
        }
    }
}

/// Applies the end of an attempt; answers the sentence for the history.
pub(super) fn settle(
    row: &mut TaskRow,
    outcome: FinishOutcome,
    limits: &Limits,
    now_ms: i64,
) -> Result<String, StoreError> {
    match outcome {
        FinishOutcome::Succeeded(made) => {
            row.apply(TaskEvent::Succeeded, now_ms)?;
            row.error = None;
            row.made = made;
            Ok("succeeded".to_owned())
        }
        FinishOutcome::Failed { error, retryable }
            if row.desired == Desired::Cancel && !(retryable && must_be_taken_back(row)) =>
        {
            row.apply(TaskEvent::CancelConfirmed, now_ms)?;
            let text = format!("cancelled; the attempt ended with {}: {}", error.class, error.message);
            row.error = Some(error);
            Ok(text)
        }
        FinishOutcome::Failed { retryable, error } => {
            let text = format!("{}: {}", error.class, error.message);
            row.error = Some(error);
            if !retryable {
                row.apply(TaskEvent::FailedForGood, now_ms)?;
                return Ok(format!("failed: {text}"));
            }
            // What moves forward, however slowly, is not given up.
            let moved = row.progress.bytes_sent > 0 || row.progress.blocks_done > 0;
            row.failures = if moved { 1 } else { row.failures.saturating_add(1) };
            if row.failures >= limits.max_attempts && !must_be_taken_back(row) {
                row.apply(TaskEvent::OutOfAttempts, now_ms)?;
                return Ok(format!("given up after {} attempts: {text}", row.attempts));
            }
            row.apply(TaskEvent::FailedForNow, now_ms)?;
            wait(row, row.failures, limits, now_ms);
            move_idle(row, now_ms)?;
            Ok(format!("will be tried again: {text}"))
        }
        FinishOutcome::Cancelled if row.desired != Desired::Cancel => {
            Err(StoreError::Conflict(format!("nobody asked to cancel task {}", row.id)))
        }
        FinishOutcome::Cancelled => {
            row.apply(TaskEvent::CancelConfirmed, now_ms)?;
            Ok("cancelled".to_owned())
        }
        FinishOutcome::Yielded { .. } if row.desired == Desired::Cancel && !must_be_taken_back(row) => {
            row.apply(TaskEvent::CancelConfirmed, now_ms)?;
            Ok("cancelled".to_owned())
        }
        FinishOutcome::Yielded { shutting_down } => {
            row.apply(TaskEvent::Yielded, now_ms)?;
            // An orderly stop is no failed attempt.
            row.attempts = row.attempts.saturating_sub(1);
            if row.desired == Desired::Suspend {
                return Ok("suspended".to_owned());
            }
            row.apply(TaskEvent::ResumedByUser, now_ms)?;
            let why =
                if shutting_down { "the access node is shutting down" } else { "the agent gave it back" };
            Ok(format!("stopped at a safe point, will go on: {why}"))
        }
    }
}

/// Full jitter: evenly from zero to a bound that doubles with each failure.
pub(super) fn wait(row: &mut TaskRow, n_failures: u32, limits: &Limits, now_ms: i64) {
    let doublings = n_failures.saturating_sub(1).min(20);
    let bound = limits.retry_base.saturating_mul(1_u32 << doublings).min(limits.retry_max);
    let wait_ms = rand::rng().random_range(0..=u64::try_from(bound.as_millis()).unwrap_or(u64::MAX));
    row.not_before_ms = Some(now_ms.saturating_add(i64::try_from(wait_ms).unwrap_or(i64::MAX)));
}
