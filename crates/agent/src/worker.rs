//! The loop of an agent: take a slot, then consume; claim, acknowledge, run. A delivery is never sat on: without a
//! free slot there is no consumer, without a verdict the delivery goes back.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use snapferry_queue::{Delivery, QueueName, Settled, TaskQueue, TicketConsumer};
use snapferry_service::Backoff;
use snapferry_types::{Fence, TaskId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attempt;
use crate::context::{Shared, TaskContext};
use crate::figures::Figures;
use crate::lease::{LeaseClient, Verdict};

/// Deliveries without a verdict go back by then.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(110);

/// Consumes one queue with a number of slots.
pub(crate) struct Worker {
    pub(crate) queue: Arc<dyn TaskQueue>,
    pub(crate) queue_name: QueueName,
    pub(crate) lease: LeaseClient,
    pub(crate) shared: Arc<Shared>,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) attempts: TaskTracker,
    pub(crate) running: Running,
    pub(crate) figures: Figures,
}

/// What runs here now. A claim that is repeated by the process that holds the lease is granted again with the same
/// fence (the first answer may have been lost), so a delivery that comes twice must not start a second attempt.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running(Arc<Mutex<HashMap<TaskId, Fence>>>);

impl Running {
    /// Enters an attempt; nothing when it runs already. It is out when the entry is dropped.
    pub(crate) fn enter(&self, task: TaskId, fence: Fence) -> Option<Entered> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running.get(&task) == Some(&fence) {
            return None;
        }
        running.insert(task, fence);
        Some(Entered { running: self.clone(), task, fence })
    }

    /// Does what must not happen while the task has an attempt here, and keeps one from beginning meanwhile; nothing when
    /// it has one.
    pub(crate) fn while_idle<T>(&self, task: TaskId, work: impl FnOnce() -> T) -> Option<T> {
        let running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!running.contains_key(&task)).then(work)
    }
}

/// An attempt that runs.
#[derive(Debug)]
pub(crate) struct Entered {
    running: Running,
    task: TaskId,
    fence: Fence,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut running = self.running.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A later attempt may have taken the place while this one wound down.
        if running.get(&self.task) == Some(&self.fence) {
            running.remove(&self.task);
        }
    }
}

impl Worker {
    /// Works until `stop`; then waits for the attempts, which see the same token and yield.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut consumer: Option<Box<dyn TicketConsumer>> = None;
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            let slot = tokio::select! {
                () = stop.cancelled() => break,
                slot = Arc::clone(&self.slots).acquire_owned() => {
                    slot.expect("the slots' semaphore is never closed")
                }
            };
            // One at a time: what waits for a slot shall wait where other nodes see it.
            let open = consumer
                .get_or_insert_with(|| self.queue.consume(&self.queue_name, NonZeroU16::MIN, stop.clone()));
            let Some(delivery) = open.next().await else { break };
            let claimed = self.claim(delivery, slot, &stop).await;
            // Without a free slot, or while no claim gets through, other nodes shall have what waits.
            if self.slots.available_permits() == 0 || !claimed {
                consumer = None;
            }
            if claimed {
                backoff.reset();
            } else {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                }
            }
        }
        drop(consumer);
        self.attempts.close();
        self.attempts.wait().await;
    }

    /// Claims and settles a delivery; true when there was a verdict that lets us go on consuming.
    async fn claim(&self, delivery: Delivery, slot: OwnedSemaphorePermit, stop: &CancellationToken) -> bool {
        let ticket = delivery.ticket;
        let sent = Instant::now();
        let verdict = tokio::time::timeout(VERDICT_TIMEOUT, self.lease.claim(&ticket)).await;
        match verdict {
            Ok(Ok(Verdict::Granted { spec, lease, desired })) => {
                let Some(entered) = self.running.enter(spec.task, spec.fence) else {
                    tracing::debug!(task = %spec.task, "offer is void: the task runs here already");
                    settled(delivery.ack().await);
                    return true;
                };
                tracing::info!(task = %spec.task, kind = ticket.kind.as_str(), attempt = spec.attempt, "granted");
                let context = Arc::new(TaskContext::new(*spec, self.lease.clone(), Arc::clone(&self.shared)));
                // One that was cancelled in the middle is here to be taken back: it must not go forward until a renewal says so.
                context.stop.heed(desired);
                let shutdown = stop.clone();
                let counted = self.figures.begin(&context);
                self.attempts.spawn(async move {
                    let outcome = attempt::run(Arc::clone(&context), sent, lease, shutdown).await;
                    counted.end(&context, outcome);
                    drop(entered);
                    drop(slot);
                });
                // The grant decides; a lost acknowledgement only brings a delivery that will be Gone.
                settled(delivery.ack().await);
                true
            }
            Ok(Ok(Verdict::Gone(reason))) => {
                tracing::debug!(task = %ticket.task, reason, "offer is void");
                settled(delivery.ack().await);
                true
            }
            Ok(Ok(Verdict::NotYou(reason))) => {
                tracing::info!(task = %ticket.task, reason, "offer is not for this node");
                settled(delivery.give_back().await);
                false
            }
            Ok(Err(error)) => {
                tracing::warn!(task = %ticket.task, %error, "no verdict; the offer goes back");
                settled(delivery.give_back().await);
                false
            }
            Err(_elapsed) => {
                tracing::warn!(task = %ticket.task, "no verdict in time; the offer goes back");
                settled(delivery.give_back().await);
                false
            }
        }
    }
}

fn settled(settled: Settled) {
    match settled {
        Settled::Done => {}
        Settled::Stale => {
            tracing::debug!("the delivery was taken back before; it will come again and be void")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_entered_once_and_a_later_one_takes_its_place() {
        let running = Running::default();
        let task = TaskId::generate();
        let (first, second) = (Fence { generation: 1, epoch: 1 }, Fence { generation: 1, epoch: 2 });
        let entered = running.enter(task, first).unwrap();
        assert!(running.enter(task, first).is_none(), "the same attempt ran twice");
        let later = running.enter(task, second).unwrap();
        drop(entered);
        assert!(running.enter(task, second).is_none(), "the end of the first forgot the second");
        drop(later);
        assert!(running.enter(task, second).is_some());
    }
}
