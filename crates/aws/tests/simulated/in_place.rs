//! A restore in place: stopped, changed, started; and what is asked about before anything is made.

use snapferry_aws::{AwsError, ec2};
use snapferry_types::aws::Tag;
use tokio_util::sync::CancellationToken;

use crate::world::TestWorld;

#[tokio::test]
async fn an_instance_stops_and_starts_and_its_volumes_stay_or_go_as_told() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let instance = world.instance(&account).await;
    let stop = CancellationToken::new();
    ec2::stop_instance(&account, &instance).await.unwrap();
    ec2::wait_instance_stopped(&account, &instance, &stop).await.unwrap();
    ec2::stop_instance(&account, &instance).await.unwrap();
    let flags = [("/dev/xvda".to_owned(), false), ("/dev/sdf".to_owned(), true)];
    ec2::modify_delete_on_termination(&account, &instance, &flags).await.unwrap();
    let described = ec2::describe_instance(&account, &instance).await.unwrap();
    assert_eq!(described.state, "stopped");
    let told: Vec<_> = described
        .config
        .volumes
        .iter()
        .map(|one| (one.device_name.clone(), one.delete_on_termination))
        .collect();
    assert_eq!(told, [("/dev/sdf".to_owned(), true), ("/dev/xvda".to_owned(), false)]);
    let attached = &described.volumes[0].attachments[0];
    assert_eq!((attached.device.as_str(), attached.delete_on_termination), ("/dev/sdf", true));
    ec2::start_instance(&account, &instance).await.unwrap();
    ec2::wait_instance_running(&account, &instance, &stop).await.unwrap();
    ec2::terminate_instance(&account, &instance).await.unwrap();
    let ended = ec2::wait_instance_stopped(&account, &instance, &stop).await.unwrap_err();
    assert!(matches!(ended, AwsError::Failed { .. } | AwsError::NotFound { .. }), "{ended}");
}

#[tokio::test]
async fn an_instance_is_described_with_the_state_of_its_volumes() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let instance = world.instance(&account).await;
    let described = ec2::describe_instance(&account, &instance).await.unwrap();
    assert_eq!((described.volumes.len(), described.notes.len()), (2, 0));
    for (described, config) in described.volumes.iter().zip(&described.config.volumes) {
        assert_eq!((&described.id, described.state.as_str()), (&config.volume_id, "in-use"));
    }
    assert_eq!((described.config.product_codes.len(), described.config.outpost_arn), (0, None));
}

#[tokio::test]
async fn a_subnet_and_groups_that_are_not_there_are_named_before_anything_is_made() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let instance = world.instance(&account).await;
    let config = ec2::describe_instance(&account, &instance).await.unwrap().config;
    let interface = &config.network_interfaces[0];
    let subnet = ec2::check_subnet(&account, &interface.subnet_id).await.unwrap();
    assert_eq!(subnet.zone, config.availability_zone);
    assert_eq!(Some(&subnet.vpc), interface.vpc_id.as_ref());
    ec2::check_security_groups(&account, &interface.security_group_ids, &subnet.vpc).await.unwrap();

    let missing = ec2::check_subnet(&account, "subnet-0123456789abcdef0").await.unwrap_err();
    assert!(missing.is_not_found() && missing.to_string().contains("subnet-0123456789abcdef0"), "{missing}");
    let groups = [interface.security_group_ids.clone(), vec!["sg-0123456789abcdef0".to_owned()]].concat();
    let missing = ec2::check_security_groups(&account, &groups, &subnet.vpc).await.unwrap_err();
    assert_eq!(missing, AwsError::NotFound { what: "security group", id: "sg-0123456789abcdef0".to_owned() });
    let other = ec2::check_security_groups(&account, &interface.security_group_ids, "vpc-0e").await;
    assert!(other.unwrap_err().to_string().contains("vpc-0e"));
}

#[tokio::test]
async fn tags_without_room_are_given_back() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let snapshot = world.synthetic("snap-0c", 1, None);
    let tags: Vec<Tag> = (0..52).map(|n| Tag::new(format!("key-{n:02}"), "x")).collect();
    let dropped = ec2::create_tags(&account, snapshot.as_str(), &tags).await.unwrap();
    assert_eq!(dropped, tags[50..]);
    let states = ec2::snapshot_states(&account, &[snapshot]).await.unwrap();
    assert_eq!(states[0].tags.len(), 50);
}
