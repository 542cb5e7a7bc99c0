//! Turns messages into deliveries. What is no ticket is rejected here, so that the broker dead-letters it and the rest
//! flows.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::Acker;
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicRejectOptions};
use snapferry_wire::ticket::Ticket;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::delivery::{Delivery, Settle, Settled, Verdict};
use crate::name::QueueName;
use crate::rabbit::connect::Connector;
use crate::rabbit::supervisor::Supervisor;
use crate::seam::TicketConsumer;
use crate::stats::QueueStats;

/// An acknowledgement is one small frame with no answer; when writing it takes longer, its connection is as good as
/// dead and the message comes again.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct RabbitConsumer {
    supervisor: Supervisor,
    queue: QueueName,
    stats: Arc<QueueStats>,
}

impl RabbitConsumer {
    pub(crate) fn new(
        connector: Arc<Connector>,
        queue: QueueName,
        prefetch: NonZeroU16,
        stop: CancellationToken,
        stats: Arc<QueueStats>,
    ) -> Self {
        let supervisor = Supervisor::new(connector, queue.clone(), prefetch, stop, Arc::clone(&stats));
        Self { supervisor, queue, stats }
    }
}

#[async_trait]
impl TicketConsumer for RabbitConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        loop {
            let (message, ended) = self.supervisor.next().await?;
            match Ticket::decode(&message.data) {
                Ok(ticket) => {
                    self.stats.add_delivered();
                    if message.redelivered {
                        self.stats.add_redelivered();
                    }
                    let settle = RabbitSettle { acker: message.acker, ended, stats: Arc::clone(&self.stats) };
                    return Some(Delivery::new(ticket, message.redelivered, Box::new(settle)));
                }
                Err(error) => {
                    tracing::warn!(queue = %self.queue, %error, "undecodable message goes to the dead queue");
                    self.stats.add_dead_lettered();
                    // When this fails or is dropped half-way, the message stays unsettled and comes again.
                    let options = BasicRejectOptions { requeue: false };
                    if timeout(SETTLE_TIMEOUT, message.acker.reject(options)).await.is_err() {
                        tracing::warn!(queue = %self.queue, "reject timed out; the message comes again");
                    }
                }
            }
        }
    }
}

struct RabbitSettle {
    acker: Acker,
    ended: CancellationToken,
    stats: Arc<QueueStats>,
}

#[async_trait]
impl Settle for RabbitSettle {
    async fn settle(&mut self, verdict: Verdict) -> Settled {
        let send = async {
            match verdict {
                Verdict::Ack => self.acker.ack(BasicAckOptions::default()).await,
                Verdict::GiveBack => {
                    self.acker.nack(BasicNackOptions { requeue: true, multiple: false }).await
                }
            }
        };
        let sent = tokio::select! {
            biased;
            () = self.ended.cancelled() => false,
            sent = timeout(SETTLE_TIMEOUT, send) => matches!(sent, Ok(Ok(true))),
        };
        if sent {
            return Settled::Done;
        }
        self.stats.add_stale_settlement();
        Settled::Stale
    }
}
