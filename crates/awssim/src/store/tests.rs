//! The store against a model: random writes, snapshots and deletions, with the server killed in between.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const N: u32 = 12;
const SIZE: u64 = 12 * BLOCK_BYTES;

/// What a block is to the model: not there, or filled with a byte.
type Model = BTreeMap<u32, u8>;

#[derive(Clone, Debug)]
enum Step {
    Write { block: u32, byte: u8 },
    WriteOutside { block: u32, byte: u8 },
    Punch { block: u32 },
    Snapshot,
    DeleteSnapshot { which: usize },
    Reopen,
    Restore { which: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let block = 0..N;
    let step = prop_oneof![
        5 => (block.clone(), 0..4_u8).prop_map(|(block, byte)| Step::Write { block, byte }),
        2 => (block.clone(), 0..4_u8).prop_map(|(block, byte)| Step::WriteOutside { block, byte }),
        1 => block.prop_map(|block| Step::Punch { block }),
        4 => Just(Step::Snapshot),
        2 => (0..8_usize).prop_map(|which| Step::DeleteSnapshot { which }),
        1 => Just(Step::Reopen),
        1 => (0..8_usize).prop_map(|which| Step::Restore { which }),
    ];
    proptest::collection::vec(step, 1..30)
}

fn content(byte: u8) -> Bytes {
    Bytes::from(vec![byte; BLOCK_LEN])
}

fn listed(store: &BlockStore, id: &str) -> Model {
    let mut found = Model::new();
    let mut from = Some(0);
    while let Some(start) = from {
        let page = store.list_blocks(id, start, 5).unwrap();
        for block in &page.items {
            let (data, sha) = store.read_block(id, block.index).unwrap().unwrap();
            assert_eq!(sha256(&data), sha, "stored hash of block {} of {id}", block.index);
            assert_eq!(sha, sha256(&content(data[0])));
            assert!(found.insert(block.index, data[0]).is_none(), "block listed twice");
        }
        from = page.next;
    }
    found
}

fn changed(a: &Model, b: &Model) -> Vec<ChangedBlock> {
    let differs = (0..N).filter(|index| a.get(index) != b.get(index));
    differs
        .map(|index| ChangedBlock {
            index,
            in_first: a.contains_key(&index),
            in_second: b.contains_key(&index),
        })
        .collect()
}

fn check_volume(store: &BlockStore, id: &str, model: &Model) {
    for index in 0..N {
        let data = store.read_volume(id, u64::from(index) * BLOCK_BYTES, BLOCK_LEN).unwrap();
        let wanted = model.get(&index).copied().unwrap_or(0);
        assert!(data == content(wanted), "block {index} of {id}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn snapshots_hold_what_the_model_holds(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = BlockStore::open(dir.path()).unwrap();
        store.create_volume("vol-1", SIZE).unwrap();
        let mut volume = Model::new();
        let mut snapshots: Vec<(String, Model)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Write { block, byte } => {
                    store.write_volume("vol-1", u64::from(block) * BLOCK_BYTES, &content(byte)).unwrap();
                    volume.insert(block, byte);
                }
                Step::WriteOutside { block, byte } => {
                    let file = std::fs::OpenOptions::new().write(true).open(store.volume_path("vol-1")).unwrap();
                    file.write_all_at(&content(byte), u64::from(block) * BLOCK_BYTES).unwrap();
                    volume.insert(block, byte);
                }
                Step::Punch { block } => {
                    store.punch_volume("vol-1", u64::from(block) * BLOCK_BYTES, BLOCK_BYTES).unwrap();
                    volume.remove(&block);
                }
                Step::Snapshot => {
                    let id = format!("snap-{number}");
                    let summary = store.snapshot_volume("vol-1", &id).unwrap();
                    prop_assert_eq!(summary.n_blocks, u64::try_from(volume.len()).unwrap());
                    let most = snapshots.last().map_or(volume.len(), |(_, last)| changed(last, &volume).len());
                    if snapshots.last().is_some() {
                        // Deleted bases only ever make it cheaper than the difference to the last one kept.
                        prop_assert!(summary.n_new_blocks <= u64::try_from(volume.len().max(most)).unwrap());
                    }
                    snapshots.push((id, volume.clone()));
                }
                Step::DeleteSnapshot { which } if which < snapshots.len() => {
                    let (id, _) = snapshots.remove(which);
                    store.delete_snapshot(&id).unwrap();
                }
                Step::Restore { which } if which < snapshots.len() => {
                    let (id, model) = &snapshots[which];
                    store.create_volume_from_snapshot("vol-2", id, SIZE).unwrap();
                    check_volume(&store, "vol-2", model);
                    store.snapshot_volume("vol-2", "snap-restored").unwrap();
                    prop_assert_eq!(&listed(&store, "snap-restored"), model);
                    prop_assert!(!store.related(id, "snap-restored").unwrap());
                    store.delete_volume("vol-2").unwrap();
                    store.delete_snapshot("snap-restored").unwrap();
                }
                Step::Reopen => {
                    drop(store);
                    store = BlockStore::open(dir.path()).unwrap();
                }
                Step::DeleteSnapshot { .. } | Step::Restore { .. } => {}
            }
            for (id, model) in &snapshots {
                prop_assert_eq!(&listed(&store, id), model, "{}", id);
            }
        }
        check_volume(&store, "vol-1", &volume);
        for (a, model_a) in &snapshots {
            for (b, model_b) in &snapshots {
                let page = store.changed_blocks(a, b, 0, 1000).unwrap();
                prop_assert_eq!(page.items, changed(model_a, model_b));
            }
        }
        for (id, _) in &snapshots {
            store.delete_snapshot(id).unwrap();
        }
        store.delete_volume("vol-1").unwrap();
        let stats = store.stats();
        prop_assert_eq!((stats.n_layers, stats.n_snapshots, stats.n_volumes), (0, 0, 0));
        let left = std::fs::read_dir(dir.path().join("layers")).unwrap().count();
        prop_assert_eq!(left, 0, "layer files left behind");
    }
}

