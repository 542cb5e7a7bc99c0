//! Snapshots that somebody else deletes, and those that retention would: the scheduler's own rounds notice the ones, a copy
//! that is on its way holds the others, and what can still be restored comes back whole. Separate processes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use snapferry_api::job::Work;
use snapferry_api::protect::{IntelliSnap, Retention};
use snapferry_api::recovery_point::SnapshotsState;
use snapferry_api::restore::{RestoreFrom, RestoreTarget};
use snapferry_aws::ec2;
use snapferry_testkit::eventually;
use snapferry_tests::breaking::{has_met, reads};
use snapferry_tests::{ACCOUNT, CommandLine, REGION, Rig, RigOptions, TestInstance, says, write_data};
use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::{RecoveryPointId, TransportWish, VolumeId};

const BOUND: Duration = Duration::from_secs(60);
const VOLUMES: RestoreTarget = RestoreTarget::Volumes { availability_zone: None, attach: None };
/// Data of each of an instance's two volumes.
const DATA_MIB: u64 = 20;

async fn snapped(rig: &Rig, instance: &TestInstance) -> RecoveryPointId {
    let job = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
    Rig::recovery_point(&job).unwrap()
}

/// As [`snapped`], to be kept until the next one is there.
async fn snapped_for_now(rig: &Rig, instance: &TestInstance) -> RecoveryPointId {
    let work = Work::IntelliSnap(IntelliSnap {
        hypervisor: rig.tenant,
        instances: vec![instance.id.clone()],
        region: None,
        vault: None,
        retention: Some(Retention { days: None, last: Some(1) }),
    });
    let job = rig.succeed(rig.submit(work).await.unwrap()).await.unwrap();
    Rig::recovery_point(&job).unwrap()
}

