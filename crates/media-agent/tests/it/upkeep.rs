//! Collection beside an open session.

use std::sync::Arc;

use snapferry_transfer::ChunkSink as _;
use snapferry_transfer::twin::MemoryVolume;

use crate::harness::*;

#[tokio::test]
async fn collection_spares_what_an_open_session_holds_and_frees_what_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path()).await;
    let client = daemon.client().await;
    let volume = MemoryVolume::new(1_024, 4);
    for index in 0..20 {
        volume.put(index, noise(1_000 + u64::from(index)));
    }
    let deleted = stored(&client, "deleted", Arc::new(volume), 1_024).await;

    // Chunks that are in no leaf yet, leaves that are not flushed, and one that is found present.
    let session = open(&client, "open", 1, 4_096).await;
    let sink = session.volume(VOLUME, sealer());
    put_block(&sink, 1, None).await.unwrap();
    put_block(&sink, 2, Some(0)).await.unwrap();
    put_block(&sink, 1_005, None).await.unwrap();
    sink.flush().await.unwrap();
    put_block(&sink, 3, Some(1)).await.unwrap();

    assert!(client.delete_recovery_point(deleted, TENANT).await.unwrap());
    let before = client.stats().await.unwrap();
    let told = client.collect_garbage(true).await.unwrap();
    assert_eq!(client.stats().await.unwrap().stored_bytes, before.stored_bytes);
    let done = client.collect_garbage(false).await.unwrap();
    assert!(told.bytes_freed > 8 << 20 && done.bytes_freed > 8 << 20, "{told:?} {done:?}");
    assert!(client.stats().await.unwrap().stored_bytes < before.stored_bytes);

    put_block(&sink, 1, Some(2)).await.unwrap();
    put_block(&sink, 1_005, Some(3)).await.unwrap();
    let (id, _) = session.seal("").await.unwrap();
    client.collect_garbage(false).await.unwrap();
    let blocks = restore(&client, id, 4_096).await.unwrap().blocks();
    let expected = [(0, noise(2)), (1_024, noise(3)), (2_048, noise(1)), (3_072, noise(1_005))];
    assert_eq!(blocks.into_iter().collect::<Vec<_>>(), expected);
    daemon.stop().await;
}
