//! The broker goes away and comes back.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper's failure is its test's"
)]

#[allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
mod conformance;
#[allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
mod rig;

use std::collections::BTreeSet;

use conformance::{BOUND, consume, next, nothing_comes, queue_name, ticket};
use rig::client;
use snapferry_queue::{PublishError, Settled, TaskQueue as _};
use snapferry_testkit::{Broker, eventually};
use snapferry_types::TaskId;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_rebuilds_the_consumer_with_its_prefetch_and_a_kill_keeps_what_was_confirmed() {
    let mut broker = Broker::start().await.unwrap();
    let queue = client(&broker.url());
    let name = queue_name("restart");
    let publisher = queue.publisher();
    publisher.declare(&name).await.unwrap();
    for n in 0..4 {
        publisher.publish(&name, &ticket(n)).await.unwrap();
    }
    let mut consumer = consume(&queue, &name, 2);
    let held = [next(&mut consumer).await, next(&mut consumer).await];
    nothing_comes(&mut consumer).await;
    let before = queue.stats().counts();

    broker.stop().await.unwrap();
    let error = publisher.publish(&name, &ticket(9)).await.unwrap_err();
    assert!(matches!(error, PublishError::Unavailable { .. } | PublishError::Unknown { .. }), "{error}");
    assert!(error.retryable());
    broker.launch().await.unwrap();

    let first = next(&mut consumer).await;
    assert!(first.redelivered, "held at the restart, so delivered before");
    assert!(queue.stats().counts().reconnects > before.reconnects, "the consumer was not rebuilt");
    let second = next(&mut consumer).await;
    nothing_comes(&mut consumer).await;
    for old in held {
        assert_eq!(old.ack().await, Settled::Stale);
    }
    let mut seen = BTreeSet::from([first.ticket.task, second.ticket.task]);
    assert_eq!(first.ack().await, Settled::Done);
    assert_eq!(second.ack().await, Settled::Done);
    for _ in 0..2 {
        let delivery = next(&mut consumer).await;
        seen.insert(delivery.ticket.task);
        assert_eq!(delivery.ack().await, Settled::Done);
    }
    assert_eq!(seen, (0..4).map(TaskId::from_u128).collect());
    drop(consumer);

    // The publisher comes back by itself too.
    eventually(BOUND, "publishing works after the restart", || async {
        publisher.publish(&name, &ticket(100)).await.is_ok()
    })
    .await
    .unwrap();
    for n in 101..150 {
        publisher.publish(&name, &ticket(n)).await.unwrap();
    }
    broker.kill9().await.unwrap();
    assert!(publisher.publish(&name, &ticket(200)).await.is_err(), "killed, yet it confirms");
    broker.launch().await.unwrap();
    let mut consumer = consume(&queue, &name, 10);
    let mut seen = BTreeSet::new();
    while seen.len() < 50 {
        let delivery = next(&mut consumer).await;
        seen.insert(delivery.ticket.task);
        delivery.ack().await;
    }
    assert_eq!(seen, (100..150).map(TaskId::from_u128).collect());
}
