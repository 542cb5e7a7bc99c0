//! Uploads become recovery points that read back, share what is equal, and survive the process.

use snapferry_library::{Error, PutOutcome, SessionState};

use crate::rig::*;

#[test]
fn a_sealed_volume_reads_back_after_the_process_ended() {
    let mut rig = Rig::new();
    let mut blocks = data(0, 40, 0);
    blocks.extend(data(3_000, 5, 20));
    blocks.insert(100, Block::Zero);
    blocks.insert(4_999, Block::Zero);
    let id = backup(rig.library(), "task-1", &blocks, 5_000);
    let library = rig.reopen();
    assert_eq!(restore(library, id, "root").unwrap(), blocks);
    let point = library.recovery_point(id).unwrap();
    assert_eq!((point.metadata.as_slice(), point.tenant.as_str()), (b"task-1".as_slice(), "acme"));
    let volume = point.volume("root").unwrap();
    assert_eq!((volume.n_blocks, volume.n_data, volume.n_zero), (5_000, 45, 2));
    assert!(library.read_leaf(id, "root", 1).unwrap().is_none());
    assert_eq!(library.read_leaf(id, "root", 2).unwrap().unwrap().leaf_index, 2);
    assert!(matches!(library.read_leaf(id, "other", 0), Err(Error::UnknownVolume(_))));
}

#[test]
fn equal_blocks_and_equal_pages_are_stored_once() {
    let rig = Rig::new();
    let library = rig.library();
    let blocks = data(0, 200, 0);
    let first = backup(library, "a", &blocks, 1_024);
    let before = library.stats().unwrap();
    let second = backup(library, "b", &blocks, 1_024);
    let after = library.stats().unwrap();
    assert_eq!((before.chunks, before.pages), (200, 2));
    assert_eq!((after.chunks, after.pages, after.packs), (200, 2, before.packs));
    let root = |id| library.recovery_point(id).unwrap().volumes[0].root;
    assert_eq!(root(first), root(second));
}

#[test]
fn an_incremental_writes_only_pages_that_changed_and_shares_the_rest() {
    let rig = Rig::new();
    let library = rig.library();
    let n_blocks = 1_024 * 1_500; // two levels
    let mut before = Blocks::new();
    for leaf in (0..1_500).step_by(100) {
        before.extend(data(leaf * 1_024, 3, u64::from(leaf)));
    }
    let full = backup(library, "full", &before, n_blocks);
    let pages = library.stats().unwrap().pages;
    let mut after = before.clone();
    after.insert(100 * 1_024 + 1, Block::Data(4_000));
    after.retain(|index, _| index / 1_024 != 300);
    let next = incremental(library, "incremental", (full, &before), (&after, n_blocks));
    assert_eq!(restore(library, next, "root").unwrap(), after);
    assert_eq!(restore(library, full, "root").unwrap(), before);
    // Two leaves, the interior page above them, and the root.
    assert_eq!(library.stats().unwrap().pages, pages + 4);
    let volume = library.recovery_point(next).unwrap().volumes[0].clone();
    assert_eq!(volume.n_data, 15 * 3 - 3);
    let differs = library.diff_leaves((full, "root"), (next, "root"), 0, 10).unwrap();
    assert_eq!(differs.iter().map(|d| d.leaf_index).collect::<Vec<_>>(), [100, 300]);
    assert_eq!(differs[1].b, None);
    assert_eq!(library.diff_leaves((full, "root"), (next, "root"), 101, 10).unwrap().len(), 1);
}

