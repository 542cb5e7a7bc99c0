//! Snapshots that somebody else deletes, and those that retention would: the scheduler's own rounds notice the ones, a copy
//! that is on its way holds the others, and what can still be restored comes back whole. Separate processes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use snapferry_api::job::{Job, JobState, Work};
use snapferry_api::protect::{IntelliSnap, Retention, VaultTo};
use snapferry_api::recovery_point::SnapshotsState;
use snapferry_api::restore::RestoreFrom;
use snapferry_aws::ec2;
use snapferry_testkit::eventually;
use snapferry_tests::breaking::{has_met, reads};
use snapferry_tests::{
    ACCOUNT, CommandLine, ELSEWHERE, Rig, RigOptions, TestInstance, VOLUMES, says, vault, write_data,
};
use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::{RecoveryPointId, TaskState, TransportWish, VolumeId};

const BOUND: Duration = Duration::from_secs(60);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_round_of_the_scheduler_notices_what_was_deleted_and_everybody_is_told() {
    let options = RigOptions { n_agents: 1, reconcile_ms: Some(500), ..RigOptions::default() };
    let rig = Rig::start(options).await.unwrap();
    let shell = CommandLine { server: rig.api_url(), token: None };
    let instances = ["one", "two"].map(|name| TestInstance::place(rig.sim.context(), name, 3).unwrap());
    let (lost, kept) = (snapped(&rig, &instances[0]).await, snapped(&rig, &instances[1]).await);
    let lost_volume: VolumeId = instances[0].volumes[1].parse().unwrap();
    rig.delete_snapshots(|one| one.volume.as_ref() == Some(&lost_volume)).await.unwrap();
    let before = rig.client.recovery_point(kept).await.unwrap();
    let state = async |point| rig.client.recovery_point(point).await.unwrap().summary.snapshots;
    let is_noticed = || async { state(lost).await == SnapshotsState::Missing };
    eventually(BOUND, "it is noticed", is_noticed).await.unwrap();
    assert_eq!(before.summary.snapshots, SnapshotsState::Kept);
    assert_eq!(rig.client.recovery_point(kept).await.unwrap(), before, "nobody touched it");
    let volumes = rig.client.recovery_point(lost).await.unwrap().volumes;
    for volume in &volumes {
        assert_eq!(volume.snapshot_kept, volume.id.as_str() == instances[0].volumes[0], "{volumes:#?}");
    }

    let listed = shell.succeed(&["recovery-point", "list"]).await.unwrap();
    for (point, word) in [(lost, "MISSING"), (kept, "kept")] {
        let line = listed.lines().find(|line| line.contains(&point.to_string())).unwrap();
        assert!(line.split_whitespace().any(|cell| cell == word), "{line}");
        let id = point.to_string();
        let shown = shell.succeed(&["recovery-point", "show", &id]).await.unwrap();
        let line = shown.lines().find(|line| line.starts_with("snapshots ")).unwrap();
        assert!(line.ends_with(word), "{shown}");
        let shown = shell.json(&["recovery-point", "show", &id]).await.unwrap();
        assert_eq!(shown["snapshots"], word.to_lowercase());
        let n_kept = shown["volumes"].as_array().unwrap().iter().filter(|one| one["snapshot_kept"] == true);
        assert_eq!(n_kept.count(), if point == kept { 2 } else { 1 }, "{shown:#}");
        let all = shell.json(&["recovery-point", "list"]).await.unwrap();
        let one = all.as_array().unwrap().iter().find(|one| one["id"] == id.as_str()).unwrap();
        assert_eq!(one["snapshots"], word.to_lowercase());
    }
    let holdings = rig.holdings();
    let n_jobs = rig.client.jobs(&Default::default()).await.unwrap().items.len();
    let id = lost.to_string();
    let refused = shell.run(&["restore", "volumes", &id, "--from", "snapshot"]).await.unwrap();
    assert_eq!(refused.code, 2, "{refused:#?}");
    let reason = format!(
        "the snapshots of {} were deleted, and neither a vault nor a MediaAgent has copies of them: only {} can be",
        instances[0].volumes[1], instances[0].volumes[0]
    );
    assert!(refused.stderr.contains(&id) && refused.stderr.contains(&reason), "{refused:#?}");
    assert_eq!(rig.calls("ec2", "CreateVolume"), 0, "{refused:#?}");
    assert_eq!(rig.holdings(), holdings, "something was made");
    assert_eq!(rig.client.jobs(&Default::default()).await.unwrap().items.len(), n_jobs, "there is a job");
    let whole =
        rig.restore_with(kept, RestoreFrom::Snapshot, VOLUMES, TransportWish::Automatic, None).await.unwrap();
    let whole = rig.succeed(whole).await.unwrap();
    instances[1].check(rig.sim.context(), &whole, &instances[1].content(rig.sim.context()).unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_in_a_vault_that_were_deleted_are_told_apart_from_the_snapshots() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let shell = CommandLine { server: rig.api_url(), token: None };
    let instance = TestInstance::place(rig.sim.context(), "one", 3).unwrap();
    let to = Some(vault(VaultTo::Tenant, Some(ELSEWHERE)));
    let job = rig.succeed(rig.snap(&instance.id, to).await.unwrap()).await.unwrap();
    let point = Rig::recovery_point(&job).unwrap();
    let place = format!("{ACCOUNT}/{ELSEWHERE}");
    let is = async |own: SnapshotsState, copies: SnapshotsState, word: &str| {
        let now = rig.client.recovery_point(point).await.unwrap();
        assert_eq!(now.summary.snapshots, own);
        let [vault] = now.vaults.as_slice() else { panic!("{now:#?}") };
        assert_eq!((format!("{}/{}", vault.account, vault.region), vault.snapshots), (place.clone(), copies));
        let shown = shell.succeed(&["recovery-point", "show", &point.to_string()]).await.unwrap();
        assert!(shown.contains(&format!("{place} {word}")), "{shown}");
    };
    is(SnapshotsState::Kept, SnapshotsState::Kept, "kept").await;
    let far = rig.owner(ACCOUNT, ELSEWHERE).await.unwrap();
    let copy = rig.snapshots_of(ACCOUNT, ELSEWHERE).await.unwrap().remove(0);
    ec2::delete_snapshot(&far, &copy.snapshot).await.unwrap();
    rig.client.reconcile(rig.tenant).await.unwrap();
    is(SnapshotsState::Kept, SnapshotsState::Missing, "MISSING").await;
    rig.lose_snapshots(|_| true).await.unwrap();
    is(SnapshotsState::Missing, SnapshotsState::Missing, "MISSING").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_base_was_deleted_outside_reads_in_full_and_says_so() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", DATA_MIB).unwrap();
    let copied =
        async |point| rig.succeed(rig.copy_by(point, TransportWish::EbsDirect).await.unwrap()).await.unwrap();
    let first = snapped(&rig, &instance).await;
    let mut last = Rig::recovery_point(&copied(first).await).unwrap();
    // Nobody has noticed; then it was noticed.
    for is_noticed in [false, true] {
        rig.delete_snapshots(|_| true).await.unwrap();
        if is_noticed {
            let found = rig.client.reconcile(rig.tenant).await.unwrap();
            assert_eq!(
                found.missing.len(),
                2 * instance.volumes.len(),
                "of this round and of the last: {found:?}"
            );
        }
        write_data(&sim, &instance.volumes[0], 4, 2, 9 + u64::from(is_noticed)).unwrap();
        let content = instance.content(&sim).unwrap();
        let point = snapped(&rig, &instance).await;
        let job = copied(point).await;
        let bytes_read = job.tasks[0].progress.bytes_read;
        assert!(bytes_read >= (2 * DATA_MIB) << 20, "{bytes_read} bytes were read: {job:#?}");
        if is_noticed {
            let words =
                format!("read in full: the snapshots that {last} was read from do not exist any more");
            assert!(says(&job, &words), "{job:#?}");
        } else {
            let notes = || job.tasks.iter().flat_map(|task| &task.notes).filter(|note| note.warning);
            for volume in &instance.volumes {
                let said =
                    notes().any(|one| one.text.contains(volume) && one.text.ends_with("reading it in full"));
                assert!(said, "{volume}: {job:#?}");
            }
        }
        last = Rig::recovery_point(&job).unwrap();
        let restored = rig.restore_copy(last).await.unwrap();
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
    let running = rig.client.job(copy).await.unwrap();
    let task = &running.tasks[0];
    assert_eq!(
        (task.state, task.attempts),
        (TaskState::Running, 1),
        "it is not copied any more: {running:#?}"
    );
    let by_hand = by_hand.to_string();
    assert!(by_hand.contains("is held") && by_hand.contains(&task.id.to_string()), "{by_hand}");
    assert_eq!(rig.count("snapshots"), 2 * 3, "of the one that is held, and of the last two");

    // Also while it is not at work.
    rig.client.suspend_job(copy).await.unwrap();
    let is_suspended = |job: &Job| job.summary.state == JobState::Suspended;
    rig.wait(copy, "it is suspended", is_suspended).await.unwrap();
    let by_hand = rig.client.delete_recovery_point(held).await.expect_err("it is to be copied").to_string();
    assert!(by_hand.contains("is held") && by_hand.contains(&task.id.to_string()), "{by_hand}");
    rig.let_go();
    rig.client.resume_job(copy).await.unwrap();
    let done = rig.succeed(copy).await.unwrap();
    assert_eq!(done.tasks[0].attempts, 1, "{done:#?}");
    let only_last = || async {
        let mut points = points().await;
        points.sort_unstable();
        let mut expected = vec![later, last];
        expected.sort_unstable();
        points == expected
    };
    eventually(BOUND, "it goes when it is copied", only_last).await.unwrap();
    rig.left(2 * 2, 2 * 2).await.unwrap();
    let restored = rig.restore_copy(Rig::recovery_point(&done).unwrap()).await.unwrap();
    instances[0].check(&sim, &restored, &content).unwrap();
}
