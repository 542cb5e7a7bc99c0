//! Faults on the side of the MediaAgent: a full disk, a damaged pack.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;

use snapferry_tests::{Rig, RigOptions, TestInstance, write_data};
use snapferry_types::{TaskState, TransportWish};

/// Turns over a bit in the middle of every pack of at least 256 KiB; answers how many.
fn damage(folder: &Path) -> usize {
    let mut n_damaged = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            n_damaged += damage(&path);
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        if bytes.len() >= 256 << 10 {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            n_damaged += 1;
        }
    }
    n_damaged
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_fails_the_restore_and_names_the_recovery_points() {
    let rig = Rig::start(RigOptions { n_agents: 1, ..RigOptions::default() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let hit = TestInstance::place(&sim, "hit", 10).unwrap();
    let hit_job = rig.succeed(rig.back_up(&hit.id).await.unwrap()).await.unwrap();
    let touched = Rig::recovery_point(&hit_job).unwrap();
    assert!(damage(&rig.dir.join("library/objects/packs")) > 0, "there is no pack to damage");
    // Stored after the damage, and nothing of it is the same.
    let whole = TestInstance::place(&sim, "whole", 0).unwrap();
    for (n, volume) in whole.volumes.iter().enumerate() {
        write_data(&sim, volume, 1, 5, 77 + n as u64).unwrap();
    }
    let content = whole.content(&sim).unwrap();
    let whole_job = rig.succeed(rig.back_up(&whole.id).await.unwrap()).await.unwrap();
    let untouched = Rig::recovery_point(&whole_job).unwrap();
    assert_eq!((rig.count("snapshots"), rig.count("volumes")), (4, 4));

    let (job, task) = rig.fail(rig.restore(touched).await.unwrap()).await.unwrap();
    let error = task.error.unwrap();
    assert_eq!((error.class.as_str(), task.attempts), ("corrupt", 1), "{}", error.message);
    assert!(error.message.contains(&touched.to_string()), "{}", error.message);
    assert!(!error.message.contains(&untouched.to_string()), "{}", error.message);
    assert!(job.tasks[0].made.is_empty(), "{:?}", job.tasks[0].made);
    rig.left(4, 4).await.unwrap();

    let restored = rig.succeed(rig.restore(untouched).await.unwrap()).await.unwrap();
    whole.check(&sim, &restored, &content).unwrap();
    rig.left(4, 6).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_fails_every_transport_in_the_middle_and_nothing_is_left() {
    let options = RigOptions { n_agents: 1, with_service_resources: true, ..RigOptions::default() };
    let rig = Rig::start(options).await.unwrap();
    let hit = TestInstance::place(rig.sim.context(), "hit", 10).unwrap();
    let point = rig.backed_up(&hit).await.unwrap();
    assert!(damage(&rig.dir.join("library/objects/packs")) > 0, "there is no pack to damage");
    for transport in [TransportWish::EbsDirect, TransportWish::HotAdd, TransportWish::Import] {
        let (_, task) = rig.fail(rig.restore_by(point, transport, None).await.unwrap()).await.unwrap();
        let error = task.error.unwrap();
        assert_eq!((error.class.as_str(), task.attempts), ("corrupt", 1), "{}", error.message);
        assert!(error.message.contains(&point.to_string()), "{}", error.message);
        rig.only_these_are_left(2, 2).await.unwrap();
        assert_eq!(rig.n_staged(0), 0);
        // What a person sees of it: what it did, and what the agent said.
        let attempt = task.history.first().unwrap();
        assert!(attempt.phases.iter().any(|phase| phase.name == "write"), "{attempt:#?}");
        assert!(!attempt.log_excerpt.is_empty(), "{attempt:#?}");
    }
    let made = [rig.calls("ebs", "StartSnapshot"), rig.calls("ec2", "CreateVolume")];
    assert!(made.iter().all(|n| *n > 0), "nothing had been made that could be left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_makes_the_task_wait_and_go_on_where_it_was() {
    let options = RigOptions { n_agents: 1, library_mib: Some(64), ..RigOptions::default() };
    let rig = Rig::start(options).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 60).unwrap();
    let content = instance.content(&sim).unwrap();
    let id = rig.back_up(&instance.id).await.unwrap();
    let waiting = rig
        .wait(id, "the disk is full", |job| {
            let error = job.tasks[0].error.as_ref();
            error.is_some_and(|error| error.class == "storage_full")
        })
        .await
        .unwrap();
    // It waits, or its wait is over already: it is tried again all the same.
    let goes_on = [TaskState::RetryWait, TaskState::Ready, TaskState::Dispatched, TaskState::Running];
    assert!(goes_on.contains(&waiting.tasks[0].state), "{:?}", waiting.tasks[0]);
    let message = &waiting.tasks[0].error.as_ref().unwrap().message;
    assert!(message.contains("free"), "{message}");
    assert_eq!(rig.count("snapshots"), 2, "what was begun is kept");
    rig.disk.as_ref().unwrap().resize(512).unwrap();

    let job = rig.succeed(id).await.unwrap();
    let task = &job.tasks[0];
    assert!(task.attempts >= 2);
    let progress = &task.progress;
    assert!(progress.blocks_deduplicated > 0, "nothing of the first attempt was kept: {progress:?}");
    assert!(progress.bytes_sent < 110 << 20, "the last attempt sent everything anew: {progress:?}");
    assert_eq!(rig.calls("ec2", "CreateSnapshots"), 1);
    let restored = rig.succeed(rig.restore(Rig::recovery_point(&job).unwrap()).await.unwrap()).await.unwrap();
    instance.check(&sim, &restored, &content).unwrap();
    rig.left(2, 4).await.unwrap();
}
