//! Collection removes exactly what nothing refers to, beside backups and restores.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use snapferry_library::{Error, GcOptions, GcReport, Library};

use crate::rig::*;

fn collect(library: &Library, options: GcOptions) -> GcReport {
    library.collect_garbage(&options, &mut || true).unwrap()
}

/// Any dead byte is worth a copy.
fn eager() -> GcOptions {
    GcOptions { min_dead_percent: 0, ..GcOptions::default() }
}

#[test]
fn what_a_deleted_point_alone_referred_to_goes_and_the_rest_stays() {
    let mut rig = Rig::new();
    let library = rig.library();
    let shared = data(0, 50, 0);
    let mut own = shared.clone();
    own.extend(data(2_000, 150, 100));
    let kept = backup(library, "kept", &shared, 4_096);
    let gone = backup(library, "gone", &own, 4_096);
    let before = library.stats().unwrap();
    assert_eq!(before.chunks, 200);
    let report = collect(library, eager());
    assert_eq!((report.dead_records, library.stats().unwrap().chunks), (0, 200));
    library.delete_recovery_point(gone).unwrap();
    let dry = collect(library, GcOptions { dry_run: true, ..eager() });
    assert_eq!(library.stats().unwrap().chunks, 200);
    let report = collect(library, eager());
    assert_eq!((report.dead_records, report.live_records), (dry.dead_records, dry.live_records));
    // 150 chunks, two leaves and an interior page.
    assert_eq!(report.dead_records, 153);
    assert!(report.bytes_removed > report.bytes_written);
    let after = library.stats().unwrap();
    assert_eq!((after.chunks, after.pages), (50, 2));
    assert!(matches!(library.read_chunk(chunk_id(100)), Err(Error::NotStored(_))));
    let library = rig.reopen();
    assert_eq!(restore(library, kept, "root").unwrap(), shared);
    assert_eq!(collect(library, eager()).dead_records, 0);
    // What was removed is stored again when it comes back.
    let again = backup(library, "again", &own, 4_096);
    assert_eq!(restore(library, again, "root").unwrap(), own);
}

#[test]
fn few_dead_bytes_are_left_alone_until_there_are_enough() {
    let rig = Rig::new();
    let library = rig.library();
    let all = data(0, 10, 0);
    let most = data(0, 9, 0);
    let gone = backup(library, "all", &all, 1_024);
    backup(library, "most", &most, 1_024);
    library.delete_recovery_point(gone).unwrap();
    let lazy = GcOptions { min_dead_percent: 90, merge_small: false, ..GcOptions::default() };
    collect(library, lazy);
    assert!(library.read_chunk(chunk_id(9)).is_ok());
    collect(library, eager());
    assert!(matches!(library.read_chunk(chunk_id(9)), Err(Error::NotStored(_))));
}

#[test]
fn small_packs_are_joined() {
    let rig = Rig::new();
    let library = rig.library();
    let ids: Vec<_> = (0..20).map(|i| backup(library, &format!("k{i}"), &data(0, 1, i), 1_024)).collect();
    assert!(library.stats().unwrap().packs >= 40);
    collect(library, GcOptions::default());
    let after = library.stats().unwrap();
    assert!(after.packs <= 8, "{after:?}");
    assert_eq!((after.chunks, after.pages), (20, 40));
    for (i, id) in ids.iter().enumerate() {
        assert_eq!(restore(library, *id, "root").unwrap(), data(0, 1, i as u64));
    }
}

