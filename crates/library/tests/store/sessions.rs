//! Sessions: idempotent by key, fenced, resumed from what was flushed, abandoned, expired.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use snapferry_library::{Error, Library, MemoryBackend, SessionState};
use snapferry_types::ChunkId;

use crate::rig::*;

#[test]
fn a_second_attempt_goes_on_from_the_flushed_leaves() {
    let mut rig = Rig::new();
    let n_blocks = 8 * 1_024;
    let blocks: Blocks = (0..8).flat_map(|leaf| data(leaf * 1_024, 4, u64::from(leaf) * 10)).collect();
    let session = open(rig.library(), &request("k", fence(1), &[("root", n_blocks)]));
    put_leaves(rig.library(), session, fence(1), "root", (&blocks, n_blocks), 0..3).unwrap();
    rig.library().flush(session, fence(1)).unwrap();
    put_leaves(rig.library(), session, fence(1), "root", (&blocks, n_blocks), 3..5).unwrap();
    let library = rig.reopen();
    let SessionState::Open(opened) =
        library.open_session(&request("k", fence(2), &[("root", n_blocks)])).unwrap()
    else {
        panic!("not sealed yet");
    };
    assert_eq!((opened.id, opened.resumed), (session, true));
    let sealed: Vec<_> =
        library.sealed_leaves(session, "root", 0).unwrap().map(|leaf| leaf.unwrap().leaf_index).collect();
    assert_eq!(sealed, [0, 1, 2]);
    assert_eq!(library.sealed_leaves(session, "root", 2).unwrap().count(), 1);
    put_leaves(library, session, fence(2), "root", (&blocks, n_blocks), 3..8).unwrap();
    let id = library.seal(session, fence(2), Vec::new()).unwrap();
    assert_eq!(restore(library, id, "root").unwrap(), blocks);
}

#[test]
fn a_superseded_owner_can_do_nothing_any_more() {
    let rig = Rig::new();
    let library = rig.library();
    let blocks = data(0, 2, 0);
    let old = request("k", fence(5), &[("root", 1_024)]);
    let session = open(library, &old);
    put_leaves(library, session, fence(5), "root", (&blocks, 1_024), [0]).unwrap();
    assert!(matches!(library.flush(session, fence(6)), Err(Error::InvalidRequest { .. })));
    assert_eq!(open(library, &request("k", fence(6), &[("root", 1_024)])), session);
    let page = leaf(&blocks, 1_024, 0);
    let bytes = page.encode().unwrap();
    let stale =
        |result: Result<(), Error>| assert!(matches!(result, Err(Error::StaleFence { .. })), "{result:?}");
    stale(library.missing_chunks(session, fence(5), &[chunk_id(0)]).map(drop));
    stale(library.put_chunk(session, fence(5), chunk_id(9), &record(9)).map(drop));
    stale(library.put_leaf(session, fence(5), "root", 0, page_id(&page), &bytes));
    stale(library.flush(session, fence(5)));
    stale(library.seal(session, fence(5), Vec::new()).map(drop));
    stale(library.abandon(session, fence(5)));
    stale(library.open_session(&old).map(drop));
    // A higher generation supersedes any epoch.
    let failover = snapferry_library::Fence { generation: 2, epoch: 0 };
    assert_eq!(open(library, &request("k", failover, &[("root", 1_024)])), session);
    let id = library.seal(session, failover, Vec::new()).unwrap();
    // What the first owner had not flushed is not in it.
    assert!(restore(library, id, "root").unwrap().is_empty());
}

#[test]
fn the_same_owner_can_open_again_and_keeps_its_leaves() {
    let rig = Rig::new();
    let library = rig.library();
    let blocks = data(0, 2, 0);
    let asked = request("k", fence(1), &[("root", 1_024)]);
    let session = open(library, &asked);
    put_leaves(library, session, fence(1), "root", (&blocks, 1_024), [0]).unwrap();
    assert_eq!(open(library, &asked), session);
    let id = library.seal(session, fence(1), Vec::new()).unwrap();
    assert_eq!(restore(library, id, "root").unwrap(), blocks);
}

