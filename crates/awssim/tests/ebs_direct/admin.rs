//! The admin endpoint over HTTP.

use awssim::faults::Quotas;
use awssim::store::{BLOCK_BYTES, BLOCK_LEN};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client::{Client, block_path, content};
use crate::world::{ACCOUNT, OpenWorld, Server};

async fn send(client: &Client, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let request = client.request(method, &format!("/_awssim/{path}"));
    let request = if body.is_null() { request } else { request.body(body.to_string()) };
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

async fn server() -> (tempfile::TempDir, Server, Client) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(OpenWorld::open(dir.path())).await;
    let client = Client::new(server.url(""));
    (dir, server, client)
}

#[tokio::test]
async fn faults_are_set_seen_and_taken_back() {
    let (_dir, server, client) = server().await;
    let id = client.written(&[(1, 1)], None).await;
    let path = block_path(&id, &client.blocks(&id).await[0]);
    let rule = json!({ "service": "ebs", "action": "GetSnapshotBlock", "count": 1,
        "effect": { "kind": "error", "status": 503, "code": "ServiceUnavailable" } });
    assert_eq!(send(&client, Method::PUT, "faults", json!([rule])).await.0, 200);
    assert_eq!(client.get(&path).await.status, 503);
    assert_eq!(client.get(&path).await.status, 200);
    let (_, rules) = send(&client, Method::GET, "faults", Value::Null).await;
    assert_eq!((&rules[0]["fired"], &rules[0]["rule"]["count"]), (&json!(1), &json!(1)));
    let (_, counters) = send(&client, Method::GET, "counters", Value::Null).await;
    assert_eq!(counters["faults"], json!({ "error": 1 }));
    let get =
        counters["calls"].as_array().unwrap().iter().find(|c| c["action"] == "GetSnapshotBlock").unwrap();
    assert_eq!(
        (&get["calls"], &get["account"], &get["bytes_out"]),
        (&json!(2), &json!(ACCOUNT), &json!(524_288))
    );
    send(&client, Method::DELETE, "counters", Value::Null).await;
    send(&client, Method::DELETE, "faults", Value::Null).await;
    assert!(server.world.faults.rules().is_empty() && server.world.faults.counters().calls.is_empty());
    let (status, error) = send(&client, Method::PUT, "faults", json!([{ "efect": 1 }])).await;
    assert_eq!(status, 400);
    assert!(error["error"].as_str().unwrap().contains("efect"), "{error}");
}

#[tokio::test]
async fn switches_read_back_as_they_were_set() {
    let (_dir, server, client) = server().await;
    let switches = [
        ("quotas", json!({ "get_per_account": 2000.0 })),
        ("latency", json!([{ "service": "ebs", "millis": 1.0, "jitter_millis": 2.0 }])),
        ("behaviour", json!({ "short_page": 0.5, "session_seconds": 60 })),
    ];
    for (name, value) in switches {
        assert_eq!(send(&client, Method::PUT, name, value.clone()).await.0, 200, "{name}");
        let (_, read) = send(&client, Method::GET, name, Value::Null).await;
        let set = value.as_array().map_or(&value, |list| &list[0]);
        let read = read.as_array().map_or(&read, |list| &list[0]);
        for (key, wanted) in set.as_object().unwrap() {
            assert_eq!(&read[key], wanted, "{name}.{key}");
        }
    }
    let wanted = Quotas { get_per_account: 2000.0, ..Quotas::default() };
    assert_eq!(server.world.faults.quotas(), wanted);
    assert_eq!(server.world.faults.session_ttl_cap().unwrap().as_secs(), 60);
    send(&client, Method::POST, "clock", json!({ "advance_seconds": 90 })).await;
    assert_eq!(server.world.faults.clock().ahead().as_secs(), 90);
    assert_eq!(send(&client, Method::GET, "nothing", Value::Null).await.0, 404);
}

#[tokio::test]
async fn volume_content_goes_in_and_comes_out() {
    let (_dir, server, client) = server().await;
    server.world.store.create_volume("vol-1", 8 * BLOCK_BYTES).unwrap();
    let data: Vec<u8> = (0..3 * BLOCK_LEN + 5).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let offset = BLOCK_LEN + 3;
    let path = format!("/_awssim/volumes/vol-1/content?offset={offset}");
    let response = client.request(Method::POST, &path).body(data.clone()).send().await.unwrap();
    assert_eq!(response.json::<Value>().await.unwrap(), json!({ "bytes": data.len() }));
    let reply = client.get(&format!("{path}&length={}", data.len())).await;
    assert_eq!(reply.body, data);
    let whole = client.get("/_awssim/volumes/vol-1/content").await.body;
    assert_eq!(whole.len(), 8 * BLOCK_LEN);
    assert_eq!(&whole[offset..offset + data.len()], data);
    let (_, map) = send(&client, Method::GET, "volumes/vol-1/map", Value::Null).await;
    assert_eq!(map["size_bytes"], 8 * BLOCK_BYTES);
    let first = map["extents"][0][0].as_u64().unwrap();
    assert!(first > 0 && first <= u64::try_from(offset).unwrap(), "{map}");
    assert_eq!(send(&client, Method::GET, "volumes/vol-9/map", Value::Null).await.0, 404);
    assert_eq!(client.get("/_awssim/volumes/vol-1/content?offset=1&length=99999999").await.status, 400);
    let beyond = format!("/_awssim/volumes/vol-1/content?offset={}", 8 * BLOCK_BYTES);
    let response = client.request(Method::POST, &beyond).body("x").send().await.unwrap();
    assert_eq!(response.status(), 400);
    server.world.store.snapshot_volume("vol-1", "snap-0c").unwrap();
    server.world.register("snap-0c", 1);
    let indexes: Vec<_> = client.blocks("snap-0c").await.iter().map(|b| b.0).collect();
    assert_eq!(indexes, [1, 2, 3, 4]);
}

#[tokio::test]
async fn synthetic_snapshot_is_made_and_read() {
    let (_dir, _server, client) = server().await;
    let new = json!({ "account": ACCOUNT, "region": "us-east-1", "snapshot_id": "snap-0d",
        "content": { "volume_size_gib": 16384, "seed": 1, "fraction_random": 1.0 } });
    let (status, made) = send(&client, Method::POST, "snapshots/synthetic", new).await;
    assert_eq!((status, made), (StatusCode::OK, json!({ "snapshot_id": "snap-0d" })));
    let page = client.get("/snapshots/snap-0d/blocks?startingBlockIndex=33554431").await.json();
    let block = &page["Blocks"][0];
    assert_eq!(block["BlockIndex"], 33_554_431);
    let token = block["BlockToken"].as_str().unwrap().to_owned();
    let reply = client.get(&block_path("snap-0d", &(33_554_431, token))).await;
    assert_eq!(reply.header("x-amz-checksum"), crate::client::base64_sha256(&reply.body));
    assert_ne!(reply.body, content(0));
    let bad = json!({ "account": ACCOUNT, "region": "us-east-1", "snapshot_id": "snap-0e",
        "content": { "volume_size_gib": 1, "seed": 1, "fraction_random": 0.5 } });
    let (status, error) = send(&client, Method::POST, "snapshots/synthetic", bad).await;
    assert_eq!(status, 400);
    assert!(error["error"].as_str().unwrap().contains("add up to 0.5"), "{error}");
    assert_eq!(client.get("/snapshots/snap-0e/blocks").await.status, 404);
}
