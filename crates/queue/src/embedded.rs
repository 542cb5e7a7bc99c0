//! The queue in this process: the same promises as the broker's, without one. Messages live in memory only, which
//! loses nothing, because the scheduler's database offers a task again when its dispatch runs out.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use snapferry_wire::ticket::{TICKET_LEN, Ticket};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::delivery::{Delivery, Settle, Settled, Verdict};
use crate::error::PublishError;
use crate::name::QueueName;
use crate::seam::{TaskQueue, TicketConsumer, TicketPublisher};
use crate::stats::QueueStats;

/// Messages that one queue holds unless told otherwise; over it a publish is refused, as a full broker queue does.
/// 100,000 tickets of 34 bytes take about 10 MB.
pub const DEFAULT_CAPACITY: usize = 100_000;

/// Dead messages that are kept; older ones are forgotten.
const MAX_DEAD: usize = 1_000;

/// Longest message that is kept as it came; anything longer cannot be a ticket and is cut to one byte more.
const MAX_BODY: usize = TICKET_LEN * 2;

/// An in-process [`TaskQueue`]. Clones share the queues.
#[derive(Clone)]
pub struct EmbeddedQueue {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
    stats: Arc<QueueStats>,
    capacity: usize,
}

#[derive(Default)]
struct State {
    queues: HashMap<QueueName, Messages>,
    dead: VecDeque<Vec<u8>>,
    last_tag: u64,
    last_consumer: u64,
    duplicates_due: u32,
    unavailable: bool,
}

#[derive(Default)]
struct Messages {
    ready: VecDeque<Message>,
    /// By delivery tag, so that what is taken back goes back in its order.
    unsettled: BTreeMap<u64, (u64, Message)>,
}

struct Message {
    body: Vec<u8>,
    redelivered: bool,
}

impl Messages {
    fn len(&self) -> usize {
        self.ready.len() + self.unsettled.len()
    }

    fn take_back(&mut self, mut message: Message) {
        message.redelivered = true;
        self.ready.push_front(message);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for EmbeddedQueue {
    fn default() -> Self {
        Self::new(DEFAULT_CAPACITY)
    }
}

impl EmbeddedQueue {
    /// Queues of at most `capacity` messages each, unsettled ones included.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                changed: Notify::new(),
                stats: Arc::default(),
                capacity,
            }),
        }
    }

    /// Messages of a queue that wait for a consumer; 0 for a queue that is not there.
    #[must_use]
    pub fn n_ready(&self, queue: &QueueName) -> usize {
        self.shared.lock().queues.get(queue).map_or(0, |messages| messages.ready.len())
    }

    /// Messages of a queue that are with a consumer.
    #[must_use]
    pub fn n_unsettled(&self, queue: &QueueName) -> usize {
        self.shared.lock().queues.get(queue).map_or(0, |messages| messages.unsettled.len())
    }

    /// The bodies of the messages that were no ticket.
    #[must_use]
    pub fn dead(&self) -> Vec<Vec<u8>> {
        self.shared.lock().dead.iter().cloned().collect()
    }

    /// Fault: each of the next `n` publishes is delivered twice.
    pub fn duplicate_next(&self, n: u32) {
        self.shared.lock().duplicates_due = n;
    }

    /// Fault: while set, every publish and declaration fails as unavailable, and no ticket is delivered.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.shared.lock().unavailable = unavailable;
        self.shared.changed.notify_waiters();
    }

    /// Fault: the queue and its messages vanish. Its live consumers declare it again.
    pub fn delete(&self, queue: &QueueName) {
        self.shared.lock().queues.remove(queue);
        self.shared.changed.notify_waiters();
    }

    /// Fault: a body that need not be a ticket.
    ///
    /// # Errors
    /// As [`TicketPublisher::publish`].
    pub fn publish_raw(&self, queue: &QueueName, body: &[u8]) -> Result<(), PublishError> {
        let stats = &self.shared.stats;
        let mut state = self.shared.lock();
        if state.unavailable {
            return Err(unavailable(queue));
        }
        let n_copies = if state.duplicates_due > 0 { 2 } else { 1 };
        let Some(messages) = state.queues.get_mut(queue) else {
            stats.add_returned();
            return Err(PublishError::Unroutable { queue: queue.clone() });
        };
        if messages.len() + n_copies > self.shared.capacity {
            stats.add_nacked();
            return Err(PublishError::Nacked { queue: queue.clone() });
        }
        let body: Vec<u8> = body.iter().copied().take(MAX_BODY).collect();
        for _ in 0..n_copies {
            messages.ready.push_back(Message { body: body.clone(), redelivered: false });
        }
        state.duplicates_due = state.duplicates_due.saturating_sub(1);
        drop(state);
        stats.add_published();
        self.shared.changed.notify_waiters();
        Ok(())
    }
}

