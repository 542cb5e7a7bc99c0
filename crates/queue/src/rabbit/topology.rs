//! What the client declares on a broker. Only what can never change: arguments of a queue cannot be altered after its
//! declaration, so limits, overflow and dead-lettering are policies (see `deploy/rabbitmq`), not arguments.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use crate::name::QueueName;

/// The durable direct exchange of all tickets. It must have no alternate exchange: that would hide unroutable tickets.
pub const TASK_EXCHANGE: &str = "snapferry.task";

/// The exchange and the quorum queue of messages that are no ticket. Messages reach it by the policy's
/// `dead-letter-exchange`.
pub const DEAD: &str = "snapferry.dead";

/// Declares a task queue, bound by its exact name, and the dead queue. Repeatable.
pub(crate) async fn declare(channel: &Channel, queue: &QueueName) -> lapin::Result<()> {
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    for (exchange, kind) in [(TASK_EXCHANGE, ExchangeKind::Direct), (DEAD, ExchangeKind::Fanout)] {
        channel.exchange_declare(exchange.into(), kind, durable, FieldTable::default()).await?;
    }
    for (name, exchange) in [(DEAD, DEAD), (queue.as_str(), TASK_EXCHANGE)] {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        channel.queue_declare(name.into(), durable, arguments).await?;
        let exact = QueueBindOptions::default();
        channel.queue_bind(name.into(), exchange.into(), name.into(), exact, FieldTable::default()).await?;
    }
    Ok(())
}
