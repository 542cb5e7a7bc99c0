//! On one real broker: the suite of promises, and everything that goes wrong with queues while the broker is well.

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

use conformance::{BOUND, consume, next, nothing_comes, queue_name, ticket};
use rig::{Operator, client};
use snapferry_queue::{PublishError, RabbitQueue, Settled, TaskQueue};
use snapferry_testkit::{Broker, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_broker_conforms_and_its_queues_may_fail() {
    let broker = Broker::start().await.unwrap();
    let operator = Operator::of(&broker).await;
    let queue = client(&broker.url());
    conformance::all(&queue).await;
    the_right_one_among_many_in_flight_is_unroutable(&queue).await;
    a_deleted_queue_returns_and_is_declared_again(&queue, &operator).await;
    a_consumer_that_the_broker_cancels_is_rebuilt(&queue, &operator).await;
    what_is_no_ticket_is_dead_lettered_and_the_rest_flows(&queue, &operator, &broker).await;
    a_full_queue_refuses(&queue, &broker).await;
    a_queue_of_another_kind_is_told_and_waited_out(&queue, &operator, &broker).await;
}

async fn the_right_one_among_many_in_flight_is_unroutable(queue: &RabbitQueue) {
    let (name, absent) = (queue_name("many"), queue_name("many-absent"));
    let publisher = queue.publisher();
    publisher.declare(&name).await.unwrap();
    let before = queue.stats().counts();
    let all = (0_u128..200).map(|n| {
        let (publisher, name, absent) = (&publisher, &name, &absent);
        async move {
            let to = if n % 50 == 17 { absent } else { name };
            publisher.publish(to, &ticket(n)).await
        }
    });
    let results = futures::future::join_all(all).await;
    let failed: Vec<usize> =
        results.iter().enumerate().filter(|(_, result)| result.is_err()).map(|(n, _)| n).collect();
    assert_eq!(failed, [17, 67, 117, 167]);
    assert!(failed.iter().all(|&n| matches!(results[n], Err(PublishError::Unroutable { .. }))));
    let counts = queue.stats().counts();
    assert_eq!((counts.published - before.published, counts.returned - before.returned), (196, 4));
}

async fn a_deleted_queue_returns_and_is_declared_again(queue: &RabbitQueue, operator: &Operator) {
    let name = queue_name("deleted");
    let publisher = queue.publisher();
    publisher.declare(&name).await.unwrap();
    publisher.publish(&name, &ticket(1)).await.unwrap();
    operator.delete(&name).await;
    assert_eq!(
        publisher.publish(&name, &ticket(2)).await,
        Err(PublishError::Unroutable { queue: name.clone() })
    );
    publisher.declare(&name).await.unwrap();
    publisher.publish(&name, &ticket(2)).await.unwrap();
    assert_eq!(next(&mut consume(queue, &name, 1)).await.ticket, ticket(2));
}

async fn a_consumer_that_the_broker_cancels_is_rebuilt(queue: &RabbitQueue, operator: &Operator) {
    let name = queue_name("cancelled");
    let publisher = queue.publisher();
    let mut consumer = consume(queue, &name, 1);
    nothing_comes(&mut consumer).await;
    publisher.declare(&name).await.unwrap();
    publisher.publish(&name, &ticket(1)).await.unwrap();
    let held = next(&mut consumer).await;
    let before = queue.stats().counts();
    operator.delete(&name).await;
    // Nobody but the consumer declares the queue here.
    let publish = async {
        eventually(BOUND, "the consumer declares its queue again", || async {
            publisher.publish(&name, &ticket(2)).await.is_ok()
        })
        .await
        .unwrap();
    };
    let (delivery, ()) = tokio::join!(next(&mut consumer), publish);
    assert_eq!(delivery.ticket, ticket(2));
    assert!(queue.stats().counts().reconnects > before.reconnects, "the broker did not cancel it");
    assert_eq!(held.ack().await, Settled::Stale);
    assert_eq!(delivery.ack().await, Settled::Done);
}

async fn what_is_no_ticket_is_dead_lettered_and_the_rest_flows(
    queue: &RabbitQueue,
    operator: &Operator,
    broker: &Broker,
) {
    broker.set_task_policy().await.unwrap();
    let name = queue_name("dead");
    let publisher = queue.publisher();
    publisher.declare(&name).await.unwrap();
    let before = queue.stats().counts();
    operator.publish_raw(&name, b"no ticket").await;
    publisher.publish(&name, &ticket(1)).await.unwrap();
    let mut consumer = consume(queue, &name, 1);
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.ticket, ticket(1));
    delivery.ack().await;
    assert_eq!(queue.stats().counts().dead_lettered, before.dead_lettered + 1);
    let found = std::sync::Mutex::new(None);
    eventually(BOUND, "the message is in the dead queue", || async {
        let message = operator.get("snapferry.dead").await;
        let has_come = message.is_some();
        *found.lock().unwrap() = message;
        has_come
    })
    .await
    .unwrap();
    assert_eq!(found.into_inner().unwrap().as_deref(), Some(&b"no ticket"[..]));
}

