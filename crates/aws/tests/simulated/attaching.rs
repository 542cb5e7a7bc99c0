//! Volumes on an access node: blank or of a snapshot, attached, seen, detached.

use snapferry_aws::AwsError;
use snapferry_aws::ec2::{self, NewVolume};
use snapferry_types::VolumeId;
use snapferry_types::instance::OsFamily;
use snapferry_types::ledger::Purpose;
use tokio_util::sync::CancellationToken;

use crate::world::{TestWorld, our_tags};

fn blank(zone: &str) -> NewVolume {
    let (entry, tags) = our_tags(Purpose::RestoreStaging);
    NewVolume {
        snapshot: None,
        availability_zone: zone.to_owned(),
        size_gib: Some(3),
        volume_type: "gp3".to_owned(),
        iops: Some(3_500),
        throughput_mibps: Some(200),
        encrypted: false,
        kms_key_id: None,
        tags,
        client_token: entry.to_string(),
    }
}

#[tokio::test]
async fn a_blank_volume_is_described_as_it_was_asked_for() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let instance = world.instance(&account).await;
    let zone = ec2::describe_instance(&account, &instance).await.unwrap().config.availability_zone;
    let new = blank(&zone);
    let volume = ec2::create_volume(&account, &new).await.unwrap();
    ec2::wait_volume_available(&account, &volume, &CancellationToken::new()).await.unwrap();
    let described = ec2::describe_volume(&account, &volume).await.unwrap();
    assert_eq!((&described.id, described.zone.as_str(), described.size_gib), (&volume, zone.as_str(), 3));
    assert_eq!((described.iops, described.throughput_mibps), (Some(3_500), Some(200)));
    assert_eq!((described.state.as_str(), described.snapshot), ("available", None));
    assert!(!described.encrypted && !described.multi_attach && described.attachments.is_empty());
    assert!(new.tags.iter().all(|tag| described.tags.contains(tag)), "{:?}", described.tags);

    let unsized_one = NewVolume { size_gib: None, client_token: "other".to_owned(), ..new };
    let error = ec2::create_volume(&account, &unsized_one).await.unwrap_err();
    assert!(matches!(error, AwsError::Invalid { .. }) && error.to_string().contains("size"), "{error}");
    let unknown: VolumeId = "vol-0123456789abcdef0".parse().unwrap();
    assert!(ec2::describe_volume(&account, &unknown).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_volume_goes_to_a_free_device_and_comes_back() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let node = world.instance(&account).await;
    let config = ec2::describe_instance(&account, &node).await.unwrap().config;
    let taken: Vec<String> = config.volumes.iter().map(|volume| volume.device_name.clone()).collect();
    let device = ec2::free_device_name(&taken, OsFamily::Linux).unwrap();
    assert_eq!(device, "/dev/sdg", "{taken:?}");
    let stop = CancellationToken::new();
    let volume = ec2::create_volume(&account, &blank(&config.availability_zone)).await.unwrap();
    ec2::wait_volume_available(&account, &volume, &stop).await.unwrap();
    ec2::attach_volume(&account, &volume, &node, &device).await.unwrap();
    ec2::wait_volume_attached(&account, &volume, &node, &stop).await.unwrap();
    let described = ec2::describe_volume(&account, &volume).await.unwrap();
    let [attachment] = described.attachments.as_slice() else { panic!("{described:?}") };
    assert_eq!((attachment.instance.as_ref(), attachment.device.as_str()), (Some(&node), "/dev/sdg"));
    assert!(!attachment.delete_on_termination);

    stop.cancel();
    let stopped = ec2::wait_volume_detached(&account, &volume, &stop).await.unwrap_err();
    assert_eq!(stopped, AwsError::Cancelled);
    let stop = CancellationToken::new();
    ec2::detach_volume(&account, &volume, true).await.unwrap();
    ec2::wait_volume_detached(&account, &volume, &stop).await.unwrap();
    assert!(ec2::describe_volume(&account, &volume).await.unwrap().attachments.is_empty());
    ec2::delete_volume(&account, &volume).await.unwrap();
    ec2::wait_volume_detached(&account, &volume, &stop).await.unwrap();
}
