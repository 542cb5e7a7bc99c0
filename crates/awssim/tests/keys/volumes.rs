//! Volumes, snapshots and their copies under keys.

use awssim::world::KeyState;

use crate::client::{Client, OTHER, OWNER, REGION, Sim, lets, policy_with};

const ZONE: &str = "eu-central-1a";
const SIZE: [(&str, &str); 2] = [("AvailabilityZone", ZONE), ("Size", "1")];

async fn volume(by: &Client, more: &[(&str, &str)]) -> (String, String) {
    let parameters: Vec<_> =
        if more.iter().any(|(name, _)| *name == "SnapshotId") { &SIZE[..1] } else { &SIZE[..] }
            .iter()
            .chain(more)
            .copied()
            .collect();
    let made = by.ec2("CreateVolume", &parameters).await;
    made.assert_done();
    let key = if made.text().contains("<kmsKeyId>") { made.xml("kmsKeyId") } else { String::new() };
    (made.xml("volumeId"), key)
}

async fn becomes(by: &Client, volume: &str, state: &str) {
    by.until("DescribeVolumes", &[("VolumeId.1", volume)], "status", state).await;
}

async fn copy(by: &Client, snapshot: &str, more: &[(&str, &str)]) -> String {
    let mut parameters = vec![("SourceSnapshotId", snapshot), ("SourceRegion", REGION)];
    parameters.extend(more);
    by.ec2("CopySnapshot", &parameters).await.assert_done().xml("snapshotId")
}

#[tokio::test]
async fn a_volume_takes_a_key_by_any_name_and_tells_its_arn() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let arn = sim.world().create_key(OWNER, REGION, None);
    assert!(sim.world().name_key(&arn, "alias/disk"));
    let id = arn.rsplit('/').next().unwrap();
    let alias_arn = format!("arn:aws:kms:{REGION}:{OWNER}:alias/disk");
    for reference in [id, &arn, "alias/disk", &alias_arn] {
        let (volume, key) = volume(&admin, &[("Encrypted", "true"), ("KmsKeyId", reference)]).await;
        assert_eq!(key, arn, "{reference}");
        becomes(&admin, &volume, "available").await;
    }
    let managed = sim.world().managed_key(OWNER, REGION);
    assert_eq!(volume(&admin, &[("Encrypted", "true")]).await.1, managed);
    assert_eq!(volume(&admin, &[]).await.1, "");
    let alone = admin.ec2("CreateVolume", &[SIZE[0], SIZE[1], ("KmsKeyId", &arn)]).await;
    assert_eq!(alone.assert_refused("InvalidParameterDependency").status, 400);
}

#[tokio::test]
async fn a_volume_whose_key_cannot_be_used_ends_in_error() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let (good, off) =
        (sim.world().create_key(OWNER, REGION, None), sim.world().create_key(OWNER, REGION, None));
    assert!(sim.world().set_key_state(&off, KeyState::Disabled));
    let unpermitted = sim.without_keys(OWNER, "unpermitted", &["kms:DescribeKey", "kms:CreateGrant"]);
    for (by, key) in [(&admin, off.as_str()), (&admin, "alias/unknown"), (&unpermitted, good.as_str())] {
        let (volume, _) = volume(by, &[("Encrypted", "true"), ("KmsKeyId", key)]).await;
        becomes(by, &volume, "error").await;
        by.ec2("CreateSnapshot", &[("VolumeId", &volume)]).await.assert_refused("IncorrectState");
        by.ec2("DeleteVolume", &[("VolumeId", &volume)]).await.assert_done();
    }
    // The key that AWS manages is for everybody in the account, without a permission of KMS.
    let (volume, _) = volume(&unpermitted, &[("Encrypted", "true")]).await;
    becomes(&unpermitted, &volume, "available").await;
}

#[tokio::test]
async fn a_snapshot_keeps_the_key_of_its_volume_and_hands_it_on() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let arn = sim.world().create_key(OWNER, REGION, None);
    let (from, _) = volume(&admin, &[("Encrypted", "true"), ("KmsKeyId", &arn)]).await;
    becomes(&admin, &from, "available").await;
    let taken = admin.ec2("CreateSnapshot", &[("VolumeId", &from)]).await;
    assert_eq!(taken.xml("kmsKeyId"), arn);
    let snapshot = taken.xml("snapshotId");
    admin.until("DescribeSnapshots", &[("SnapshotId.1", &snapshot)], "status", "completed").await;
    assert_eq!(volume(&admin, &[("SnapshotId", &snapshot)]).await.1, arn);
    let unpermitted = sim.without_keys(OWNER, "unpermitted", &[]);
    let (refused, _) = volume(&unpermitted, &[("SnapshotId", &snapshot)]).await;
    becomes(&admin, &refused, "error").await;
}

#[tokio::test]
async fn encryption_by_default_and_its_key_are_the_regions() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let arn = sim.world().create_key(OWNER, REGION, None);
    let plain = sim.snapshot(&admin, None).await;
    assert_eq!(admin.ec2("GetEbsDefaultKmsKeyId", &[]).await.xml("kmsKeyId"), "alias/aws/ebs");
    admin.ec2("EnableEbsEncryptionByDefault", &[]).await.assert_done();
    assert_eq!(admin.ec2("GetEbsEncryptionByDefault", &[]).await.xml("ebsEncryptionByDefault"), "true");
    assert_eq!(volume(&admin, &[]).await.1, sim.world().managed_key(OWNER, REGION));
    let set = admin.ec2("ModifyEbsDefaultKmsKeyId", &[("KmsKeyId", &arn)]).await;
    assert_eq!(set.xml("kmsKeyId"), arn);
    assert_eq!(admin.ec2("GetEbsDefaultKmsKeyId", &[]).await.xml("kmsKeyId"), arn);
    assert_eq!(volume(&admin, &[("SnapshotId", &plain), ("Encrypted", "false")]).await.1, arn);
    admin.ec2("ResetEbsDefaultKmsKeyId", &[]).await.assert_done();
    assert_eq!(volume(&admin, &[]).await.1, sim.world().managed_key(OWNER, REGION));
    admin.ec2("DisableEbsEncryptionByDefault", &[]).await.assert_done();
    assert_eq!(volume(&admin, &[]).await.1, "");
}

