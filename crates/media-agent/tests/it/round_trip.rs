//! Backups and restores over the wire.

use std::sync::Arc;

use bytes::Bytes;
use snapferry_media_agent::client::Opened;
use snapferry_transfer::twin::MemoryVolume;
use snapferry_transfer::{BaseLeaves as _, BlockState, ChunkSink as _, ErrorClass};
use snapferry_types::BLOCK_SIZE;

use crate::harness::*;

/// Four leaves, the last of which ends early and the third of which is all holes.
const N_BLOCKS: u32 = 3 * 1_024 + 500;

fn volume() -> Arc<MemoryVolume> {
    let volume = MemoryVolume::new(N_BLOCKS, 8);
    for index in [0, 1, 2, 1_023, 1_024, 1_500, 3_072, N_BLOCKS - 1] {
        volume.put(index, noise(u64::from(index)));
    }
    for index in 100..130 {
        volume.put(index, text(u64::from(index % 7)));
    }
    for index in [50, 1_100] {
        volume.put(index, Bytes::from(vec![0_u8; BLOCK_SIZE]));
    }
    Arc::new(volume)
}

#[tokio::test]
async fn a_volume_comes_back_byte_for_byte_and_an_incremental_sends_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path()).await;
    let client = daemon.client().await;

    let first = volume();
    let session = open(&client, "full", 1, N_BLOCKS).await;
    let summary = back_up(&client, &session, Arc::clone(&first), None).await.unwrap();
    // Eight blocks of noise and seven different texts.
    assert_eq!(summary.n_chunks_sent, 15);
    let (full, stored_bytes) = session.seal("the full one").await.unwrap();
    assert_eq!(stored_bytes, summary.bytes_sent);
    assert_eq!(restore(&client, full, N_BLOCKS).await.unwrap().blocks(), first.blocks());

    // Again: nothing is sent, and the key of before answers with its recovery point.
    let session = open(&client, "full again", 1, N_BLOCKS).await;
    let again = back_up(&client, &session, volume(), None).await.unwrap();
    assert_eq!((again.n_chunks_sent, again.n_deduplicated > 0), (0, true));
    let (again, stored_bytes) = session.seal("again").await.unwrap();
    assert_eq!(stored_bytes, 0);
    let opened = client.open_session("full", fence(1), TENANT, open_volume(N_BLOCKS, None)).await.unwrap();
    assert!(matches!(opened, Opened::AlreadySealed(id) if id == full));

    let second = volume();
    second.put(1, noise(777));
    second.put(2_100, noise(778));
    let base = Some(full);
    let opened = client.open_session("inc", fence(1), TENANT, open_volume(N_BLOCKS, base)).await.unwrap();
    let Opened::Session(session) = opened else { panic!("{opened:?}") };
    let changed = Arc::new(second.against(&first));
    let summary = back_up(&client, &session, changed, base).await.unwrap();
    assert_eq!((summary.n_read, summary.n_chunks_sent, summary.n_leaves), (2, 2, 2));
    let (incremental, _) = session.seal("the incremental one").await.unwrap();
    assert_eq!(restore(&client, incremental, N_BLOCKS).await.unwrap().blocks(), second.blocks());
    assert_eq!(restore(&client, full, N_BLOCKS).await.unwrap().blocks(), first.blocks());

    let point = client.recovery_point(incremental, TENANT).await.unwrap();
    assert_eq!(point.metadata, "the incremental one");
    let volume = &point.volumes[0];
    assert_eq!((volume.n_blocks, volume.n_data, volume.n_zero), (N_BLOCKS, 39, 2));
    let page = client.list_recovery_points("", 2).await.unwrap();
    let rest = client.list_recovery_points(&page.next, 2).await.unwrap();
    let ids: Vec<String> =
        page.recovery_points.into_iter().chain(rest.recovery_points).map(|p| p.recovery_point_id).collect();
    assert_eq!(ids, [full, again, incremental].map(|id| id.to_string()));
    assert_eq!(rest.next, "");
    daemon.stop().await;
}

#[tokio::test]
async fn base_leaves_are_found_in_any_order_and_holes_are_holes() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path()).await;
    let client = daemon.client().await;
    let n_blocks = 70 * 1_024;
    let session = open(&client, "wide", 1, n_blocks).await;
    let sink = session.volume(VOLUME, sealer());
    let stored = |leaf: u32| leaf % 3 != 2;
    for leaf in (0..70).filter(|leaf| stored(*leaf)) {
        put_block(&sink, u64::from(leaf % 2), Some(leaf)).await.unwrap();
    }
    let (id, _) = session.seal("").await.unwrap();
    let ascending: Vec<u32> = (0..70).collect();
    let jumping = vec![69, 0, 40, 41, 42, 43, 44, 45, 46, 3, 2, 1, 68];
    for order in [ascending, jumping] {
        let base = client.base_leaves(id, TENANT, VOLUME, sealer());
        for index in order {
            let leaf = base.base_leaf(index).await.unwrap();
            assert_eq!(leaf.index, index);
            assert_eq!(matches!(leaf.entries[0], BlockState::Data(_)), stored(index), "leaf {index}");
            assert!(leaf.entries[1..].iter().all(|entry| *entry == BlockState::Hole));
        }
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_superseded_attempt_can_commit_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path()).await;
    let client = daemon.client().await;
    let old = open(&client, "task", 1, 2_048).await;
    let old_sink = old.volume(VOLUME, sealer());
    put_block(&old_sink, 1, Some(0)).await.unwrap();
    let new = open(&client, "task", 2, 2_048).await;
    let refused = [
        put_block(&old_sink, 2, Some(1)).await.unwrap_err(),
        old_sink.flush().await.unwrap_err(),
        old.seal("late").await.unwrap_err(),
        old.abandon().await.unwrap_err(),
        client.open_session("task", fence(1), TENANT, open_volume(2_048, None)).await.unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.class, ErrorClass::StaleFence, "{error}");
        assert!(error.message.contains(&daemon.endpoint), "{error}");
    }
    put_block(&new.volume(VOLUME, sealer()), 3, Some(1)).await.unwrap();
    let (id, _) = new.seal("in time").await.unwrap();
    assert_eq!(restore(&client, id, 2_048).await.unwrap().blocks().into_keys().collect::<Vec<_>>(), [1_024]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_restarted_daemon_keeps_what_was_flushed_and_the_client_finds_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path()).await;
    let client = daemon.client().await;
    let session = open(&client, "task", 1, 4_096).await;
    let sink = session.volume(VOLUME, sealer());
    put_block(&sink, 1, Some(0)).await.unwrap();
    put_block(&sink, 2, Some(2)).await.unwrap();
    sink.flush().await.unwrap();
    put_block(&sink, 3, Some(3)).await.unwrap();
    let address = daemon.address;
    daemon.stop().await;

    let mut config = config(dir.path());
    config.listen = address;
    let daemon = Daemon::run(snapferry_media_agent::MediaAgent::build(config).await.unwrap());
    let session = open(&client, "task", 2, 4_096).await;
    let sink = session.volume(VOLUME, sealer());
    assert_eq!(sink.durable_leaves().await.unwrap(), [0, 2]);
    put_block(&sink, 3, Some(3)).await.unwrap();
    let (id, _) = session.seal("").await.unwrap();
    let blocks = restore(&client, id, 4_096).await.unwrap().blocks();
    let expected = [(0, noise(1)), (2_048, noise(2)), (3_072, noise(3))];
    assert_eq!(blocks.into_iter().collect::<Vec<_>>(), expected);
    daemon.stop().await;
}