#[test]
fn a_key_is_for_one_task() {
    let rig = Rig::new();
    let library = rig.library();
    open(library, &request("k", fence(1), &[("root", 1_024)]));
    for other in [request("k", fence(2), &[("root", 1_025)]), request("k", fence(2), &[("data", 1_024)]), {
        let mut other = request("k", fence(2), &[("root", 1_024)]);
        other.tenant = "globex".to_owned();
        other
    }] {
        assert!(matches!(library.open_session(&other), Err(Error::SessionMismatch { .. })));
    }
}

#[test]
fn requests_outside_their_limits_are_refused() {
    let rig = Rig::new();
    let library = rig.library();
    let refused = |asked| matches!(library.open_session(&asked), Err(Error::InvalidRequest { .. }));
    assert!(refused(request("", fence(1), &[("root", 1)])));
    assert!(refused(request(&"k".repeat(129), fence(1), &[("root", 1)])));
    assert!(refused(request("k", fence(1), &[])));
    assert!(refused(request("k", fence(1), &[("root", 0)])));
    assert!(refused(request("k", fence(1), &[("root", 1), ("root", 2)])));
    let session = open(library, &request("k", fence(1), &[("root", 1_500)]));
    let invalid = |result: Result<(), Error>| {
        assert!(
            matches!(result, Err(Error::InvalidRequest { .. } | Error::InvalidLeaf { .. })),
            "{result:?}"
        );
    };
    invalid(library.put_chunk(session, fence(1), chunk_id(0), &[]).map(drop));
    invalid(library.put_chunk(session, fence(1), chunk_id(0), &vec![0; 513 * 1_024 + 1]).map(drop));
    library.put_chunk(session, fence(1), chunk_id(0), &vec![0; 513 * 1_024]).unwrap();
    invalid(library.missing_chunks(session, fence(1), &vec![ChunkId([0; 32]); 8_193]).map(drop));
    let page = leaf(&Blocks::new(), 1_500, 1);
    let put = |index, bytes: &[u8]| library.put_leaf(session, fence(1), "root", index, page_id(&page), bytes);
    invalid(put(0, &page.encode().unwrap()));
    invalid(put(1, b"rubbish"));
    invalid(put(1, &leaf(&Blocks::new(), 2_048, 1).encode().unwrap()));
    invalid(put(2, &leaf(&Blocks::new(), 4_096, 2).encode().unwrap()));
    put(1, &page.encode().unwrap()).unwrap();
    invalid(library.seal(session, fence(1), vec![0; 4 * 1_024 * 1_024 + 1]).map(drop));
}

#[test]
fn a_leaf_needs_its_chunks_and_a_page_name_stands_for_one_content() {
    let rig = Rig::new();
    let library = rig.library();
    let session = open(library, &request("k", fence(1), &[("root", 1_024)]));
    let page = leaf(&data(0, 3, 0), 1_024, 0);
    let bytes = page.encode().unwrap();
    library.put_chunk(session, fence(1), chunk_id(1), &record(1)).unwrap();
    match library.put_leaf(session, fence(1), "root", 0, page_id(&page), &bytes) {
        Err(Error::MissingChunks { ids }) => assert_eq!(ids, [chunk_id(0), chunk_id(2)]),
        other => panic!("{other:?}"),
    }
    put_leaves(library, session, fence(1), "root", (&data(0, 3, 0), 1_024), [0]).unwrap();
    library.flush(session, fence(1)).unwrap();
    let other = leaf(&data(0, 1, 0), 1_024, 0).encode().unwrap();
    let result = library.put_leaf(session, fence(1), "root", 0, page_id(&page), &other);
    assert!(matches!(result, Err(Error::InvalidLeaf { .. })), "{result:?}");
}

#[test]
fn a_base_that_cannot_be_used_is_told_and_done_without() {
    let rig = Rig::new();
    let library = rig.library();
    let id = backup(library, "full", &data(0, 2, 0), 1_024);
    let reason = |tenant: &str, n_blocks, base: Option<(_, &str)>| {
        let mut asked = request(&format!("{tenant}{n_blocks}{base:?}"), fence(1), &[("root", n_blocks)]);
        asked.tenant = tenant.to_owned();
        asked.volumes[0].base = base.map(|(id, volume)| (id, volume.to_owned()));
        match library.open_session(&asked).unwrap() {
            SessionState::Open(opened) => {
                opened.without_base.first().map(|(_, why)| why.clone()).unwrap_or_default()
            }
            SessionState::AlreadySealed(id) => panic!("{id}"),
        }
    };
    assert_eq!(reason("acme", 1_024, Some((id, "root"))), "");
    assert!(reason("globex", 1_024, Some((id, "root"))).contains("another tenant"));
    assert!(reason("acme", 1_023, Some((id, "root"))).contains("longer"));
    assert!(reason("acme", 1_024, Some((id, "data"))).contains("no volume"));
    library.delete_recovery_point(id).unwrap();
    assert!(reason("acme", 2_000, Some((id, "root"))).contains("not in this library"));
}

