//! The one retry layer of block calls: a deadline for each try, full jitter between them, permanent errors out at
//! once, and a budget that slows everybody down when many tries fail.

use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::ThrottleScope;
use crate::error::{Asked, AwsError};
use crate::quota::{AccountPace, BlockPace};
use crate::session::Account;

/// Tries that failed for other reasons than throttling.
const MAX_FAILURES: u32 = 8;
/// Throttled tries; the pace shrinks with each, so that these are minutes.
const MAX_THROTTLES: u32 = 40;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const NOT_YET_PAUSE: Duration = Duration::from_millis(500);
/// Bounds of the deadline of a try: a block of 512 KiB takes tens of milliseconds.
const SHORTEST_DEADLINE: Duration = Duration::from_secs(3);
const LONGEST_DEADLINE: Duration = Duration::from_secs(10);
/// A try is cut off after this multiple of the median.
const MEDIANS: u32 = 40;
/// A failed try costs so many successes; while the budget is used up every pause is the longest.
const FAILURE_COST: i64 = 5;
const MOST_BUDGET: i64 = 500;

/// A listing of 10,000 blocks, a start or a completion takes seconds at most.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// What a try waits for, and hears of its end.
pub(super) trait Paced: Sync {
    fn slot(&self) -> impl Future<Output = ()> + Send;
    fn throttled(&self, scope: ThrottleScope);
    fn answered(&self, took: Duration);
    fn deadline(&self, failures: u32) -> Duration;
}

impl Paced for BlockPace {
    async fn slot(&self) {
        Self::slot(self).await;
    }

    fn throttled(&self, scope: ThrottleScope) {
        Self::throttled(self, scope);
    }

    fn answered(&self, took: Duration) {
        Self::answered(self, took);
    }

    fn deadline(&self, failures: u32) -> Duration {
        deadline_of(self.median_latency(), failures)
    }
}

impl Paced for AccountPace {
    async fn slot(&self) {
        Self::slot(self).await;
    }

    fn throttled(&self, _scope: ThrottleScope) {
        Self::throttled(self);
    }

    fn answered(&self, _took: Duration) {}

    fn deadline(&self, _failures: u32) -> Duration {
        CALL_DEADLINE
    }
}

/// What reading or writing blocks took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadFigures {
    /// Blocks that came through.
    pub blocks: u64,
    /// Tries beyond the first.
    pub retries: u64,
    /// Answers that said "slower".
    pub throttles: u64,
    /// Tries cut off by their deadline.
    pub hung: u64,
    /// Blocks whose bytes did not match their checksum the first time.
    pub mismatches: u64,
}

/// Counts and budget of one source or target.
#[derive(Debug)]
pub(super) struct Attempts {
    budget: AtomicI64,
    blocks: AtomicU64,
    retries: AtomicU64,
    throttles: AtomicU64,
    hung: AtomicU64,
    mismatches: AtomicU64,
}

/// How a try ended.
pub(super) enum Outcome<T> {
    /// It did.
    Done(T),
    /// Another try makes no sense.
    Permanent(AwsError),
    /// It may work next time.
    Again(AwsError),
    /// It works some time soon; whoever says so also bounds how long, and tries are not counted.
    NotYet,
}

impl<T> Outcome<T> {
    /// Sorts by the error's own class.
    pub(super) fn of(result: Result<T, AwsError>) -> Self {
        match result {
            Ok(value) => Self::Done(value),
            Err(error) if error.retryable() => Self::Again(error),
            Err(error) => Self::Permanent(error),
        }
    }
}

impl Attempts {
    pub(super) fn new() -> Self {
        Self {
            budget: AtomicI64::new(MOST_BUDGET),
            blocks: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            throttles: AtomicU64::new(0),
            hung: AtomicU64::new(0),
            mismatches: AtomicU64::new(0),
        }
    }

    pub(super) fn figures(&self) -> ReadFigures {
        ReadFigures {
            blocks: self.blocks.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            throttles: self.throttles.load(Ordering::Relaxed),
            hung: self.hung.load(Ordering::Relaxed),
            mismatches: self.mismatches.load(Ordering::Relaxed),
        }
    }

