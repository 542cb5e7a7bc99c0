//! The EC2 steps, from an instance to its snapshots and back.

use awssim::faults::Effect;
use snapferry_aws::ec2::{self, Exclude, NewVolume, SnapshotPhase};
use snapferry_aws::{Account, AwsError, NewSnapshot, start_snapshot};
use snapferry_types::aws::Tag;
use snapferry_types::ledger::{ObjectKind, Purpose};
use snapferry_types::{InstanceId, SnapshotId};
use tokio_util::sync::CancellationToken;

use crate::world::{SERVICE, TENANT, TestWorld, our_tags};

#[tokio::test]
async fn an_instance_is_described_with_all_a_restore_needs() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let id = world.instance(&account).await;
    let described = ec2::describe_instance(&account, &id).await.unwrap();
    let config = described.config;
    assert_eq!(described.state, "running");
    assert_eq!(config.name(), Some("web-1"));
    assert!(config.tags.contains(&Tag::new("owner", "team é")));
    assert_eq!((config.instance_type.as_str(), config.key_name.as_deref()), ("m6i.large", Some("ops")));
    assert_eq!(config.root_device_name, "/dev/xvda");
    assert_eq!(config.network_interfaces.len(), 1);
    assert!(!config.network_interfaces[0].subnet_id.is_empty());
    assert!(!config.network_interfaces[0].security_group_ids.is_empty());
    let devices: Vec<&str> = config.volumes.iter().map(|volume| volume.device_name.as_str()).collect();
    assert_eq!(devices, ["/dev/sdf", "/dev/xvda"]);
    assert_eq!((config.volumes[0].size_gib, config.volumes[1].size_gib), (2, 1));
    assert_eq!((config.volumes[0].iops, config.volumes[0].throughput_mibps), (Some(3_000), Some(125)));
    assert!(config.volumes[1].delete_on_termination && !config.volumes[0].delete_on_termination);

    let page = ec2::list_instances(&account, None).await.unwrap();
    assert_eq!(page.instances.len(), 1);
    assert_eq!((&page.instances[0].instance, page.instances[0].volumes.len()), (&id, 2));
    assert_eq!(page.next, None);
}

#[tokio::test]
async fn unknown_things_are_named() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let instance: InstanceId = "i-0123456789abcdef0".parse().unwrap();
    let error = ec2::describe_instance(&account, &instance).await.unwrap_err();
    assert_eq!(error, AwsError::NotFound { what: "instance", id: instance.to_string() });
    let snapshot: SnapshotId = "snap-0123456789abcdef0".parse().unwrap();
    let error = ec2::snapshot_states(&account, std::slice::from_ref(&snapshot)).await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("snap-0123456789abcdef0"), "{error}");
    assert!(ec2::region_exists(&account, account.region()).await.unwrap());
    assert!(!ec2::region_exists(&account, &"mars-north-1".parse().unwrap()).await.unwrap());
}

async fn snapshots_of(account: &Account, instance: &InstanceId) -> Vec<SnapshotId> {
    let (entry, tags) = our_tags(Purpose::BackupSource);
    let made = ec2::create_snapshots(account, instance, &Exclude::default(), &tags).await.unwrap();
    let ids: Vec<SnapshotId> = made.into_iter().map(|(_, snapshot)| snapshot).collect();
    let mut found = ec2::find_by_ledger_tag(account, ObjectKind::Snapshot, entry).await.unwrap();
    let mut expected: Vec<String> = ids.iter().map(ToString::to_string).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    ids
}

#[tokio::test]
async fn snapshots_are_taken_watched_shared_and_deleted() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let instance = world.instance(&account).await;
    let config = ec2::describe_instance(&account, &instance).await.unwrap().config;
    for volume in &config.volumes {
        ec2::create_tags(&account, volume.volume_id.as_str(), &[Tag::new("disk", &volume.device_name)])
            .await
            .unwrap();
    }
    let ids = snapshots_of(&account, &instance).await;
    assert_eq!(ids.len(), 2);
    let mut n_looks = 0;
    let stop = CancellationToken::new();
    let states = ec2::wait_snapshots_completed(&account, &ids, |_| n_looks += 1, &stop).await.unwrap();
    assert!(n_looks >= 1);
    assert!(states.iter().all(|state| state.phase == SnapshotPhase::Completed));
    for state in &states {
        assert!(state.tags.iter().any(|tag| tag.key == "disk"), "the volume's tags come along: {state:?}");
        assert!(state.tags.iter().any(|tag| tag.key == "snapferry:ledger"));
        let volume = config.volumes.iter().find(|volume| Some(&volume.volume_id) == state.volume.as_ref());
        assert_eq!(volume.map(|volume| volume.size_gib), Some(state.size_gib));
    }

    let service = SERVICE.parse().unwrap();
    ec2::share_snapshot(&account, &ids[0], &service).await.unwrap();
    ec2::unshare_snapshot(&account, &ids[0], &service).await.unwrap();
    for id in &ids {
        ec2::delete_snapshot(&account, id).await.unwrap();
        ec2::delete_snapshot(&account, id).await.unwrap();
    }
    let left = world.server.context().world.inventory(Some(TENANT));
    assert_eq!(left.get("snapshots").map(Vec::len), Some(2), "only those of the image: {left:?}");
}

#[tokio::test]
async fn excluded_volumes_have_no_snapshot() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let instance = world.instance(&account).await;
    let exclude = Exclude { boot_volume: true, data_volumes: Vec::new() };
    let (_, tags) = our_tags(Purpose::BackupSource);
    let made = ec2::create_snapshots(&account, &instance, &exclude, &tags).await.unwrap();
    let config = ec2::describe_instance(&account, &instance).await.unwrap().config;
    let data = config.volumes.iter().find(|volume| volume.device_name == "/dev/sdf").unwrap();
    assert_eq!(made.iter().map(|(volume, _)| volume).collect::<Vec<_>>(), [&data.volume_id]);
}

