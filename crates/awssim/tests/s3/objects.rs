//! object_store against the simulator, regions, and replies that are lost.

use std::sync::Arc;

use awssim::faults::{Effect, Rule};
use awssim::world::AccessKey;
use awssim::{Context, Running};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload, WriteMultipart};
use reqwest::Method;

use crate::signing::Client;
use crate::{ACCOUNT, BUCKET, REGION, start};

fn store(server: &Running, key: &AccessKey, is_unsigned: bool) -> AmazonS3 {
    AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_allow_http(true)
        .with_region(REGION)
        .with_bucket_name(BUCKET)
        .with_access_key_id(&key.access_key_id)
        .with_secret_access_key(&key.secret_access_key)
        .with_unsigned_payload(is_unsigned)
        .build()
        .unwrap()
}

async fn server() -> (tempfile::TempDir, Running, AccessKey) {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path()).await;
    let key = server.context().world.create_user(ACCOUNT, "tester", Vec::new());
    server.context().world.create_bucket(ACCOUNT, REGION, BUCKET).unwrap();
    (data, server, key)
}

fn files(data: &tempfile::TempDir) -> usize {
    std::fs::read_dir(data.path().join("objects")).unwrap().count()
}

#[tokio::test]
async fn object_store_works_unmodified() {
    let (data, server, key) = server().await;
    for is_unsigned in [false, true] {
        let store = store(&server, &key, is_unsigned);
        let small = Path::from("a/b c+d");
        store.put(&small, PutPayload::from_static(b"hello")).await.unwrap();
        assert_eq!(store.get(&small).await.unwrap().bytes().await.unwrap(), "hello");
        assert_eq!(store.get_range(&small, 1..3).await.unwrap(), "el");
        let large = Path::from("large");
        let bytes: Vec<u8> = (0..11_000_003_u32).map(|n| (n % 241).to_le_bytes()[0]).collect();
        let mut upload = WriteMultipart::new(store.put_multipart(&large).await.unwrap());
        upload.write(&bytes);
        upload.finish().await.unwrap();
        assert_eq!(store.head(&large).await.unwrap().size, 11_000_003);
        assert_eq!(store.get(&large).await.unwrap().bytes().await.unwrap(), bytes);
        let listed = store.list_with_delimiter(None).await.unwrap();
        assert_eq!(listed.common_prefixes, [Path::from("a")]);
        assert_eq!(listed.objects[0].location, large);
        let mut upload = store.put_multipart(&large).await.unwrap();
        upload.put_part(PutPayload::from_static(b"given up")).await.unwrap();
        assert_eq!(server.context().world.inventory(None)["s3_uploads"].len(), 1);
        upload.abort().await.unwrap();
        for path in [small, large] {
            store.delete(&path).await.unwrap();
        }
        assert_eq!(files(&data), 0);
    }
    let left = server.context().world.inventory(None);
    assert!(left["s3_objects"].is_empty() && left["s3_uploads"].is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_request_for_another_region_is_sent_where_the_bucket_is() {
    let (_data, server, key) = server().await;
    let elsewhere = Client::new(&server, &key, "s3", "eu-west-1");
    for (method, path) in [(Method::HEAD, "/images"), (Method::PUT, "/images/k"), (Method::GET, "/images/k")]
    {
        let response = elsewhere.send(method.clone(), path, b"").await;
        assert_eq!(response.status(), 301, "{method} {path}");
        assert_eq!(response.headers()["x-amz-bucket-region"], REGION);
        let text = response.text().await.unwrap();
        assert!(method == Method::HEAD || text.contains("<Code>PermanentRedirect</Code>"), "{text}");
    }
    let location = elsewhere.send(Method::GET, "/images?location=", b"").await.text().await.unwrap();
    assert!(location.contains(">eu-central-1</LocationConstraint>"), "{location}");
    let unknown = elsewhere.send(Method::GET, "/nothing/k", b"").await;
    assert!(unknown.text().await.unwrap().contains("NoSuchBucket"));
    server.stop().await;
}

#[tokio::test]
async fn what_a_lost_reply_was_about_is_done_and_a_stream_breaks_off_as_told() {
    let (_data, server, key) = server().await;
    let context: &Arc<Context> = server.context();
    let store = store(&server, &key, false);
    let path = Path::from("k");
    let rule = |action: &str, effect| Rule {
        service: Some("s3".to_owned()),
        action: Some(action.to_owned()),
        count: Some(1),
        ..Rule::new(effect)
    };
    context.faults.add_rule(rule("PutObject", Effect::LoseReply));
    store.put(&path, PutPayload::from(vec![5; 300_000])).await.unwrap();
    assert_eq!(context.faults.rules()[0].fired, 1);
    assert_eq!(context.world.inventory(None)["s3_objects"], ["images/k"]);
    context.faults.set_rules(vec![rule("GetObject", Effect::FlipBit)]);
    let flipped = store.get(&path).await.unwrap().bytes().await.unwrap();
    assert_eq!(flipped.iter().filter(|byte| **byte != 5).count(), 1);
    context.faults.set_rules(vec![rule("GetObject", Effect::TruncateBody { keep_bytes: Some(100_000) })]);
    let client = Client::new(&server, &key, "s3", REGION);
    let cut = client.send(Method::GET, "/images/k", b"").await;
    assert_eq!(cut.content_length(), Some(300_000));
    assert!(cut.bytes().await.is_err());
    context.faults.clear();
    store.delete(&path).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn objects_outlive_the_server() {
    let (data, server, key) = server().await;
    let path = Path::from("k");
    store(&server, &key, false).put(&path, PutPayload::from_static(b"still here")).await.unwrap();
    server.stop().await;
    std::fs::write(data.path().join("objects/orphan"), b"left by a killed process").unwrap();
    let server = start(data.path()).await;
    let got = store(&server, &key, false).get(&path).await.unwrap().bytes().await.unwrap();
    assert_eq!(got, "still here");
    assert_eq!(files(&data), 1);
    server.stop().await;
}