#[test]
fn what_a_session_holds_stays() {
    let mut rig = Rig::new();
    let library = rig.library();
    let blocks = data(0, 30, 0);
    let base = backup(library, "base", &blocks, 4_096);
    let other = backup(library, "other", &data(0, 5, 500), 1_024);
    let mut asked = request("k", fence(1), &[("root", 4_096)]);
    asked.volumes[0].base = Some((base, "root".to_owned()));
    let session = open(library, &asked);
    // Held by an answer, by a put, by a buffered leaf, by a flushed leaf, by the base.
    assert_eq!(library.missing_chunks(session, fence(1), &[chunk_id(500)]).unwrap(), [false]);
    library.put_chunk(session, fence(1), chunk_id(600), &record(600)).unwrap();
    let mut after = blocks.clone();
    after.extend(data(1_024, 2, 700));
    put_leaves(library, session, fence(1), "root", (&after, 4_096), [1]).unwrap();
    library.flush(session, fence(1)).unwrap();
    after.extend(data(2_048, 2, 800));
    put_leaves(library, session, fence(1), "root", (&after, 4_096), [2]).unwrap();
    library.delete_recovery_point(base).unwrap();
    library.delete_recovery_point(other).unwrap();
    let report = collect(library, eager());
    assert!(report.dead_records > 0);
    assert!(library.read_chunk(chunk_id(500)).is_ok());
    assert!(library.read_chunk(chunk_id(501)).is_err());
    assert!(library.read_chunk(chunk_id(600)).is_ok());
    let id = library.seal(session, fence(1), Vec::new()).unwrap();
    collect(library, eager());
    assert!(matches!(library.read_chunk(chunk_id(500)), Err(Error::NotStored(_))));
    let library = rig.reopen();
    assert_eq!(restore(library, id, "root").unwrap(), after);
}

#[test]
fn an_abandoned_session_leaves_nothing() {
    let rig = Rig::new();
    let library = rig.library();
    let session = open(library, &request("k", fence(1), &[("root", 4_096)]));
    put_leaves(library, session, fence(1), "root", (&data(0, 40, 0), 4_096), [0]).unwrap();
    library.flush(session, fence(1)).unwrap();
    library.abandon(session, fence(1)).unwrap();
    collect(library, GcOptions::default());
    let stats = library.stats().unwrap();
    assert_eq!((stats.packs, stats.chunks, stats.pages), (0, 0, 0));
}

#[test]
fn two_sessions_share_a_chunk_whose_only_other_reference_is_deleted_meanwhile() {
    let rig = Rig::new();
    let library = rig.library();
    let blocks = data(0, 1, 42);
    let old = backup(library, "old", &blocks, 1_024);
    let sessions: Vec<_> =
        ["a", "b"].iter().map(|key| open(library, &request(key, fence(1), &[("root", 1_024)]))).collect();
    for session in &sessions {
        assert_eq!(library.missing_chunks(*session, fence(1), &[chunk_id(42)]).unwrap(), [false]);
    }
    library.delete_recovery_point(old).unwrap();
    collect(library, eager());
    put_leaves(library, sessions[0], fence(1), "root", (&blocks, 1_024), [0]).unwrap();
    library.abandon(sessions[0], fence(1)).unwrap();
    collect(library, eager());
    // The second one was told that it is there; it need not put it.
    let page = leaf(&blocks, 1_024, 0);
    library.put_leaf(sessions[1], fence(1), "root", 0, page_id(&page), &page.encode().unwrap()).unwrap();
    collect(library, eager());
    let id = library.seal(sessions[1], fence(1), Vec::new()).unwrap();
    assert_eq!(restore(library, id, "root").unwrap(), blocks);
}