#[tokio::test]
async fn a_lost_reply_makes_one_set_of_snapshots_which_its_tag_finds() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let instance = world.instance(&account).await;
    world.hurt("CreateSnapshots", Effect::LoseReply, Some(1), 1.0);
    let (entry, tags) = our_tags(Purpose::BackupSource);
    let error = ec2::create_snapshots(&account, &instance, &Exclude::default(), &tags).await.unwrap_err();
    assert!(error.retryable(), "{error}");
    assert_eq!(world.fired("lose_reply"), 1);
    let found = ec2::find_by_ledger_tag(&account, ObjectKind::Snapshot, entry).await.unwrap();
    assert_eq!(found.len(), 2, "one of each volume");
}

#[tokio::test]
async fn throttled_and_failing_control_calls_are_tried_again() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let instance = world.instance(&account).await;
    let busy =
        Effect::Error { status: 503, code: "RequestLimitExceeded".to_owned(), message: None, reason: None };
    world.hurt("CreateSnapshots", busy.clone(), Some(2), 1.0);
    world.hurt("DescribeInstances", busy, Some(2), 1.0);
    assert_eq!(snapshots_of(&account, &instance).await.len(), 2);
    ec2::describe_instance(&account, &instance).await.unwrap();
    assert_eq!(world.fired("error"), 4);
    assert!(account.calls().figures().retries >= 4, "{:?}", account.calls().figures());
}

#[tokio::test]
async fn a_volume_is_made_once_attached_detached_and_deleted() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let instance = world.instance(&account).await;
    let config = ec2::describe_instance(&account, &instance).await.unwrap().config;
    let (entry, tags) = our_tags(Purpose::RestoreResult);
    let new = NewVolume {
        snapshot: Some("snap-0b".parse().unwrap()),
        availability_zone: config.availability_zone.clone(),
        size_gib: Some(4),
        volume_type: "gp2".to_owned(),
        iops: Some(100),
        throughput_mibps: None,
        encrypted: false,
        kms_key_id: None,
        tags: [tags, vec![Tag::new("Name", "data"), Tag::new("aws:cloudformation:stack-name", "no")]]
            .concat(),
        client_token: entry.to_string(),
    };
    world.hurt("CreateVolume", Effect::LoseReply, Some(1), 1.0);
    let volume = ec2::create_volume(&account, &new).await.unwrap();
    assert_eq!(world.fired("lose_reply"), 1);
    assert_eq!(ec2::create_volume(&account, &new).await.unwrap(), volume);
    let found = ec2::find_by_ledger_tag(&account, ObjectKind::Volume, entry).await.unwrap();
    assert_eq!(found, [volume.to_string()], "the repeat after the lost reply found the first");
    let stop = CancellationToken::new();
    ec2::wait_volume_available(&account, &volume, &stop).await.unwrap();
    ec2::attach_volume(&account, &volume, &instance, "/dev/sdg").await.unwrap();
    assert_eq!(ec2::volume_state(&account, &volume).await.unwrap(), "in-use");
    assert!(matches!(ec2::delete_volume(&account, &volume).await, Err(AwsError::Busy { .. })));
    ec2::detach_volume(&account, &volume, false).await.unwrap();
    ec2::detach_volume(&account, &volume, false).await.unwrap();
    ec2::wait_volume_available(&account, &volume, &stop).await.unwrap();
    ec2::delete_volume(&account, &volume).await.unwrap();
    ec2::delete_volume(&account, &volume).await.unwrap();
    assert!(ec2::find_by_ledger_tag(&account, ObjectKind::Volume, entry).await.unwrap().is_empty());
}

#[tokio::test]
async fn images_and_instances_are_found_by_their_tag_and_go() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let instance = world.instance(&account).await;
    let (entry, tags) = our_tags(Purpose::RestoreResult);
    ec2::create_tags(&account, instance.as_str(), &tags).await.unwrap();
    let found = ec2::find_by_ledger_tag(&account, ObjectKind::Instance, entry).await.unwrap();
    assert_eq!(found, [instance.to_string()]);
    let image = ec2::describe_instance(&account, &instance).await.unwrap().config.image_id.unwrap();
    assert!(ec2::image_available(&account, &image).await.unwrap());
    ec2::create_tags(&account, &image, &tags).await.unwrap();
    assert_eq!(
        ec2::find_by_ledger_tag(&account, ObjectKind::Image, entry).await.unwrap(),
        std::slice::from_ref(&image)
    );
    ec2::deregister_image(&account, &image).await.unwrap();
    ec2::deregister_image(&account, &image).await.unwrap();
    ec2::terminate_instance(&account, &instance).await.unwrap();
    assert!(ec2::find_by_ledger_tag(&account, ObjectKind::Instance, entry).await.unwrap().is_empty());
    assert!(ec2::describe_instance(&account, &instance).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_wait_stops_with_its_token() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let (entry, tags) = our_tags(Purpose::RestoreStaging);
    let never_completed = NewSnapshot {
        size_gib: 1,
        encrypted: false,
        kms_key_id: None,
        description: String::new(),
        tags,
        client_token: entry.to_string(),
    };
    let ids = [start_snapshot(&account, &never_completed).await.unwrap()];
    let stop = CancellationToken::new();
    stop.cancel();
    let stopped = ec2::wait_snapshots_completed(&account, &ids, |_| (), &stop).await;
    assert_eq!(stopped.unwrap_err(), AwsError::Cancelled);
}
