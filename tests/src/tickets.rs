//! A second look at the task queue: every ticket that the scheduler publishes also comes here, and can be published
//! again.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};

use crate::broker::TestBroker;
use crate::rig::REGION;

const EXCHANGE: &str = "snapferry.task";

/// A queue of its own that is bound as the agents' is.
pub struct TicketTap {
    channel: Channel,
    consumer: Consumer,
    key: String,
    _connection: Connection,
}

impl TicketTap {
    /// Listens from now on.
    ///
    /// # Errors
    /// The broker's.
    pub async fn open(broker: &TestBroker) -> Result<Self> {
        let connection = Connection::connect(&broker.url(), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel
            .exchange_declare(EXCHANGE.into(), ExchangeKind::Direct, durable, FieldTable::default())
            .await?;
        let own = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("tap".into(), own, FieldTable::default()).await?;
        let key = Self::queue();
        let exact = QueueBindOptions::default();
        channel
            .queue_bind("tap".into(), EXCHANGE.into(), key.as_str().into(), exact, FieldTable::default())
            .await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumer =
            channel.basic_consume("tap".into(), "tap".into(), options, FieldTable::default()).await?;
        Ok(Self { channel, consumer, key, _connection: connection })
    }

    /// The agents' queue.
    #[must_use]
    pub fn queue() -> String {
        format!("snapferry.task.v1.{REGION}.linux.default")
    }

    /// The body of the next ticket.
    ///
    /// # Errors
    /// When none comes.
    pub async fn next(&mut self) -> Result<Vec<u8>> {
        let next = tokio::time::timeout(Duration::from_secs(30), self.consumer.next()).await;
        let delivery = next.context("no ticket was published")?.context("the tap was closed")??;
        Ok(delivery.data)
    }

    /// Publishes a body to the agents' queue, as the scheduler does.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn publish(&self, body: &[u8]) -> Result<()> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_delivery_mode(2);
        let confirm = self
            .channel
            .basic_publish(EXCHANGE.into(), self.key.as_str().into(), options, body, properties)
            .await?
            .await?;
        anyhow::ensure!(confirm.is_ack(), "the broker did not take the ticket: {confirm:?}");
        Ok(())
    }
}
