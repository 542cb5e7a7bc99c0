//! The embedded twin keeps the promises of a queue, and its faults are those of a broker.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper's failure is its test's"
)]

#[allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
mod conformance;

use std::sync::Arc;

use conformance::{consume, next, nothing_comes, queue_name, ticket};
use snapferry_queue::{EmbeddedQueue, PublishError, Settled, TaskQueue as _, TicketPublisher as _};

#[tokio::test]
async fn the_twin_conforms() {
    conformance::all(&EmbeddedQueue::default()).await;
}

#[tokio::test]
async fn a_full_queue_refuses() {
    let queue = EmbeddedQueue::new(2);
    let name = queue_name("full");
    queue.declare(&name).await.unwrap();
    queue.publish(&name, &ticket(1)).await.unwrap();
    queue.publish(&name, &ticket(2)).await.unwrap();
    let error = queue.publish(&name, &ticket(3)).await.unwrap_err();
    assert_eq!(error, PublishError::Nacked { queue: name.clone() });
    assert!(error.retryable() && !error.may_have_arrived());
    let mut consumer = consume(&queue, &name, 1);
    next(&mut consumer).await.ack().await;
    queue.publish(&name, &ticket(3)).await.unwrap();
    assert_eq!((queue.n_ready(&name), queue.n_unsettled(&name)), (2, 0));
}

#[tokio::test]
async fn a_duplicate_is_two_deliveries() {
    let queue = EmbeddedQueue::default();
    let name = queue_name("twice");
    queue.declare(&name).await.unwrap();
    queue.duplicate_next(1);
    queue.publish(&name, &ticket(1)).await.unwrap();
    queue.publish(&name, &ticket(2)).await.unwrap();
    let mut consumer = consume(&queue, &name, 3);
    for n in [1, 1, 2] {
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.ticket, delivery.redelivered), (ticket(n), false));
        delivery.ack().await;
    }
    nothing_comes(&mut consumer).await;
}

#[tokio::test]
async fn what_is_no_ticket_goes_to_the_dead_and_the_rest_flows() {
    let queue = EmbeddedQueue::default();
    let name = queue_name("dead");
    queue.declare(&name).await.unwrap();
    queue.publish_raw(&name, b"no ticket").unwrap();
    queue.publish(&name, &ticket(1)).await.unwrap();
    assert_eq!(next(&mut consume(&queue, &name, 1)).await.ticket, ticket(1));
    assert_eq!(queue.dead(), vec![b"no ticket".to_vec()]);
    assert_eq!(queue.stats().counts().dead_lettered, 1);
}

#[tokio::test]
async fn a_deleted_queue_returns_until_a_consumer_declares_it() {
    let queue = EmbeddedQueue::default();
    let name = queue_name("deleted");
    queue.declare(&name).await.unwrap();
    queue.publish(&name, &ticket(1)).await.unwrap();
    let mut consumer = consume(&queue, &name, 1);
    let held = next(&mut consumer).await;
    queue.delete(&name);
    assert_eq!(queue.publish(&name, &ticket(2)).await, Err(PublishError::Unroutable { queue: name.clone() }));
    assert_eq!(held.ack().await, Settled::Stale);
    nothing_comes(&mut consumer).await;
    queue.publish(&name, &ticket(2)).await.unwrap();
    assert_eq!(next(&mut consumer).await.ticket, ticket(2));
}

#[tokio::test]
async fn an_outage_ends_and_a_waiting_consumer_goes_on() {
    let queue = Arc::new(EmbeddedQueue::default());
    let name = queue_name("outage");
    queue.declare(&name).await.unwrap();
    queue.publish(&name, &ticket(1)).await.unwrap();
    queue.set_unavailable(true);
    let error = queue.publish(&name, &ticket(2)).await.unwrap_err();
    assert!(matches!(error, PublishError::Unavailable { .. }) && error.retryable());
    let mut consumer = consume(&*queue, &name, 1);
    nothing_comes(&mut consumer).await;
    let (delivery, ()) = tokio::join!(next(&mut consumer), async { queue.set_unavailable(false) });
    assert_eq!(delivery.ticket, ticket(1));
}
