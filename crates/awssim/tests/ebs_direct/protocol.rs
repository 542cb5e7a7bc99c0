//! The six EBS direct calls over HTTP: what they answer, and what they refuse with which reason.

use std::time::Duration;

use crate::client::{Client, base64_sha256, block_path, content, escape};
use crate::world::{OpenWorld, Server};
use awssim::ebs::SnapshotState;
use awssim::faults::{Behaviour, Quotas};
use awssim::store::{BLOCK_BYTES, SyntheticSpec, sha256};
use base64::Engine;
use reqwest::Method;
use serde_json::json;

async fn server() -> (tempfile::TempDir, Server, Client) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(OpenWorld::open(dir.path())).await;
    server.world.faults.set_quotas(Quotas::off());
    let client = Client::new(server.url(""));
    (dir, server, client)
}

fn synthetic(server: &Server, id: &str, gib: u64) {
    let spec = SyntheticSpec {
        volume_size_gib: gib,
        seed: 3,
        fraction_hole: 0.25,
        fraction_zero: 0.25,
        fraction_duplicate: 0.0,
        fraction_compressible: 0.25,
        fraction_random: 0.25,
        changed_from: None,
    };
    server.world.store.create_synthetic(id, &spec).unwrap();
    server.world.register(id, gib);
}

#[tokio::test]
async fn what_is_put_is_listed_and_read_back() {
    let (_dir, _server, client) = server().await;
    let id = client.written(&[(0, 0), (7, 1), (2047, 2)], None).await;
    let blocks = client.blocks(&id).await;
    assert_eq!(blocks.iter().map(|b| b.0).collect::<Vec<_>>(), [0, 7, 2047]);
    for (block, byte) in blocks.iter().zip(0..) {
        let reply = client.get(&block_path(&id, block)).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.body, content(byte));
        assert_eq!(reply.header("x-amz-data-length"), "524288");
        assert_eq!(reply.header("x-amz-checksum"), base64_sha256(&reply.body));
        assert_eq!(reply.header("x-amz-checksum-algorithm"), "SHA256");
    }
    let page = client.get(&format!("/snapshots/{id}/blocks?startingBlockIndex=8")).await.json();
    assert_eq!(page["Blocks"][0]["BlockIndex"], 2047);
    assert_eq!((&page["VolumeSize"], &page["BlockSize"]), (&json!(1), &json!(BLOCK_BYTES)));
    assert!(page["ExpiryTime"].as_f64().unwrap() > 1e9);
    assert!(page.get("NextToken").is_none());
}

#[tokio::test]
async fn pages_follow_one_another_without_gap_or_repeat() {
    let (_dir, server, client) = server().await;
    synthetic(&server, "snap-0a", 1);
    let behaviour = Behaviour { short_page: 0.4, empty_page: 0.3, seed: 5, ..Behaviour::default() };
    server.world.faults.set_behaviour(behaviour);
    let pages = client.pages("/snapshots/snap-0a/blocks?maxResults=100").await;
    let sizes: Vec<_> = pages.iter().map(|page| page["Blocks"].as_array().unwrap().len()).collect();
    assert!(sizes.contains(&0) && sizes.contains(&34) && sizes.contains(&100), "{sizes:?}");
    let counters = server.world.faults.counters();
    assert!(counters.faults_of("empty_page") > 0 && counters.faults_of("short_page") > 0);
    let indexes: Vec<u64> = pages
        .iter()
        .flat_map(|page| page["Blocks"].as_array().unwrap())
        .map(|block| block["BlockIndex"].as_u64().unwrap())
        .collect();
    assert!(indexes.is_sorted_by(|a, b| a < b));
    let total = server.world.store.block_count("snap-0a").unwrap();
    assert_eq!(u64::try_from(indexes.len()).unwrap(), total);
}

