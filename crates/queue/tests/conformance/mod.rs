//! What every task queue promises. The embedded twin and a real broker run the same suite.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::time::Duration;

use snapferry_queue::{Delivery, PublishError, QueueName, Settled, TaskQueue, TicketConsumer};
use snapferry_types::instance::OsFamily;
use snapferry_types::{DispatchId, TaskId, TaskKind};
use snapferry_wire::ticket::Ticket;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longest wait for what must come.
pub const BOUND: Duration = Duration::from_secs(60);

/// How long what must not come is waited for.
const SILENCE: Duration = Duration::from_millis(400);

pub fn queue_name(group: &str) -> QueueName {
    QueueName::new(&"eu-central-1".parse().unwrap(), OsFamily::Linux, group).unwrap()
}

pub fn ticket(n: u128) -> Ticket {
    Ticket {
        task: TaskId::from_u128(n),
        dispatch: DispatchId::from_u128(n + 1_000_000),
        kind: TaskKind::StreamingBackup,
    }
}

pub fn consume(queue: &dyn TaskQueue, name: &QueueName, prefetch: u16) -> Box<dyn TicketConsumer> {
    queue.consume(name, NonZeroU16::new(prefetch).unwrap(), CancellationToken::new())
}

pub async fn next(consumer: &mut Box<dyn TicketConsumer>) -> Delivery {
    timeout(BOUND, consumer.next()).await.expect("no ticket came").expect("the consumer ended")
}

pub async fn nothing_comes(consumer: &mut Box<dyn TicketConsumer>) {
    if let Ok(delivery) = timeout(SILENCE, consumer.next()).await {
        panic!("unexpected {delivery:?}");
    }
}

/// The whole suite, each part on a queue of its own.
pub async fn all(queue: &dyn TaskQueue) {
    a_ticket_goes_through_once(queue).await;
    a_queue_that_is_not_there_returns(queue).await;
    what_is_given_back_comes_again(queue).await;
    a_dropped_consumer_loses_nothing(queue).await;
    prefetch_limits_what_is_out(queue).await;
    consumers_share_and_queues_are_apart(queue).await;
    a_stopped_consumer_ends(queue).await;
    waiting_may_be_given_up_at_any_time(queue).await;
}

async fn a_ticket_goes_through_once(queue: &dyn TaskQueue) {
    let name = queue_name("once");
    let publisher = queue.publisher();
    publisher.declare(&name).await.unwrap();
    publisher.declare(&name).await.unwrap();
    publisher.publish(&name, &ticket(1)).await.unwrap();
    let mut consumer = consume(queue, &name, 1);
    let delivery = next(&mut consumer).await;
    assert_eq!((delivery.ticket, delivery.redelivered), (ticket(1), false));
    assert_eq!(delivery.ack().await, Settled::Done);
    drop(consumer);
    publisher.publish(&name, &ticket(2)).await.unwrap();
    let delivery = next(&mut consume(queue, &name, 1)).await;
    assert_eq!(delivery.ticket, ticket(2), "an acknowledged ticket came again");
}

async fn a_queue_that_is_not_there_returns(queue: &dyn TaskQueue) {
    let name = queue_name("absent");
    let publisher = queue.publisher();
    let before = queue.stats().counts();
    let error = publisher.publish(&name, &ticket(3)).await.unwrap_err();
    assert_eq!(error, PublishError::Unroutable { queue: name.clone() });
    assert!(!error.retryable());
    assert_eq!(queue.stats().counts().returned, before.returned + 1);
    publisher.declare(&name).await.unwrap();
    publisher.publish(&name, &ticket(3)).await.unwrap();
    assert_eq!(next(&mut consume(queue, &name, 1)).await.ticket, ticket(3));
}

async fn what_is_given_back_comes_again(queue: &dyn TaskQueue) {
    let name = queue_name("back");
    let publisher = queue.publisher();
    publisher.declare(&name).await.unwrap();
    publisher.publish(&name, &ticket(4)).await.unwrap();
    let mut consumer = consume(queue, &name, 1);
    assert_eq!(next(&mut consumer).await.give_back().await, Settled::Done);
    let again = next(&mut consumer).await;
    assert_eq!((again.ticket, again.redelivered), (ticket(4), true));
    assert_eq!(again.ack().await, Settled::Done);
}