#[test]
fn backups_deletions_and_restores_go_on_during_collections() {
    let rig = Rig::new();
    let library = rig.library();
    let (stop, backups, collected) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let stays = data(0, 60, 0);
    let kept = backup(library, "kept", &stays, 2_048);
    std::thread::scope(|scope| {
        let (stop, backups, collected, stays) = (&stop, &backups, &collected, &stays);
        let uploaders: Vec<_> = (0..3_u64)
            .map(|worker| {
                scope.spawn(move || {
                    let mut last: Option<(_, Blocks)> = None;
                    for round in 0..14_u64 {
                        // Contents come and go and are shared between the workers.
                        let mut blocks = data(0, 20, (round * 7) % 60);
                        blocks.extend(data(1_024, 10, 200 + (round + worker) * 5));
                        let key = format!("w{worker}-{round}");
                        let id = match &last {
                            Some((base, before)) if round % 3 != 0 => {
                                incremental(library, &key, (*base, before), (&blocks, 2_048))
                            }
                            _ => backup(library, &key, &blocks, 2_048),
                        };
                        assert_eq!(
                            restore(library, id, "root").unwrap(),
                            blocks,
                            "worker {worker} round {round}"
                        );
                        if let Some((before, _)) = last.replace((id, blocks)) {
                            library.delete_recovery_point(before).unwrap();
                        }
                        backups.fetch_add(1, Ordering::SeqCst);
                    }
                    last
                })
            })
            .collect();
        let reader = scope.spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                assert_eq!(&restore(library, kept, "root").unwrap(), stays);
            }
        });
        let collector = scope.spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let report = library.collect_garbage(&eager(), &mut || true).unwrap();
                collected.fetch_add(report.packs_deleted + report.packs_rewritten, Ordering::SeqCst);
            }
        });
        let last: Vec<_> = uploaders.into_iter().map(|w| w.join().unwrap().unwrap()).collect();
        stop.store(true, Ordering::SeqCst);
        reader.join().unwrap();
        collector.join().unwrap();
        for (id, blocks) in &last {
            assert_eq!(&restore(library, *id, "root").unwrap(), blocks);
        }
    });
    assert_eq!(backups.load(Ordering::SeqCst), 42);
    assert!(collected.load(Ordering::SeqCst) > 0, "no collection removed anything");
    collect(library, eager());
    let report = collect(library, eager());
    assert_eq!((report.dead_records, report.dangling_chunks), (0, 0));
    let scrub = library.scrub(&mut |_| true).unwrap();
    assert_eq!((scrub.n_damaged, scrub.complete), (0, true));
}

#[test]
fn a_collection_stops_when_asked() {
    let rig = Rig::new();
    let library = rig.library();
    backup(library, "k", &data(0, 3, 0), 1_024);
    assert!(matches!(library.collect_garbage(&eager(), &mut || false), Err(Error::Cancelled)));
    assert_eq!(collect(library, eager()).dead_records, 0);
}

/// Runs a whole backup, or the middle of one, at each point where a collection asks whether to go on.
#[test]
fn whatever_happens_at_any_point_of_a_collection_nothing_in_use_is_lost() {
    let blocks = data(0, 12, 0);
    let other = data(1_024, 3, 100);
    let mut at = 0;
    loop {
        let rig = Rig::new();
        let library = rig.library();
        let old = backup(library, "old", &blocks, 2_048);
        let base = backup(library, "base", &other, 2_048);
        library.delete_recovery_point(old).unwrap();
        let mut asked = request("held", fence(1), &[("root", 2_048)]);
        asked.volumes[0].base = Some((base, "root".to_owned()));
        let (mut calls, mut held, mut sealed) = (0, None, None);
        let mut hook = || {
            if calls == at {
                // Told that they are there, or putting them again: either way they stay.
                let session = open(library, &asked);
                put_leaves(library, session, fence(1), "root", (&blocks, 2_048), [0]).unwrap();
                held = Some(session);
                sealed = Some(backup(library, "new", &blocks, 2_048));
                library.delete_recovery_point(base).unwrap();
            }
            calls += 1;
            true
        };
        library.collect_garbage(&eager(), &mut hook).unwrap();
        let (Some(session), Some(sealed)) = (held, sealed) else {
            assert!(at > 5, "only {at} points");
            return;
        };
        assert_eq!(restore(library, sealed, "root").unwrap(), blocks, "point {at}");
        let id = library.seal(session, fence(1), Vec::new()).unwrap();
        collect(library, eager());
        let mut both = blocks.clone();
        both.extend(&other);
        assert_eq!(restore(library, id, "root").unwrap(), both, "point {at}");
        assert_eq!(restore(library, sealed, "root").unwrap(), blocks, "point {at}");
        assert_eq!(library.stats().unwrap().chunks, 15, "point {at}");
        at += 1;
    }
}