    pub(super) fn count_block(&self) {
        self.blocks.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_mismatch(&self) {
        self.mismatches.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs `attempt` at the pace until it is done, permanently failed, or out of tries.
    pub(super) async fn run<P: Paced, T, F, Fut>(
        &self,
        account: &Account,
        pace: &P,
        asked: Asked<'_>,
        mut attempt: F,
    ) -> Result<T, AwsError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Outcome<T>>,
    {
        let (mut failures, mut throttles) = (0_u32, 0_u32);
        loop {
            pace.slot().await;
            let started = Instant::now();
            let deadline = pace.deadline(failures);
            let outcome = match tokio::time::timeout(deadline, attempt()).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    self.hung.fetch_add(1, Ordering::Relaxed);
                    Outcome::Again(asked.unavailable(format!("no answer within {deadline:?}")))
                }
            };
            let error = match outcome {
                Outcome::Done(value) => {
                    pace.answered(started.elapsed());
                    self.earn();
                    return Ok(value);
                }
                Outcome::Permanent(error) => return Err(error),
                Outcome::Again(error) => error,
                Outcome::NotYet => {
                    self.retries.fetch_add(1, Ordering::Relaxed);
                    account.calls().count_retry();
                    tokio::time::sleep(NOT_YET_PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
                    continue;
                }
            };
            if let AwsError::Throttled { scope, .. } = &error {
                pace.throttled(*scope);
                self.throttles.fetch_add(1, Ordering::Relaxed);
                throttles += 1;
            } else {
                failures += 1;
            }
            if failures >= MAX_FAILURES || throttles >= MAX_THROTTLES {
                return Err(error);
            }
            self.retries.fetch_add(1, Ordering::Relaxed);
            account.calls().count_retry();
            tokio::time::sleep(self.pause(failures + throttles)).await;
        }
    }

    fn earn(&self) {
        if self.budget.load(Ordering::Relaxed) < MOST_BUDGET {
            self.budget.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The pause before try `n`, with full jitter.
    fn pause(&self, n: u32) -> Duration {
        let budget = self.budget.load(Ordering::Relaxed);
        if budget > -MOST_BUDGET {
            self.budget.fetch_sub(FAILURE_COST, Ordering::Relaxed);
        }
        let most = if budget <= 0 {
            LONGEST_PAUSE
        } else {
            FIRST_PAUSE.saturating_mul(1 << n.min(10)).min(LONGEST_PAUSE)
        };
        most.mul_f64(rand::random_range(0.05..1.0))
    }
}

/// The deadline of a try after so many failed ones.
fn deadline_of(median: Duration, failures: u32) -> Duration {
    let base = median.saturating_mul(MEDIANS).clamp(SHORTEST_DEADLINE, LONGEST_DEADLINE);
    base.saturating_mul(failures.min(2) + 1).min(LONGEST_DEADLINE.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hung_block_is_cut_off_in_seconds_and_a_slow_one_gets_longer() {
        assert_eq!(deadline_of(Duration::from_millis(20), 0), Duration::from_secs(3));
        assert_eq!(deadline_of(Duration::from_millis(150), 0), Duration::from_secs(6));
        assert_eq!(deadline_of(Duration::from_secs(2), 5), Duration::from_secs(20));
    }

    #[test]
    fn permanent_errors_are_not_tried_again() {
        let denied = Asked::new("ebs:GetSnapshotBlock", "snapshot", "snap-1").sort_code(
            "AccessDeniedException",
            "",
            403,
        );
        assert!(matches!(Outcome::<()>::of(Err(denied)), Outcome::Permanent(_)));
        let down = Asked::new("ebs:GetSnapshotBlock", "snapshot", "snap-1").sort_code("", "", 503);
        assert!(matches!(Outcome::<()>::of(Err(down)), Outcome::Again(_)));
    }

    #[test]
    fn many_failures_use_up_the_budget_and_pauses_grow_long() {
        let attempts = Attempts::new();
        for _ in 0..200 {
            attempts.pause(1);
        }
        let longest = (0..50).map(|_| attempts.pause(1)).max().unwrap();
        assert!(longest > Duration::from_secs(1), "{longest:?}");
    }
}