async fn a_full_queue_refuses(queue: &RabbitQueue, broker: &Broker) {
    let name = queue_name("full");
    let publisher = queue.publisher();
    publisher.declare(&name).await.unwrap();
    let definition = r#"{"overflow":"reject-publish","max-length":3}"#;
    broker.set_policy("full", r"^snapferry\.task\.v1\..*\.full$", definition).await.unwrap();
    broker.ctl(&["set_policy", "--priority", "9", "full", r".*\.full$", definition]).await.unwrap();
    let before = queue.stats().counts();
    let n_taken = std::sync::atomic::AtomicUsize::new(0);
    eventually(BOUND, "the full queue refuses", || async {
        match publisher.publish(&name, &ticket(1)).await {
            Ok(()) => {
                n_taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                false
            }
            Err(error) => {
                assert_eq!(error, PublishError::Nacked { queue: name.clone() });
                true
            }
        }
    })
    .await
    .unwrap();
    assert!(n_taken.into_inner() >= 3);
    assert_eq!(queue.stats().counts().nacked, before.nacked + 1);
}

async fn a_queue_of_another_kind_is_told_and_waited_out(
    queue: &RabbitQueue,
    operator: &Operator,
    broker: &Broker,
) {
    let name = queue_name("classic");
    operator.declare_classic(&name).await;
    let error = queue.publisher().declare(&name).await.unwrap_err();
    assert!(
        matches!(&error, PublishError::Unavailable { cause, .. } if cause.contains("PRECONDITION_FAILED"))
    );
    // The consumer's channel is closed with 406 again and again, until an operator mends it.
    let before = queue.stats().counts();
    let mut consumer = consume(queue, &name, 1);
    let mend = async {
        eventually(BOUND, "the consumer is refused", || async {
            queue.stats().counts().reconnects >= before.reconnects + 2
        })
        .await
        .unwrap();
        operator.delete(&name).await;
        eventually(BOUND, "the consumer has its queue", || async {
            queue.publisher().publish(&name, &ticket(1)).await.is_ok()
        })
        .await
        .unwrap();
    };
    let (delivery, ()) = tokio::join!(next(&mut consumer), mend);
    assert_eq!(delivery.ticket, ticket(1));
    let name = &name;
    let depth_is = |expected: (u64, u64)| async move {
        // The broker's figures follow some seconds behind.
        eventually(BOUND, "the broker counts the delivery", || async {
            broker.depth(name.as_str()).await.unwrap() == Some(expected)
        })
        .await
        .unwrap();
    };
    depth_is((0, 1)).await;
    assert_eq!(delivery.ack().await, Settled::Done);
    depth_is((0, 0)).await;
}