#[tokio::test]
async fn changes_are_listed_against_the_parent_only() {
    let (_dir, _server, client) = server().await;
    let parent = client.written(&[(1, 1), (2, 2)], None).await;
    let child = client.written(&[(2, 3), (5, 5)], Some(&parent)).await;
    let stranger = client.written(&[(1, 1)], None).await;
    let path = |first: &str| format!("/snapshots/{child}/changedblocks?firstSnapshotId={first}");
    let page = client.get(&path(&parent)).await.json();
    let changed = page["ChangedBlocks"].as_array().unwrap();
    assert_eq!(changed.len(), 2);
    assert_eq!(changed[0]["BlockIndex"], 2);
    assert!(changed[0]["FirstBlockToken"].is_string() && changed[0]["SecondBlockToken"].is_string());
    assert_eq!(changed[1]["BlockIndex"], 5);
    assert!(changed[1].get("FirstBlockToken").is_none());
    let token = changed[1]["SecondBlockToken"].as_str().unwrap().to_owned();
    assert_eq!(client.get(&block_path(&child, &(5, token))).await.body, content(5));
    let token = changed[0]["FirstBlockToken"].as_str().unwrap().to_owned();
    assert_eq!(client.get(&block_path(&parent, &(2, token))).await.body, content(2));
    client.get(&path(&stranger)).await.assert_refused("ValidationException", "UNRELATED_SNAPSHOTS");
    let missing = client.get(&format!("/snapshots/{child}/changedblocks")).await;
    missing.assert_refused("ValidationException", "INVALID_SNAPSHOT_ID");
}

#[tokio::test]
async fn tokens_are_bound_and_expire() {
    let (_dir, server, client) = server().await;
    let id = client.written(&[(1, 1), (2, 2)], None).await;
    let other = client.written(&[(1, 1)], None).await;
    let blocks = client.blocks(&id).await;
    let refused = [block_path(&id, &(2, blocks[0].1.clone())), block_path(&other, &blocks[0])];
    for path in refused {
        client.get(&path).await.assert_refused("ValidationException", "INVALID_BLOCK_TOKEN");
    }
    let none = client.get(&format!("/snapshots/{id}/blocks/1")).await;
    none.assert_refused("ValidationException", "INVALID_BLOCK_TOKEN");
    synthetic(&server, "snap-0a", 1);
    let page = client.get("/snapshots/snap-0a/blocks?maxResults=100").await.json();
    let next = format!("pageToken={}", escape(page["NextToken"].as_str().unwrap()));
    let clock = server.world.faults.clock();
    clock.advance(Duration::from_secs(59 * 60));
    assert_eq!(client.get(&format!("/snapshots/snap-0a/blocks?{next}")).await.status, 200);
    client
        .get(&format!("/snapshots/{id}/blocks?{next}"))
        .await
        .assert_refused("ValidationException", "INVALID_PAGE_TOKEN");
    clock.advance(Duration::from_secs(2 * 60));
    client
        .get(&format!("/snapshots/snap-0a/blocks?{next}"))
        .await
        .assert_refused("ValidationException", "INVALID_PAGE_TOKEN");
    assert_eq!(client.get(&block_path(&id, &blocks[0])).await.status, 200);
    clock.advance(Duration::from_secs(7 * 24 * 3600));
    let expired = client.get(&block_path(&id, &blocks[0])).await;
    expired.assert_refused("ValidationException", "INVALID_BLOCK_TOKEN");
}

