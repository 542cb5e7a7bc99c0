//! One attempt: runs the handler of a granted task and says how it ended.
//!
//! Running twice: the fence decides; a handler repeats its steps and finds what is done. Dying at any step: the
//! lease runs out, and the next attempt, here or elsewhere, goes on from what is recorded.

use std::sync::Arc;
use std::time::Duration;

use snapferry_service::{Backoff, excerpt};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::spec::{Operation, RestoreTarget};
use snapferry_wire::v1;
use snapferry_wire::v1::finish_request::Outcome;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::context::TaskContext;
use crate::stop::StopReason;
use crate::{handler, keeper};

/// How long a clean-up may take before it is left to the scheduler's reaper.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs the attempt to its end and reports it; answers a word for how it ended. What is logged meanwhile is kept for
/// the report.
pub(crate) async fn run(
    context: Arc<TaskContext>,
    granted_at: Instant,
    lease: Duration,
    shutdown: CancellationToken,
) -> &'static str {
    let (task, attempt) = (context.spec.task, context.spec.attempt);
    let span = tracing::info_span!(excerpt::SPAN, %task, attempt);
    run_inside(context, granted_at, lease, shutdown).instrument(span).await
}

async fn run_inside(
    context: Arc<TaskContext>,
    granted_at: Instant,
    lease: Duration,
    shutdown: CancellationToken,
) -> &'static str {
    let done = CancellationToken::new();
    let keeper = keeper::keep(Arc::clone(&context), granted_at, lease, shutdown, done.clone());
    let work = async {
        // A panic in a handler is a bug; it costs the attempt, not the agent.
        let handler = tokio::spawn(handler::run(Arc::clone(&context)).in_current_span());
        let result = handler.await.unwrap_or_else(|panic| {
            Err(TransferError::new(
                ErrorClass::Internal,
                format!("the handler ended without a result: {panic}"),
            ))
        });
        let outcome = outcome_of(&context, result).await;
        let word = word_of(outcome.as_ref());
        if let Some(outcome) = outcome {
            report(&context, outcome).await;
        }
        done.cancel();
        word
    };
    tokio::join!(keeper, work).1
}

/// How an attempt ended, for the metrics.
fn word_of(outcome: Option<&Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Succeeded(_)) => "succeeded",
        Some(Outcome::Failed(_)) => "failed",
        Some(Outcome::Cancelled(_)) => "cancelled",
        Some(Outcome::Yielded(_)) => "yielded",
        None => "lease_lost",
    }
}

/// The outcome to report; nothing when the lease is lost.
async fn outcome_of(
    context: &Arc<TaskContext>,
    result: Result<Vec<v1::Made>, TransferError>,
) -> Option<Outcome> {
    let task = context.spec.task;
    let reason = context.stop.reason();
    let error = match result {
        Ok(made) => return Some(Outcome::Succeeded(v1::Succeeded { made })),
        Err(error) => error,
    };
    let is_lost = reason == Some(StopReason::LeaseLost) || error.class == ErrorClass::StaleFence;
    handler::let_go(context, is_lost).await;
    match (reason, error.class) {
        (Some(StopReason::LeaseLost), _) | (_, ErrorClass::StaleFence) => {
            tracing::warn!(%task, %error, "attempt given up: the lease is lost");
            None
        }
        (Some(StopReason::Shutdown), ErrorClass::Cancelled) => {
            Some(Outcome::Yielded(v1::Yielded { shutting_down: true }))
        }
        (Some(StopReason::Suspend), ErrorClass::Cancelled) => {
            Some(Outcome::Yielded(v1::Yielded { shutting_down: false }))
        }
        (Some(StopReason::Cancel), _) => match clean_up(context).await {
            Err(unfinished) if must_finish(context) => Some(try_again(unfinished)),
            _ => Some(Outcome::Cancelled(v1::Cancelled {})),
        },
        (_, class) => {
            tracing::warn!(%task, %error, class = class.as_str(), "attempt failed");
            if !error.retryable()
                && let Err(unfinished) = clean_up(context).await
                && must_finish(context)
            {
                return Some(try_again(unfinished));
            }
            Some(Outcome::Failed(v1::Failed {
                retryable: error.retryable(),
                error_class: class.as_str().to_owned(),
                message: error.message,
            }))
        }
    }
}

/// Whether the task must not end before its clean-up has succeeded: the reaper removes what is left over, but it cannot
/// give an instance its own volumes back.
fn must_finish(context: &TaskContext) -> bool {
    match &context.spec.operation {
        Operation::Restore(spec) => matches!(spec.target, RestoreTarget::InPlace { .. }),
        Operation::StreamingBackup(_)
        | Operation::IntelliSnap(_)
        | Operation::BackupCopy(_)
        | Operation::DeleteRecoveryPoint(_) => false,
    }
}

/// The outcome that has another attempt take back what this one could not.
fn try_again(unfinished: TransferError) -> Outcome {
    Outcome::Failed(v1::Failed {
        retryable: true,
        error_class: unfinished.class.as_str().to_owned(),
        message: format!("the instance does not have all its own volumes back yet: {}", unfinished.message),
    })
}

/// Leaves nothing behind in AWS and in the library.
///
/// # Errors
/// What did not succeed; it is in the ledger, for the reaper.
async fn clean_up(context: &Arc<TaskContext>) -> Result<(), TransferError> {
    context.enter("clean up");
    let lost = context.stop.lost();
    let too_slow = |_| Err(TransferError::new(ErrorClass::Unavailable, "the clean-up takes too long"));
    let result = tokio::select! {
        () = lost.cancelled() => Err(TransferError::cancelled()),
        result = tokio::time::timeout(CLEAN_UP_TIMEOUT, handler::clean_up(context, lost)) => {
            result.unwrap_or_else(too_slow)
        }
    };
    if let Err(error) = &result {
        tracing::warn!(task = %context.spec.task, %error, "clean-up not finished");
    }
    result
}

/// What a person needs to see why it ended so; nothing where it went well.
fn excerpt_for(outcome: &Outcome, attempt: &tracing::Span) -> String {
    match outcome {
        Outcome::Failed(_) | Outcome::Cancelled(_) => excerpt::of(attempt),
        Outcome::Succeeded(_) | Outcome::Yielded(_) => String::new(),
    }
}

/// Reports until the scheduler has it or the lease is lost; finishing twice is harmless.
async fn report(context: &Arc<TaskContext>, outcome: Outcome) {
    let request = v1::FinishRequest {
        task_id: context.spec.task.to_string(),
        fence: Some(context.spec.fence.into()),
        progress: Some(context.progress()),
        phases: context.phases(),
        log_excerpt: excerpt_for(&outcome, &tracing::Span::current()),
        outcome: Some(outcome),
    };
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        match context.lease.finish(request.clone()).await {
            Ok(()) => return,
            Err(error) if error.class == ErrorClass::Unavailable => {
                tracing::warn!(task = %context.spec.task, %error, "the outcome is not taken yet; trying again");
            }
            Err(error) => {
                tracing::warn!(task = %context.spec.task, %error, "the outcome is refused");
                return;
            }
        }
        tokio::select! {
            () = context.stop.lost().cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}