#[test]
fn a_volume_that_has_grown_by_a_level_keeps_its_base() {
    let rig = Rig::new();
    let library = rig.library();
    let before = data(500, 3, 0);
    let full = backup(library, "full", &before, 1_000);
    let mut after = before.clone();
    after.insert(1_024 * 1_024 + 7, Block::Data(9));
    let grown = incremental(library, "grown", (full, &before), (&after, 1_024 * 1_024 + 100));
    assert_eq!(restore(library, grown, "root").unwrap(), after);
    let unchanged = incremental(library, "unchanged", (full, &before), (&before, 1_024 * 1_024 + 100));
    assert_eq!(restore(library, unchanged, "root").unwrap(), before);
    let differs = library.diff_leaves((full, "root"), (grown, "root"), 0, 10).unwrap();
    assert_eq!(differs.iter().map(|d| d.leaf_index).collect::<Vec<_>>(), [1_024]);
    // Three levels: more than 512 TiB.
    let mut huge = after.clone();
    huge.insert(u32::MAX - 1, Block::Data(10));
    let id = incremental(library, "huge", (grown, &after), (&huge, u32::MAX));
    assert_eq!(restore(library, id, "root").unwrap(), huge);
}

#[test]
fn an_empty_volume_can_be_sealed_and_several_volumes_share_a_point() {
    let rig = Rig::new();
    let library = rig.library();
    let session = open(library, &request("k", fence(1), &[("a", 2_048), ("b", 10)]));
    let blocks = data(0, 10, 0);
    put_leaves(library, session, fence(1), "b", (&blocks, 10), [0]).unwrap();
    let id = library.seal(session, fence(1), Vec::new()).unwrap();
    assert!(restore(library, id, "a").unwrap().is_empty());
    assert_eq!(restore(library, id, "b").unwrap(), blocks);
}

#[test]
fn sealing_twice_gives_the_same_point_also_after_a_restart() {
    let mut rig = Rig::new();
    let blocks = data(0, 3, 0);
    let session = open(rig.library(), &request("k", fence(2), &[("root", 8)]));
    put_leaves(rig.library(), session, fence(2), "root", (&blocks, 8), [0]).unwrap();
    let id = rig.library().seal(session, fence(2), Vec::new()).unwrap();
    let library = rig.reopen();
    assert_eq!(library.seal(session, fence(2), Vec::new()).unwrap(), id);
    assert_eq!(
        library.open_session(&request("k", fence(3), &[("root", 8)])).unwrap(),
        SessionState::AlreadySealed(id)
    );
    assert!(matches!(library.seal(session, fence(1), Vec::new()), Err(Error::StaleFence { .. })));
    assert!(matches!(
        library.open_session(&request("k", fence(1), &[("root", 8)])),
        Err(Error::StaleFence { .. })
    ));
    assert!(library.delete_recovery_point(id).unwrap());
    assert!(!library.delete_recovery_point(id).unwrap());
    assert!(matches!(library.recovery_point(id), Err(Error::UnknownRecoveryPoint(_))));
    assert!(matches!(library.seal(session, fence(2), Vec::new()), Err(Error::UnknownSession(_))));
}

#[test]
fn a_chunk_put_twice_is_stored_once() {
    let rig = Rig::new();
    let library = rig.library();
    let session = open(library, &request("k", fence(1), &[("root", 8)]));
    let put = || library.put_chunk(session, fence(1), chunk_id(7), &record(7)).unwrap();
    assert_eq!((put(), put()), (PutOutcome::Stored, PutOutcome::AlreadyThere));
    library.flush(session, fence(1)).unwrap();
    assert_eq!(put(), PutOutcome::AlreadyThere);
    assert_eq!(library.stats().unwrap().chunks, 1);
}

#[test]
fn points_are_listed_in_pages() {
    let rig = Rig::new();
    let library = rig.library();
    let ids: Vec<_> = (0..5).map(|i| backup(library, &format!("k{i}"), &data(0, 1, 0), 8)).collect();
    let mut listed = Vec::new();
    loop {
        let page = library.recovery_points(listed.last().copied(), 2).unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.iter().all(|point| point.metadata.is_empty()));
        listed.extend(page.iter().map(|point| point.id));
    }
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    assert_eq!(listed, sorted);
}
