//! Snapshots that stay: taken of one volume, copied, shared, missed.

use std::collections::HashSet;

use awssim::faults::Effect;
use snapferry_aws::ec2::{self, NewCopy, SnapshotPhase};
use snapferry_types::SnapshotId;
use snapferry_types::aws::Tag;
use snapferry_types::ledger::{ObjectKind, Purpose};
use tokio_util::sync::CancellationToken;

use crate::world::{SERVICE, TENANT, TestWorld, our_tags, region};

#[tokio::test]
async fn one_volume_has_its_snapshot_which_its_tag_finds_after_a_lost_reply() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let instance = world.instance(&account).await;
    let volume = ec2::describe_instance(&account, &instance).await.unwrap().config.volumes[0].clone();
    let (entry, tags) = our_tags(Purpose::BackupSource);
    world.hurt("CreateSnapshot", Effect::LoseReply, Some(1), 1.0);
    let lost = ec2::create_snapshot(&account, &volume.volume_id, "vault", &tags).await.unwrap_err();
    assert!(lost.retryable() && world.fired("lose_reply") == 1, "{lost}");
    let found = ec2::find_by_ledger_tag(&account, ObjectKind::Snapshot, entry).await.unwrap();
    let [snapshot] = found.as_slice() else { panic!("{found:?}") };
    let snapshot: SnapshotId = snapshot.parse().unwrap();
    let stop = CancellationToken::new();
    let ids = [snapshot.clone()];
    let states = ec2::wait_snapshots_completed(&account, &ids, |_| (), &stop).await.unwrap();
    assert_eq!(states[0].volume.as_ref(), Some(&volume.volume_id));
    assert_eq!(states[0].owner.as_ref().map(ToString::to_string).as_deref(), Some(TENANT));
    assert!(states[0].started.is_some() && states[0].outpost_arn.is_none());
}

#[tokio::test]
async fn a_copy_is_made_in_the_other_region_with_its_tags() {
    let world = TestWorld::start().await;
    let source = world.synthetic("snap-0c", 1, None);
    let mut access = world.tenant_access();
    access.region = "eu-west-1".parse().unwrap();
    let there = world.open(&access).await;
    let (entry, tags) = our_tags(Purpose::BackupSource);
    let new = NewCopy {
        source_region: region(),
        snapshot: source.clone(),
        description: "copy".to_owned(),
        encrypted: false,
        kms_key_id: None,
        tags: [tags, vec![Tag::new("Name", "copy")]].concat(),
    };
    let copy = ec2::copy_snapshot(&there, &new).await.unwrap();
    let stop = CancellationToken::new();
    let ids = [copy.clone()];
    let states = ec2::wait_snapshots_completed(&there, &ids, |_| (), &stop).await.unwrap();
    assert_eq!((&states[0].phase, states[0].size_gib), (&SnapshotPhase::Completed, 1));
    assert!(states[0].tags.contains(&Tag::new("Name", "copy")));
    let found = ec2::find_by_ledger_tag(&there, ObjectKind::Snapshot, entry).await.unwrap();
    assert_eq!(found, [copy.to_string()]);
    let here = world.tenant().await;
    assert!(ec2::find_by_ledger_tag(&here, ObjectKind::Snapshot, entry).await.unwrap().is_empty());
}

#[tokio::test]
async fn shares_are_told_and_taken_back() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let snapshot = world.synthetic("snap-0c", 1, None);
    assert!(ec2::snapshot_sharing(&account, &snapshot).await.unwrap().is_empty());
    let service = SERVICE.parse().unwrap();
    ec2::share_snapshot(&account, &snapshot, &service).await.unwrap();
    assert_eq!(ec2::snapshot_sharing(&account, &snapshot).await.unwrap(), std::slice::from_ref(&service));
    ec2::unshare_snapshot(&account, &snapshot, &service).await.unwrap();
    assert!(ec2::snapshot_sharing(&account, &snapshot).await.unwrap().is_empty());
}

#[tokio::test]
async fn snapshots_deleted_outside_are_missed_without_an_error() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let kept = world.synthetic("snap-0c", 1, None);
    let gone = world.synthetic("snap-0d", 1, None);
    ec2::delete_snapshot(&account, &gone).await.unwrap();
    let never: SnapshotId = "snap-0123456789abcdef0".parse().unwrap();
    let existing = ec2::existing_snapshots(&account, &[kept.clone(), gone, never]).await.unwrap();
    assert_eq!(existing, HashSet::from([kept]));
    assert!(ec2::existing_snapshots(&account, &[]).await.unwrap().is_empty());
}
