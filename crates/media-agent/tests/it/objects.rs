//! The library's objects in an object store: the one in memory, with the protocol of a bucket.

use std::sync::Arc;

use futures::TryStreamExt as _;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};
use snapferry_library::{Backend, BackendError, ObjectName};
use snapferry_media_agent::s3::S3Backend;
use snapferry_transfer::twin::MemoryVolume;
use tokio::runtime::Handle;

use crate::harness::*;

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

#[tokio::test]
async fn objects_are_whole_or_absent_and_ranges_are_exact() {
    let store = Arc::new(InMemory::new());
    store.put(&"elsewhere/packs/x".into(), "foreign".into()).await.unwrap();
    let backend =
        S3Backend::on(Arc::clone(&store) as Arc<dyn ObjectStore>, "some/prefix/", Handle::current());
    let work = move || {
        // Parts of 8 MiB: two whole ones and a rest, written in pieces that do not fit them.
        let content: Vec<u8> = (0..20_000_003_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut writer = backend.create(&name("packs/large")).unwrap();
        for piece in content.chunks(3_000_000) {
            writer.write(piece).unwrap();
        }
        assert!(matches!(backend.size(&name("packs/large")), Err(BackendError::NotFound { .. })));
        writer.finish().unwrap();
        assert_eq!(backend.size(&name("packs/large")).unwrap(), 20_000_003);
        let range = backend.read_range(&name("packs/large"), 8_388_600, 100).unwrap();
        assert_eq!(range, content[8_388_600..8_388_700]);
        for (offset, len) in [(20_000_000, 4), (20_000_003, 1), (30_000_000, 10)] {
            let error = backend.read_range(&name("packs/large"), offset, len).unwrap_err();
            assert!(matches!(error, BackendError::Short { .. }), "{offset} {len}: {error}");
        }
        backend.put(&name("packs/small"), b"one").unwrap();
        backend.put(&name("packs/small"), b"two").unwrap();
        backend.put(&name("points/p"), b"").unwrap();
        assert_eq!(backend.read_range(&name("packs/small"), 0, 3).unwrap(), b"two");
        let mut dropped = backend.create(&name("packs/dropped")).unwrap();
        dropped.write(&content).unwrap();
        drop(dropped);

        let list = |prefix: &str| {
            let mut found = Vec::new();
            let mut visit = |name: ObjectName, size| {
                found.push((name.to_string(), size));
                Ok(())
            };
            backend.list(prefix, &mut visit).unwrap();
            found.sort();
            found
        };
        let packs = [("packs/large".to_owned(), 20_000_003), ("packs/small".to_owned(), 3)];
        assert_eq!(list("packs/"), packs);
        assert_eq!(list("packs/s"), packs[1..]);
        assert_eq!(list("").len(), 3);
        backend.delete(&name("packs/large")).unwrap();
        backend.delete(&name("packs/large")).unwrap();
        assert!(matches!(backend.read_range(&name("packs/large"), 0, 1), Err(BackendError::NotFound { .. })));
    };
    tokio::task::spawn_blocking(work).await.unwrap();
    let all: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert_eq!(all.len(), 3, "{all:?}");
}

#[tokio::test]
async fn a_daemon_on_an_object_store_finds_everything_again_with_an_empty_index() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let volume = Arc::new(MemoryVolume::new(2_048, 8));
    for index in (0..2_000).step_by(100) {
        volume.put(index, noise(u64::from(index)));
    }
    let backend = || Arc::new(S3Backend::on(Arc::clone(&store), "library", Handle::current()));
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_on(dir.path(), backend()).await;
    let client = daemon.client().await;
    let id = stored(&client, "task", Arc::clone(&volume), 2_048).await;
    drop(client);
    daemon.stop().await;

    let empty = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_on(empty.path(), backend()).await;
    let client = daemon.client().await;
    assert_eq!(restore(&client, id, 2_048).await.unwrap().blocks(), volume.blocks());
    assert_eq!(client.scrub(0).await.unwrap().damage, Vec::<String>::new());
    assert!(client.delete_recovery_point(id, TENANT).await.unwrap());
    assert!(client.collect_garbage(false).await.unwrap().packs_deleted > 0);
    assert_eq!(client.stats().await.unwrap().stored_bytes, 0);
    daemon.stop().await;
}
