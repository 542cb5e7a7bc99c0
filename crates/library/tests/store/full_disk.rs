//! A full disk is a retryable error that keeps the session and harms nothing.

use std::sync::Arc;

use snapferry_library::{Error, FaultBackend, FaultPlan, Library, MemoryBackend};

use crate::rig::*;

#[test]
fn a_full_disk_at_any_write_keeps_the_session_and_what_was_flushed() {
    let blocks: Blocks = (0..4).flat_map(|leaf| data(leaf * 1_024, 6, u64::from(leaf) * 20)).collect();
    let n_blocks = 4 * 1_024;
    let mut met = 0;
    for step in 0..60 {
        let dir = folder();
        let plan = FaultPlan::new();
        let backend = Arc::new(FaultBackend::new(Arc::new(MemoryBackend::new()), Arc::clone(&plan)));
        let library = Library::open(config(dir.path(), backend)).unwrap();
        let asked = request("k", fence(1), &[("root", n_blocks)]);
        let session = open(&library, &asked);
        put_leaves(&library, session, fence(1), "root", (&blocks, n_blocks), 0..2).unwrap();
        library.flush(session, fence(1)).unwrap();
        plan.fill_after(step);
        let upload = |from| {
            put_leaves(&library, session, fence(1), "root", (&blocks, n_blocks), from..4)?;
            library.seal(session, fence(1), Vec::new())
        };
        let id = match upload(2) {
            Ok(id) => id,
            Err(e) => {
                met += 1;
                assert!(e.retryable() && e.is_no_space(), "step {step}: {e:?}");
                assert!(plan.failed() > 0);
                // Still full: still the same answer, or that it is to begin again.
                let again = upload(2).unwrap_err();
                assert!(again.retryable(), "step {step}: {again:?}");
                plan.heal();
                assert_eq!(open(&library, &asked), session);
                let sealed = library.sealed_leaves(session, "root", 0).unwrap().last().unwrap().unwrap();
                assert!(sealed.leaf_index >= 1);
                upload(sealed.leaf_index + 1).unwrap()
            }
        };
        assert_eq!(restore(&library, id, "root").unwrap(), blocks, "step {step}");
        let scrub = library.scrub(&mut |_| true).unwrap();
        assert_eq!(scrub.n_damaged, 0);
    }
    assert!(met > 20, "the disk was full in {met} of 60 runs only");
}

#[test]
fn a_session_that_lost_chunks_of_another_ones_pack_is_told_to_begin_again() {
    let dir = folder();
    let plan = FaultPlan::new();
    let backend = Arc::new(FaultBackend::new(Arc::new(MemoryBackend::new()), Arc::clone(&plan)));
    let mut config = config(dir.path(), backend);
    config.pack_bytes = 1 << 20;
    let library = Library::open(config).unwrap();
    let blocks = data(0, 3, 0);
    let first = open(&library, &request("a", fence(1), &[("root", 1_024)]));
    let second = open(&library, &request("b", fence(1), &[("root", 1_024)]));
    for session in [first, second] {
        put_leaves(&library, session, fence(1), "root", (&blocks, 1_024), [0]).unwrap();
    }
    plan.fill_after(0);
    assert!(library.flush(first, fence(1)).unwrap_err().is_no_space());
    plan.heal();
    for (session, key) in [(first, "a"), (second, "b")] {
        assert!(matches!(library.flush(session, fence(1)), Err(Error::Rewound(_))));
        assert_eq!(open(&library, &request(key, fence(1), &[("root", 1_024)])), session);
        put_leaves(&library, session, fence(1), "root", (&blocks, 1_024), [0]).unwrap();
        let id = library.seal(session, fence(1), Vec::new()).unwrap();
        assert_eq!(restore(&library, id, "root").unwrap(), blocks);
    }
}

#[test]
fn below_the_reserve_new_data_is_refused() {
    let dir = folder();
    let backend = Arc::new(MemoryBackend::new());
    let mut full = config(&dir.path().join("index"), backend.clone());
    let library = Library::open(full.clone()).unwrap();
    let id = backup(&library, "k", &data(0, 3, 0), 1_024);
    drop(library);
    full.reserve_bytes = u64::MAX;
    let library = Library::open(full).unwrap();
    let refused = library.open_session(&request("l", fence(1), &[("root", 8)]));
    assert!(
        matches!(&refused, Err(e @ Error::NoSpace { .. }) if e.retryable() && e.is_no_space()),
        "{refused:?}"
    );
    assert_eq!(restore(&library, id, "root").unwrap(), data(0, 3, 0));
    assert!(library.delete_recovery_point(id).unwrap());
}