fn store_with_volume() -> (tempfile::TempDir, BlockStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = BlockStore::open(dir.path()).unwrap();
    store.create_volume("vol-1", SIZE).unwrap();
    (dir, store)
}

#[test]
fn second_snapshot_stores_only_what_changed() {
    let (_dir, store) = store_with_volume();
    for block in 0..10 {
        store.write_volume("vol-1", block * BLOCK_BYTES, &content(7)).unwrap();
    }
    assert_eq!(store.snapshot_volume("vol-1", "snap-1").unwrap().n_new_blocks, 10);
    store.write_volume("vol-1", 3 * BLOCK_BYTES + 5, b"change").unwrap();
    let second = store.snapshot_volume("vol-1", "snap-2").unwrap();
    assert_eq!((second.n_new_blocks, second.n_blocks, second.full_scan), (1, 10, false));
    assert_eq!(store.changed_blocks("snap-1", "snap-2", 0, 100).unwrap().items.len(), 1);
}

#[test]
fn write_by_somebody_else_is_seen() {
    let (_dir, store) = store_with_volume();
    store.write_volume("vol-1", 0, &content(7)).unwrap();
    store.snapshot_volume("vol-1", "snap-1").unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(store.volume_path("vol-1")).unwrap();
    file.write_all_at(b"outside", 5 * BLOCK_BYTES).unwrap();
    let second = store.snapshot_volume("vol-1", "snap-2").unwrap();
    assert!(second.full_scan);
    let indexes: Vec<_> =
        store.list_blocks("snap-2", 0, 100).unwrap().items.iter().map(|b| b.index).collect();
    assert_eq!(indexes, [0, 5]);
    assert!(!store.snapshot_volume("vol-1", "snap-3").unwrap().full_scan);
    store.set_external_writer("vol-1", true).unwrap();
    assert!(store.snapshot_volume("vol-1", "snap-4").unwrap().full_scan);
}