#[tokio::test]
async fn puts_are_checked() {
    let (_dir, _server, client) = server().await;
    let id = client.started().await;
    let data = content(1);
    let send = |request: reqwest::RequestBuilder| async {
        Client::read(request.send().await.unwrap()).await.unwrap()
    };
    let bare = |headers: &[(&'static str, String)]| {
        let mut request =
            client.request(Method::PUT, &format!("/snapshots/{id}/blocks/1")).body(data.clone());
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request
    };
    let length = ("x-amz-data-length", "524288".to_owned());
    let algorithm = ("x-amz-checksum-algorithm", "SHA256".to_owned());
    let wrong = ("x-amz-checksum", base64_sha256(b"other"));
    let right = ("x-amz-checksum", base64_sha256(&data));
    let cases = [
        (bare(std::slice::from_ref(&length)), "INVALID_PARAMETER_VALUE"),
        (bare(&[length.clone(), algorithm.clone()]), "INVALID_PARAMETER_VALUE"),
        (bare(&[length.clone(), algorithm.clone(), wrong]), "INVALID_BLOCK"),
        (bare(&[algorithm, right]), "INVALID_PARAMETER_VALUE"),
        (client.put_request(&id, 1, &data).body(data.slice(1..)), "INVALID_BLOCK"),
        (client.put_request(&id, 1, &data).header("x-amz-progress", "101"), "INVALID_PARAMETER_VALUE"),
        (client.put_request(&id, 1, &data).header("content-encoding", "gzip"), "INVALID_CONTENT_ENCODING"),
        (client.put_request(&id, 2048, &data), "INVALID_BLOCK"),
    ];
    for (request, reason) in cases {
        send(request).await.assert_refused("ValidationException", reason);
    }
    assert_eq!(client.put(&id, 1, &data).await.header("x-amz-checksum"), base64_sha256(&data));
    assert_eq!(client.put(&id, 1, &data).await.status, 201);
    let count = client.complete(&id, 2).await;
    count.assert_refused("ValidationException", "INVALID_PARAMETER_VALUE");
    assert_eq!(client.complete(&id, 1).await.status, 202);
    assert_eq!(client.complete(&id, 1).await.status, 202, "a repeat is answered like the first");
    let late = client.put(&id, 1, &data).await;
    late.assert_refused("ValidationException", "INVALID_SNAPSHOT_ID");
    let unknown = client.put("snap-0123456789abcdef0", 1, &data).await;
    unknown.assert_refused("ResourceNotFoundException", "SNAPSHOT_NOT_FOUND");
}

#[tokio::test]
async fn aggregate_is_computed_over_ascending_blocks() {
    let (_dir, _server, client) = server().await;
    let id = client.started().await;
    for (index, byte) in [(9, 3), (4, 1)] {
        client.put(&id, index, &content(byte)).await;
    }
    let complete = |hashes: Vec<u8>| {
        let request = client.request(Method::POST, &format!("/snapshots/completion/{id}"));
        let checksum = base64::engine::general_purpose::STANDARD.encode(sha256(&hashes));
        request
            .header("x-amz-ChangedBlocksCount", 2)
            .header("x-amz-Checksum", checksum)
            .header("x-amz-Checksum-Algorithm", "SHA256")
            .header("x-amz-Checksum-Aggregation-Method", "LINEAR")
    };
    let (a, b) = (sha256(&content(1)), sha256(&content(3)));
    let wrong = Client::read(complete([b, a].concat()).send().await.unwrap()).await.unwrap();
    wrong.assert_refused("ValidationException", "INVALID_PARAMETER_VALUE");
    let right = Client::read(complete([a, b].concat()).send().await.unwrap()).await.unwrap();
    assert_eq!(right.status, 202);
}

#[tokio::test]
async fn start_is_checked_and_idempotent() {
    let (_dir, _server, client) = server().await;
    let cases = [
        (json!({ "VolumeSize": 0 }), "INVALID_VOLUME_SIZE"),
        (json!({ "VolumeSize": 65537 }), "INVALID_VOLUME_SIZE"),
        (json!({ "VolumeSize": 1, "Timeout": 9 }), "INVALID_PARAMETER_VALUE"),
        (json!({ "VolumeSize": 1, "KmsKeyArn": "arn:aws:kms:x" }), "INVALID_PARAMETER_VALUE"),
        (
            json!({ "VolumeSize": 1, "ParentSnapshotId": "snap-1", "Encrypted": true }),
            "INVALID_PARAMETER_VALUE",
        ),
        (json!({ "VolumeSize": 1, "Tags": [{ "Key": "aws:x", "Value": "" }] }), "INVALID_TAG"),
        (json!({ "VolumeSize": "1" }), "INVALID_PARAMETER_VALUE"),
        (json!([]), "INVALID_PARAMETER_VALUE"),
    ];
    for (body, reason) in cases {
        client.start(body).await.assert_refused("ValidationException", reason);
    }
    let body = json!({ "VolumeSize": 2, "ClientToken": "t", "Description": "d", "Timeout": 10,
        "Tags": [{ "Key": "k", "Value": "v" }] });
    let first = client.start(body.clone()).await;
    assert_eq!(first.status, 201);
    assert_eq!(client.start(body).await.json()["SnapshotId"], first.json()["SnapshotId"]);
    assert_eq!(first.json()["Tags"], json!([{ "Key": "k", "Value": "v" }]));
    let other = client.start(json!({ "VolumeSize": 3, "ClientToken": "t" })).await;
    assert_eq!((other.status, other.refusal().0), (409, "ConflictException".to_owned()));
    let id = client.written(&[(1, 1)], None).await;
    assert_eq!(client.start(json!({ "VolumeSize": 1, "ParentSnapshotId": id })).await.status, 201);
}

#[tokio::test]
async fn snapshot_fails_when_blocks_stop_coming() {
    let (_dir, server, client) = server().await;
    let reply = client.start(json!({ "VolumeSize": 1, "Timeout": 10 })).await;
    let id = reply.json()["SnapshotId"].as_str().unwrap().to_owned();
    let clock = server.world.faults.clock();
    clock.advance(Duration::from_secs(590));
    assert_eq!(client.put(&id, 1, &content(1)).await.status, 201);
    clock.advance(Duration::from_secs(590));
    assert_eq!(client.put(&id, 2, &content(1)).await.status, 201, "each block starts the time anew");
    clock.advance(Duration::from_secs(610));
    client.put(&id, 3, &content(1)).await.assert_refused("ValidationException", "INVALID_SNAPSHOT_ID");
    assert_eq!(server.world.state(&id), Some(SnapshotState::Error));
    assert!(!server.world.store.has_snapshot(&id));
}

#[tokio::test]
async fn started_snapshot_may_not_be_visible_at_once() {
    let (_dir, server, client) = server().await;
    server
        .world
        .faults
        .set_behaviour(Behaviour { start_visible_after_millis: 60_000, ..Behaviour::default() });
    let id = client.started().await;
    let early = client.put(&id, 1, &content(1)).await;
    early.assert_refused("ResourceNotFoundException", "SNAPSHOT_NOT_FOUND");
    assert_eq!(server.world.faults.counters().faults_of("not_visible_yet"), 1);
    server.world.faults.clock().advance(Duration::from_secs(61));
    assert_eq!(client.put(&id, 1, &content(1)).await.status, 201);
}

#[tokio::test]
async fn malformed_requests_get_errors_not_panics() {
    let (_dir, _server, client) = server().await;
    let id = client.written(&[(1, 1)], None).await;
    let cases = [
        ("/snapshots/vol-1/blocks".to_owned(), "INVALID_SNAPSHOT_ID"),
        ("/snapshots/snap-%2e%2e/blocks".to_owned(), "INVALID_SNAPSHOT_ID"),
        (format!("/snapshots/{id}/blocks?maxResults=99"), "INVALID_PARAMETER_VALUE"),
        (format!("/snapshots/{id}/blocks?maxResults=10001"), "INVALID_PARAMETER_VALUE"),
        (format!("/snapshots/{id}/blocks?startingBlockIndex=-1"), "INVALID_PARAMETER_VALUE"),
        (format!("/snapshots/{id}/blocks?startingBlockIndex=2147483648"), "INVALID_PARAMETER_VALUE"),
        (format!("/snapshots/{id}/blocks?pageToken=%zz"), "INVALID_PAGE_TOKEN"),
        (format!("/snapshots/{id}/blocks/x?blockToken=A"), "INVALID_PARAMETER_VALUE"),
    ];
    for (path, reason) in cases {
        client.get(&path).await.assert_refused("ValidationException", reason);
    }
    assert_eq!(client.get("/nothing").await.status, 404);
}
