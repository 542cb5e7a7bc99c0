//! A client of a private broker, and a connection of our own to look and to break things with.

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use snapferry_queue::{QueueName, RabbitConfig, RabbitQueue};
use snapferry_testkit::Broker;

/// Quick to time out and to come back, so that the tests are.
pub fn config() -> RabbitConfig {
    RabbitConfig {
        connect_timeout_seconds: 5,
        confirm_timeout_seconds: 5,
        max_backoff_seconds: 1,
        ..RabbitConfig::default()
    }
}

pub fn client(url: &str) -> RabbitQueue {
    RabbitQueue::new(&url.parse().unwrap(), &config()).unwrap()
}

/// A connection that the client under test does not know.
pub struct Operator {
    _connection: Connection,
    channel: Channel,
}

impl Operator {
    pub async fn of(broker: &Broker) -> Self {
        let connection = Connection::connect(&broker.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { _connection: connection, channel }
    }

    pub async fn delete(&self, queue: &QueueName) {
        self.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    }

    pub async fn declare_classic(&self, queue: &QueueName) {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.as_str().into(), durable, FieldTable::default()).await.unwrap();
    }

    /// Once this is done the message is in the queue.
    pub async fn publish_raw(&self, queue: &QueueName, body: &[u8]) {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let (exchange, key) = ("snapferry.task".into(), queue.as_str().into());
        let confirm = self.channel.basic_publish(exchange, key, options, body, BasicProperties::default());
        let confirmed = confirm.await.unwrap().await.unwrap();
        assert_eq!(confirmed, Confirmation::Ack(None));
    }

    pub async fn get(&self, queue: &str) -> Option<Vec<u8>> {
        let message = self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap();
        message.map(|message| message.delivery.data.clone())
    }
}

/// Threads of this process that carry a connection of lapin's.
pub fn n_io_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("lapin-io-loop"))
        .count()
}
