//! Every fault and quota, seen from outside and counted inside.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::{Client, base64_sha256, block_path, content};
use crate::world::{ACCOUNT, OpenWorld, Server, wait_for};
use awssim::faults::{Effect, Latency, Quotas, Rule};
use serde_json::json;

struct Fixture {
    _dir: tempfile::TempDir,
    server: Server,
    client: Client,
    id: String,
    path: String,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(OpenWorld::open(dir.path())).await;
        let client = Client::new(server.url(""));
        let id = client.written(&[(1, 1), (2, 2)], None).await;
        let path = block_path(&id, &client.blocks(&id).await[0]);
        Self { _dir: dir, server, client, id, path }
    }

    fn rule(&self, effect: Effect) {
        self.server.world.faults.set_rules(vec![Rule::new(effect).on("ebs", "GetSnapshotBlock").times(1)]);
    }

    fn count(&self, effect: &str) -> u64 {
        self.server.world.faults.counters().faults_of(effect)
    }

    /// The fault took effect once, and the next call is whole again.
    async fn assert_once(&self, effect: &str) {
        assert_eq!(self.count(effect), 1);
        let reply = self.client.get(&self.path).await;
        assert_eq!((reply.status, reply.body), (200, content(1)));
        assert_eq!(self.count(effect), 1);
    }
}

fn error(status: u16, code: &str) -> Effect {
    Effect::Error { status, code: code.to_owned(), message: None, reason: None }
}

#[tokio::test]
async fn error_is_answered() {
    let fixture = Fixture::new().await;
    fixture.rule(error(500, "InternalServerException"));
    let reply = fixture.client.get(&fixture.path).await;
    assert_eq!((reply.status, reply.error.as_deref()), (500, Some("InternalServerException")));
    fixture.assert_once("error").await;
}

#[tokio::test]
async fn both_throttles_are_answered() {
    let fixture = Fixture::new().await;
    fixture.rule(Effect::Throttle { snapshot_level: false });
    fixture.client.get(&fixture.path).await.assert_refused("ThrottlingException", "ACCOUNT_THROTTLED");
    fixture.rule(Effect::Throttle { snapshot_level: true });
    let reply = fixture.client.get(&fixture.path).await;
    reply.assert_refused("RequestThrottledException", "RESOURCE_LEVEL_THROTTLE");
    assert_eq!((reply.status, fixture.count("throttle")), (400, 2));
}

#[tokio::test]
async fn truncated_body_breaks_off() {
    let fixture = Fixture::new().await;
    fixture.rule(Effect::TruncateBody { keep_bytes: Some(1000) });
    let mut response = fixture.client.request(reqwest::Method::GET, &fixture.path).send().await.unwrap();
    assert_eq!(response.content_length(), Some(524_288));
    let mut received = 0;
    let broken = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => received += chunk.len(),
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(broken);
    assert_eq!(received, 1000);
    fixture.assert_once("truncate_body").await;
}

#[tokio::test]
async fn flipped_bit_is_found_by_the_checksum() {
    let fixture = Fixture::new().await;
    fixture.rule(Effect::FlipBit);
    let reply = fixture.client.get(&fixture.path).await;
    let differing = reply.body.iter().zip(&content(1)).filter(|(a, b)| a != b).count();
    assert_eq!((reply.body.len(), differing), (524_288, 1));
    assert_eq!(reply.header("x-amz-checksum"), base64_sha256(&content(1)));
    fixture.assert_once("flip_bit").await;
}

#[tokio::test]
async fn wrong_checksum_comes_with_the_right_body() {
    let fixture = Fixture::new().await;
    fixture.rule(Effect::WrongChecksum);
    let reply = fixture.client.get(&fixture.path).await;
    assert_eq!(reply.body, content(1));
    assert_ne!(reply.header("x-amz-checksum"), base64_sha256(&content(1)));
    fixture.assert_once("wrong_checksum").await;
}

