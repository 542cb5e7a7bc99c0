//! Restores from copies in a vault, when somebody has deleted the snapshots that they are of: every byte comes back, the
//! copies stay, and nothing else does.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::time::Duration;

use snapferry_api::job::{Job, JobState};
use snapferry_api::protect::{Vault, VaultTo};
use snapferry_api::restore::{RestoreFrom, RestoreTarget};
use snapferry_aws::ec2;
use snapferry_testkit::eventually;
use snapferry_tests::{
    ACCOUNT, ELSEWHERE, REGION, RESTORABLE, Rig, RigOptions, SERVICE, TestInstance, VOLUMES, key_for_both,
    says, vault, write_data, write_raw_image,
};
use snapferry_types::instance::OsFamily;
use snapferry_types::{ImageFormat, RecoveryPointId, TaskState, TransportWish};

async fn snapped(rig: &Rig, instance: &TestInstance, vault: Vault) -> RecoveryPointId {
    let job = rig.succeed(rig.snap(&instance.id, Some(vault)).await.unwrap()).await.unwrap();
    Rig::recovery_point(&job).unwrap()
}

async fn restored(rig: &Rig, point: RecoveryPointId, target: RestoreTarget, transport: TransportWish) -> Job {
    let job = rig.restore_with(point, RestoreFrom::Automatic, target, transport, None).await.unwrap();
    rig.succeed(job).await.unwrap()
}

