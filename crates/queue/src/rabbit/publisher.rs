//! Confirmed publishing: every message is persistent, mandatory and confirmed, and every way it can end has a name.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::options::BasicPublishOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::{BasicProperties, Confirmation, ErrorKind};
use snapferry_wire::ticket::Ticket;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::error::PublishError;
use crate::name::QueueName;
use crate::rabbit::config::{RabbitConfig, RabbitConfigError};
use crate::rabbit::connect::{ConnectError, Connector};
use crate::rabbit::lanes::{Lane, Lanes};
use crate::rabbit::topology::{self, TASK_EXCHANGE};
use crate::seam::TicketPublisher;
use crate::stats::QueueStats;

const PERSISTENT: u8 = 2;
const CONTENT_TYPE: &str = "application/vnd.snapferry.ticket";

pub(crate) struct RabbitPublisher {
    lanes: Lanes,
    permits: Semaphore,
    confirm_timeout: Duration,
    stats: Arc<QueueStats>,
}

/// How a message on a lane ended.
enum Answer {
    Confirmed,
    Returned,
    Nacked,
    NotSent(String),
    NoSuchExchange,
    Lost(String),
}

impl RabbitPublisher {
    pub(crate) fn new(
        connector: Connector,
        config: &RabbitConfig,
        stats: Arc<QueueStats>,
    ) -> Result<Self, RabbitConfigError> {
        Ok(Self {
            lanes: Lanes::new(connector, config)?,
            permits: Semaphore::new(config.publish_channels),
            confirm_timeout: config.confirm_timeout(),
            stats,
        })
    }

    async fn lane(&self, queue: &QueueName) -> Result<Lane, PublishError> {
        self.lanes.take().await.map_err(|error| unavailable(queue, &error))
    }
}

#[async_trait]
impl TicketPublisher for RabbitPublisher {
    async fn declare(&self, queue: &QueueName) -> Result<(), PublishError> {
        let _permit = self.permits.acquire().await.map_err(|_| closed(queue))?;
        let lane = self.lane(queue).await?;
        let declared = timeout(self.confirm_timeout, topology::declare(&lane.channel, queue)).await;
        match declared {
            Ok(Ok(())) => {
                self.lanes.give_back(lane);
                Ok(())
            }
            Ok(Err(error)) => Err(unavailable(queue, &ConnectError::Amqp(error))),
            Err(_) => {
                let bound = self.confirm_timeout;
                Err(unavailable(queue, &ConnectError::Timeout { what: "declaring the queue", bound }))
            }
        }
    }

    async fn publish(&self, queue: &QueueName, ticket: &Ticket) -> Result<(), PublishError> {
        let _permit = self.permits.acquire().await.map_err(|_| closed(queue))?;
        let lane = self.lane(queue).await?;
        let answer = match timeout(self.confirm_timeout, send(&lane, queue, ticket)).await {
            Ok(answer) => answer,
            Err(_) => Answer::Lost(format!("none within {} s", self.confirm_timeout.as_secs())),
        };
        let queue = queue.clone();
        match answer {
            Answer::Confirmed => {
                self.stats.add_published();
                self.lanes.give_back(lane);
                Ok(())
            }
            Answer::Returned => {
                self.stats.add_returned();
                self.lanes.give_back(lane);
                Err(PublishError::Unroutable { queue })
            }
            Answer::Nacked => {
                self.stats.add_nacked();
                self.lanes.give_back(lane);
                Err(PublishError::Nacked { queue })
            }
            Answer::NoSuchExchange => {
                self.stats.add_returned();
                self.stats.add_reconnect();
                Err(PublishError::Unroutable { queue })
            }
            Answer::NotSent(cause) => {
                self.stats.add_reconnect();
                Err(PublishError::Unavailable { queue, cause })
            }
            Answer::Lost(cause) => {
                self.stats.add_unknown();
                self.stats.add_reconnect();
                Err(PublishError::Unknown { queue, cause })
            }
        }
    }
}

/// Publishes one message and waits for its end. The lane is of no more use after a `NotSent`, `NoSuchExchange` or
/// `Lost`, nor when this future is dropped.
async fn send(lane: &Lane, queue: &QueueName, ticket: &Ticket) -> Answer {
    let message_id = ticket.dispatch.to_string();
    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type(CONTENT_TYPE.into())
        .with_message_id(message_id.as_str().into());
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let body = ticket.encode();
    let confirm =
        lane.channel.basic_publish(TASK_EXCHANGE.into(), queue.as_str().into(), options, &body, properties);
    let confirm = match confirm.await {
        Ok(confirm) => confirm,
        Err(error) => {
            return match error.kind() {
                ErrorKind::InvalidChannelState(..) | ErrorKind::InvalidConnectionState(_) => {
                    Answer::NotSent(error.to_string())
                }
                _ => Answer::Lost(error.to_string()),
            };
        }
    };
    match confirm.await {
        // A returned message is acknowledged too: what tells is that it came back.
        Ok(Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned))) => {
            let id = returned.delivery.properties.message_id();
            if id.as_ref().is_some_and(|id| id.as_str() == message_id) {
                Answer::Returned
            } else {
                Answer::Lost("another message came back on this channel".to_owned())
            }
        }
        Ok(Confirmation::Ack(None)) => Answer::Confirmed,
        Ok(Confirmation::Nack(None)) => Answer::Nacked,
        Ok(Confirmation::NotRequested) => Answer::Lost("the channel is not in confirm mode".to_owned()),
        Err(error) if is_not_found(&error) => Answer::NoSuchExchange,
        Err(error) => Answer::Lost(error.to_string()),
    }
}

/// 404 on a publish: the exchange is not there, so neither is any queue bound to it.
fn is_not_found(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            matches!(error.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
        }
        _ => false,
    }
}

fn unavailable(queue: &QueueName, error: &ConnectError) -> PublishError {
    PublishError::Unavailable { queue: queue.clone(), cause: error.to_string() }
}

fn closed(queue: &QueueName) -> PublishError {
    PublishError::Unavailable { queue: queue.clone(), cause: "the client is shut down".to_owned() }
}
