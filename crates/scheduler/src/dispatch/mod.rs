//! The dispatcher: in rounds it ends waits, withdraws offers that nobody took, and offers as many tasks as the access
//! nodes have room for. Publishing is the [`outbox`]'s business.
//!
//! Dying between any two steps loses nothing: an offer is committed with its outbox row, and the deadlines of offers
//! that this process did not write begin anew when it starts.

pub mod fair;
pub mod outbox;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use snapferry_types::{DispatchId, JobId, TaskState};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use self::fair::Shares;
use crate::clock::Clock;
use crate::config::DispatchConfig;
use crate::metrics::Metrics;
use crate::store::{Pool, Store, StoreError, WaitingGroup};

/// Offers in one round; the next round follows at once when it was full.
const MAX_OFFERS: usize = 500;
/// Changes within this time are looked at together.
const TOGETHER: Duration = Duration::from_millis(20);
/// Time between two counts of all tasks, for the metrics.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// Offers work in rounds.
#[derive(Debug)]
pub struct Dispatcher {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    config: DispatchConfig,
    node_timeout: Duration,
    metrics: Metrics,
    deadlines: HashMap<DispatchId, Duration>,
    counted: Option<Duration>,
}

impl Dispatcher {
    /// A dispatcher; `node_timeout` is how long a silent node or MediaAgent counts as there.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        clock: Arc<dyn Clock>,
        config: DispatchConfig,
        node_timeout: Duration,
        metrics: Metrics,
    ) -> Self {
        Self { store, clock, config, node_timeout, metrics, deadlines: HashMap::new(), counted: None }
    }

    /// Rounds until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.store.changes();
        let tick = Duration::from_millis(self.config.tick_ms);
        loop {
            match self.round().await {
                Ok(n) if n >= MAX_OFFERS && !stop.is_cancelled() => continue,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "a round of the dispatcher failed");
                    // Deadlines were not watched meanwhile.
                    self.deadlines.clear();
                }
            }
            if !wait_for_change(&mut changes, tick, &stop).await {
                return;
            }
        }
    }

    /// One round; answers the number of offers made.
    ///
    /// # Errors
    /// [`StoreError`]; the next round repeats it.
    pub async fn round(&mut self) -> Result<usize, StoreError> {
        self.store.end_waits().await?;
        self.withdraw_late().await?;
        let now_ms = self.clock.wall_ms();
        let since_ms = now_ms.saturating_sub(millis(self.node_timeout));
        self.count(since_ms).await?;
        let mut groups = self.store.waiting().await?;
        if groups.is_empty() {
            return Ok(0);
        }
        self.store.tell_waiting(since_ms).await?;
        let mut pools = self.store.pools(since_ms).await?;
        let mut shares = Shares::new(self.store.usage().await?, self.weights());
        let ageing_ms = i64::try_from(self.config.ageing_ms).unwrap_or(i64::MAX);
        let mut n_offers = 0;
        while n_offers < MAX_OFFERS {
            let Some(index) = fair::next(&groups, &shares, now_ms, ageing_ms) else { break };
            let Some(group) = groups.get_mut(index) else { break };
            let mut offered = None;
            for queue in rooms_for(&pools, group) {
                if let Some(offer) = self.store.offer(group, &queue, since_ms).await? {
                    offered = Some((offer, queue));
                    break;
                }
            }
            let Some((offer, queue)) = offered else {
                // Nothing of this group can be offered in this round.
                group.n_waiting = 0;
                continue;
            };
            tracing::debug!(task = %offer.task, dispatch = %offer.dispatch, %queue, "offered");
            group.n_waiting = group.n_waiting.saturating_sub(1);
            shares.add(group.hypervisor);
            if let Some(pool) = pools.iter_mut().find(|pool| pool.queue == queue) {
                pool.offered += 1;
            }
            self.deadlines.insert(offer.dispatch, self.deadline());
            n_offers += 1;
        }
        Ok(n_offers)
    }

    async fn withdraw_late(&mut self) -> Result<(), StoreError> {
        let open = self.store.open_offers().await?;
        let now = self.clock.mono();
        let fresh = self.deadline();
        let mut deadlines = HashMap::with_capacity(open.len());
        for offer in open {
            let deadline = self.deadlines.get(&offer.dispatch).copied().unwrap_or(fresh);
            if now < deadline {
                deadlines.insert(offer.dispatch, deadline);
            } else if self.store.withdraw(offer).await? {
                tracing::info!(task = %offer.task, dispatch = %offer.dispatch, "nobody took the offer; it is made again");
            }
        }
        self.deadlines = deadlines;
        Ok(())
    }

    /// For the metrics, once in a while.
    async fn count(&mut self, since_ms: i64) -> Result<(), StoreError> {
        let now = self.clock.mono();
        if self.counted.is_some_and(|last| now.saturating_sub(last) < COUNT_INTERVAL) {
            return Ok(());
        }
        self.counted = Some(now);
        let counts = self.store.count_by_state().await?;
        for state in TaskState::ALL {
            let n = counts.get(&state).copied().unwrap_or(0);
            self.metrics.tasks.with_label_values(&[state.as_str()]).set(n);
        }
        self.metrics.fleet.set(&self.store.gauges(since_ms).await?);
        Ok(())
    }

    fn deadline(&self) -> Duration {
        self.clock.mono() + Duration::from_millis(self.config.deadline_ms)
    }

    fn weights(&self) -> HashMap<snapferry_types::HypervisorId, u32> {
        self.config
            .weights
            .iter()
            .filter_map(|(id, weight)| id.parse().ok().map(|id| (id, *weight)))
            .collect()
    }
}

/// Waits for a change in the store, at most `longest`. A flood of changes is one change: those of a short while are
/// taken together, so that progress reports do not keep the database busy. False when it is time to stop.
async fn wait_for_change(
    changes: &mut broadcast::Receiver<JobId>,
    longest: Duration,
    stop: &CancellationToken,
) -> bool {
    tokio::select! {
        () = stop.cancelled() => return false,
        () = tokio::time::sleep(longest) => {}
        change = changes.recv() => match change {
            Ok(_) | Err(RecvError::Lagged(_)) => tokio::time::sleep(TOGETHER).await,
            Err(RecvError::Closed) => return false,
        }
    }
    *changes = changes.resubscribe();
    !stop.is_cancelled()
}

/// The queues of the pools with room in the group's region, most room first; of any region when that one has no node at
/// all.
fn rooms_for(pools: &[Pool], group: &WaitingGroup) -> Vec<String> {
    let near = pools.iter().any(|pool| pool.region == group.region);
    let mut rooms: Vec<&Pool> = pools
        .iter()
        .filter(|pool| !near || pool.region == group.region)
        .filter(|pool| pool.room() > 0)
        .collect();
    rooms.sort_by_key(|pool| std::cmp::Reverse(pool.room()));
    rooms.into_iter().map(|pool| pool.queue.clone()).collect()
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
