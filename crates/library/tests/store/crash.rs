//! A crash at any operation leaves a library that opens by itself and loses nothing that was promised.

use std::sync::Arc;

use snapferry_library::{DiskBackend, Error, FaultBackend, FaultPlan, GcOptions, Library, MemoryBackend};
use snapferry_types::RecoveryPointId;

use crate::rig::*;

const N_BLOCKS: u32 = 3 * 1_024;

fn first() -> Blocks {
    let mut blocks = data(0, 8, 0);
    blocks.extend(data(1_024, 8, 50));
    blocks
}

fn second() -> Blocks {
    let mut blocks = first();
    blocks.extend(data(1_026, 4, 100));
    blocks.insert(2_500, Block::Zero);
    blocks
}

/// Each step is repeatable: a run that crashed is begun again from the first one.
fn steps(library: &Library, done: &mut Vec<(RecoveryPointId, Blocks)>) -> Result<(), Error> {
    let full = upload(library, "full", None, &first())?;
    note(done, full, first());
    let next = upload(library, "next", Some(full), &second())?;
    note(done, next, second());
    done.retain(|(id, _)| *id != full);
    library.delete_recovery_point(full)?;
    let options = GcOptions { min_dead_percent: 0, ..GcOptions::default() };
    library.collect_garbage(&options, &mut || true)?;
    Ok(())
}

fn note(done: &mut Vec<(RecoveryPointId, Blocks)>, id: RecoveryPointId, blocks: Blocks) {
    if !done.iter().any(|(known, _)| *known == id) {
        done.push((id, blocks));
    }
}

fn upload(
    library: &Library,
    key: &str,
    base: Option<RecoveryPointId>,
    blocks: &Blocks,
) -> Result<RecoveryPointId, Error> {
    let mut asked = request(key, fence(1), &[("root", N_BLOCKS)]);
    asked.volumes[0].base = base.map(|id| (id, "root".to_owned()));
    let session = match library.open_session(&asked)? {
        snapferry_library::SessionState::AlreadySealed(id) => return Ok(id),
        snapferry_library::SessionState::Open(opened) => opened.id,
    };
    let leaves = if base.is_some() { 1..3 } else { 0..2 };
    for leaf in leaves {
        put_leaves(library, session, fence(1), "root", (blocks, N_BLOCKS), [leaf])?;
        library.flush(session, fence(1))?;
    }
    library.seal(session, fence(1), Vec::new())
}

fn check(library: &Library, done: &[(RecoveryPointId, Blocks)], what: &str) {
    for (id, blocks) in done {
        assert_eq!(&restore(library, *id, "root").unwrap(), blocks, "{what}");
    }
    assert_eq!(library.scrub(&mut |_| true).unwrap().n_damaged, 0, "{what}");
}

/// One run in which the backend dies after `step` operations; whether it did.
fn dies_after(step: u32) -> bool {
    let dir = folder();
    let memory = MemoryBackend::new();
    let plan = FaultPlan::new();
    let backend = Arc::new(FaultBackend::new(Arc::new(memory.clone()), Arc::clone(&plan)));
    let mut library = Library::open(config(dir.path(), backend.clone())).unwrap();
    plan.fail_after(step);
    let mut done = Vec::new();
    let died = steps(&library, &mut done).is_err();
    assert_eq!(died, plan.failed() > 0);
    if died {
        drop(library);
        plan.heal();
        library = Library::open(config(dir.path(), backend)).unwrap();
        check(&library, &done, &format!("after a crash at operation {step}"));
        // A point whose deletion had begun may be gone or there.
        let again = library.recovery_points(None, 10).unwrap();
        if again.iter().any(|point| point.key == "next") {
            for point in again.iter().filter(|point| point.key == "full") {
                done.retain(|(id, _)| *id != point.id);
                library.delete_recovery_point(point.id).unwrap();
            }
        } else {
            steps(&library, &mut done).unwrap();
        }
    }
    let options = GcOptions { min_dead_percent: 0, ..GcOptions::default() };
    library.collect_garbage(&options, &mut || true).unwrap();
    check(&library, &done, &format!("at the end, operation {step}"));
    let stats = library.stats().unwrap();
    // 8 + 8 chunks, four of them replaced by four others; two leaves with data, one with a zero, a root.
    assert_eq!((stats.chunks, stats.pages, stats.recovery_points), (16, 4, 1), "operation {step}");
    drop(library);
    // The objects alone say the same.
    let elsewhere = folder();
    let library = Library::open(config(elsewhere.path(), Arc::new(memory))).unwrap();
    check(&library, &done, &format!("from the objects alone, operation {step}"));
    let again = library.stats().unwrap();
    assert_eq!((again.chunks, again.pages, again.packs), (stats.chunks, stats.pages, stats.packs));
    died
}

#[test]
fn the_backend_dies_at_each_operation_in_turn() {
    let workers = 8;
    let ends: Vec<u32> = std::thread::scope(|scope| {
        let run = |worker: u32| {
            scope.spawn(move || {
                (worker..400)
                    .step_by(8)
                    .find(|step| !dies_after(*step))
                    .expect("the run never comes to its end")
            })
        };
        let running: Vec<_> = (0..workers).map(run).collect();
        running.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let operations = *ends.iter().min().unwrap();
    assert!(operations > 30, "only {operations} operations");
    // Every step below the first that no worker died at was tried.
    assert!(ends.iter().all(|end| end - operations < workers));
}

#[test]
fn an_index_that_lost_its_latest_commits_is_completed_from_the_objects() {
    let rig = Rig::new();
    let a = backup(rig.library(), "a", &first(), N_BLOCKS);
    let earlier = folder();
    copy_folder(&rig.dir.path().join("library"), &earlier.path().join("library"));
    let b = incremental(rig.library(), "b", (a, &first()), (&second(), N_BLOCKS));
    rig.library().delete_recovery_point(a).unwrap();
    copy_folder(&rig.dir.path().join("objects"), &earlier.path().join("objects"));
    let library = Rig::open_in(earlier.path());
    assert_eq!(restore(&library, b, "root").unwrap(), second());
    check(&library, &[(b, second())], "index of before");
}

#[test]
fn what_a_crash_left_unfinished_is_removed_at_open() {
    let mut rig = Rig::new();
    let session = open(rig.library(), &request("k", fence(1), &[("root", N_BLOCKS)]));
    rig.library().put_chunk(session, fence(1), chunk_id(1), &record(1)).unwrap();
    let unfinished = rig.dir.path().join("objects/unfinished");
    assert_eq!(std::fs::read_dir(&unfinished).unwrap().count(), 1);
    let left = folder();
    copy_folder(rig.dir.path(), left.path());
    rig.library = None;
    let library = Rig::open_in(left.path());
    assert_eq!(std::fs::read_dir(left.path().join("objects/unfinished")).unwrap().count(), 0);
    assert_eq!(library.missing_chunks(session, fence(1), &[chunk_id(1)]).unwrap(), [true]);
    drop(DiskBackend::open(left.path().join("objects")).unwrap());
}