#[test]
fn started_snapshot_survives_a_restart_and_builds_on_its_parent() {
    let (dir, store) = store_with_volume();
    store.begin_snapshot("snap-1", None, SIZE).unwrap();
    let put = |store: &BlockStore, id: &str, index: u32, byte: u8| {
        store.put_block(id, index, &content(byte), sha256(&content(byte)))
    };
    put(&store, "snap-1", 2, 9).unwrap();
    put(&store, "snap-1", 4, 0).unwrap();
    put(&store, "snap-1", 2, 8).unwrap();
    drop(store);
    let store = BlockStore::open(dir.path()).unwrap();
    put(&store, "snap-1", 5, 5).unwrap();
    assert_eq!(store.put_summary("snap-1").unwrap().0, 3);
    let mut linear = Vec::new();
    [8, 0, 5].iter().for_each(|byte| linear.extend(sha256(&content(*byte))));
    assert_eq!(store.put_summary("snap-1").unwrap().1, sha256(&linear));
    assert!(matches!(store.list_blocks("snap-1", 0, 10), Err(StoreError::Pending(_))));
    store.finish_snapshot("snap-1").unwrap();
    assert!(matches!(put(&store, "snap-1", 1, 1), Err(StoreError::NotPending(_))));
    store.begin_snapshot("snap-2", Some("snap-1"), SIZE).unwrap();
    put(&store, "snap-2", 4, 6).unwrap();
    store.finish_snapshot("snap-2").unwrap();
    store.delete_snapshot("snap-1").unwrap();
    assert_eq!(listed(&store, "snap-2"), Model::from([(2, 8), (4, 6), (5, 5)]));
    assert!(matches!(
        store.begin_snapshot("snap-3", Some("snap-2"), BLOCK_BYTES),
        Err(StoreError::OutOfRange { .. })
    ));
}

#[test]
fn zero_blocks_are_blocks_also_in_restored_volumes() {
    let (_dir, store) = store_with_volume();
    store.write_volume("vol-1", 0, &content(0)).unwrap();
    store.write_volume("vol-1", BLOCK_BYTES, &content(1)).unwrap();
    store.snapshot_volume("vol-1", "snap-1").unwrap();
    store.create_volume_from_snapshot("vol-2", "snap-1", SIZE).unwrap();
    let extents = store.volume_extents("vol-2").unwrap();
    assert_eq!(extents.len(), 1);
    assert_eq!(extents[0], BLOCK_BYTES..2 * BLOCK_BYTES, "a zero block takes no space");
    store.set_external_writer("vol-2", true).unwrap();
    store.snapshot_volume("vol-2", "snap-2").unwrap();
    assert_eq!(listed(&store, "snap-2"), Model::from([(0, 0), (1, 1)]));
}

#[test]
fn punched_zero_block_is_a_hole_also_after_a_restart() {
    let (dir, store) = store_with_volume();
    store.write_volume("vol-1", 0, &content(0)).unwrap();
    store.snapshot_volume("vol-1", "snap-1").unwrap();
    store.punch_volume("vol-1", 0, BLOCK_BYTES).unwrap();
    drop(store);
    let store = BlockStore::open(dir.path()).unwrap();
    assert_eq!(store.snapshot_volume("vol-1", "snap-2").unwrap().n_blocks, 0);
    assert_eq!(listed(&store, "snap-1"), Model::from([(0, 0)]));
}

#[test]
fn snapshots_of_several_volumes_are_all_or_none() {
    let (_dir, store) = store_with_volume();
    store.create_volume("vol-2", SIZE).unwrap();
    let made = store.snapshot_volumes(&[("vol-2", "snap-b"), ("vol-1", "snap-a")]).unwrap();
    assert_eq!(made.iter().map(|s| s.snapshot_id.as_str()).collect::<Vec<_>>(), ["snap-b", "snap-a"]);
    assert!(store.snapshot_volumes(&[("vol-1", "snap-c"), ("vol-2", "snap-a")]).is_err());
    assert!(store.snapshot_volumes(&[("vol-1", "snap-c"), ("vol-9", "snap-d")]).is_err());
    assert!(!store.has_snapshot("snap-c") && !store.has_snapshot("snap-d"));
}