/// Ids of all snapshots of both accounts.
fn all_snapshots(rig: &Rig) -> BTreeSet<String> {
    let of =
        |account| rig.sim.context().world.inventory(Some(account)).remove("snapshots").unwrap_or_default();
    [ACCOUNT, SERVICE].into_iter().flat_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_comes_back_from_another_region_and_from_the_service_account() {
    let rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let plain = TestInstance::place(&sim, RESTORABLE, 8).unwrap();
    let key = sim.world.create_key(ACCOUNT, REGION, Some(key_for_both()));
    let sealed = TestInstance::place_as(&sim, RESTORABLE, 8, OsFamily::Windows, Some(&key)).unwrap();
    let managed = sim.world.managed_key(ACCOUNT, REGION);
    let managed = TestInstance::place_as(&sim, RESTORABLE, 8, OsFamily::Linux, Some(&managed)).unwrap();
    for (instance, to, region) in [
        (&plain, VaultTo::Tenant, Some(ELSEWHERE)),
        (&plain, VaultTo::ServiceCopy, None),
        (&sealed, VaultTo::ServiceCopy, Some(ELSEWHERE)),
        (&managed, VaultTo::ServiceCopy, Some(ELSEWHERE)),
    ] {
        let content = instance.content(&sim).unwrap();
        let point = snapped(&rig, instance, vault(to, region)).await;
        let n_of_tenant =
            instance.volumes.len() + if to == VaultTo::Tenant { instance.volumes.len() } else { 0 };
        assert_eq!(rig.count("snapshots"), n_of_tenant, "what was copied on the way is gone");
        rig.shared_with(0).await.unwrap();
        rig.lose_snapshots(|_| true).await.unwrap();
        let before = all_snapshots(&rig);

        let job = restored(&rig, point, VOLUMES, TransportWish::Automatic).await;
        assert!(says(&job, "its own snapshots are gone: read are their copies in "), "{job:#?}");
        instance.check(&sim, &job, &content).unwrap();
        for made in job.tasks.iter().flat_map(|task| &task.made) {
            let wanted = rig.key_of_volume(&made.source).await.unwrap();
            assert_eq!(rig.key_of_volume(&made.id).await.unwrap(), wanted, "encrypted as before");
        }
        let job =
            restored(&rig, point, RestoreTarget::Instance(Box::default()), TransportWish::Automatic).await;
        instance.check(&sim, &job, &content).unwrap();
        if to == VaultTo::ServiceCopy {
            // The volumes that are replaced hold other bytes by then.
            for volume in &instance.volumes {
                write_data(&sim, volume, 3, 4, 77).unwrap();
            }
            let target = RestoreTarget::InPlace { delete_old_volumes: true, leave_stopped: false };
            let job = restored(&rig, point, target, TransportWish::Automatic).await;
            instance.check(&sim, &job, &content).unwrap();
        }
        assert_eq!(all_snapshots(&rig), before, "the copies stay, nothing else does");
        rig.succeed(rig.client.delete_recovery_point(point).await.unwrap().summary.id).await.unwrap();
        assert_eq!(all_snapshots(&rig), BTreeSet::new());
    }
}

/// The rows of vaults in the README's table, for instances of an operating system: each kind of vault of volumes that are
/// plain, under the AWS-managed key and under a customer's. Each transport restores from each of the copies.
async fn every_vault_of_every_encryption(os: OsFamily) {
    let rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let managed = sim.world.managed_key(ACCOUNT, REGION);
    let customer = sim.world.create_key(ACCOUNT, REGION, Some(key_for_both()));
    let far = sim.world.create_key(ACCOUNT, ELSEWHERE, None);
    let of_service = sim.world.create_key(SERVICE, REGION, None);
    for key in [None, Some(&managed), Some(&customer)] {
        let instance = TestInstance::place_as(&sim, "one", 3, os, key.map(String::as_str)).unwrap();
        let content = instance.content(&sim).unwrap();
        for (to, region, named) in [
            (VaultTo::Tenant, Some(ELSEWHERE), None),
            (VaultTo::Tenant, Some(ELSEWHERE), Some(&far)),
            (VaultTo::ServiceCopy, None, None),
            (VaultTo::ServiceCopy, None, Some(&of_service)),
        ] {
            let wanted = Vault { kms_key_id: named.cloned(), ..vault(to, region) };
            let point = snapped(&rig, &instance, wanted).await;
            rig.lose_snapshots(|_| true).await.unwrap();
            if named.is_some() {
                let owner = if to == VaultTo::Tenant { ACCOUNT } else { SERVICE };
                let copies = rig.snapshots_of(owner, region.unwrap_or(REGION)).await.unwrap();
                assert!(copies.len() == 2 && copies.iter().all(|one| one.kms_key_id.as_ref() == named));
            }
            let before = all_snapshots(&rig);
            for transport in [TransportWish::EbsDirect, TransportWish::HotAdd, TransportWish::Import] {
                let job = restored(&rig, point, VOLUMES, transport).await;
                let words = format!("blocks are moved by {}, as asked for", transport.as_str());
                assert!(says(&job, &words), "{key:?}: {job:#?}");
                instance.check(&sim, &job, &content).unwrap();
                for made in job.tasks.iter().flat_map(|task| &task.made) {
                    assert_eq!(rig.key_of_volume(&made.id).await.unwrap().as_ref(), key);
                }
                assert_eq!(all_snapshots(&rig), before, "{key:?}: the copies stay, nothing else does");
            }
            rig.succeed(rig.client.delete_recovery_point(point).await.unwrap().summary.id).await.unwrap();
            assert_eq!(all_snapshots(&rig), BTreeSet::new());
        }
        let job = rig.snap(&instance.id, Some(vault(VaultTo::ServiceShare, None))).await.unwrap();
        if key == Some(&managed) {
            let (_, task) = rig.fail(job).await.unwrap();
            let error = task.error.unwrap();
            assert_eq!(error.class, "invalid", "{}", error.message);
            assert!(error.message.contains("AWS-managed key"), "{}", error.message);
        } else {
            let point = Rig::recovery_point(&rig.succeed(job).await.unwrap()).unwrap();
            rig.shared_with(1).await.unwrap();
            rig.succeed(rig.client.delete_recovery_point(point).await.unwrap().summary.id).await.unwrap();
        }
        assert_eq!(all_snapshots(&rig), BTreeSet::new());
        rig.nothing_is_left().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_vault_of_linux_instances_is_filled_and_restored_from_or_refused() {
    every_vault_of_every_encryption(OsFamily::Linux).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_vault_of_windows_instances_is_filled_and_restored_from_or_refused() {
    every_vault_of_every_encryption(OsFamily::Windows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transport_writes_what_a_vault_has_and_images_are_made_of_it() {
    let rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let plain = TestInstance::place(&sim, "one", 12).unwrap();
    let key = sim.world.create_key(ACCOUNT, REGION, Some(key_for_both()));
    let sealed = TestInstance::place_as(&sim, "two", 12, OsFamily::Windows, Some(&key)).unwrap();
    let by_node = [TransportWish::HotAdd, TransportWish::Import];
    let all = [TransportWish::EbsDirect, TransportWish::HotAdd, TransportWish::Import];
    for (instance, to, transports) in
        [(&plain, VaultTo::Tenant, &all[..]), (&sealed, VaultTo::ServiceCopy, &by_node[..])]
    {
        let content = instance.content(&sim).unwrap();
        let point = snapped(&rig, instance, vault(to, Some(ELSEWHERE))).await;
        rig.lose_snapshots(|_| true).await.unwrap();
        let before = all_snapshots(&rig);
        for transport in transports.iter().copied() {
            let job = restored(&rig, point, VOLUMES, transport).await;
            assert!(says(&job, &format!("blocks are moved by {}", transport.as_str())), "{job:#?}");
            instance.check(&sim, &job, &content).unwrap();
            for made in job.tasks.iter().flat_map(|task| &task.made) {
                let wanted = rig.key_of_volume(&made.source).await.unwrap();
                assert_eq!(rig.key_of_volume(&made.id).await.unwrap(), wanted, "encrypted as before");
            }
            assert_eq!(all_snapshots(&rig), before, "the copies stay, nothing else does");
        }
        let folder = format!("vault-{}", instance.id);
        let job = restored(
            &rig,
            point,
            RestoreTarget::DiskImage { folder, format: ImageFormat::Raw },
            TransportWish::Automatic,
        )
        .await;
        for made in job.tasks.iter().flat_map(|task| &task.made) {
            let expected = rig.dir.join("expected.raw");
            write_raw_image(&sim, &made.source, &expected).unwrap();
            let (image, expected) = (std::fs::read(&made.id).unwrap(), std::fs::read(expected).unwrap());
            assert!(image == expected, "{} differs from {}", made.id, made.source);
        }
        rig.succeed(rig.client.delete_recovery_point(point).await.unwrap().summary.id).await.unwrap();
        rig.nothing_is_left().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_under_another_key_of_the_same_place_needs_no_moving() {
    let rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 8).unwrap();
    let content = instance.content(&sim).unwrap();
    let key = sim.world.create_key(ACCOUNT, REGION, None);
    let point =
        snapped(&rig, &instance, Vault { kms_key_id: Some(key.clone()), ..vault(VaultTo::Tenant, None) })
            .await;
    rig.lose_snapshots(|state| !state.encrypted).await.unwrap();
    let job = restored(&rig, point, VOLUMES, TransportWish::Automatic).await;
    assert!(says(&job, "no blocks are moved"), "{job:#?}");
    assert_eq!(rig.calls("ebs", "GetSnapshotBlock") + rig.calls("ebs", "PutSnapshotBlock"), 0);
    instance.check(&sim, &job, &content).unwrap();
    assert!(says(&job, "was not encrypted"), "{job:#?}");
    for made in job.tasks.iter().flat_map(|task| &task.made) {
        assert_eq!(rig.key_of_volume(&made.id).await.unwrap().as_ref(), Some(&key));
    }
    rig.nothing_is_left().unwrap();

    // What had a key gets that one again, also as the volumes of a new instance.
    let first = sim.world.create_key(ACCOUNT, REGION, None);
    let sealed = TestInstance::place_as(&sim, RESTORABLE, 8, OsFamily::Linux, Some(&first)).unwrap();
    let content = sealed.content(&sim).unwrap();
    let wanted = Vault { kms_key_id: Some(key.clone()), ..vault(VaultTo::Tenant, None) };
    let point = snapped(&rig, &sealed, wanted).await;
    rig.lose_snapshots(|state| state.kms_key_id.as_ref() == Some(&first)).await.unwrap();
    let same = Vault { kms_key_id: Some(first.clone()), ..vault(VaultTo::Tenant, None) };
    let (_, task) = rig.fail(rig.snap(&sealed.id, Some(same)).await.unwrap()).await.unwrap();
    let message = task.error.unwrap().message;
    assert!(message.contains(&first) && message.contains("protects from nothing"), "{message}");
    for target in [VOLUMES, RestoreTarget::Instance(Box::default())] {
        let job = restored(&rig, point, target, TransportWish::Automatic).await;
        sealed.check(&sim, &job, &content).unwrap();
        for made in job.tasks.iter().flat_map(|task| &task.made).filter(|made| made.kind == "volume") {
            assert_eq!(rig.key_of_volume(&made.id).await.unwrap().as_ref(), Some(&first));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_that_nobody_has_noticed_is_noted_by_the_restore_which_then_reads_a_copy() {
    let rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 8).unwrap();
    let content = instance.content(&sim).unwrap();
    let vaulted = snapped(&rig, &instance, vault(VaultTo::Tenant, Some(ELSEWHERE))).await;
    let copied = snapped(&rig, &instance, vault(VaultTo::ServiceShare, None)).await;
    rig.succeed(rig.copy(copied).await.unwrap()).await.unwrap();
    rig.delete_snapshots(|_| true).await.unwrap();
    for point in [vaulted, copied] {
        let job = restored(&rig, point, VOLUMES, TransportWish::Automatic).await;
        assert_eq!(job.tasks[0].attempts, 2, "the first did not find the snapshots");
        let error = job.tasks[0].history[0].error.as_ref().unwrap();
        assert!(error.message.contains("the next attempt reads another copy"), "{}", error.message);
        instance.check(&sim, &job, &content).unwrap();
    }
    // Where there is no other copy, it ends with that.
    let elsewhere = rig.owner(ACCOUNT, ELSEWHERE).await.unwrap();
    for state in rig.snapshots_of(ACCOUNT, ELSEWHERE).await.unwrap() {
        ec2::delete_snapshot(&elsewhere, &state.snapshot).await.unwrap();
    }
    let (from, by) = (RestoreFrom::Automatic, TransportWish::Automatic);
    let id = rig.restore_with(vaulted, from, VOLUMES, by, None).await.unwrap();
    let (_, task) = rig.fail(id).await.unwrap();
    let message = task.error.unwrap().message;
    assert!(message.contains("no vault has copies of them"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_restore_from_a_vault_goes_on_and_a_cancelled_one_leaves_the_copies() {
    let mut rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 150).unwrap();
    let content = instance.content(&sim).unwrap();
    let point = snapped(&rig, &instance, vault(VaultTo::ServiceCopy, Some(ELSEWHERE))).await;
    rig.lose_snapshots(|_| true).await.unwrap();
    let before = all_snapshots(&rig);
    // Of two volumes of 303 blocks.
    let begun = async |rig: &Rig, n_before: u64| {
        rig.hold_reads(500);
        let (from, by) = (RestoreFrom::Automatic, TransportWish::EbsDirect);
        let id = rig.restore_with(point, from, VOLUMES, by, None).await.unwrap();
        rig.wait(id, "blocks are written", |job| {
            let is_running = job.tasks.iter().all(|task| task.state == TaskState::Running);
            is_running && rig.calls("ebs", "PutSnapshotBlock") >= n_before + 450
        })
        .await
        .unwrap();
        // What is written is recorded twice a second.
        tokio::time::sleep(Duration::from_secs(2)).await;
        id
    };
    let id = begun(&rig, 0).await;
    rig.agents[0].kill9().unwrap();
    rig.add_agent().unwrap();
    rig.let_go();
    let job = rig.succeed(id).await.unwrap();
    assert_eq!(job.tasks[0].attempts, 2, "the first attempt was not interrupted");
    instance.check(&sim, &job, &content).unwrap();
    assert_eq!(all_snapshots(&rig), before);
    let n_twice = sim.store.stats().n_repeated_puts;
    assert!(n_twice < 350, "{n_twice} of the 450 blocks that were written were written again");

    let n_before = rig.calls("ebs", "PutSnapshotBlock");
    let id = begun(&rig, n_before).await;
    rig.client.cancel_job(id).await.unwrap();
    rig.wait(id, "it is cancelled", |job| job.summary.state == JobState::Cancelled).await.unwrap();
    rig.let_go();
    eventually(Duration::from_secs(30), "only the copies and the volumes before are left", || async {
        all_snapshots(&rig) == before && rig.count("volumes") == 2 + 2
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_aws_does_not_share_is_vaulted_by_a_copy_on_the_way_which_no_kill_or_cancel_leaves() {
    let mut rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let managed = sim.world.managed_key(ACCOUNT, REGION);
    let instance = TestInstance::place_as(&sim, "one", 8, OsFamily::Linux, Some(&managed)).unwrap();
    let content = instance.content(&sim).unwrap();
    let of_service = || sim.world.inventory(Some(SERVICE)).get("snapshots").map_or(0, Vec::len);
    // Two snapshots and their copies on the way; then the service account's.
    let is_on_the_way = |rig: &Rig| rig.count("snapshots") == 4 && of_service() == 0;
    let is_vaulted = |rig: &Rig| rig.count("snapshots") == 4 && of_service() == 2;

    for is_cancelled_early in [true, false] {
        rig.copies_take(if is_cancelled_early { 600_000 } else { 3_000 });
        let id = rig.snap(&instance.id, Some(vault(VaultTo::ServiceCopy, None))).await.unwrap();
        rig.wait(id, "copies on the way are made", |_| is_on_the_way(&rig)).await.unwrap();
        if !is_cancelled_early {
            rig.copies_take(600_000);
            rig.wait(id, "copies of the service account are made", |_| is_vaulted(&rig)).await.unwrap();
        }
        rig.client.cancel_job(id).await.unwrap();
        let ended = rig.wait(id, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap();
        assert_eq!(ended.summary.state, JobState::Cancelled, "{ended:#?}");
        rig.only_these_are_left(0, 2).await.unwrap();
        assert_eq!(of_service(), 0);
    }

    rig.copies_take(4_000);
    let n_before = rig.calls("ec2", "CopySnapshot");
    let id = rig.snap(&instance.id, Some(vault(VaultTo::ServiceCopy, None))).await.unwrap();
    rig.wait(id, "copies on the way are made", |_| is_on_the_way(&rig)).await.unwrap();
    rig.agents[0].kill9().unwrap();
    rig.add_agent().unwrap();
    rig.wait(id, "copies of the service account are made", |_| is_vaulted(&rig)).await.unwrap();
    rig.agents[1].kill9().unwrap();
    rig.add_agent().unwrap();
    let job = rig.succeed(id).await.unwrap();
    assert_eq!(job.tasks[0].attempts, 3, "an attempt was not interrupted");
    assert_eq!(rig.calls("ec2", "CopySnapshot") - n_before, 4, "a copy was made twice");
    rig.left(2, 2).await.unwrap();
    assert_eq!(of_service(), 2);
    rig.shared_with(0).await.unwrap();

    let point = Rig::recovery_point(&job).unwrap();
    rig.lose_snapshots(|_| true).await.unwrap();
    let job = restored(&rig, point, VOLUMES, TransportWish::Automatic).await;
    instance.check(&sim, &job, &content).unwrap();
}
