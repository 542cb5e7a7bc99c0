//! A full disk, a daemon that is away, a base that is gone.

use std::sync::Arc;

use snapferry_library::{DiskBackend, FaultBackend, FaultPlan};
use snapferry_media_agent::client::MediaClient;
use snapferry_transfer::twin::MemoryVolume;
use snapferry_transfer::{ChunkSink as _, ErrorClass};
use snapferry_types::RecoveryPointId;
use snapferry_wire::v1;
use tonic::Code;

use crate::harness::*;

#[tokio::test]
async fn a_full_disk_keeps_the_session_and_the_next_attempt_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let plan = FaultPlan::new();
    let disk = Arc::new(DiskBackend::open(dir.path()).unwrap());
    let backend = Arc::new(FaultBackend::new(disk, Arc::clone(&plan)));
    let daemon = Daemon::start_on(dir.path(), backend).await;
    let client = daemon.client().await;
    let session = open(&client, "task", 1, 2_048).await;
    let sink = session.volume(VOLUME, sealer());
    put_block(&sink, 1, Some(0)).await.unwrap();
    sink.flush().await.unwrap();

    plan.fill_after(0);
    let full = async {
        put_block(&sink, 2, Some(1)).await?;
        sink.flush().await
    };
    let error = full.await.unwrap_err();
    assert_eq!(error.class, ErrorClass::StorageFull, "{error}");
    assert!(error.retryable() && plan.failed() > 0);
    let mut raw = v1::media_client::MediaClient::connect(daemon.endpoint.clone()).await.unwrap();
    let record = chunk(&sealer(), &noise(5));
    let status = raw
        .put_chunks(futures::stream::iter(vec![v1::PutChunksRequest {
            session: Some(v1::SessionRef {
                session_id: session.id().to_owned(),
                fence: Some(fence(1).into()),
            }),
            chunks: vec![v1::Chunk { chunk_id: record.id.0.to_vec().into(), sealed: record.sealed }],
        }]))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.metadata().get("snapferry-error-class").unwrap(), "storage_full");

    plan.heal();
    let session = open(&client, "task", 2, 2_048).await;
    let sink = session.volume(VOLUME, sealer());
    assert_eq!(sink.durable_leaves().await.unwrap(), [0]);
    put_block(&sink, 2, Some(1)).await.unwrap();
    let (id, _) = session.seal("").await.unwrap();
    let blocks = restore(&client, id, 2_048).await.unwrap().blocks();
    assert_eq!(blocks.into_iter().collect::<Vec<_>>(), [(0, noise(1)), (1_024, noise(2))]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_daemon_that_is_away_is_unavailable_and_said_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path()).await;
    let (client, endpoint) = (daemon.client().await, daemon.endpoint.clone());
    daemon.stop().await;
    for error in [client.stats().await.unwrap_err(), MediaClient::connect(&endpoint, None).await.unwrap_err()]
    {
        assert_eq!(error.class, ErrorClass::Unavailable, "{error}");
        assert!(error.retryable() && error.message.contains(&endpoint), "{error}");
    }
    let error = MediaClient::connect("not an endpoint", None).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Invalid, "{error}");
}

#[tokio::test]
async fn a_base_that_is_gone_is_planned_again_and_leaves_no_session() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path()).await;
    let client = daemon.client().await;
    let gone = RecoveryPointId::generate();
    let error = client.open_session("task", fence(1), TENANT, open_volume(8, Some(gone))).await.unwrap_err();
    assert!(error.retryable() && error.message.contains(&gone.to_string()), "{error}");
    assert_eq!(client.stats().await.unwrap().sessions, 0);
    let volume = MemoryVolume::new(8, 2);
    volume.put(3, noise(3));
    let session = open(&client, "task", 1, 8).await;
    back_up(&client, &session, Arc::new(volume), None).await.unwrap();
    session.seal("").await.unwrap();
    daemon.stop().await;
}