#[tokio::test]
async fn a_copy_with_a_key_that_cannot_be_used_fails_silently() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let (key, off) =
        (sim.world().create_key(OWNER, REGION, None), sim.world().create_key(OWNER, REGION, None));
    let foreign = sim.world().create_key(OTHER, REGION, None);
    assert!(sim.world().set_key_state(&off, KeyState::PendingDeletion));
    let plain = sim.snapshot(&admin, None).await;
    for bad in [off.as_str(), foreign.as_str(), "alias/unknown"] {
        let copied = copy(&admin, &plain, &[("Encrypted", "true"), ("KmsKeyId", bad)]).await;
        let shown = admin.until("DescribeSnapshots", &[("SnapshotId.1", &copied)], "status", "error").await;
        assert_eq!(shown.xml("statusMessage"), "Given key ID is not accessible");
        admin.ec2("DeleteSnapshot", &[("SnapshotId", &copied)]).await.assert_done();
    }
    // Of the source's key too.
    let encrypted = sim.snapshot(&admin, Some(&key)).await;
    let halves = ["kms:DescribeKey", "kms:Decrypt", "kms:Generate*", "kms:ReEncrypt*"];
    let no_grants = sim.without_keys(OWNER, "no-grants", &halves);
    let copied = copy(&no_grants, &encrypted, &[]).await;
    admin.until("DescribeSnapshots", &[("SnapshotId.1", &copied)], "status", "error").await;
}

#[tokio::test]
async fn a_copy_under_another_key_is_a_snapshot_of_its_own() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let (one, two) =
        (sim.world().create_key(OWNER, REGION, None), sim.world().create_key(OWNER, REGION, None));
    let source = sim.snapshot(&admin, Some(&one)).await;
    let same = copy(&admin, &source, &[]).await;
    let shown = admin.until("DescribeSnapshots", &[("SnapshotId.1", &same)], "status", "completed").await;
    assert_eq!(shown.xml("kmsKeyId"), one);
    let moved = copy(&admin, &source, &[("Encrypted", "true"), ("KmsKeyId", &two)]).await;
    let shown = admin.until("DescribeSnapshots", &[("SnapshotId.1", &moved)], "status", "completed").await;
    assert_eq!((shown.xml("kmsKeyId"), shown.xml("encrypted")), (two, "true".to_owned()));
    let listed = admin.ebs("GET", &format!("/snapshots/{moved}/blocks"), None).await;
    assert_eq!(listed.json()["Blocks"].as_array().map(Vec::len), Some(1));
    let changes = format!("/snapshots/{moved}/changedblocks?firstSnapshotId={source}");
    let changes = admin.ebs("GET", &changes, None).await;
    changes.assert_refused("ValidationException");
    assert_eq!(changes.json()["Reason"], "UNRELATED_SNAPSHOTS");
}

#[tokio::test]
async fn a_shared_snapshot_serves_who_the_keys_policy_lets_in() {
    let sim = Sim::start().await;
    let (owner, other) = (sim.admin(OWNER), sim.admin(OTHER));
    let share = |snapshot: &str| {
        let parameters = [
            ("SnapshotId".to_owned(), snapshot.to_owned()),
            ("CreateVolumePermission.Add.1.UserId".to_owned(), OTHER.to_owned()),
        ];
        let owner = &owner;
        async move {
            let parameters: Vec<_> = parameters.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            owner.ec2("ModifySnapshotAttribute", &parameters).await
        }
    };
    let managed = sim.snapshot(&owner, Some("alias/aws/ebs")).await;
    let refused = share(&managed).await;
    let text = refused.assert_refused("InvalidParameter").text();
    assert!(text.contains("Encrypted snapshots with EBS default key cannot be shared"));
    let plain = sim.snapshot(&owner, None).await;
    share(&plain).await.assert_done();
    becomes(&other, &volume(&other, &[("SnapshotId", &plain)]).await.0, "available").await;

    let key = sim.world().create_key(OWNER, REGION, None);
    let encrypted = sim.snapshot(&owner, Some(&key)).await;
    share(&encrypted).await.assert_done();
    let blocks = format!("/snapshots/{encrypted}/blocks");
    becomes(&other, &volume(&other, &[("SnapshotId", &encrypted)]).await.0, "error").await;
    other.ebs("GET", &blocks, None).await.assert_refused("AccessDeniedException");
    assert!(sim.world().set_key_policy(&key, policy_with(&[lets(OTHER)])));
    let (made, of) = volume(&other, &[("SnapshotId", &encrypted)]).await;
    becomes(&other, &made, "available").await;
    assert_eq!(of, sim.world().managed_key(OTHER, REGION), "it is the taker's default key from then on");
    other.ebs("GET", &blocks, None).await.assert_done();
    // An account whose own policies do not let it is still out.
    let unpermitted = sim.without_keys(OTHER, "unpermitted", &[]);
    unpermitted.ebs("GET", &blocks, None).await.assert_refused("AccessDeniedException");
}
