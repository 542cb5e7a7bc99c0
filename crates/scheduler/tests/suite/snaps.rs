//! IntelliSnap backups and their vaults; replication and conversion.

use snapferry_api::crossing::{Conversion, Replication};
use snapferry_api::job::{DeleteRecoveryPoint, Work};
use snapferry_api::protect::{Retention, Vault, VaultTo};
use snapferry_api::recovery_point::SnapshotsState;
use snapferry_scheduler::clock::Clock as _;
use snapferry_scheduler::store::{Step, StoreError};
use snapferry_types::TransportWish;
use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::ledger::{LedgerState, Purpose};
use snapferry_types::rules::Vendor;
use snapferry_types::spec::Operation;

use super::world::{World, source_entry};

pub(crate) async fn a_snapshot_point_needs_no_media_agent(url: String) {
    let world = World::new(url).await;
    world.clock.advance(std::time::Duration::from_secs(3_600));
    world.store.node_seen(&world.node).await.unwrap();
    let mut request = world.snap_request("i-0a");
    request.retention = Some(Retention { days: Some(2), last: None });
    let spec = world.at_work(Work::IntelliSnap(request)).await;
    assert!(spec.media_agent.is_none() && spec.service_access.is_none());
    assert!(matches!(&spec.operation, Operation::IntelliSnap(snap) if snap.vault.is_none()));
    let mut entry = source_entry(&spec, "snap-01");
    entry.purpose = Purpose::RecoveryPoint;
    world.record(&spec, Step::Ledger(entry)).await.unwrap();

    let mut wrong = world.sealed(&spec, "i-0a", "snap-01", None);
    let mut meta: snapferry_types::catalogue::RecoveryPointMeta =
        serde_json::from_slice(&wrong.metadata).unwrap();
    meta.kind = RecoveryPointKind::Streamed;
    wrong.metadata = serde_json::to_vec(&meta).unwrap();
    let refused = world.record(&spec, Step::Sealed(wrong)).await;
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "an IntelliSnap backup streams nothing");

    let point = world.sealed(&spec, "i-0a", "snap-01", None);
    for _ in 0..2 {
        world.record(&spec, Step::Sealed(point.clone())).await.unwrap();
    }
    let at_ms = world.clock.wall_ms();
    world.succeed(&spec).await;
    let shown = world.store.recovery_point(point.id).await.unwrap();
    assert_eq!((shown.summary.kind, shown.summary.media_agent), (RecoveryPointKind::Snapshot, None));
    assert_eq!(shown.summary.snapshots, SnapshotsState::Kept);
    assert_eq!(shown.summary.keep_until.unwrap().as_millisecond(), at_ms + 2 * 86_400_000);
    assert!(shown.volumes[0].snapshot_kept);
    let listed = world.store.recovery_points(&Default::default(), 10).await.unwrap().items;
    assert_eq!(listed, [shown.summary], "a list says the same");
    assert!(world.store.reapable(i64::MAX, 10).await.unwrap().is_empty(), "its snapshots are kept");
}

pub(crate) async fn a_vault_is_checked_before_anything_is_made(url: String) {
    let world = World::new(url).await;
    let asked = |to, region: Option<&str>, kms_key_id: Option<&str>| {
        let region = region.map(|region| region.parse().unwrap());
        let vault = Vault { to, region, kms_key_id: kms_key_id.map(str::to_owned) };
        let mut request = world.snap_request("i-0a");
        request.vault = Some(vault);
        Work::IntelliSnap(request)
    };
    for (work, expected) in [
        (asked(VaultTo::Tenant, None, None), "name it"),
        (asked(VaultTo::Tenant, Some("eu-central-1"), None), "another region"),
        (asked(VaultTo::Tenant, Some("us-east-1"), None), "not registered for region us-east-1"),
        (asked(VaultTo::ServiceShare, Some("eu-west-1"), None), "copies nothing"),
        (asked(VaultTo::ServiceShare, None, Some("key")), "copies nothing"),
        (
            asked(VaultTo::ServiceCopy, Some("eu-west-1"), None),
            "service is not registered for region eu-west-1",
        ),
    ] {
        let why = world.refused(work).await;
        assert!(why.contains(expected), "{why}");
    }
    for work in [
        asked(VaultTo::Tenant, Some("eu-west-1"), None),
        asked(VaultTo::Tenant, None, Some("key")),
        asked(VaultTo::ServiceShare, None, None),
        asked(VaultTo::ServiceCopy, None, Some("key")),
    ] {
        world.submit(&World::job(work)).await;
    }
}

