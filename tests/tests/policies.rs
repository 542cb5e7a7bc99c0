//! The policies of `deploy/iam`, as the only permissions of both accounts, are enough for every route, and no more.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use snapferry_api::job::{Note, Work};
use snapferry_api::protect::{BackupCopy, VaultTo};
use snapferry_api::restore::{RestoreFrom, RestoreTarget};
use snapferry_aws::{AwsError, ec2};
use snapferry_tests::{
    ACCOUNT, ELSEWHERE, REGION, RESTORABLE, Rig, RigOptions, SERVICE, TestInstance, VOLUMES, key_for_both,
    vault, write_data,
};
use snapferry_types::aws::Tag;
use snapferry_types::instance::OsFamily;
use snapferry_types::{RecoveryPointId, TransportWish};

async fn back_up(rig: &Rig, instance: &TestInstance, transport: TransportWish) -> RecoveryPointId {
    let job = rig.back_up_by(&instance.id, transport).await.unwrap();
    Rig::recovery_point(&rig.succeed(job).await.unwrap()).unwrap()
}

/// Restores, and compares.
async fn restored(
    rig: &Rig,
    (instance, content): (&TestInstance, &[Vec<u64>]),
    point: RecoveryPointId,
    from: RestoreFrom,
    target: RestoreTarget,
    (transport, key): (TransportWish, Option<&str>),
) {
    let key = key.map(ToOwned::to_owned);
    let job = rig.restore_with(point, from, target, transport, key).await.unwrap();
    let job = rig.succeed(job).await.unwrap();
    instance.check(rig.sim.context(), &job, content).unwrap();
    // What was left and not tagged, removed, shared or attached is told in notes, not in errors.
    let notes = job.tasks.iter().flat_map(|task| &task.notes).filter(|note| note.warning);
    // Placed instances name a key pair that there is not, and one of Windows comes back as AWS sees it.
    let expected = ["key pair operations", "runs Windows, but AWS calls it Linux/UNIX"];
    let is_other = |note: &&Note| !expected.iter().any(|text| note.text.contains(text));
    let warnings: Vec<_> = notes.filter(is_other).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_policies_are_enough_for_every_route_and_no_more() {
    let options = RigOptions::one_node();
    let rig = Rig::start(options).await.unwrap();
    let sim = rig.sim.context().clone();
    let plain = TestInstance::place(&sim, RESTORABLE, 3).unwrap();
    let key = sim.world.create_key(ACCOUNT, REGION, Some(key_for_both()));
    let sealed = TestInstance::place_as(&sim, RESTORABLE, 3, OsFamily::Windows, Some(&key)).unwrap();
    let service = rig.use_shipped_policies().await.unwrap();

    // Streaming backup, full and incremental, read over EBS direct and by HotAdd.
    back_up(&rig, &plain, TransportWish::EbsDirect).await;
    back_up(&rig, &sealed, TransportWish::HotAdd).await;
    for instance in [&plain, &sealed] {
        write_data(&sim, &instance.volumes[0], 300, 1, 5).unwrap();
    }
    let of_plain = (back_up(&rig, &plain, TransportWish::HotAdd).await, plain.content(&sim).unwrap());
    let of_sealed = (back_up(&rig, &sealed, TransportWish::EbsDirect).await, sealed.content(&sim).unwrap());
    rig.shared_with(0).await.unwrap();

    // What the AWS-managed key encrypts, by a copy under the transit key.
    let managed = Some(sim.world.managed_key(ACCOUNT, REGION));
    let managed = TestInstance::place_as(&sim, RESTORABLE, 3, OsFamily::Linux, managed.as_deref()).unwrap();
    let of_managed = (back_up(&rig, &managed, TransportWish::HotAdd).await, managed.content(&sim).unwrap());

    // IntelliSnap with each vault, and a backup copy.
    let mut snapped = Vec::new();
    for (instance, to, region) in [
        (&plain, VaultTo::Tenant, Some(ELSEWHERE)),
        (&plain, VaultTo::ServiceCopy, None),
        (&sealed, VaultTo::ServiceCopy, Some(ELSEWHERE)),
        (&sealed, VaultTo::ServiceShare, None),
        (&managed, VaultTo::ServiceCopy, None),
    ] {
        let job = rig.snap(&instance.id, Some(vault(to, region))).await.unwrap();
        snapped.push(Rig::recovery_point(&rig.succeed(job).await.unwrap()).unwrap());
    }
    for (point, transport) in [(2, TransportWish::HotAdd), (3, TransportWish::EbsDirect)] {
        let copy = BackupCopy {
            hypervisor: rig.tenant,
            recovery_points: vec![snapped[point]],
            media_agent: None,
            full: true,
            transport,
            retention: None,
        };
        let job = rig.submit(Work::BackupCopy(copy)).await.unwrap();
        rig.succeed(job).await.unwrap();
    }

    // Restores: each transport, under a key and without, and each target.
    let from = RestoreFrom::MediaAgent;
    for transport in [TransportWish::EbsDirect, TransportWish::HotAdd, TransportWish::Import] {
        let (point, content) = &of_plain;
        restored(&rig, (&plain, content), *point, from, VOLUMES, (transport, None)).await;
        restored(&rig, (&plain, content), *point, from, VOLUMES, (transport, Some(&key))).await;
        let (point, content) = &of_sealed;
        restored(&rig, (&sealed, content), *point, from, VOLUMES, (transport, None)).await;
    }
    let (point, content) = &of_managed;
    restored(&rig, (&managed, content), *point, from, VOLUMES, (TransportWish::HotAdd, None)).await;
    let automatic = (TransportWish::Automatic, None);
    let new = RestoreTarget::Instance(Box::default());
    restored(&rig, (&plain, &of_plain.1), of_plain.0, from, new.clone(), automatic).await;
    restored(&rig, (&sealed, &of_sealed.1), of_sealed.0, from, new, automatic).await;
    let snapshots = RestoreFrom::Snapshot;
    restored(&rig, (&sealed, &of_sealed.1), snapped[3], snapshots, VOLUMES, automatic).await;
    let outsider = rig.outsider().await.unwrap();
    ec2::create_tags(&outsider, plain.id.as_str(), &[Tag::new("Name", "not as it was")]).await.unwrap();
    let in_place = RestoreTarget::InPlace { delete_old_volumes: false, leave_stopped: false };
    restored(&rig, (&plain, &of_plain.1), of_plain.0, from, in_place, automatic).await;

    // From the copies in vaults, once the snapshots are gone.
    rig.lose_snapshots(|_| true).await.unwrap();
    for (instance, content, point) in [
        (&plain, &of_plain.1, snapped[0]),
        (&plain, &of_plain.1, snapped[1]),
        (&sealed, &of_sealed.1, snapped[2]),
    ] {
        restored(&rig, (instance, content), point, snapshots, VOLUMES, automatic).await;
    }
    let mut left = sim.world.inventory(Some(SERVICE));
    for kind in ["images", "s3_objects", "s3_uploads", "import_tasks"] {
        assert_eq!(left.remove(kind).unwrap_or_default(), Vec::<String>::new(), "{kind}");
    }
    assert_eq!(left["volumes"].len(), 1, "only the node's own");

    // No more: what is not ours is neither deleted nor taken off.
    let node_volume = left["volumes"][0].parse().unwrap();
    for done in [
        ec2::delete_volume(&service, &node_volume).await,
        ec2::detach_volume(&service, &node_volume, false).await,
        ec2::create_tags(&service, node_volume.as_str(), &[Tag::new("a", "b")]).await.map(drop),
    ] {
        assert!(matches!(done, Err(AwsError::AccessDenied { .. })), "{done:?}");
    }
}
