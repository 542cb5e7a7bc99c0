//! Import tasks: cancelled at any time, taken up after a restart, failed by a rule.

use std::time::Duration;

use awssim::Running;
use awssim::faults::{Effect, Latency, Rule};
use awssim::store::BLOCK_LEN;
use awssim::world::AccessKey;
use reqwest::Method;
use serde_json::json;

use crate::signing::Client;
use crate::{ACCOUNT, BUCKET, REGION, start};

const IMPORT: &str = "Action=ImportSnapshot&DiskContainer.Format=RAW&DiskContainer.UserBucket.S3Bucket=images&DiskContainer.UserBucket.S3Key=disk";

/// A bucket with a raw disk of three blocks, the middle one of zeroes, and the role.
async fn prepare(server: &Running) -> AccessKey {
    let world = &server.context().world;
    let key = world.create_user(ACCOUNT, "tester", Vec::new());
    world.create_bucket(ACCOUNT, REGION, BUCKET).unwrap();
    let trust = json!({ "Statement": [{ "Effect": "Allow", "Action": "sts:AssumeRole",
        "Principal": { "Service": "vmie.amazonaws.com" },
        "Condition": { "StringEquals": { "sts:Externalid": "vmimport" } } }] });
    world.create_role(ACCOUNT, "vmimport", trust, Vec::new());
    let disk = [vec![1; BLOCK_LEN], vec![0; BLOCK_LEN], vec![3; BLOCK_LEN]].concat();
    let s3 = Client::new(server, &key, "s3", REGION);
    assert_eq!(s3.send(Method::PUT, "/images/disk", &disk).await.status(), 200);
    key
}

fn between<'t>(text: &'t str, tag: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("<{tag}>"))?;
    rest.split_once(&format!("</{tag}>")).map(|(inner, _)| inner)
}

async fn describe(ec2: &Client, task: &str) -> String {
    ec2.ec2(&format!("Action=DescribeImportSnapshotTasks&ImportTaskId.1={task}")).await
}

/// Waits for the task to have a status; answers how it is described then.
async fn until(ec2: &Client, task: &str, wanted: &str) -> String {
    let mut text = String::new();
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        while between(&text, "status") != Some(wanted) {
            tick.tick().await;
            text = describe(ec2, task).await;
        }
    });
    assert!(waited.await.is_ok(), "{text}");
    text
}

fn rule(effect: Effect) -> Rule {
    Rule { service: Some("vmie".to_owned()), ..Rule::new(effect) }
}

fn nothing_is_left(server: &Running) {
    let left = server.context().world.inventory(Some(ACCOUNT));
    assert!(left["snapshots"].is_empty() && left["import_tasks"].is_empty(), "{left:?}");
    assert_eq!(server.context().store.stats().n_snapshots, 0);
}

#[tokio::test]
async fn an_import_writes_what_is_not_zero_and_goes_on_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path()).await;
    let key = prepare(&server).await;
    server.context().faults.add_rule(rule(Effect::Hang { seconds: None }));
    let ec2 = Client::new(&server, &key, "ec2", REGION);
    let made = ec2.ec2(IMPORT).await;
    let task = between(&made, "importTaskId").unwrap_or_else(|| panic!("{made}")).to_owned();
    assert_eq!(between(&made, "statusMessage"), Some("pending"));
    server.stop().await;
    let server = start(data.path()).await;
    let ec2 = Client::new(&server, &key, "ec2", REGION);
    let done = until(&ec2, &task, "completed").await;
    let snapshot = between(&done, "snapshotId").unwrap();
    let store = &server.context().store;
    let indexes: Vec<u32> =
        store.list_blocks(snapshot, 0, 100).unwrap().items.iter().map(|b| b.index).collect();
    assert_eq!(indexes, [0, 2]);
    assert_eq!(store.read_block(snapshot, 2).unwrap().unwrap().0, vec![3; BLOCK_LEN]);
    assert_eq!(store.snapshot_size(snapshot).unwrap(), 1 << 30);
    server.stop().await;
}

#[tokio::test]
async fn a_task_that_is_cancelled_or_fails_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path()).await;
    let key = prepare(&server).await;
    let faults = &server.context().faults;
    let ec2 = Client::new(&server, &key, "ec2", REGION);
    faults.set_latency(vec![Latency::of("vmie", 60_000.0)]);
    let made = ec2.ec2(IMPORT).await;
    let task = between(&made, "importTaskId").unwrap().to_owned();
    let cancelled = ec2.ec2(&format!("Action=CancelImportTask&ImportTaskId={task}")).await;
    assert_eq!(
        (between(&cancelled, "previousState"), between(&cancelled, "state")),
        (Some("active"), Some("deleting"))
    );
    let gone = until(&ec2, &task, "deleted").await;
    assert_eq!(between(&gone, "statusMessage"), Some("Import cancelled by user"));
    nothing_is_left(&server);
    faults.set_latency(Vec::new());
    let error = Effect::Error {
        status: 500,
        code: "ServerError".to_owned(),
        message: Some("out of luck".to_owned()),
        reason: None,
    };
    faults.add_rule(rule(error));
    let made = ec2.ec2(IMPORT).await;
    let failed = until(&ec2, between(&made, "importTaskId").unwrap(), "deleted").await;
    assert_eq!(between(&failed, "statusMessage"), Some("ServerError: out of luck"));
    nothing_is_left(&server);
    server.stop().await;
}

#[tokio::test]
async fn an_object_that_goes_away_fails_its_task() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path()).await;
    let key = prepare(&server).await;
    server.context().faults.add_rule(rule(Effect::Hang { seconds: Some(0.2) }));
    let ec2 = Client::new(&server, &key, "ec2", REGION);
    let made = ec2.ec2(IMPORT).await;
    let s3 = Client::new(&server, &key, "s3", REGION);
    assert_eq!(s3.send(Method::DELETE, "/images/disk", b"").await.status(), 204);
    let failed = until(&ec2, between(&made, "importTaskId").unwrap(), "deleted").await;
    assert!(between(&failed, "statusMessage").unwrap().contains("does not exist any more"), "{failed}");
    nothing_is_left(&server);
    server.stop().await;
}