#[tokio::test]
async fn hang_ends_with_the_clients_patience() {
    let fixture = Fixture::new().await;
    fixture.rule(Effect::Hang { seconds: None });
    let request = fixture.client.request(reqwest::Method::GET, &fixture.path);
    let error = request.timeout(Duration::from_millis(200)).send().await.unwrap_err();
    assert!(error.is_timeout());
    fixture.assert_once("hang").await;
    fixture.rule(Effect::Hang { seconds: Some(0.2) });
    let since = Instant::now();
    assert_eq!(fixture.client.get(&fixture.path).await.body, content(1));
    assert!(since.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn lost_reply_leaves_the_effect() {
    let fixture = Fixture::new().await;
    let id = fixture.client.started().await;
    let lose = |action: &str| vec![Rule::new(Effect::LoseReply).on("ebs", action).times(1)];
    fixture.server.world.faults.set_rules(lose("PutSnapshotBlock"));
    assert!(fixture.client.put_request(&id, 3, &content(3)).send().await.is_err());
    assert_eq!(fixture.server.world.store.put_summary(&id).unwrap().0, 1);
    fixture.server.world.faults.set_rules(lose("CompleteSnapshot"));
    let request = fixture.client.request(reqwest::Method::POST, &format!("/snapshots/completion/{id}"));
    assert!(request.header("x-amz-ChangedBlocksCount", 1).send().await.is_err());
    assert_eq!(fixture.client.complete(&id, 1).await.status, 202, "the repeat finds it done");
    fixture.server.world.faults.set_rules(lose("StartSnapshot"));
    let body = json!({ "VolumeSize": 1, "ClientToken": "once" });
    let request = fixture.client.request(reqwest::Method::POST, "/snapshots").body(body.to_string());
    assert!(request.send().await.is_err());
    let before = fixture.server.world.store.stats().n_snapshots;
    assert_eq!(fixture.client.start(body).await.status, 201);
    assert_eq!(fixture.server.world.store.stats().n_snapshots, before, "the token found the first one");
    assert_eq!(fixture.count("lose_reply"), 3);
}

#[tokio::test]
async fn rules_hit_only_what_they_name() {
    let fixture = Fixture::new().await;
    let other = fixture.client.written(&[(1, 1)], None).await;
    let named = Rule { snapshot: Some(other), ..Rule::new(error(500, "InternalServerException")) };
    let block = Rule { block: Some(2), ..Rule::new(error(500, "InternalServerException")) };
    let account = Rule { account: Some("999999999999".to_owned()), ..block.clone() };
    fixture.server.world.faults.set_rules(vec![named, account, block]);
    assert_eq!(fixture.client.get(&fixture.path).await.status, 200);
    assert_eq!(fixture.count("error"), 0);
    let second = block_path(&fixture.id, &fixture.client.blocks(&fixture.id).await[1]);
    assert_eq!(fixture.client.get(&second).await.status, 500);
    let fired: Vec<_> = fixture.server.world.faults.rules().iter().map(|r| r.fired).collect();
    assert_eq!(fired, [0, 0, 1]);
}

#[tokio::test]
async fn same_seed_hits_the_same_calls() {
    let fixture = Fixture::new().await;
    let mut rows = Vec::new();
    for seed in [1, 1, 2] {
        let rule = Rule::new(error(500, "InternalServerException")).on("ebs", "GetSnapshotBlock");
        fixture.server.world.faults.set_rules(vec![rule.chance(0.3, seed)]);
        let mut row = Vec::new();
        for _ in 0..40 {
            row.push(fixture.client.get(&fixture.path).await.status);
        }
        rows.push(row);
    }
    assert_eq!(rows[0], rows[1]);
    assert_ne!(rows[0], rows[2]);
    let hurt = rows[0].iter().filter(|status| **status == 500).count();
    assert!((4..=20).contains(&hurt), "{hurt} of 40 at 0.3");
}

#[tokio::test]
async fn latency_is_added() {
    let fixture = Fixture::new().await;
    fixture.server.world.faults.set_latency(vec![Latency::of("ebs", 60.0)]);
    let since = Instant::now();
    fixture.client.get(&fixture.path).await;
    assert!(since.elapsed() >= Duration::from_millis(60));
}

/// Asks as fast as it can for a while and answers how many calls went through and how many were throttled.
async fn flood(fixture: &Arc<Fixture>, path: &str, n_callers: usize) -> (f64, u64, Vec<(String, String)>) {
    let since = Instant::now();
    let deadline = since + Duration::from_millis(1200);
    let callers = (0..n_callers).map(|_| {
        let (fixture, path) = (Arc::clone(fixture), path.to_owned());
        tokio::spawn(async move {
            let (mut granted, mut refusals) = (0_u64, Vec::new());
            while Instant::now() < deadline {
                let reply = fixture.client.get(&path).await;
                match reply.status {
                    200 => granted += 1,
                    _ => refusals.push(reply.refusal()),
                }
            }
            (granted, refusals)
        })
    });
    let (mut granted, mut refusals) = (0, Vec::new());
    for caller in futures::future::join_all(callers).await {
        let (some, more) = caller.unwrap();
        granted += some;
        refusals.extend(more);
    }
    (since.elapsed().as_secs_f64(), granted, refusals)
}

#[tokio::test]
async fn account_quota_holds_and_answers_its_throttle() {
    let fixture = Arc::new(Fixture::new().await);
    fixture.server.world.faults.set_quotas(Quotas { get_per_account: 50.0, ..Quotas::default() });
    let (seconds, granted, refusals) = flood(&fixture, &fixture.path, 4).await;
    let most = 50.0 * seconds + 5.0;
    let granted_f = f64::from(u32::try_from(granted).unwrap());
    assert!(granted_f <= most + 1.0 && granted_f >= 0.8 * 50.0, "{granted} granted in {seconds} s");
    assert!(!refusals.is_empty());
    let expected = ("ThrottlingException".to_owned(), "ACCOUNT_THROTTLED".to_owned());
    assert!(refusals.iter().all(|refusal| *refusal == expected));
    let counters = fixture.server.world.faults.counters();
    assert_eq!(counters.throttled_of("ebs", "GetSnapshotBlock"), u64::try_from(refusals.len()).unwrap());
    let count = counters.calls.iter().find(|c| c.action == "GetSnapshotBlock").unwrap();
    assert_eq!((count.account.as_str(), count.bytes_out), (ACCOUNT, granted * 524_288));
}

#[tokio::test]
async fn snapshot_quota_holds_and_answers_its_throttle() {
    let fixture = Arc::new(Fixture::new().await);
    fixture.server.world.faults.set_quotas(Quotas { get_per_snapshot: 50.0, ..Quotas::default() });
    let (seconds, granted, refusals) = flood(&fixture, &fixture.path, 4).await;
    let granted_f = f64::from(u32::try_from(granted).unwrap());
    assert!(granted_f <= 50.0 * seconds + 6.0, "{granted} granted in {seconds} s");
    let expected = ("RequestThrottledException".to_owned(), "RESOURCE_LEVEL_THROTTLE".to_owned());
    assert!(refusals.contains(&expected));
}

#[tokio::test]
async fn lists_have_fifty_a_second() {
    let fixture = Arc::new(Fixture::new().await);
    let (seconds, granted, refusals) = flood(&fixture, &format!("/snapshots/{}/blocks", fixture.id), 4).await;
    let granted_f = f64::from(u32::try_from(granted).unwrap());
    assert!(granted_f <= 50.0 * seconds + 6.0, "{granted} granted in {seconds} s");
    assert!(refusals.iter().any(|(code, _)| code == "ThrottlingException"));
}

#[tokio::test]
async fn slow_body_times_out() {
    let fixture = Fixture::new().await;
    let id = fixture.client.started().await;
    let behaviour = fixture.server.world.faults.behaviour();
    fixture
        .server
        .world
        .faults
        .set_behaviour(awssim::faults::Behaviour { write_timeout_seconds: 0, ..behaviour });
    let body = reqwest::Body::wrap_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    let reply = fixture.client.put_request(&id, 1, &content(1)).body(body).send().await.unwrap();
    let reply = Client::read(reply).await.unwrap();
    reply.assert_refused("ValidationException", "WRITE_REQUEST_TIMEOUT");
    wait_for("count of the put", || {
        fixture.server.world.faults.counters().calls_of("ebs", "PutSnapshotBlock") >= 1
    })
    .await;
}