pub(crate) async fn a_vault_in_the_service_account_brings_its_access(url: String) {
    let world = World::new(url).await;
    let mut request = world.snap_request("i-0a");
    request.vault = Some(Vault { to: VaultTo::ServiceCopy, region: None, kms_key_id: None });
    let spec = world.at_work(Work::IntelliSnap(request)).await;
    let service = spec.service_access.as_ref().unwrap();
    assert_eq!(service.account, world.admin.account);
    let mut entry = source_entry(&spec, "snap-0f");
    (entry.purpose, entry.account) = (Purpose::Vault, service.account.clone());
    world.record(&spec, Step::Ledger(entry.clone())).await.unwrap();
    let access = world.store.object_access(world.tenant.id, &entry.account, &entry.region).await.unwrap();
    assert_eq!(access.account, world.admin.account, "the reaper reaches what is in the service account");
    let stranger = "333333333333".parse().unwrap();
    let refused = world.store.object_access(world.tenant.id, &stranger, &entry.region).await;
    assert!(matches!(refused, Err(StoreError::Invalid(why)) if why.contains("333333333333")));
}

pub(crate) async fn a_snapshot_point_is_deleted_with_all_its_snapshots(url: String) {
    let world = World::new(url).await;
    let mut request = world.snap_request("i-0a");
    request.vault = Some(Vault { to: VaultTo::ServiceCopy, region: None, kms_key_id: None });
    let spec = world.at_work(Work::IntelliSnap(request)).await;
    let mut own = source_entry(&spec, "snap-01");
    own.purpose = Purpose::RecoveryPoint;
    let mut vaulted = source_entry(&spec, "snap-0f");
    (vaulted.purpose, vaulted.account) = (Purpose::Vault, world.admin.account.clone());
    let mut moving = source_entry(&spec, "snap-0e");
    moving.purpose = Purpose::Transport;
    for entry in [&own, &vaulted, &moving] {
        world.record(&spec, Step::Ledger(entry.clone())).await.unwrap();
    }
    let point = world.sealed(&spec, "i-0a", "snap-01", None);
    world.record(&spec, Step::Sealed(point.clone())).await.unwrap();
    world.succeed(&spec).await;
    let left = world.store.reapable(world.clock.wall_ms(), 10).await.unwrap();
    assert_eq!(
        left.iter().map(|line| line.entry.id).collect::<Vec<_>>(),
        [moving.id],
        "what only moved blocks"
    );

    let work = Work::DeleteRecoveryPoint(DeleteRecoveryPoint { recovery_point: point.id });
    let delete = world.at_work(work.clone()).await;
    assert!(world.refused(work).await.contains("is being deleted by task"));
    assert!(delete.media_agent.is_none());
    assert!(delete.service_access.is_some(), "a copy is in the service account");
    let mut going = delete.superseded.iter().map(|entry| entry.id).collect::<Vec<_>>();
    going.sort();
    let mut expected = vec![own.id, vaulted.id];
    expected.sort();
    assert_eq!(going, expected);
    for mut entry in delete.superseded.clone() {
        entry.state = LedgerState::Gone;
        world.record(&delete, Step::Ledger(entry)).await.unwrap();
    }
    world.record(&delete, Step::Deleted(point.id)).await.unwrap();
    world.succeed(&delete).await;
    assert!(matches!(world.store.recovery_point(point.id).await, Err(StoreError::NotFound { .. })));
}

pub(crate) async fn replication_and_conversion_are_refused_with_the_reason(url: String) {
    let world = World::new(url).await;
    let (hypervisor, machines) = (world.tenant.id, vec!["vm-1".to_owned()]);
    let replication = |from, transport| {
        Work::Replication(Replication { hypervisor, from, machines: machines.clone(), transport })
    };
    let conversion = |from, transport| {
        Work::Conversion(Conversion { hypervisor, from, machines: machines.clone(), transport })
    };
    for (work, expected) in [
        (replication(Vendor::Vmware, TransportWish::HotAdd), "may not use another account's resources"),
        (replication(Vendor::Vmware, TransportWish::Import), "may not use another account's resources"),
        (replication(Vendor::Amazon, TransportWish::HotAdd), "may not use another account's resources"),
        (replication(Vendor::Amazon, TransportWish::Import), "may not use another account's resources"),
        (conversion(Vendor::Vmware, TransportWish::Import), "use EBS direct"),
        (conversion(Vendor::Amazon, TransportWish::EbsDirect), "already use replication or a restore"),
        (replication(Vendor::Amazon, TransportWish::EbsDirect), "not available yet: replication from Amazon"),
        (conversion(Vendor::Vmware, TransportWish::Automatic), "not available yet: conversion from VMware"),
        (conversion(Vendor::Vmware, TransportWish::HotAdd), "or an access node in the target account"),
    ] {
        let why = world.refused(work).await;
        assert!(why.contains(expected), "{why}");
    }
}
