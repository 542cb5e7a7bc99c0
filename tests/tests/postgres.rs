//! The scheduler's state in a real PostgreSQL: a crash in the middle of a job, and all that comes after it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use snapferry_tests::{Rig, RigOptions, TestInstance, write_data};

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_killed_in_mid_transfer_goes_on_from_its_postgres() {
    let mut rig = Rig::start(RigOptions { postgres: true, ..RigOptions::default() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 60).unwrap();
    let before = instance.content(&sim).unwrap();
    let id = rig.held_backup(&instance.id).await.unwrap();
    rig.scheduler.kill9().unwrap();
    assert!(rig.client.health().await.is_err(), "the scheduler was not killed");
    rig.restart_scheduler().await.unwrap();
    let under = rig.client.job(id).await.unwrap();
    assert!(!under.summary.state.is_terminal(), "the job had ended before the scheduler was back");
    rig.let_go();
    let first = rig.succeed(id).await.unwrap();
    assert_eq!(rig.calls("ec2", "CreateSnapshots"), 1, "the snapshots were made again");

    write_data(&sim, &instance.volumes[0], 4, 2, 99).unwrap();
    let after = instance.content(&sim).unwrap();
    let second = rig.succeed(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    let read: u64 = second.tasks.iter().map(|task| task.progress.bytes_read).sum();
    assert!(read > 0 && read <= 3 << 20, "an incremental read {read} bytes for 2 MiB of changes");
    for (job, content) in [(&first, &before), (&second, &after)] {
        let restore = rig.restore(Rig::recovery_point(job).unwrap()).await.unwrap();
        let restored = rig.succeed(restore).await.unwrap();
        instance.check(&sim, &restored, content).unwrap();
    }
    rig.left(2, 6).await.unwrap();
    assert!(!rig.dir.join("scheduler.db").exists(), "the state was kept in a file");
}
