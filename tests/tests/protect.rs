//! IntelliSnap backup, vaults and backup copy with the real processes: what they make, what they leave, and what kills
//! and cancels do to them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use awssim::faults::{Behaviour, Effect, Rule};
use awssim::world::KeyState;
use snapferry_api::hypervisor::ReadAs;
use snapferry_api::job::JobState;
use snapferry_api::protect::{Vault, VaultTo};
use snapferry_testkit::eventually;
use snapferry_tests::{
    ACCOUNT, ELSEWHERE, REGION, Rig, RigOptions, SERVICE, TestInstance, vault, write_data,
};
use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::ledger::{TAG_DEPLOYMENT, TAG_PURPOSE};
use snapferry_types::{RecoveryPointId, TaskState};

const BOUND: Duration = Duration::from_secs(60);

/// How many snapshots the service account has.
fn of_service(rig: &Rig) -> usize {
    rig.sim.context().world.inventory(Some(SERVICE)).get("snapshots").map_or(0, Vec::len)
}

async fn snapped(rig: &Rig, instance: &TestInstance, vault: Option<Vault>) -> RecoveryPointId {
    let job = rig.succeed(rig.snap(&instance.id, vault).await.unwrap()).await.unwrap();
    Rig::recovery_point(&job).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intellisnap_backup_is_its_snapshots_and_leaves_nothing_else() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 5).unwrap();
    let job = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
    let id = Rig::recovery_point(&job).unwrap();
    assert_eq!(id.as_u128(), job.tasks[0].id.as_u128(), "the id does not follow from the task");
    let points = rig.points(RecoveryPointKind::Snapshot).await.unwrap();
    assert_eq!(points.iter().map(|point| point.id).collect::<Vec<_>>(), [id]);
    assert_eq!((points[0].n_volumes, points[0].logical_bytes), (2, 2 << 30));

    let states = rig.snapshots_of(ACCOUNT, REGION).await.unwrap();
    assert_eq!(states.len(), 2);
    for state in &states {
        let tag = |key: &str| state.tags.iter().find(|tag| tag.key == key).map(|tag| tag.value.as_str());
        assert_eq!((tag(TAG_PURPOSE), tag(TAG_DEPLOYMENT)), (Some("recovery_point"), Some("test")));
        assert!(tag("cost-centre").is_some(), "the volume's tags did not come along: {:?}", state.tags);
    }
    rig.left(2, 2).await.unwrap();
    rig.shared_with(0).await.unwrap();
    assert_eq!(of_service(&rig), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_full_and_the_next_one_reads_what_changed_and_both_come_back() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 20).unwrap();
    let before = instance.content(&sim).unwrap();
    let first = snapped(&rig, &instance, None).await;
    write_data(&sim, &instance.volumes[0], 4, 2, 99).unwrap();
    let after = instance.content(&sim).unwrap();
    let second = snapped(&rig, &instance, None).await;

    let full = rig.succeed(rig.copy(first).await.unwrap()).await.unwrap();
    let changed = rig.succeed(rig.copy(second).await.unwrap()).await.unwrap();
    assert!(full.tasks[0].progress.bytes_read >= 40 << 20, "{:?}", full.tasks[0].progress);
    assert!(full.tasks[0].progress.bytes_stored >= 40 << 20, "{:?}", full.tasks[0].progress);
    let bytes_read = changed.tasks[0].progress.bytes_read;
    assert!(bytes_read <= 3 << 20, "an incremental read {bytes_read} bytes for 2 MiB of changes");
    let copies = rig.points(RecoveryPointKind::Copy).await.unwrap();
    let mut sources: Vec<_> = copies.iter().filter_map(|copy| copy.copy_of).collect();
    sources.sort();
    let mut expected = vec![first, second];
    expected.sort();
    assert_eq!(sources, expected);
    // Both recovery points keep their snapshots, and the copies have made none.
    rig.left(4, 2).await.unwrap();
    rig.shared_with(0).await.unwrap();

    for (job, content) in [(&full, &before), (&changed, &after)] {
        let restored = rig.restore_copy(Rig::recovery_point(job).unwrap()).await.unwrap();
        instance.check(&sim, &restored, content).unwrap();
    }
    rig.left(4, 6).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_the_service_account_reads_takes_its_shares_back() {
    let rig = Rig::start(RigOptions { read_as: ReadAs::Service, ..RigOptions::one_agent() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 5).unwrap();
    let first = snapped(&rig, &instance, None).await;
    rig.succeed(rig.copy(first).await.unwrap()).await.unwrap();
    write_data(&sim, &instance.volumes[0], 2, 1, 99).unwrap();
    let second = snapped(&rig, &instance, None).await;
    let job = rig.succeed(rig.copy(second).await.unwrap()).await.unwrap();
    let bytes_read = job.tasks[0].progress.bytes_read;
    assert!(bytes_read <= 2 << 20, "an incremental read {bytes_read} bytes for 1 MiB of changes");
    let counters = sim.faults.counters();
    let readers = counters.calls.iter().filter(|count| count.action == "GetSnapshotBlock");
    assert!(readers.map(|count| count.account.as_str()).eq([SERVICE]), "{counters:#?}");
    rig.shared_with(0).await.unwrap();
    rig.left(4, 2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_is_another_region_a_share_or_a_copy_of_the_service_account() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 5).unwrap();

    let away = snapped(&rig, &instance, Some(vault(VaultTo::Tenant, Some(ELSEWHERE)))).await;
    assert_eq!(rig.snapshots_of(ACCOUNT, REGION).await.unwrap().len(), 2);
    let copies = rig.snapshots_of(ACCOUNT, ELSEWHERE).await.unwrap();
    assert_eq!(copies.len(), 2);
    for copy in &copies {
        assert!(copy.tags.iter().any(|tag| tag.key == TAG_PURPOSE && tag.value == "vault"), "{copy:?}");
        assert!(copy.tags.iter().any(|tag| tag.key == "cost-centre"), "{copy:?}");
    }
    rig.succeed(rig.client.delete_recovery_point(away).await.unwrap().summary.id).await.unwrap();
    rig.left(0, 2).await.unwrap();

    let shared = snapped(&rig, &instance, Some(vault(VaultTo::ServiceShare, None))).await;
    rig.shared_with(1).await.unwrap();
    rig.left(2, 2).await.unwrap();
    assert_eq!(of_service(&rig), 0);
    // A copy that is read as the tenant has nothing to do with the share.
    rig.succeed(rig.copy(shared).await.unwrap()).await.unwrap();
    rig.shared_with(1).await.unwrap();
    rig.succeed(rig.client.delete_recovery_point(shared).await.unwrap().summary.id).await.unwrap();
    rig.left(0, 2).await.unwrap();

    let copied = snapped(&rig, &instance, Some(vault(VaultTo::ServiceCopy, Some(ELSEWHERE)))).await;
    assert_eq!(rig.snapshots_of(SERVICE, ELSEWHERE).await.unwrap().len(), 2);
    rig.shared_with(0).await.unwrap();
    rig.left(2, 2).await.unwrap();
    rig.succeed(rig.client.delete_recovery_point(copied).await.unwrap().summary.id).await.unwrap();
    rig.left(0, 2).await.unwrap();
    assert_eq!(of_service(&rig), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_aws_managed_key_encrypts_is_not_shared_and_that_is_said_before_anything_is_made() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let world = &rig.sim.context().world;
    let instance = TestInstance::place(rig.sim.context(), "one", 5).unwrap();
    let managed = world.managed_key(ACCOUNT, REGION);
    assert!(world.encrypt(&instance.volumes[0], &managed));
    for to in [VaultTo::ServiceShare, VaultTo::ServiceCopy] {
        let (_, task) = rig.fail(rig.snap(&instance.id, Some(vault(to, None))).await.unwrap()).await.unwrap();
        let error = task.error.unwrap();
        assert_eq!((error.class.as_str(), task.attempts), ("invalid", 1), "{}", error.message);
        assert!(error.message.contains("AWS-managed key"), "{}", error.message);
        assert!(error.message.contains(&instance.volumes[0]), "{}", error.message);
        let way = "transit_kms_key_id of the agents";
        assert_eq!(error.message.contains(way), to == VaultTo::ServiceCopy, "{}", error.message);
    }
    assert_eq!(rig.calls("ec2", "CreateSnapshots"), 0);
    rig.left(0, 2).await.unwrap();
    snapped(&rig, &instance, None).await;
    rig.left(2, 2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_under_a_key_that_cannot_be_used_fails_with_the_key_and_leaves_nothing() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let world = &rig.sim.context().world;
    let instance = TestInstance::place(rig.sim.context(), "one", 5).unwrap();
    // A key of the tenant whose policy lets nobody else use it.
    let key = world.create_key(ACCOUNT, REGION, None);
    let wanted = Vault { kms_key_id: Some(key.clone()), ..vault(VaultTo::ServiceCopy, None) };
    let (_, task) = rig.fail(rig.snap(&instance.id, Some(wanted)).await.unwrap()).await.unwrap();
    let error = task.error.unwrap();
    assert!(error.message.contains(&key), "{}", error.message);
    rig.left(0, 2).await.unwrap();
    assert_eq!(of_service(&rig), 0);
    assert_eq!(rig.points(RecoveryPointKind::Snapshot).await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_fails_after_aws_took_it_is_named_with_its_key_and_leaves_nothing() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let world = &rig.sim.context().world;
    let instance = TestInstance::place(rig.sim.context(), "one", 5).unwrap();
    for (to, account) in [(VaultTo::Tenant, ACCOUNT), (VaultTo::ServiceCopy, SERVICE)] {
        let key = world.create_key(account, ELSEWHERE, None);
        let wanted = Vault { kms_key_id: Some(key.clone()), ..vault(to, Some(ELSEWHERE)) };
        // All that was asked beforehand had a good answer.
        rig.hurt(Rule::new(Effect::Hang { seconds: None }).on("ec2", "CopySnapshot"));
        let id = rig.snap(&instance.id, Some(wanted)).await.unwrap();
        eventually(BOUND, "both copies are asked for", || async { rig.fired() == 2 }).await.unwrap();
        assert!(world.set_key_state(&key, KeyState::Disabled));
        rig.let_go();
        let (_, task) = rig.fail(id).await.unwrap();
        let error = task.error.unwrap();
        assert_eq!((error.class.as_str(), task.attempts), ("invalid", 1), "{}", error.message);
        let is_named = instance.volumes.iter().any(|volume| error.message.contains(volume));
        assert!(is_named && error.message.contains("copy snap-"), "{}", error.message);
        for word in [key.as_str(), ELSEWHERE, account, "ended as error", "not accessible"] {
            assert!(error.message.contains(word), "{word} is not in: {}", error.message);
        }
        rig.left(0, 2).await.unwrap();
        assert_eq!(of_service(&rig), 0);
        assert_eq!(rig.points(RecoveryPointKind::Snapshot).await.unwrap().len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_in_mid_copy_is_followed_by_another_that_goes_on() {
    let mut rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 150).unwrap();
    let content = instance.content(&sim).unwrap();
    let source = snapped(&rig, &instance, None).await;
    rig.hold_reads(20);
    let id = rig.copy(source).await.unwrap();
    rig.wait(id, "blocks are being read", |job| {
        job.tasks.iter().any(|task| task.progress.bytes_read > 0 && task.state == TaskState::Running)
    })
    .await
    .unwrap();
    rig.agents[0].kill9().unwrap();
    rig.add_agent().unwrap();
    rig.let_go();
    let job = rig.succeed(id).await.unwrap();
    assert_eq!(job.tasks[0].attempts, 2, "the first attempt was not interrupted");
    assert_eq!(rig.points(RecoveryPointKind::Copy).await.unwrap().len(), 1);
    let restored = rig.restore_copy(Rig::recovery_point(&job).unwrap()).await.unwrap();
    instance.check(&sim, &restored, &content).unwrap();
    rig.left(2, 4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_while_a_vault_is_filled_is_followed_by_another_that_makes_nothing_twice() {
    let mut rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 20).unwrap();
    for (to, region) in [(VaultTo::ServiceCopy, None), (VaultTo::Tenant, Some(ELSEWHERE))] {
        let (before, of_service_before) = (rig.count("snapshots"), of_service(&rig));
        let faults = &rig.sim.context().faults;
        faults.set_behaviour(Behaviour { copy_millis: 8_000, ..Behaviour::default() });
        let id = rig.snap(&instance.id, Some(vault(to, region))).await.unwrap();
        let n_made = |rig: &Rig| rig.count("snapshots") - before + of_service(rig) - of_service_before;
        eventually(BOUND, "snapshots and copies are there", || async { n_made(&rig) == 4 }).await.unwrap();
        let now = rig.client.job(id).await.unwrap();
        assert_eq!(now.tasks[0].state, TaskState::Running, "it ended before the kill");
        let last = rig.agents.len() - 1;
        rig.agents[last].kill9().unwrap();
        rig.add_agent().unwrap();
        let job = rig.succeed(id).await.unwrap();
        assert_eq!(job.tasks[0].attempts, 2);
        assert_eq!(n_made(&rig), 4, "something was made twice, or is gone");
        rig.shared_with(0).await.unwrap();
        let point = Rig::recovery_point(&job).unwrap();
        rig.succeed(rig.client.delete_recovery_point(point).await.unwrap().summary.id).await.unwrap();
        assert_eq!((rig.count("snapshots"), of_service(&rig)), (before, of_service_before));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_leaves_nothing() {
    let rig = Rig::start(RigOptions { read_as: ReadAs::Service, ..RigOptions::one_agent() }).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 60).unwrap();
    // The copies stay pending for longer than the test may take.
    let faults = &rig.sim.context().faults;
    faults.set_behaviour(Behaviour { copy_millis: 600_000, ..Behaviour::default() });
    let id = rig.snap(&instance.id, Some(vault(VaultTo::ServiceCopy, None))).await.unwrap();
    eventually(BOUND, "it is copied", || async { of_service(&rig) == 2 }).await.unwrap();
    rig.client.cancel_job(id).await.unwrap();
    let job = rig.wait(id, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap();
    assert_eq!(job.summary.state, JobState::Cancelled, "{job:#?}");
    rig.left(0, 2).await.unwrap();
    assert_eq!(of_service(&rig), 0);

    let source = snapped(&rig, &instance, None).await;
    rig.hold_reads(20);
    let id = rig.copy(source).await.unwrap();
    rig.wait(id, "blocks are being read", |job| job.tasks.iter().any(|task| task.progress.bytes_read > 0))
        .await
        .unwrap();
    rig.client.cancel_job(id).await.unwrap();
    let job = rig.wait(id, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap();
    assert_eq!(job.summary.state, JobState::Cancelled, "{job:#?}");
    // The recovery point is as it was before the copy.
    rig.left(2, 2).await.unwrap();
    rig.shared_with(0).await.unwrap();
    assert_eq!(rig.points(RecoveryPointKind::Copy).await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_what_somebody_deleted_fails_at_once_and_names_it() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 5).unwrap();
    let source = snapped(&rig, &instance, None).await;
    assert_eq!(rig.delete_all_snapshots().await.unwrap(), 2);
    let (_, task) = rig.fail(rig.copy(source).await.unwrap()).await.unwrap();
    let error = task.error.unwrap();
    assert_eq!((error.class.as_str(), task.attempts), ("not_found", 1));
    assert!(error.message.contains("lost its snapshots"), "{}", error.message);
    for volume in &instance.volumes {
        assert!(error.message.contains(volume), "{}", error.message);
    }
}
