//! An instance on hardware of its own, in a placement group, with two network interfaces: all of that comes back with it, in a
//! new instance and in place.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use awssim::world::Placed;
use snapferry_api::restore::RestoreTarget;
use snapferry_aws::ec2::{self, ImageVolume, NewImage};
use snapferry_testkit::eventually;
use snapferry_tests::{ACCOUNT, REGION, Rig, RigOptions, TestInstance, check_has_all, check_kept};
use snapferry_types::InstanceId;
use snapferry_types::aws::Tag;
use snapferry_types::instance::{InstanceConfig, NetworkInterface, VolumeConfig};

const BOUND: Duration = Duration::from_secs(60);

/// Launches another instance over an instance's latest snapshots: on hardware of its own, in a placement group, with a
/// second network interface, which stays when it goes.
async fn launch(rig: &Rig, like: &InstanceConfig) -> InstanceId {
    let outsider = rig.outsider().await.unwrap();
    let snapshots = rig.snapshots_of(ACCOUNT, REGION).await.unwrap();
    let volume = |of: &VolumeConfig| ImageVolume {
        device_name: of.device_name.clone(),
        snapshot: {
            let taken = snapshots.iter().find(|one| one.volume.as_ref() == Some(&of.volume_id));
            taken.unwrap().snapshot.clone()
        },
        size_gib: of.size_gib,
        volume_type: of.volume_type.clone(),
        iops: of.iops,
        throughput_mibps: of.throughput_mibps,
        delete_on_termination: of.delete_on_termination,
    };
    let image = NewImage {
        name: "golden".to_owned(),
        architecture: like.architecture.clone(),
        boot_mode: like.boot_mode.clone(),
        virtualization_type: like.virtualization_type.clone(),
        ena_support: like.ena_support,
        root_device_name: like.root_device_name.clone(),
        volumes: like.volumes.iter().map(volume).collect(),
        tags: Vec::new(),
    };
    let image_id = ec2::register_image(&outsider, &image).await.unwrap();
    let first = like.network_interfaces[0].clone();
    let second = NetworkInterface { device_index: 1, delete_on_termination: false, ..first.clone() };
    let new = ec2::NewInstance {
        image_id: image_id.clone(),
        instance_type: like.instance_type.clone(),
        network_interfaces: vec![first, second],
        private_ip: None,
        keep_private_ips: false,
        key_name: like.key_name.clone(),
        iam_instance_profile: like.iam_instance_profile_arn.clone(),
        volume_keys: Vec::new(),
        availability_zone: None,
        tenancy: Some("dedicated".to_owned()),
        placement_group: Some("close together".to_owned()),
        ebs_optimized: like.ebs_optimized,
        tags: like.tags.clone(),
        client_token: "golden".to_owned(),
    };
    let id = ec2::run_instance(&outsider, &new).await.unwrap();
    let runs = || async { rig.describe(&id).await.is_ok_and(|one| one.state == "running") };
    eventually(BOUND, "the instance runs", runs).await.unwrap();
    ec2::deregister_image(&outsider, &image_id).await.unwrap();
    for volume in rig.attached(&id).await.unwrap().into_values() {
        let tags = [Tag::new("Name", &volume), Tag::new("cost-centre", "4711")];
        ec2::create_tags(&outsider, &volume, &tags).await.unwrap();
    }
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn placement_and_every_network_interface_come_back() {
    let rig = Rig::start(RigOptions { n_agents: 1, ..RigOptions::default() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let seed = TestInstance::place(&sim, "seed", 3).unwrap();
    rig.succeed(rig.snap(&seed.id, None).await.unwrap()).await.unwrap();
    let seed = rig.describe(&seed.id).await.unwrap().config;
    sim.world.add_key_pair(ACCOUNT, REGION, seed.key_name.as_ref().unwrap());
    let id = launch(&rig, &seed).await;
    let original = rig.describe(&id).await.unwrap().config;
    check_has_all(&original).unwrap();
    assert_eq!(original.tenancy.as_deref(), Some("dedicated"));
    assert_eq!(original.placement_group.as_deref(), Some("close together"));
    let stays = |of: &InstanceConfig| {
        let interfaces = of.network_interfaces.iter();
        interfaces.map(|one| (one.device_index, !one.delete_on_termination)).collect::<Vec<_>>()
    };
    assert_eq!(stays(&original), [(0, false), (1, true)]);

    let volumes = original.volumes.iter().map(|one| one.volume_id.to_string()).collect();
    let instance = TestInstance::of(&sim, Placed { instance: id.to_string(), volumes }).unwrap();
    let content = instance.content(&sim).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let new = RestoreTarget::Instance(Box::default());
    let in_place = RestoreTarget::InPlace { delete_old_volumes: false, leave_stopped: false };
    let job = rig.succeed(rig.restore_to(point, new).await.unwrap()).await.unwrap();
    instance.check(&sim, &job, &content).unwrap();
    let restored = job.tasks[0].made.iter().find(|made| made.kind == "instance").unwrap();
    let restored: InstanceId = restored.id.parse().unwrap();
    check_kept(&original, &rig.describe(&restored).await.unwrap().config, None).unwrap();
    let job = rig.succeed(rig.restore_to(point, in_place).await.unwrap()).await.unwrap();
    instance.check(&sim, &job, &content).unwrap();
    check_kept(&original, &rig.describe(&id).await.unwrap().config, None).unwrap();
    // Of the seed, of the launched one and of both restores.
    rig.left(4, 8).await.unwrap();
}
