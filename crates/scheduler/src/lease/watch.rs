//! The watch over leases. Deadlines live in memory, on the monotonic clock; the database knows only who holds which
//! epoch. So a lease that this process did not see renewed (because it was not running, was stopped, or could not
//! reach the database) has no deadline yet and gets a fresh period: nobody loses work because the scheduler was blind.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use snapferry_types::{TaskId, TaskState};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::LeaseConfig;
use crate::metrics::Metrics;
use crate::store::{LeasedTask, Limits, Store, StoreError};

/// A busy machine may delay a round by this much without anyone having been blind.
const SHORTEST_STALL: Duration = Duration::from_secs(2);

/// Watches deadlines.
#[derive(Debug)]
pub struct LeaseWatch {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    limits: Limits,
    /// Lease and grace: how long after a renewal a lease runs out here.
    period: Duration,
    suspect: Duration,
    tick: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    deadlines: HashMap<TaskId, Deadline>,
    last_round: Option<Duration>,
    blind: bool,
}

#[derive(Debug, Clone, Copy)]
struct Deadline {
    epoch: u64,
    at: Duration,
}

impl LeaseWatch {
    /// A watch; it knows no deadlines yet.
    #[must_use]
    pub fn new(store: Arc<Store>, clock: Arc<dyn Clock>, config: &LeaseConfig, metrics: Metrics) -> Self {
        let lease = Duration::from_millis(config.lease_ms);
        Self {
            store,
            clock,
            metrics,
            limits: config.limits(),
            period: lease + Duration::from_millis(config.grace_ms),
            suspect: Duration::from_millis(config.suspect_ms),
            tick: (lease / 10).clamp(Duration::from_millis(20), Duration::from_secs(5)),
            state: Mutex::default(),
        }
    }

    /// A lease was granted or renewed by a call that came in at `received`.
    pub fn renewed(&self, task: TaskId, epoch: u64, received: Duration) {
        let deadline = Deadline { epoch, at: received + self.period };
        self.lock().deadlines.insert(task, deadline);
    }

    /// A call could not be served because the database did not answer.
    pub fn blind(&self) {
        self.lock().blind = true;
    }

    /// Rounds until `stop`, or until another scheduler has taken the database over.
    pub async fn run(&self, stop: CancellationToken) {
        loop {
            match self.round().await {
                Ok(()) => {}
                Err(error @ StoreError::Superseded) => {
                    tracing::error!(%error, "the watch over leases ends");
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "a round over the leases failed");
                    self.blind();
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.tick) => {}
            }
        }
    }

    /// One round over all leases.
    ///
    /// # Errors
    /// [`StoreError::Superseded`] when this scheduler is to stop; after any other the leases get a fresh period.
    pub async fn round(&self) -> Result<(), StoreError> {
        self.store.check_owner().await?;
        let leased = self.store.leased_tasks().await?;
        for task in self.expired(&leased) {
            if task.state == TaskState::Running && self.store.suspect(task).await? {
                tracing::warn!(task = %task.id, epoch = task.epoch, "lease ran out; the task is suspect");
                self.metrics.leases.with_label_values(&["suspect"]).inc();
                self.wait_for_suspect(task);
            } else if task.state == TaskState::Suspect
                && let Some(state) = self.store.give_up(task, &self.limits).await?
            {
                tracing::warn!(task = %task.id, epoch = task.epoch, state = state.as_str(), "suspect given up");
                self.metrics.leases.with_label_values(&["given_up"]).inc();
            }
        }
        Ok(())
    }

    /// Leases whose deadline has passed; gives those without one, or all when this process was blind, a fresh one.
    fn expired(&self, leased: &[LeasedTask]) -> Vec<LeasedTask> {
        let now = self.clock.mono();
        let mut state = self.lock();
        let stalled = state.last_round.is_some_and(|last| now.saturating_sub(last) > self.stall());
        let fresh = std::mem::take(&mut state.blind) || stalled;
        state.last_round = Some(now);
        let mut expired = Vec::new();
        for task in leased {
            let known = state.deadlines.get(&task.id).copied();
            let deadline = match known {
                // Claimed anew since the list was read.
                Some(known) if known.epoch > task.epoch => continue,
                Some(known) if known.epoch == task.epoch && !fresh => known,
                _ => {
                    self.metrics.leases.with_label_values(&["fresh"]).inc();
                    Deadline { epoch: task.epoch, at: now + self.period }
                }
            };
            if now >= deadline.at {
                expired.push(*task);
            }
            state.deadlines.insert(task.id, deadline);
        }
        // What is not on the list has ended, or was granted since the list was read.
        let listed = leased.iter().map(|task| task.id).collect::<HashSet<_>>();
        state.deadlines.retain(|task, deadline| listed.contains(task) || deadline.at > now);
        expired
    }

    fn wait_for_suspect(&self, task: LeasedTask) {
        let deadline = Deadline { epoch: task.epoch, at: self.clock.mono() + self.suspect };
        self.lock().deadlines.insert(task.id, deadline);
    }

    /// Rounds that are farther apart mean that this process did not run.
    fn stall(&self) -> Duration {
        (self.period / 2).max(SHORTEST_STALL)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