/// Deletes the snapshots of a volume, or of all of the tenant's, as somebody with its credentials could.
async fn delete_outside(rig: &Rig, of: Option<&str>) {
    let outsider = rig.outsider().await.unwrap();
    let of: Option<VolumeId> = of.map(|volume| volume.parse().unwrap());
    let all = rig.snapshots_of(ACCOUNT, REGION).await.unwrap().into_iter();
    let meant: Vec<_> = all.filter(|one| of.is_none() || one.volume == of).collect();
    assert!(!meant.is_empty());
    for one in meant {
        ec2::delete_snapshot(&outsider, &one.snapshot).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_of_the_scheduler_notices_what_was_deleted_and_everybody_is_told() {
    let options = RigOptions { n_agents: 1, reconcile_ms: Some(500), ..RigOptions::default() };
    let rig = Rig::start(options).await.unwrap();
    let shell = CommandLine { server: rig.api_url(), token: None };
    let instances = ["one", "two"].map(|name| TestInstance::place(rig.sim.context(), name, 3).unwrap());
    let (lost, kept) = (snapped(&rig, &instances[0]).await, snapped(&rig, &instances[1]).await);
    delete_outside(&rig, Some(&instances[0].volumes[1])).await;
    let state = async |point| rig.client.recovery_point(point).await.unwrap().summary.snapshots;
    let is_noticed = || async { state(lost).await == SnapshotsState::Missing };
    eventually(BOUND, "it is noticed", is_noticed).await.unwrap();
    assert_eq!(state(kept).await, SnapshotsState::Kept);

    let listed = shell.succeed(&["recovery-point", "list"]).await.unwrap();
    for (point, word) in [(lost, "MISSING"), (kept, "kept")] {
        let line = listed.lines().find(|line| line.contains(&point.to_string())).unwrap();
        assert!(line.contains(word), "{line}");
        let id = point.to_string();
        let shown = shell.succeed(&["recovery-point", "show", &id]).await.unwrap();
        let line = shown.lines().find(|line| line.starts_with("snapshots ")).unwrap();
        assert!(line.ends_with(word), "{shown}");
        let shown = shell.json(&["recovery-point", "show", &id]).await.unwrap();
        assert_eq!(shown["snapshots"], word.to_lowercase());
    }
    let (id, from) = (lost.to_string(), ["--from", "snapshot"]);
    let refused = shell.run(&[&["restore", "volumes", &id][..], &from].concat()).await.unwrap();
    assert!(refused.code != 0 && refused.stderr.contains(&id), "{refused:#?}");
    let made = rig.calls("ec2", "CreateVolume");
    assert_eq!(made, 0, "{refused:#?}");
    let whole =
        rig.restore_with(kept, RestoreFrom::Snapshot, VOLUMES, TransportWish::Automatic, None).await.unwrap();
    rig.succeed(whole).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_base_was_deleted_outside_reads_in_full_and_says_so() {
    let rig = Rig::start(RigOptions { n_agents: 1, ..RigOptions::default() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", DATA_MIB).unwrap();
    let copied =
        async |point| rig.succeed(rig.copy_by(point, TransportWish::EbsDirect).await.unwrap()).await.unwrap();
    let first = snapped(&rig, &instance).await;
    copied(first).await;
    // Nobody has noticed; then it was noticed.
    for is_noticed in [false, true] {
        delete_outside(&rig, None).await;
        if is_noticed {
            rig.client.reconcile(rig.tenant).await.unwrap();
        }
        write_data(&sim, &instance.volumes[0], 4, 2, 9 + u64::from(is_noticed)).unwrap();
        let content = instance.content(&sim).unwrap();
        let point = snapped(&rig, &instance).await;
        let job = copied(point).await;
        let bytes_read = job.tasks[0].progress.bytes_read;
        assert!(bytes_read >= (2 * DATA_MIB) << 20, "{bytes_read} bytes were read: {job:#?}");
        assert!(says(&job, "in full"), "noticed before: {is_noticed}: {job:#?}");
        let restored = rig.restore_copy(Rig::recovery_point(&job).unwrap()).await.unwrap();
        instance.check(&sim, &restored, &content).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_copied_is_held_whatever_its_retention_says() {
    let rig = Rig::start(RigOptions { n_agents: 1, slots: 2, ..RigOptions::default() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let instances = ["one", "two"].map(|name| TestInstance::place(&sim, name, DATA_MIB).unwrap());
    let content = instances[0].content(&sim).unwrap();
    let [held, other] =
        [snapped_for_now(&rig, &instances[0]).await, snapped_for_now(&rig, &instances[1]).await];
    rig.hold_reads(20);
    let copy = rig.copy_by(held, TransportWish::EbsDirect).await.unwrap();
    has_met(&rig, 1, "blocks are copied").await;
    rig.wait(copy, "blocks are copied", reads).await.unwrap();

    // Both may go now; the second that does shows that a round has passed over the first.
    let later = snapped_for_now(&rig, &instances[0]).await;
    let last = snapped_for_now(&rig, &instances[1]).await;
    let points = async || {
        let points = rig.points(RecoveryPointKind::Snapshot).await.unwrap();
        points.into_iter().map(|point| point.id).collect::<Vec<_>>()
    };
    eventually(BOUND, "the other goes", || async { !points().await.contains(&other) }).await.unwrap();
    assert!(points().await.contains(&held), "it went while it was copied");
    let by_hand = rig.client.delete_recovery_point(held).await.expect_err("it is being copied");
    assert!(format!("{by_hand:#}").contains("is held"), "{by_hand:#}");
    assert_eq!(rig.count("snapshots"), 2 * 3, "of the one that is held, and of the last two");

    rig.let_go();
    let done = rig.succeed(copy).await.unwrap();
    let only_last = || async {
        let mut points = points().await;
        points.sort_unstable();
        let mut expected = vec![later, last];
        expected.sort_unstable();
        points == expected
    };
    eventually(BOUND, "it goes when it is copied", only_last).await.unwrap();
    let restored = rig.restore_copy(Rig::recovery_point(&done).unwrap()).await.unwrap();
    instances[0].check(&sim, &restored, &content).unwrap();
}