fn unavailable(queue: &QueueName) -> PublishError {
    PublishError::Unavailable { queue: queue.clone(), cause: "switched off by a test".to_owned() }
}

impl TaskQueue for EmbeddedQueue {
    fn publisher(&self) -> Arc<dyn TicketPublisher> {
        Arc::new(self.clone())
    }

    fn consume(
        &self,
        queue: &QueueName,
        prefetch: NonZeroU16,
        stop: CancellationToken,
    ) -> Box<dyn TicketConsumer> {
        let mut state = self.shared.lock();
        state.last_consumer += 1;
        Box::new(EmbeddedConsumer {
            shared: Arc::clone(&self.shared),
            queue: queue.clone(),
            id: state.last_consumer,
            prefetch: usize::from(prefetch.get()),
            stop,
        })
    }

    fn stats(&self) -> Arc<QueueStats> {
        Arc::clone(&self.shared.stats)
    }
}

#[async_trait]
impl TicketPublisher for EmbeddedQueue {
    async fn declare(&self, queue: &QueueName) -> Result<(), PublishError> {
        let mut state = self.shared.lock();
        if state.unavailable {
            return Err(unavailable(queue));
        }
        state.queues.entry(queue.clone()).or_default();
        Ok(())
    }

    async fn publish(&self, queue: &QueueName, ticket: &Ticket) -> Result<(), PublishError> {
        self.publish_raw(queue, &ticket.encode())
    }
}

struct EmbeddedConsumer {
    shared: Arc<Shared>,
    queue: QueueName,
    id: u64,
    prefetch: usize,
    stop: CancellationToken,
}

impl EmbeddedConsumer {
    /// A message now, if there is one and the prefetch allows it.
    fn take(&self) -> Option<Delivery> {
        let mut state = self.shared.lock();
        if state.unavailable {
            return None;
        }
        state.queues.entry(self.queue.clone()).or_default();
        let tag = state.last_tag + 1;
        let State { queues, dead, last_tag, .. } = &mut *state;
        let messages = queues.get_mut(&self.queue)?;
        let n_mine = messages.unsettled.values().filter(|(consumer, _)| *consumer == self.id).count();
        if n_mine >= self.prefetch {
            return None;
        }
        while let Some(message) = messages.ready.pop_front() {
            let ticket = match Ticket::decode(&message.body) {
                Ok(ticket) => ticket,
                Err(error) => {
                    tracing::warn!(queue = %self.queue, %error, "undecodable message goes to the dead queue");
                    self.shared.stats.add_dead_lettered();
                    if dead.len() == MAX_DEAD {
                        dead.pop_front();
                    }
                    dead.push_back(message.body);
                    continue;
                }
            };
            *last_tag = tag;
            let redelivered = message.redelivered;
            messages.unsettled.insert(tag, (self.id, message));
            self.shared.stats.add_delivered();
            if redelivered {
                self.shared.stats.add_redelivered();
            }
            let settle = EmbeddedSettle { shared: Arc::clone(&self.shared), queue: self.queue.clone(), tag };
            return Some(Delivery::new(ticket, redelivered, Box::new(settle)));
        }
        None
    }
}

#[async_trait]
impl TicketConsumer for EmbeddedConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        loop {
            let shared = Arc::clone(&self.shared);
            let changed = shared.changed.notified();
            tokio::pin!(changed);
            // Listening begins before looking, so that a publish in between is not missed.
            changed.as_mut().enable();
            if self.stop.is_cancelled() {
                return None;
            }
            if let Some(delivery) = self.take() {
                return Some(delivery);
            }
            tokio::select! {
                () = changed => {}
                () = self.stop.cancelled() => return None,
            }
        }
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(messages) = state.queues.get_mut(&self.queue) {
            let tags: Vec<u64> = messages
                .unsettled
                .iter()
                .filter(|(_, (consumer, _))| *consumer == self.id)
                .map(|(tag, _)| *tag)
                .collect();
            for tag in tags.into_iter().rev() {
                if let Some((_, message)) = messages.unsettled.remove(&tag) {
                    messages.take_back(message);
                }
            }
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

struct EmbeddedSettle {
    shared: Arc<Shared>,
    queue: QueueName,
    tag: u64,
}

#[async_trait]
impl Settle for EmbeddedSettle {
    async fn settle(&mut self, verdict: Verdict) -> Settled {
        let mut state = self.shared.lock();
        let Some(messages) = state.queues.get_mut(&self.queue) else {
            self.shared.stats.add_stale_settlement();
            return Settled::Stale;
        };
        let Some((_, message)) = messages.unsettled.remove(&self.tag) else {
            self.shared.stats.add_stale_settlement();
            return Settled::Stale;
        };
        if verdict == Verdict::GiveBack {
            messages.take_back(message);
        }
        drop(state);
        self.shared.changed.notify_waiters();
        Settled::Done
    }
}
