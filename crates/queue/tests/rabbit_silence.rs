//! The broker is there and yet does not do what it should: it takes deliveries back, it blocks, it says nothing.

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

use std::time::{Duration, Instant};

use conformance::{BOUND, consume, next, nothing_comes, queue_name, ticket};
use rig::client;
use snapferry_queue::{PublishError, Settled, TaskQueue as _};
use snapferry_testkit::{Broker, BrokerOptions, Direction, TcpProxy, eventually};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_held_too_long_is_taken_back_and_its_acknowledgement_is_stale() {
    let limit = Duration::from_secs(3);
    let options = BrokerOptions { consumer_timeout: Some(limit), ..BrokerOptions::default() };
    let broker = Broker::start_with(options).await.unwrap();
    let queue = client(&broker.url());
    let name = queue_name("slow");
    let publisher = queue.publisher();
    publisher.declare(&name).await.unwrap();
    publisher.publish(&name, &ticket(1)).await.unwrap();
    let mut consumer = consume(&queue, &name, 1);
    let held = next(&mut consumer).await;
    let start = Instant::now();
    let again = next(&mut consumer).await;
    assert!(start.elapsed() >= limit, "came again before the limit");
    assert_eq!((again.ticket, again.redelivered), (ticket(1), true));
    assert_eq!(queue.stats().counts().reconnects, 1, "the channel was not closed");
    assert_eq!(held.ack().await, Settled::Stale);
    assert_eq!(again.ack().await, Settled::Done);
    publisher.publish(&name, &ticket(2)).await.unwrap();
    assert_eq!(next(&mut consumer).await.ticket, ticket(2), "the stale acknowledgement broke the channel");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_alarm_stops_publishing_while_acknowledgements_flow() {
    let broker = Broker::start().await.unwrap();
    let queue = client(&broker.url());
    let name = queue_name("alarm");
    let publisher = queue.publisher();
    publisher.declare(&name).await.unwrap();
    for n in 0..3 {
        publisher.publish(&name, &ticket(n)).await.unwrap();
    }
    let mut consumer = consume(&queue, &name, 1);
    let held = next(&mut consumer).await;
    broker.ctl(&["set_vm_memory_high_watermark", "0"]).await.unwrap();
    // Published before the alarm is heard: unknown. After: refused here, at once, without a doubt.
    let first = publisher.publish(&name, &ticket(10)).await.unwrap_err();
    assert!(matches!(first, PublishError::Unknown { .. } | PublishError::Unavailable { .. }), "{first}");
    eventually(BOUND, "the publisher knows that it is blocked", || async {
        let error = publisher.publish(&name, &ticket(11)).await.unwrap_err();
        assert!(error.retryable());
        error.to_string().contains("alarm")
    })
    .await
    .unwrap();
    assert_eq!(held.ack().await, Settled::Done);
    for n in 1..3 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.ticket, ticket(n));
        assert_eq!(delivery.ack().await, Settled::Done);
    }
    broker.ctl(&["set_vm_memory_high_watermark", "0.6"]).await.unwrap();
    eventually(BOUND, "publishing goes on after the alarm", || async {
        publisher.publish(&name, &ticket(20)).await.is_ok()
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_broker_is_noticed_and_outlived() {
    let mut broker = Broker::start().await.unwrap();
    let queue = client(&broker.url());
    let name = queue_name("frozen");
    let publisher = queue.publisher();
    publisher.declare(&name).await.unwrap();
    publisher.publish(&name, &ticket(1)).await.unwrap();
    let mut consumer = consume(&queue, &name, 1);
    next(&mut consumer).await.ack().await;
    let before = queue.stats().counts();
    let n_threads = rig::n_io_threads();
    assert!(n_threads >= 2, "the count of threads counts nothing");
    broker.sigstop().await.unwrap();

    let start = Instant::now();
    let error = publisher.publish(&name, &ticket(2)).await.unwrap_err();
    assert!(matches!(error, PublishError::Unknown { .. }), "{error}");
    assert!(error.may_have_arrived());
    assert!(start.elapsed() < Duration::from_secs(10), "the confirmation was waited for without a bound");
    let error = publisher.publish(&name, &ticket(3)).await.unwrap_err();
    assert!(matches!(error, PublishError::Unavailable { .. }), "{error}");
    // The consumer has nothing to wait for but heartbeats: two of 15 s missed, looked at every 7.5 s.
    let noticed = eventually(Duration::from_secs(45), "the consumer notices the silence", || async {
        let counts = queue.stats().counts();
        counts.reconnects > before.reconnects + counts.unknown - before.unknown
    });
    let (noticed, came) = tokio::join!(noticed, timeout(Duration::from_secs(45), consumer.next()));
    noticed.unwrap();
    assert!(came.is_err(), "a frozen broker delivers");
    // Each side may lose one thread to a handshake without an answer, and then asks first.
    assert!(rig::n_io_threads() <= n_threads + 2, "attempts leave threads behind");

    broker.sigcont().unwrap();
    eventually(BOUND, "publishing goes on", || async { publisher.publish(&name, &ticket(4)).await.is_ok() })
        .await
        .unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&ticket(4)) {
        let delivery = next(&mut consumer).await;
        seen.push(delivery.ticket);
        delivery.ack().await;
    }
    assert!(!seen.contains(&ticket(3)), "never sent, yet delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_network_and_a_silent_one_are_outlived() {
    let broker = Broker::start().await.unwrap();
    let proxy = TcpProxy::start(broker.address()).await.unwrap();
    let queue = client(&Broker::url_at(proxy.port()));
    let name = queue_name("network");
    let publisher = queue.publisher();
    publisher.declare(&name).await.unwrap();
    let mut consumer = consume(&queue, &name, 1);
    nothing_comes(&mut consumer).await;
    let n_connections = proxy.n_connections();
    assert!(n_connections >= 2, "publishing and consuming share a connection");
    proxy.cut();
    eventually(BOUND, "publishing goes on after the cut", || async {
        publisher.publish(&name, &ticket(1)).await.is_ok()
    })
    .await
    .unwrap();
    // It may be there twice, when the cut took a confirmation along, and come twice, when it took an acknowledgement.
    let depth = || async {
        let depth = broker.depth(name.as_str()).await.unwrap();
        depth.map_or(0, |(ready, unsettled)| ready + unsettled)
    };
    let until = Instant::now() + BOUND;
    loop {
        if let Ok(delivery) = timeout(Duration::from_secs(1), next(&mut consumer)).await {
            assert_eq!(delivery.ticket, ticket(1));
            delivery.ack().await;
        } else if depth().await == 0 {
            break;
        }
        assert!(Instant::now() < until, "the queue is not empty after the cut");
    }
    assert!(proxy.n_connections() >= n_connections + 2, "the cut did not happen");

    // The broker gets the message, its confirmation never comes.
    proxy.black_hole(Direction::ToClient);
    let error = publisher.publish(&name, &ticket(2)).await.unwrap_err();
    assert!(error.may_have_arrived(), "{error}");
    eventually(BOUND, "the message is in the queue", || async { depth().await == 1 }).await.unwrap();
    proxy.heal();
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.ticket, ticket(2));
    delivery.ack().await;
    eventually(BOUND, "publishing goes on after the silence", || async {
        publisher.publish(&name, &ticket(3)).await.is_ok()
    })
    .await
    .unwrap();
}