#[test]
fn an_abandoned_key_stays_closed_to_older_fences() {
    let mut rig = Rig::new();
    let session = open(rig.library(), &request("k", fence(5), &[("root", 1_024)]));
    put_leaves(rig.library(), session, fence(5), "root", (&data(0, 2, 0), 1_024), [0]).unwrap();
    rig.library().flush(session, fence(5)).unwrap();
    rig.library().abandon(session, fence(5)).unwrap();
    rig.library().abandon(session, fence(5)).unwrap();
    let library = rig.reopen();
    assert!(library.sessions(None).is_empty());
    let older = library.open_session(&request("k", fence(4), &[("root", 1_024)]));
    assert!(matches!(older, Err(Error::StaleFence { .. })));
    let again = open(library, &request("k", fence(5), &[("root", 1_024)]));
    assert_ne!(again, session);
    assert_eq!(library.sealed_leaves(again, "root", 0).unwrap().count(), 0);
    assert!(matches!(library.flush(session, fence(5)), Err(Error::UnknownSession(_))));
}

#[test]
fn idle_sessions_expire_and_busy_ones_do_not() {
    let dir = folder();
    let now = Arc::new(AtomicU64::new(1_000));
    let mut config = config(dir.path(), Arc::new(MemoryBackend::new()));
    let clock = Arc::clone(&now);
    config.clock = Arc::new(move || clock.load(Ordering::SeqCst));
    let library = Library::open(config).unwrap();
    let idle = open(&library, &request("idle", fence(1), &[("root", 8)]));
    let busy = open(&library, &request("busy", fence(1), &[("root", 8)]));
    now.store(5_000, Ordering::SeqCst);
    library.flush(busy, fence(1)).unwrap();
    now.store(6_000, Ordering::SeqCst);
    let ended = library.expire_sessions(3_000).unwrap();
    assert_eq!(ended.iter().map(|s| s.id).collect::<Vec<_>>(), [idle]);
    assert_eq!(library.sessions(None).iter().map(|s| s.id).collect::<Vec<_>>(), [busy]);
    assert!(matches!(library.flush(idle, fence(1)), Err(Error::UnknownSession(_))));
    library.flush(busy, fence(1)).unwrap();
}

#[test]
fn many_leaves_are_flushed_by_themselves_and_pins_have_a_limit() {
    let dir = folder();
    let mut config = config(dir.path(), Arc::new(MemoryBackend::new()));
    config.buffered_leaf_bytes = 4_000;
    config.max_pins = 1_024;
    let library = Library::open(config).unwrap();
    let n_blocks = 20 * 1_024;
    let session = open(&library, &request("k", fence(1), &[("root", n_blocks)]));
    let blocks: Blocks = (0..20).flat_map(|leaf| data(leaf * 1_024, 2, u64::from(leaf) * 2)).collect();
    put_leaves(&library, session, fence(1), "root", (&blocks, n_blocks), 0..20).unwrap();
    assert!(library.sealed_leaves(session, "root", 0).unwrap().count() >= 10);
    let ids: Vec<_> = (0..1_025).map(chunk_id).collect();
    for n in 0..1_024 {
        library.put_chunk(session, fence(1), ids[n as usize], &record(n)).unwrap();
    }
    let over = library.put_chunk(session, fence(1), ids[1_024], &record(1_024));
    assert!(matches!(over, Err(Error::TooMany { .. })), "{over:?}");
}

#[test]
fn a_second_opener_is_told_who_has_the_library() {
    let mut rig = Rig::new();
    let second = Library::open(Rig::config_in(rig.dir.path()));
    assert!(matches!(second, Err(Error::Locked { .. })));
    rig.reopen();
}
