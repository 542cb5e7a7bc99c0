//! What cannot be done is refused before anything is made: keys of shares and of backup copies, nodes without a transit
//! key, disk images by a transport or larger than their format, two volumes for one device, Outposts, networks that are gone since the backup, instances without a root volume.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::time::Duration;

use awssim::world::{KeyState, Marks};
use awssim::{Config, Server};
use snapferry_api::protect::VaultTo;
use snapferry_api::restore::{AttachTo, NewInstance, RestoreFrom, RestoreTarget};
use snapferry_aws::ec2;
use snapferry_testkit::eventually;
use snapferry_tests::breaking::refused;
use snapferry_tests::{
    ACCOUNT, ELSEWHERE, REGION, Rig, RigOptions, SERVICE, TestInstance, VOLUMES, key_for, key_for_both, says,
    vault,
};
use snapferry_types::instance::OsFamily;
use snapferry_types::{ImageFormat, InstanceId, JobId, RecoveryPointId, TransportWish};

const BOUND: Duration = Duration::from_secs(60);
const OUTPOST: &str = "arn:aws:outposts:eu-central-1:222222222222:outpost/op-1";

async fn rig(with_service_resources: bool) -> Rig {
    let options = RigOptions { n_agents: 1, with_service_resources, ..RigOptions::default() };
    Rig::start(options).await.unwrap()
}

async fn snap(rig: &Rig, instance: &TestInstance, to: Option<(VaultTo, Option<&str>)>) -> JobId {
    rig.snap(&instance.id, to.map(|(to, region)| vault(to, region))).await.unwrap()
}

async fn snapped(rig: &Rig, instance: &TestInstance) -> RecoveryPointId {
    Rig::recovery_point(&rig.succeed(snap(rig, instance, None).await).await.unwrap()).unwrap()
}

async fn copy(rig: &Rig, source: RecoveryPointId, transport: TransportWish) -> JobId {
    rig.copy_by(source, transport).await.unwrap()
}