#[test]
fn ids_and_sizes_that_cannot_be_are_refused() {
    let (_dir, store) = store_with_volume();
    assert!(matches!(store.create_volume("../x", SIZE), Err(StoreError::BadId(_))));
    assert!(matches!(store.create_volume("vol-3", 1000), Err(StoreError::BadSpec(_))));
    assert!(matches!(store.create_volume("vol-1", SIZE), Err(StoreError::AlreadyExists(_))));
    assert!(matches!(store.write_volume("vol-1", SIZE - 1, b"ab"), Err(StoreError::OutOfRange { .. })));
    assert!(matches!(store.read_volume("vol-1", u64::MAX, 2), Err(StoreError::OutOfRange { .. })));
}

fn spec(gib: u64) -> SyntheticSpec {
    SyntheticSpec {
        volume_size_gib: gib,
        seed: 1,
        fraction_hole: 0.3,
        fraction_zero: 0.1,
        fraction_duplicate: 0.1,
        fraction_compressible: 0.3,
        fraction_random: 0.2,
        changed_from: None,
    }
}

#[test]
fn synthetic_blocks_are_what_their_description_says() {
    let (_dir, store) = store_with_volume();
    store.create_synthetic("snap-1", &spec(1)).unwrap();
    let (mut n_zero, mut hashes, mut n) = (0, std::collections::HashMap::<Sha256, usize>::new(), 0);
    for index in 0..2048 {
        let Some((data, sha)) = store.read_block("snap-1", index).unwrap() else { continue };
        assert_eq!(data.len(), BLOCK_LEN);
        if index % 50 == 0 {
            assert_eq!(sha256(&data), sha, "block {index}");
        }
        n += 1;
        n_zero += usize::from(sha == zero::SHA256);
        *hashes.entry(sha).or_default() += 1;
    }
    assert!((1300..1560).contains(&n), "{n} blocks, about 1434 wanted");
    assert!((150..260).contains(&n_zero), "{n_zero} zero blocks, about 205 wanted");
    let distinct = hashes.values().filter(|times| **times == 1).count();
    assert!((920..1140).contains(&distinct), "{distinct} distinct blocks, about 1024 wanted");
    assert_eq!(store.block_count("snap-1").unwrap(), n);
}

#[test]
fn synthetic_changes_are_those_that_are_listed() {
    let (dir, store) = store_with_volume();
    store.create_synthetic("snap-1", &spec(2)).unwrap();
    let changed_from = Some(ChangedFrom { snapshot_id: "snap-1".to_owned(), per_mille: 20.0 });
    store.create_synthetic("snap-2", &SyntheticSpec { seed: 2, changed_from, ..spec(2) }).unwrap();
    drop(store);
    let store = BlockStore::open(dir.path()).unwrap();
    let listed: Vec<_> = store.changed_blocks("snap-1", "snap-2", 0, 10_000).unwrap().items;
    assert!((40..130).contains(&listed.len()), "{} changed, about 75 wanted", listed.len());
    for index in 0..4096 {
        let sha = |id| store.read_block_parts(id, index).unwrap().map(|b| b.sha256);
        let (a, b) = (sha("snap-1"), sha("snap-2"));
        let found = listed.iter().find(|c| c.index == index);
        assert_eq!(a != b, found.is_some(), "block {index}");
        if let Some(change) = found {
            assert_eq!((change.in_first, change.in_second), (a.is_some(), b.is_some()));
        }
    }
}

#[test]
fn many_writers_and_readers_at_once() {
    let (_dir, store) = store_with_volume();
    store.begin_snapshot("snap-1", None, 64 * BLOCK_BYTES).unwrap();
    let store = &store;
    std::thread::scope(|scope| {
        for worker in 0..4_u8 {
            scope.spawn(move || {
                for index in (u32::from(worker)..64).step_by(4) {
                    let data = content(worker + 1);
                    store.put_block("snap-1", index, &data, sha256(&data)).unwrap();
                }
            });
        }
    });
    store.finish_snapshot("snap-1").unwrap();
    let found = listed(store, "snap-1");
    assert!((0..64).all(|index| found.get(&index).is_some_and(|b| u32::from(*b) == index % 4 + 1)));
}
