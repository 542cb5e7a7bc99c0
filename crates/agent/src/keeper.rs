//! Keeps one task's lease while its handler works, reports what was done, and passes on what the scheduler wants.
//!
//! Renewal is every 2/9 of the lease (20 s of 90 s). When the lease has run out by our own clock, counted from when
//! the last good renewal was sent, the task is stopped whatever it does: another agent may have it.

use std::sync::Arc;
use std::time::Duration;

use snapferry_service::excerpt;
use snapferry_transfer::ErrorClass;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::TaskContext;
use crate::lease::{Desired, SoFar};
use crate::stop::StopReason;

/// Bytes of the log that go with a renewal: ten thousand tasks may send that several times in each lease.
const MAX_LOG_BYTES: usize = 4 << 10;

/// Renews until `done`. `granted_at` is when the claim was sent.
pub(crate) async fn keep(
    context: Arc<TaskContext>,
    granted_at: Instant,
    lease: Duration,
    shutdown: CancellationToken,
    done: CancellationToken,
) {
    let mut valid_until = granted_at + lease;
    let mut period = period_of(lease);
    let mut next = granted_at + period;
    let mut told = String::new();
    loop {
        let shutting_down = context.stop.reason().is_some();
        tokio::select! {
            () = done.cancelled() => return,
            () = tokio::time::sleep_until(next.min(valid_until)) => {}
            () = shutdown.cancelled(), if !shutting_down => {
                context.stop.stop(StopReason::Shutdown);
                continue;
            }
        }
        let sent = Instant::now();
        if sent >= valid_until {
            tracing::warn!(task = %context.spec.task, "the lease ran out without an answer; stopping");
            context.stop.stop(StopReason::LeaseLost);
            return;
        }
        let log = excerpt::last(&tracing::Span::current(), MAX_LOG_BYTES);
        let so_far = SoFar {
            progress: context.progress(),
            phases: context.phases(),
            log_excerpt: if log == told { String::new() } else { log.clone() },
        };
        let renewal = context.lease.renew(context.spec.task, context.spec.fence, so_far);
        let answer = tokio::select! {
            () = done.cancelled() => return,
            answer = tokio::time::timeout_at(valid_until, renewal) => answer,
        };
        match answer {
            Ok(Ok((lease, desired))) => {
                told = log;
                valid_until = sent + lease;
                period = period_of(lease);
                next = sent + period;
                let is_news = desired != Desired::Run && context.stop.reason().is_none();
                context.stop.heed(desired);
                if is_news {
                    tracing::info!(task = %context.spec.task, ?desired, "told to stop");
                }
            }
            Ok(Err(error)) if error.class == ErrorClass::StaleFence => {
                tracing::warn!(task = %context.spec.task, %error, "the task has another owner; stopping");
                context.stop.stop(StopReason::LeaseLost);
                return;
            }
            Ok(Err(error)) => {
                tracing::warn!(task = %context.spec.task, %error, "the lease was not renewed; trying again");
                next = Instant::now() + (period / 4).max(Duration::from_millis(50));
            }
            Err(_elapsed) => next = valid_until,
        }
    }
}

fn period_of(lease: Duration) -> Duration {
    (lease * 2 / 9).max(Duration::from_millis(50))
}