async fn restore(
    rig: &Rig,
    (point, from): (RecoveryPointId, RestoreFrom),
    target: RestoreTarget,
    transport: TransportWish,
) -> JobId {
    rig.restore_with(point, from, target, transport, None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_volumes_whose_key_the_service_account_cannot_use_is_refused() {
    let rig = rig(false).await;
    let sim = rig.sim.context().clone();
    let key = sim.world.create_key(ACCOUNT, REGION, Some(key_for_both()));
    let share = Some((VaultTo::ServiceShare, None));
    let both = [OsFamily::Linux, OsFamily::Windows]
        .map(|os| TestInstance::place_as(&sim, "one", 2, os, Some(&key)).unwrap());
    for instance in &both {
        let words = [key.as_str(), instance.volumes[0].as_str(), "choose another vault", "nothing was made"];
        for (state, why) in
            [(KeyState::Disabled, "is disabled"), (KeyState::PendingDeletion, "is pending deletion")]
        {
            assert!(sim.world.set_key_state(&key, state));
            refused(&rig, snap(&rig, instance, share), "invalid", &[&words[..], &[why]].concat()).await;
        }
        assert!(sim.world.set_key_state(&key, KeyState::Enabled));
        assert!(sim.world.set_key_policy(&key, key_for(&[ACCOUNT])));
        let why = [SERVICE, "kms:Decrypt"];
        refused(&rig, snap(&rig, instance, share), "access_denied", &[&words[..], &why].concat()).await;
        assert!(sim.world.set_key_policy(&key, key_for_both()));
    }
    assert_eq!(rig.calls("ec2", "CreateSnapshots") + rig.calls("ec2", "ModifySnapshotAttribute"), 0);
    rig.only_these_are_left(0, 4).await.unwrap();
    rig.succeed(snap(&rig, &both[0], share).await).await.unwrap();
    rig.shared_with(1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_copy_by_hot_add_is_refused_for_want_of_a_key() {
    let mut rig = rig(true).await;
    let sim = rig.sim.context().clone();
    let key = sim.world.create_key(ACCOUNT, REGION, Some(key_for_both()));
    let managed = sim.world.managed_key(ACCOUNT, REGION);
    let sealed = TestInstance::place_as(&sim, "one", 2, OsFamily::Windows, Some(&key)).unwrap();
    let unshareable = TestInstance::place_as(&sim, "two", 2, OsFamily::Linux, Some(&managed)).unwrap();
    let (source, other) = (snapped(&rig, &sealed).await, snapped(&rig, &unshareable).await);
    let backed_up = rig.backed_up(&sealed).await.unwrap();
    let (hot_add, volume) = (TransportWish::HotAdd, sealed.volumes[0].as_str());
    let words = ["hot_add was asked for", key.as_str(), volume, "nothing was made"];

    assert!(sim.world.set_key_policy(&key, key_for(&[ACCOUNT])));
    let why = [SERVICE, "kms:Decrypt", "EBS direct as the tenant"];
    refused(&rig, copy(&rig, source, hot_add), "access_denied", &[&words[..], &why].concat()).await;
    assert!(sim.world.set_key_policy(&key, key_for_both()));
    assert!(sim.world.set_key_state(&key, KeyState::Disabled));
    refused(&rig, copy(&rig, source, hot_add), "invalid", &[&words[..], &["is disabled"]].concat()).await;
    assert!(sim.world.set_key_state(&key, KeyState::Enabled));

    let without = |text: &str| {
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("transit_kms_key_id")).collect();
        kept.join("\n")
    };
    rig.reconfigure_agent(without).await.unwrap();
    let words = ["hot_add was asked for", managed.as_str(), "transit_kms_key_id", "nothing was made"];
    refused(&rig, copy(&rig, other, hot_add), "invalid", &words).await;
    // What was encrypted would lie there in plain, whatever is made of it.
    for transport in [TransportWish::HotAdd, TransportWish::Import] {
        let in_place = RestoreTarget::InPlace { delete_old_volumes: true, leave_stopped: false };
        for target in [VOLUMES, RestoreTarget::Instance(Box::default()), in_place] {
            let words = [
                transport.as_str(),
                volume,
                "would lie in the service account in plain",
                "set transit_kms_key_id",
                "or use EBS direct",
                "nothing was made",
            ];
            let from = (backed_up, RestoreFrom::MediaAgent);
            refused(&rig, restore(&rig, from, target, transport), "invalid", &words).await;
        }
    }
    assert_eq!(rig.calls("ec2", "CopySnapshot") + rig.calls("ec2", "ModifySnapshotAttribute"), 0);
    // Two recovery points, and the snapshots that the next streaming backup is compared with.
    rig.only_these_are_left(6, 4).await.unwrap();
    // What needs no transit key works there.
    rig.succeed(copy(&rig, source, hot_add).await).await.unwrap();
    rig.succeed(copy(&rig, other, TransportWish::EbsDirect).await).await.unwrap();
    rig.shared_with(0).await.unwrap();
    rig.only_these_are_left(6, 4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_image_by_a_transport_that_only_writes_to_aws_is_refused() {
    let rig = rig(true).await;
    let instance = TestInstance::place(rig.sim.context(), "one", 2).unwrap();
    let points = [
        (snapped(&rig, &instance).await, RestoreFrom::Snapshot),
        (rig.backed_up(&instance).await.unwrap(), RestoreFrom::MediaAgent),
    ];
    for from in points {
        for transport in [TransportWish::HotAdd, TransportWish::Import] {
            let target = RestoreTarget::DiskImage { folder: "monday".to_owned(), format: ImageFormat::Qcow2 };
            let words = [transport.as_str(), "cannot be used", "nothing is written to AWS for a disk image"];
            refused(&rig, restore(&rig, from, target, transport), "invalid", &words).await;
        }
    }
    // Larger than the format holds.
    let large = rig.sim.context().place_instance(ACCOUNT, REGION, "large", None, &[2_041]).unwrap();
    let large = TestInstance::of(rig.sim.context(), large).unwrap();
    let from = (snapped(&rig, &large).await, RestoreFrom::Snapshot);
    let target = RestoreTarget::DiskImage { folder: "monday".to_owned(), format: ImageFormat::Vhd };
    let words =
        [large.volumes[0].as_str(), "larger than the 2,040 GiB of a VHD", "choose raw, qcow2 or vmdk"];
    refused(&rig, restore(&rig, from, target, TransportWish::Automatic), "invalid", &words).await;
    assert!(!rig.dir.join("images/monday").exists());
    rig.only_these_are_left(5, 3).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_volumes_that_would_come_to_one_device_are_refused_before_either_is_made() {
    let rig = rig(false).await;
    let sim = rig.sim.context();
    let placed = sim.place_instance(ACCOUNT, REGION, "three", None, &[1, 1, 1]).unwrap();
    let instance = TestInstance::of(sim, placed).unwrap();
    let from = (snapped(&rig, &instance).await, RestoreFrom::Snapshot);
    // The third volume is where the second was, which is nowhere.
    let owner = rig.owner(ACCOUNT, REGION).await.unwrap();
    let volumes = rig.describe(&instance.id).await.unwrap().config.volumes;
    let of = |n: usize| volumes.iter().find(|one| one.volume_id.as_str() == instance.volumes[n]).unwrap();
    let (second, third) = (of(1), of(2));
    for one in [second, third] {
        ec2::detach_volume(&owner, &one.volume_id, false).await.unwrap();
    }
    let n_attached = async || rig.attached(&instance.id).await.unwrap().len();
    eventually(BOUND, "both are off", || async { n_attached().await == 1 }).await.unwrap();
    ec2::attach_volume(&owner, &third.volume_id, &instance.id, &second.device_name).await.unwrap();
    eventually(BOUND, "the third is there", || async { n_attached().await == 2 }).await.unwrap();
    let target = RestoreTarget::InPlace { delete_old_volumes: false, leave_stopped: false };
    let words = [&instance.volumes[1], &instance.volumes[2], &second.device_name].map(String::as_str);
    let words = [&words[..], &["would both come to", "restore one of them to a volume"]].concat();
    refused(&rig, restore(&rig, from, target, TransportWish::Automatic), "invalid", &words).await;
    assert_eq!(rig.calls("ec2", "CreateVolume"), 0);
    assert_eq!(rig.describe(&instance.id).await.unwrap().state, "running");
}

fn on_the_outpost() -> Marks {
    Marks { outpost: Some(OUTPOST.to_owned()), ..Marks::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn intellisnap_of_an_instance_on_an_outpost_is_refused_with_and_without_a_vault() {
    let rig = rig(false).await;
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 2).unwrap();
    for marked in instance.volumes.iter().map(String::as_str).chain([instance.id.as_str()]) {
        sim.world.mark(marked, on_the_outpost()).unwrap();
    }
    for to in [
        None,
        Some((VaultTo::Tenant, Some(ELSEWHERE))),
        Some((VaultTo::ServiceShare, None)),
        Some((VaultTo::ServiceCopy, None)),
    ] {
        let words = [OUTPOST, instance.volumes[0].as_str(), "move the instance into the region"];
        refused(&rig, snap(&rig, &instance, to), "invalid", &words).await;
    }
    assert_eq!(rig.calls("ec2", "CreateSnapshots"), 0);
    rig.left(0, 2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_copy_of_snapshots_on_an_outpost_is_refused() {
    let rig = rig(true).await;
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 2).unwrap();
    let source = snapped(&rig, &instance).await;
    let snapshots = rig.snapshots_of(ACCOUNT, REGION).await.unwrap();
    for state in &snapshots {
        sim.world.mark(state.snapshot.as_str(), on_the_outpost()).unwrap();
    }
    for transport in [TransportWish::Automatic, TransportWish::EbsDirect, TransportWish::HotAdd] {
        let words = [OUTPOST, "snap-", " of vol-"];
        refused(&rig, copy(&rig, source, transport), "invalid", &words).await;
    }
    let reads = rig.calls("ebs", "GetSnapshotBlock") + rig.calls("ec2", "ModifySnapshotAttribute");
    assert_eq!(reads, 0, "it was found out by trying");
    rig.only_these_are_left(2, 2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_for_an_instance_on_an_outpost_are_refused() {
    let rig = rig(false).await;
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 2).unwrap();
    let there = TestInstance::place(&sim, "two", 1).unwrap();
    let points = [
        (snapped(&rig, &instance).await, RestoreFrom::Snapshot),
        (rig.backed_up(&instance).await.unwrap(), RestoreFrom::MediaAgent),
    ];
    for marked in there.volumes.iter().map(String::as_str).chain([there.id.as_str()]) {
        sim.world.mark(marked, on_the_outpost()).unwrap();
    }
    for from in points {
        let attach = Some(AttachTo { instance: there.id.clone(), devices: Vec::new() });
        let target = RestoreTarget::Volumes { availability_zone: None, attach };
        let words = [there.id.as_str(), OUTPOST, "attach to another instance"];
        refused(&rig, restore(&rig, from, target, TransportWish::Automatic), "invalid", &words).await;
    }
    assert_eq!(rig.calls("ebs", "StartSnapshot") + rig.calls("ec2", "CreateVolume"), 0);
    rig.left(4, 4).await.unwrap();
}

/// Deletes a subnet or a security group behind our back: out of the simulator's world while that stands still, since it
/// has no such call.
async fn lose(rig: &mut Rig, kind: &str, id: &str) {
    let (listen, data_dir) = (rig.sim.address(), rig.dir.join("aws"));
    let config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), data_dir: rig.dir.join("no-aws") };
    let nowhere = Server::start(config).await.unwrap();
    std::mem::replace(&mut rig.sim, nowhere).stop().await;
    let file = data_dir.join("world.json");
    let mut world: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let lost = world[kind].as_object_mut().unwrap().remove(id);
    assert!(lost.is_some(), "there is no {id}");
    std::fs::write(&file, world.to_string()).unwrap();
    rig.sim = Server::start(Config { listen, data_dir }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_network_is_gone_since_the_backup_is_refused_until_another_is_chosen() {
    let mut rig = rig(false).await;
    let instance = TestInstance::place(rig.sim.context(), "one", 2).unwrap();
    let content = instance.content(rig.sim.context()).unwrap();
    let neighbour =
        rig.sim.context().place_instance_in(ACCOUNT, "eu-central-1b", "neighbour", None, &[1]).unwrap();
    let neighbour: InstanceId = neighbour.instance.parse().unwrap();
    let points = [
        (snapped(&rig, &instance).await, RestoreFrom::Snapshot),
        (rig.backed_up(&instance).await.unwrap(), RestoreFrom::MediaAgent),
    ];
    let interface = async |rig: &Rig, of: &InstanceId| {
        rig.describe(of).await.unwrap().config.network_interfaces.swap_remove(0)
    };
    let network = interface(&rig, &instance.id).await;
    let other_subnet = interface(&rig, &neighbour).await.subnet_id;
    let new = |subnet_id: Option<&str>| {
        let subnet_id = subnet_id.map(ToOwned::to_owned);
        RestoreTarget::Instance(Box::new(NewInstance { subnet_id, ..NewInstance::default() }))
    };
    let by = TransportWish::Automatic;

    let subnet = network.subnet_id.as_str();
    assert_ne!(subnet, other_subnet);
    lose(&mut rig, "subnets", subnet).await;
    for from in points {
        let words = [subnet, "choose another subnet"];
        refused(&rig, restore(&rig, from, new(None), by), "not_found", &words).await;
    }
    let id = restore(&rig, points[1], new(Some(&other_subnet)), by).await;
    instance.check(rig.sim.context(), &rig.succeed(id).await.unwrap(), &content).unwrap();
    rig.only_these_are_left(4, 5).await.unwrap();

    let group = network.security_group_ids[0].as_str();
    lose(&mut rig, "groups", group).await;
    for from in points {
        let words = [group, "choose security groups of vpc-"];
        refused(&rig, restore(&rig, from, new(Some(&other_subnet)), by), "not_found", &words).await;
    }
    assert_eq!(rig.calls("ebs", "StartSnapshot") + rig.calls("ec2", "RegisterImage"), 0);
    rig.only_these_are_left(4, 5).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_root_is_on_instance_store_is_refused() {
    let rig = rig(true).await;
    let sim = rig.sim.context().clone();
    let bare = sim.place_instance(ACCOUNT, REGION, "bare", None, &[]).unwrap();
    let bare = TestInstance::of(&sim, bare).unwrap();
    let words = [bare.id.as_str(), "it has no EBS volumes", "nothing to back up"];
    refused(&rig, snap(&rig, &bare, None), "invalid", &words).await;
    for transport in [TransportWish::Automatic, TransportWish::EbsDirect, TransportWish::HotAdd] {
        let back_up = async { rig.back_up_by(&bare.id, transport).await.unwrap() };
        refused(&rig, back_up, "invalid", &words).await;
    }
    assert_eq!(rig.calls("ec2", "CreateSnapshots"), 0);

    // Data volumes alone are backed up; an instance is not made of them.
    let instance = TestInstance::place(&sim, "with data", 2).unwrap();
    let root = rig.describe(&instance.id).await.unwrap().config.root_device_name;
    let outsider = rig.outsider().await.unwrap();
    ec2::stop_instance(&outsider, &instance.id).await.unwrap();
    ec2::wait_instance_stopped(&outsider, &instance.id, &Default::default()).await.unwrap();
    ec2::detach_volume(&outsider, &instance.volumes[0].parse().unwrap(), false).await.unwrap();
    let job = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
    assert!(says(&job, &format!("{} has no EBS volume at its root {root}", instance.id)), "{job:#?}");
    let points = [
        (Rig::recovery_point(&job).unwrap(), RestoreFrom::Snapshot),
        (rig.backed_up(&instance).await.unwrap(), RestoreFrom::MediaAgent),
    ];
    for from in points {
        let new = RestoreTarget::Instance(Box::default());
        let words = [root.as_str(), "an instance needs its root volume", "restore to volumes"];
        refused(&rig, restore(&rig, from, new, TransportWish::Automatic), "invalid", &words).await;
    }
    rig.only_these_are_left(2, 2).await.unwrap();
}
