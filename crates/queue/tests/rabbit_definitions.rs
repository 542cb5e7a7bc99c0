//! What `deploy/rabbitmq` brings to a broker, and what the client declares, are the same things.

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

use conformance::{BOUND, consume, next, queue_name, ticket};
use rig::{Operator, client};
use snapferry_queue::{Settled, TaskQueue as _};
use snapferry_testkit::{Broker, BrokerOptions, eventually};

const DEFINITIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/rabbitmq/definitions.json");
const CONFIG: &str = include_str!("../../../deploy/rabbitmq/rabbitmq.conf");
/// Where the configuration has the definitions.
const MOUNTED: &str = "/etc/rabbitmq/definitions.json";

const TASK_POLICY: &str = r#"^snapferry\.task\.v1\. queues {"dead-letter-exchange":"snapferry.dead","dead-letter-strategy":"at-least-once","delivery-limit":1000,"max-length":100000,"overflow":"reject-publish"}"#;

/// Rows of a table of `rabbitmqctl`, with a space between columns.
async fn rows(broker: &Broker, columns: &[&str]) -> Vec<String> {
    rows_of(&broker.ctl(&[columns, &["--no-table-headers"]].concat()).await.unwrap())
}

fn rows_of(table: &str) -> Vec<String> {
    table.lines().map(|row| row.replace('\t', " ").trim_end().to_owned()).collect()
}

/// Also that it can be asked at all.
async fn has_the_task_policy(broker: &Broker) -> bool {
    let policy = format!("/ snapferry-task {TASK_POLICY} 0");
    let asked = broker.ctl(&["list_policies", "--no-table-headers"]).await;
    asked.is_ok_and(|table| rows_of(&table) == [policy])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_declares_and_works_on_imported_definitions() {
    let broker = Broker::start().await.unwrap();
    broker.ctl(&["import_definitions", DEFINITIONS]).await.unwrap();
    assert!(has_the_task_policy(&broker).await);

    let queue = client(&broker.url());
    let (name, publisher) = (queue_name("imported"), queue.publisher());
    publisher.declare(&name).await.unwrap();
    let columns = ["list_queues", "name", "type", "durable", "policy"];
    let mut queues = rows(&broker, &columns).await;
    queues.sort();
    assert_eq!(queues, ["snapferry.dead quorum true", &format!("{name} quorum true snapferry-task")]);

    // The policy is in force: what is no ticket is not lost, and the tickets behind it come.
    let operator = Operator::of(&broker).await;
    operator.publish_raw(&name, b"no ticket").await;
    publisher.publish(&name, &ticket(1)).await.unwrap();
    let mut consumer = consume(&queue, &name, 1);
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.ticket, ticket(1));
    assert_eq!(delivery.ack().await, Settled::Done);
    eventually(BOUND, "the message is in the imported dead queue", || async {
        broker.depth("snapferry.dead").await.unwrap() == Some((1, 0))
    })
    .await
    .unwrap();

    // As at every start of the broker's container, with what the client has declared.
    broker.ctl(&["import_definitions", DEFINITIONS]).await.unwrap();
    publisher.declare(&name).await.unwrap();
    publisher.publish(&name, &ticket(2)).await.unwrap();
    assert_eq!(next(&mut consumer).await.ticket, ticket(2));
    assert_eq!(operator.get("snapferry.dead").await.as_deref(), Some(&b"no ticket"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_with_the_shipped_configuration_has_them_from_its_start() {
    assert!(CONFIG.contains(MOUNTED), "{CONFIG}");
    let config = CONFIG.replace(MOUNTED, DEFINITIONS);
    let mut broker = Broker::start_with(BrokerOptions { config, ..BrokerOptions::default() }).await.unwrap();
    eventually(BOUND, "the policy is there", || has_the_task_policy(&broker)).await.unwrap();
    let queue = client(&broker.url());
    let (name, publisher) = (queue_name("configured"), queue.publisher());
    publisher.declare(&name).await.unwrap();
    publisher.publish(&name, &ticket(1)).await.unwrap();
    broker.restart().await.unwrap();
    eventually(BOUND, "the client is back", || async { publisher.declare(&name).await.is_ok() })
        .await
        .unwrap();
    assert_eq!(next(&mut consume(&queue, &name, 1)).await.ticket, ticket(1));
}