async fn a_dropped_consumer_loses_nothing(queue: &dyn TaskQueue) {
    let name = queue_name("dropped");
    let publisher = queue.publisher();
    publisher.declare(&name).await.unwrap();
    for n in 10..13 {
        publisher.publish(&name, &ticket(n)).await.unwrap();
    }
    let mut first = consume(queue, &name, 3);
    let held = next(&mut first).await;
    let dropped = next(&mut first).await;
    drop(dropped);
    drop(first);
    let mut second = consume(queue, &name, 3);
    let mut seen = BTreeSet::new();
    let mut n_redelivered = 0;
    for _ in 0..3 {
        let delivery = next(&mut second).await;
        n_redelivered += u32::from(delivery.redelivered);
        seen.insert(delivery.ticket.task);
        assert_eq!(delivery.ack().await, Settled::Done);
    }
    assert_eq!(seen, (10..13).map(TaskId::from_u128).collect());
    assert!(n_redelivered >= 2, "two were out, {n_redelivered} marked");
    let before = queue.stats().counts().stale_settlements;
    assert_eq!(held.ack().await, Settled::Stale);
    assert_eq!(queue.stats().counts().stale_settlements, before + 1);
    nothing_comes(&mut second).await;
}

async fn prefetch_limits_what_is_out(queue: &dyn TaskQueue) {
    let name = queue_name("prefetch");
    let publisher = queue.publisher();
    publisher.declare(&name).await.unwrap();
    for n in 20..23 {
        publisher.publish(&name, &ticket(n)).await.unwrap();
    }
    let mut consumer = consume(queue, &name, 2);
    let first = next(&mut consumer).await;
    let _second = next(&mut consumer).await;
    nothing_comes(&mut consumer).await;
    first.ack().await;
    assert_eq!(next(&mut consumer).await.ticket, ticket(22));
}

async fn consumers_share_and_queues_are_apart(queue: &dyn TaskQueue) {
    let (name, other) = (queue_name("shared"), queue_name("shared-2"));
    let publisher = queue.publisher();
    publisher.declare(&name).await.unwrap();
    publisher.declare(&other).await.unwrap();
    publisher.publish(&other, &ticket(99)).await.unwrap();
    for n in 30..50 {
        publisher.publish(&name, &ticket(n)).await.unwrap();
    }
    let (mut first, mut second) = (consume(queue, &name, 1), consume(queue, &name, 1));
    let mut seen = BTreeSet::new();
    for _ in 0..10 {
        for consumer in [&mut first, &mut second] {
            let delivery = next(consumer).await;
            assert!(seen.insert(delivery.ticket.task), "{delivery:?} came twice");
            assert_eq!(delivery.ack().await, Settled::Done);
        }
    }
    assert_eq!(seen, (30..50).map(TaskId::from_u128).collect());
    assert_eq!(next(&mut consume(queue, &other, 1)).await.ticket, ticket(99));
}

async fn a_stopped_consumer_ends(queue: &dyn TaskQueue) {
    let name = queue_name("stopped");
    let stop = CancellationToken::new();
    let mut consumer = queue.consume(&name, NonZeroU16::MIN, stop.clone());
    let (ended, ()) = tokio::join!(timeout(BOUND, consumer.next()), async { stop.cancel() });
    assert!(ended.expect("does not end").is_none());
    assert!(timeout(BOUND, consumer.next()).await.expect("does not stay ended").is_none());
}

async fn waiting_may_be_given_up_at_any_time(queue: &dyn TaskQueue) {
    let name = queue_name("impatient");
    let publisher = queue.publisher();
    publisher.declare(&name).await.unwrap();
    for n in 60..80 {
        publisher.publish(&name, &ticket(n)).await.unwrap();
    }
    let mut consumer = consume(queue, &name, 5);
    let mut seen = BTreeSet::new();
    let patient = async {
        while seen.len() < 20 {
            if let Ok(delivery) = timeout(Duration::from_millis(1), consumer.next()).await {
                let delivery = delivery.expect("the consumer ended");
                seen.insert(delivery.ticket.task);
                assert_eq!(delivery.ack().await, Settled::Done);
            }
        }
    };
    timeout(BOUND, patient).await.expect("tickets were lost");
    assert_eq!(seen, (60..80).map(TaskId::from_u128).collect());
}
