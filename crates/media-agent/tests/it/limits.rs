//! What is malformed, oversized or foreign is refused by name, and the daemon serves on.

use bytes::Bytes;
use snapferry_media_agent::server::{MAX_ASK, MAX_MESSAGE_BYTES, MAX_READ};
use snapferry_transfer::ErrorClass;
use snapferry_types::SessionId;
use snapferry_wire::v1;
use tonic::{Code, Status};

use crate::harness::*;

fn class(status: &Status) -> &str {
    status.metadata().get("snapferry-error-class").map_or("", |word| word.to_str().unwrap())
}

#[tokio::test]
async fn malformed_and_oversized_requests_are_refused_and_the_daemon_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path()).await;
    let client = daemon.client().await;
    let session = open(&client, "task", 1, 2_048).await;
    let reference =
        || Some(v1::SessionRef { session_id: session.id().to_owned(), fence: Some(fence(1).into()) });
    let mut raw = v1::media_client::MediaClient::connect(daemon.endpoint.clone()).await.unwrap();
    let ask =
        |bytes: usize| v1::MissingChunksRequest { session: reference(), chunk_ids: vec![1; bytes].into() };
    let put = |id: usize, sealed: usize, session: Option<v1::SessionRef>| {
        let chunks = vec![v1::Chunk { chunk_id: vec![1; id].into(), sealed: vec![2; sealed].into() }];
        futures::stream::iter(vec![v1::PutChunksRequest { session, chunks }])
    };
    let leaf = |page: Vec<u8>| v1::PutLeafRequest {
        session: reference(),
        volume: VOLUME.to_owned(),
        leaf_index: 0,
        page_id: vec![3; 32].into(),
        page: page.into(),
    };
    let no_fence = Some(v1::SessionRef { session_id: session.id().to_owned(), fence: None });
    let no_session = v1::SessionRef { session_id: "rubbish".to_owned(), fence: Some(fence(1).into()) };

    let refused = [
        ("odd ids", raw.missing_chunks(ask(33)).await.unwrap_err()),
        ("many ids", raw.missing_chunks(ask(32 * (MAX_ASK + 1))).await.unwrap_err()),
        ("no session", raw.put_chunks(put(32, 10, None)).await.unwrap_err()),
        ("no fence", raw.put_chunks(put(32, 10, no_fence)).await.unwrap_err()),
        ("short id", raw.put_chunks(put(31, 10, reference())).await.unwrap_err()),
        ("large chunk", raw.put_chunks(put(32, 600 << 10, reference())).await.unwrap_err()),
        ("no leaf", raw.put_leaf(leaf(b"rubbish".to_vec())).await.unwrap_err()),
        ("no id", raw.flush(no_session).await.unwrap_err()),
    ];
    for (what, status) in refused {
        assert_eq!((status.code(), class(&status)), (Code::InvalidArgument, "invalid"), "{what}: {status}");
    }
    let huge = raw.put_chunks(put(32, MAX_MESSAGE_BYTES + 1, reference())).await.unwrap_err();
    assert_eq!(huge.code(), Code::OutOfRange, "{huge}");
    let unknown =
        v1::SessionRef { session_id: SessionId::generate().to_string(), fence: Some(fence(1).into()) };
    assert_eq!(raw.flush(unknown).await.unwrap_err().code(), Code::NotFound);

    put_block(&session.volume(VOLUME, sealer()), 1, Some(0)).await.unwrap();
    let too_long = session.seal(Bytes::from(vec![0; (4 << 20) + 1])).await.unwrap_err();
    assert_eq!(too_long.class, ErrorClass::Invalid, "{too_long}");
    let (id, _) = session.seal("").await.unwrap();
    let many = v1::ReadChunksRequest {
        recovery_point_id: id.to_string(),
        tenant: TENANT.to_owned(),
        chunk_ids: vec![1; 32 * (MAX_READ + 1)].into(),
    };
    assert_eq!(raw.read_chunks(many).await.unwrap_err().code(), Code::InvalidArgument);
    drop(raw);
    daemon.stop().await;
}

#[tokio::test]
async fn another_tenants_recovery_point_does_not_exist() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path()).await;
    let client = daemon.client().await;
    let session = open(&client, "task", 1, 1_024).await;
    put_block(&session.volume(VOLUME, sealer()), 1, Some(0)).await.unwrap();
    let (id, _) = session.seal("secret").await.unwrap();

    let error = client.recovery_point(id, "tenant-b").await.unwrap_err();
    assert_eq!(error.class, ErrorClass::NotFound, "{error}");
    let error = client.delete_recovery_point(id, "tenant-b").await.unwrap_err();
    assert_eq!(error.class, ErrorClass::NotFound, "{error}");
    let mut raw = v1::media_client::MediaClient::connect(daemon.endpoint.clone()).await.unwrap();
    let request = v1::ReadLeavesRequest {
        recovery_point_id: id.to_string(),
        tenant: "tenant-b".to_owned(),
        volume: VOLUME.to_owned(),
        from_leaf: 0,
        max_leaves: 0,
    };
    assert_eq!(raw.read_leaves(request).await.unwrap_err().code(), Code::NotFound);
    // A chunk that nothing refers to is no damage.
    let request = v1::ReadChunksRequest {
        recovery_point_id: id.to_string(),
        tenant: TENANT.to_owned(),
        chunk_ids: vec![1; 32].into(),
    };
    let mut answers = raw.read_chunks(request).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::NotFound);
    drop((raw, answers));
    assert_eq!(client.recovery_point(id, TENANT).await.unwrap().metadata, "secret");
    assert!(client.delete_recovery_point(id, TENANT).await.unwrap());
    assert!(!client.delete_recovery_point(id, TENANT).await.unwrap());
    daemon.stop().await;
}
