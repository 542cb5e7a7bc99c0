//! What a task cannot do is found before it makes anything: the missing permission by name, for whom, and the way out.
//! After each refusal both accounts hold exactly what they held.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use awssim::faults::Quotas;
use awssim::world::{KeyState, Marks, Placed};
use snapferry_api::job::{Job, Note, Work};
use snapferry_api::protect::{BackupCopy, Vault, VaultTo};
use snapferry_api::restore::{AttachTo, NewInstance, RestoreFrom, RestoreTarget};
use snapferry_aws::ec2::{self, ImageVolume, NewImage};
use snapferry_tests::breaking::refused;
use snapferry_tests::{
    ACCOUNT, ELSEWHERE, REGION, Rig, RigOptions, SERVICE, TestInstance, VOLUMES, key_for, vault,
};
use snapferry_types::instance::OsFamily;
use snapferry_types::{ImageFormat, JobId, RecoveryPointId, TransportWish};

const IN_PLACE: RestoreTarget = RestoreTarget::InPlace { delete_old_volumes: true, leave_stopped: false };

async fn rig(with_service_resources: bool) -> Rig {
    let options = RigOptions { n_agents: 1, with_service_resources, ..RigOptions::default() };
    Rig::start(options).await.unwrap()
}

async fn back_up(rig: &Rig, instance: &TestInstance, transport: TransportWish) -> JobId {
    rig.back_up_by(&instance.id, transport).await.unwrap()
}

async fn restore(
    rig: &Rig,
    recovery_point: RecoveryPointId,
    target: RestoreTarget,
    transport: TransportWish,
    key: Option<&str>,
) -> JobId {
    let key = key.map(ToOwned::to_owned);
    rig.restore_with(recovery_point, RestoreFrom::MediaAgent, target, transport, key).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_may_take_no_snapshots_makes_none() {
    let rig = rig(false).await;
    let instance = TestInstance::place(rig.sim.context(), "one", 2).unwrap();
    for action in ["ec2:CreateSnapshots", "ec2:CreateTags"] {
        rig.deny(&[action]);
        let words = [action, "the tenant's account", ACCOUNT, "deploy/iam", "nothing was made"];
        let job = back_up(&rig, &instance, TransportWish::Automatic);
        refused(&rig, job, "access_denied", &words).await;
        let job = async { rig.snap(&instance.id, None).await.unwrap() };
        refused(&rig, job, "access_denied", &words).await;
    }
    assert_eq!(rig.calls("ec2", "CreateSnapshots"), 0, "it was asked by doing it");
    // Each asked once: an error for good is not tried again.
    assert_eq!(rig.calls("ec2", "CreateSnapshots:DryRun"), 4);

    // A volume of which AWS takes no snapshots, and an Outpost.
    rig.deny(&[]);
    let volume = instance.volumes[1].as_str();
    let world = &rig.sim.context().world;
    world.mark(volume, Marks { is_failed: true, ..Marks::default() }).unwrap();
    let words = [volume, "in state error", "detach it"];
    for transport in [TransportWish::Automatic, TransportWish::EbsDirect, TransportWish::HotAdd] {
        refused(&rig, back_up(&rig, &instance, transport), "invalid", &words).await;
    }
    let job = async { rig.snap(&instance.id, None).await.unwrap() };
    refused(&rig, job, "invalid", &words).await;
    world.mark(volume, Marks::default()).unwrap();
    let arn = "arn:aws:outposts:eu-central-1:222222222222:outpost/op-1";
    let outpost = Marks { outpost: Some(arn.to_owned()), ..Marks::default() };
    world.mark(instance.id.as_str(), outpost).unwrap();
    for transport in [TransportWish::Automatic, TransportWish::EbsDirect, TransportWish::HotAdd] {
        let job = back_up(&rig, &instance, transport);
        refused(&rig, job, "invalid", &[volume, arn, "move the instance into the region"]).await;
    }
    world.mark(instance.id.as_str(), Marks::default()).unwrap();
    rig.backed_up(&instance).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_add_is_refused_for_want_of_a_permission_of_the_service_account() {
    let mut rig = rig(true).await;
    let world = rig.sim.context().world.clone();
    let instance = TestInstance::place(rig.sim.context(), "one", 2).unwrap();
    let own_key = world.create_key(ACCOUNT, REGION, Some(key_for(&[ACCOUNT])));
    let sealed =
        TestInstance::place_as(rig.sim.context(), "two", 2, OsFamily::Linux, Some(&own_key)).unwrap();
    for action in ["ec2:CreateVolume", "ec2:AttachVolume"] {
        rig.deny_service(&[action]);
        let job = back_up(&rig, &instance, TransportWish::HotAdd);
        let words = ["hot_add was asked for", action, "the service account", SERVICE, "nothing was made"];
        refused(&rig, job, "access_denied", &words).await;
    }
    rig.deny_service(&[]);
    let job = back_up(&rig, &sealed, TransportWish::HotAdd);
    let words = [own_key.as_str(), SERVICE, "kms:Decrypt", "EBS direct as the tenant"];
    refused(&rig, job, "access_denied", &words).await;
    assert_eq!(rig.calls("ec2", "CreateSnapshots"), 0);

    // Sharing is asked about as soon as there is a snapshot of ours: the base, or what is copied.
    rig.backed_up(&instance).await.unwrap();
    let source = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
    let source = Rig::recovery_point(&source).unwrap();
    rig.deny(&["ec2:ModifySnapshotAttribute"]);
    let words = ["ec2:ModifySnapshotAttribute", ACCOUNT];
    let job = back_up(&rig, &instance, TransportWish::HotAdd);
    refused(&rig, job, "access_denied", &words).await;
    let copy = BackupCopy {
        hypervisor: rig.tenant,
        recovery_points: vec![source],
        media_agent: None,
        full: true,
        transport: TransportWish::HotAdd,
        retention: None,
    };
    let job = async { rig.submit(Work::BackupCopy(copy)).await.unwrap() };
    refused(&rig, job, "access_denied", &words).await;
    rig.deny(&[]);

    // A node on which there is no room: its own volume and interface are all that it takes.
    let quotas = |most| Quotas { attachments_per_instance: most, ..Quotas::default() };
    rig.sim.context().faults.set_quotas(quotas(Some(2)));
    let job = back_up(&rig, &instance, TransportWish::HotAdd);
    let node = rig.instances[0].clone();
    refused(&rig, job, "invalid", &[node.as_str(), "takes 2 attachments", "no room for 1 more"]).await;
    rig.sim.context().faults.set_quotas(quotas(None));

    // A node that is not where it says.
    rig.reconfigure_agent(|text| text.replace("eu-central-1a\"", "eu-central-1b\"")).await.unwrap();
    let job = back_up(&rig, &instance, TransportWish::HotAdd);
    refused(&rig, job, "invalid", &["eu-central-1a", "eu-central-1b", "availability_zone"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_add_of_what_aws_does_not_share_needs_a_transit_key_that_the_tenant_may_use() {
    let mut rig = rig(true).await;
    let world = rig.sim.context().world.clone();
    let managed = world.managed_key(ACCOUNT, REGION);
    let instance =
        TestInstance::place_as(rig.sim.context(), "one", 2, OsFamily::Linux, Some(&managed)).unwrap();
    let transit = rig.transports.as_ref().unwrap().transit_key.clone();
    assert!(world.set_key_policy(&transit, key_for(&[SERVICE])));
    let job = back_up(&rig, &instance, TransportWish::HotAdd);
    refused(&rig, job, "access_denied", &[transit.as_str(), "transit_kms_key_id", ACCOUNT]).await;
    let job = async { rig.snap(&instance.id, Some(vault(VaultTo::ServiceCopy, None))).await.unwrap() };
    refused(&rig, job, "access_denied", &[transit.as_str(), "another vault", ACCOUNT]).await;
    let without = |text: &str| {
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("transit_kms_key_id")).collect();
        kept.join("\n")
    };
    rig.reconfigure_agent(without).await.unwrap();
    let job = back_up(&rig, &instance, TransportWish::HotAdd);
    let words = ["hot_add was asked for", managed.as_str(), "transit_kms_key_id"];
    refused(&rig, job, "invalid", &words).await;
    assert_eq!(rig.calls("ec2", "CreateSnapshots") + rig.calls("ec2", "CopySnapshot"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_used_is_refused_by_name() {
    let rig = rig(false).await;
    let world = rig.sim.context().world.clone();
    let instance = TestInstance::place(rig.sim.context(), "one", 2).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let disabled = world.create_key(ACCOUNT, REGION, None);
    assert!(world.set_key_state(&disabled, KeyState::Disabled));
    let dying = world.create_key(ACCOUNT, REGION, None);
    assert!(world.set_key_state(&dying, KeyState::PendingDeletion));
    let elsewhere = world.create_key(ACCOUNT, ELSEWHERE, None);
    let locked = world.create_key(ACCOUNT, REGION, Some(key_of_nobody()));
    let gone = format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/00000000-0000-0000-0000-000000000000");
    let volume = instance.volumes[0].as_str();
    for (key, class, word) in [
        (&disabled, "invalid", "is disabled"),
        (&dying, "invalid", "is pending deletion"),
        (&elsewhere, "invalid", ELSEWHERE),
        (&gone, "invalid", "does not exist"),
        (&locked, "access_denied", "kms:GenerateDataKeyWithoutPlaintext"),
    ] {
        let job = restore(&rig, point, VOLUMES, TransportWish::Automatic, Some(key));
        refused(&rig, job, class, &[key, volume, word, "--kms-key", "nothing was made"]).await;
    }
    assert_eq!(rig.calls("ebs", "StartSnapshot"), 0);

    // The same for the key of a vault, and for that of volumes of which the service account is to have copies.
    let far = world.create_key(ACCOUNT, ELSEWHERE, None);
    assert!(world.set_key_state(&far, KeyState::Disabled));
    for (key, word) in [(&far, "is disabled"), (&disabled, ELSEWHERE)] {
        let to = Vault { kms_key_id: Some(key.clone()), ..vault(VaultTo::Tenant, Some(ELSEWHERE)) };
        let job = async { rig.snap(&instance.id, Some(to)).await.unwrap() };
        refused(&rig, job, "invalid", &[key.as_str(), word, "another key for the vault"]).await;
    }
    let own_key = world.create_key(ACCOUNT, REGION, Some(key_for(&[ACCOUNT])));
    for os in [OsFamily::Linux, OsFamily::Windows] {
        let sealed = TestInstance::place_as(rig.sim.context(), "two", 2, os, Some(&own_key)).unwrap();
        let job = async { rig.snap(&sealed.id, Some(vault(VaultTo::ServiceCopy, None))).await.unwrap() };
        refused(&rig, job, "access_denied", &[own_key.as_str(), SERVICE, "kms:Decrypt"]).await;
    }
    rig.deny(&["ec2:ModifySnapshotAttribute"]);
    let job = async { rig.snap(&instance.id, Some(vault(VaultTo::ServiceShare, None))).await.unwrap() };
    refused(&rig, job, "access_denied", &["ec2:ModifySnapshotAttribute", ACCOUNT]).await;
    rig.deny(&["ec2:CopySnapshot"]);
    let job = async { rig.snap(&instance.id, Some(vault(VaultTo::Tenant, Some(ELSEWHERE)))).await.unwrap() };
    refused(&rig, job, "access_denied", &["ec2:CopySnapshot", ACCOUNT]).await;

    // With a key that is good the same restore works, if the tenant's own policies let it be used.
    let good = world.create_key(ACCOUNT, REGION, None);
    rig.deny(&["kms:GenerateDataKeyWithoutPlaintext"]);
    let job = restore(&rig, point, VOLUMES, TransportWish::Automatic, Some(&good));
    let words = [good.as_str(), "kms:GenerateDataKeyWithoutPlaintext", "nothing was made"];
    refused(&rig, job, "access_denied", &words).await;
    rig.deny(&[]);
    rig.succeed(restore(&rig, point, VOLUMES, TransportWish::Automatic, Some(&good)).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_key_cannot_be_used_any_more_is_refused_by_name() {
    let rig = rig(true).await;
    let world = rig.sim.context().world.clone();
    let key = world.create_key(ACCOUNT, REGION, Some(key_for(&[ACCOUNT, SERVICE])));
    let sealed = TestInstance::place_as(rig.sim.context(), "one", 2, OsFamily::Linux, Some(&key)).unwrap();
    let snapped = rig.succeed(rig.snap(&sealed.id, None).await.unwrap()).await.unwrap();
    let (snapped, good) = (Rig::recovery_point(&snapped).unwrap(), world.create_key(ACCOUNT, REGION, None));
    let n_snapshots = rig.calls("ec2", "CreateSnapshots");
    for (state, word) in
        [(KeyState::Disabled, "is disabled"), (KeyState::PendingDeletion, "is pending deletion")]
    {
        assert!(world.set_key_state(&key, state));
        // Another key for what is made does not help: the snapshots have this one.
        let (from, by, new_key) = (RestoreFrom::Snapshot, TransportWish::Automatic, Some(good.clone()));
        let job = async { rig.restore_with(snapped, from, VOLUMES, by, new_key).await.unwrap() };
        let words = [key.as_str(), sealed.volumes[0].as_str(), word, "a MediaAgent copy", "nothing was made"];
        refused(&rig, job, "invalid", &words).await;
        let target = RestoreTarget::DiskImage { folder: "monday".to_owned(), format: ImageFormat::Raw };
        let job = async { rig.restore_with(snapped, from, target, by, None).await.unwrap() };
        refused(&rig, job, "invalid", &words).await;
        assert!(!rig.dir.join("images/monday").exists());
        for transport in [TransportWish::EbsDirect, TransportWish::HotAdd] {
            let job = back_up(&rig, &sealed, transport);
            let words = [key.as_str(), sealed.volumes[0].as_str(), word, "nothing was made"];
            refused(&rig, job, "invalid", &words).await;
        }
    }
    assert!(world.set_key_state(&key, KeyState::Enabled));
    assert_eq!(rig.calls("ec2", "CreateSnapshots"), n_snapshots);

    // The key is good, but the tenant's role may not read what it encrypts. A role that may use the key only through EC2 gets
    // the same denial when it asks directly: so this comes out when the blocks are read, and what was made then goes.
    rig.deny(&["kms:Decrypt"]);
    let before = rig.holdings();
    let target = RestoreTarget::DiskImage { folder: "monday".to_owned(), format: ImageFormat::Raw };
    let (from, by) = (RestoreFrom::Snapshot, TransportWish::Automatic);
    for is_backup in [true, false] {
        let job = if is_backup {
            back_up(&rig, &sealed, TransportWish::EbsDirect).await
        } else {
            rig.restore_with(snapped, from, target.clone(), by, None).await.unwrap()
        };
        let (_, task) = rig.fail(job).await.unwrap();
        let error = task.error.unwrap();
        assert_eq!((error.class.as_str(), task.attempts), ("access_denied", 1), "{}", error.message);
        for word in [key.as_str(), "kms:Decrypt", ACCOUNT, "deploy/iam"] {
            assert!(error.message.contains(word), "{word} is not in: {}", error.message);
        }
        let is_named = |volume: &String| error.message.contains(volume.as_str());
        assert!(sealed.volumes.iter().any(is_named), "no volume is in: {}", error.message);
        assert_eq!(rig.holdings(), before, "something is left");
    }
    assert!(!rig.dir.join("images/monday").exists());
    rig.deny(&[]);
    rig.succeed(back_up(&rig, &sealed, TransportWish::HotAdd).await).await.unwrap();
}

/// An account that is neither tenant nor service account.
const THIRD: &str = "333333333333";

/// A key that its account may only look at.
fn key_of_nobody() -> serde_json::Value {
    let root = format!("arn:aws:iam::{ACCOUNT}:root");
    serde_json::json!({ "Statement": [{
        "Effect": "Allow", "Principal": { "AWS": root },
        "Action": ["kms:DescribeKey", "kms:GetKeyPolicy", "kms:PutKeyPolicy"], "Resource": "*",
    }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_for_ec2_only_is_used_and_one_that_cannot_be_looked_into_is_tried() {
    let rig = rig(false).await;
    let world = rig.sim.context().world.clone();
    let instance = TestInstance::place(rig.sim.context(), "one", 2).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let told = |job: &Job, word: &str| {
        let notes: Vec<&Note> = job.tasks.iter().flat_map(|task| &task.notes).collect();
        let told = notes.iter().any(|note| {
            let text = &note.text;
            note.warning && text.contains("kms:GenerateDataKeyWithoutPlaintext") && text.contains(word)
        });
        assert!(told, "{notes:#?}");
    };

    let mut policy = key_of_nobody();
    policy["Statement"].as_array_mut().unwrap().push(serde_json::json!({
        "Effect": "Allow", "Principal": { "AWS": format!("arn:aws:iam::{ACCOUNT}:root") }, "Action": "kms:*",
        "Resource": "*", "Condition": { "StringLike": { "kms:ViaService": "ec2.*.amazonaws.com" } },
    }));
    let through_ec2 = world.create_key(ACCOUNT, REGION, Some(policy));
    let job = restore(&rig, point, VOLUMES, TransportWish::Automatic, Some(&through_ec2)).await;
    told(&rig.succeed(job).await.unwrap(), "the key's policy tells services apart");

    // Nobody here can see the policy of a third account's key; that it is denied is AWS's to say.
    let foreign = world.create_key(THIRD, REGION, Some(key_for(&[THIRD])));
    let job = restore(&rig, point, VOLUMES, TransportWish::Automatic, Some(&foreign));
    let job = refused(&rig, job, "access_denied", &[foreign.as_str(), "kms:DescribeKey"]).await;
    told(&job, "kms:GetKeyPolicy");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_between_needs_a_transit_key_that_both_may_use() {
    let mut rig = rig(true).await;
    let world = rig.sim.context().world.clone();
    let instance = TestInstance::place(rig.sim.context(), "one", 2).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let key = world.create_key(ACCOUNT, REGION, None);
    let transit = rig.transports.as_ref().unwrap().transit_key.clone();
    let both = [TransportWish::HotAdd, TransportWish::Import];

    assert!(world.set_key_policy(&transit, key_for(&[SERVICE])));
    for transport in both {
        let job = restore(&rig, point, VOLUMES, transport, Some(&key));
        let words = [transit.as_str(), "transit_kms_key_id", "kms:Decrypt", ACCOUNT, "or use EBS direct"];
        refused(&rig, job, "access_denied", &words).await;
    }
    assert!(world.set_key_policy(&transit, key_for(&[SERVICE, ACCOUNT])));
    assert!(world.set_key_state(&transit, KeyState::Disabled));
    for transport in both {
        let job = restore(&rig, point, VOLUMES, transport, Some(&key));
        refused(&rig, job, "invalid", &[transit.as_str(), "is disabled", "EBS direct"]).await;
    }
    assert!(world.set_key_state(&transit, KeyState::Enabled));

    for (transport, action) in [
        (TransportWish::HotAdd, "ec2:CreateVolume"),
        (TransportWish::HotAdd, "ec2:AttachVolume"),
        (TransportWish::Import, "ec2:ImportSnapshot"),
    ] {
        rig.deny_service(&[action]);
        let job = restore(&rig, point, VOLUMES, transport, None);
        refused(&rig, job, "access_denied", &[action, "the service account", SERVICE]).await;
    }
    rig.deny_service(&[]);
    rig.deny(&["ec2:CopySnapshot"]);
    for transport in both {
        let job = restore(&rig, point, VOLUMES, transport, None);
        refused(&rig, job, "access_denied", &["ec2:CopySnapshot", ACCOUNT]).await;
    }
    rig.deny(&[]);

    // A bucket that is elsewhere.
    world.create_bucket(SERVICE, ELSEWHERE, "snapferry-far-away").unwrap();
    rig.reconfigure_agent(|text| text.replace(snapferry_tests::BUCKET, "snapferry-far-away")).await.unwrap();
    let job = restore(&rig, point, VOLUMES, TransportWish::Import, None);
    let words = ["snapferry-far-away", ELSEWHERE, REGION, "[agent.import] bucket"];
    refused(&rig, job, "invalid", &words).await;

    // No transit key at all: an encrypted volume would lie there in plain.
    let without = |text: &str| {
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("transit_kms_key_id")).collect();
        kept.join("\n")
    };
    rig.reconfigure_agent(without).await.unwrap();
    for transport in both {
        let job = restore(&rig, point, VOLUMES, transport, Some(&key));
        let words = [
            transport.as_str(),
            "would lie in the service account in plain",
            "set transit_kms_key_id",
            "or use EBS direct",
        ];
        refused(&rig, job, "invalid", &words).await;
    }
    // Automatic takes the way that needs none.
    let job = restore(&rig, point, VOLUMES, TransportWish::Automatic, Some(&key)).await;
    let job = rig.succeed(job).await.unwrap();
    let notes: Vec<&str> =
        job.tasks.iter().flat_map(|task| &task.notes).map(|note| note.text.as_str()).collect();
    assert!(notes.iter().any(|note| note.contains("blocks are moved by ebs_direct")), "{notes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_target_of_a_restore_is_asked_about() {
    let rig = rig(false).await;
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 2).unwrap();
    let other = TestInstance::place(&sim, "two", 1).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let attach = || RestoreTarget::Volumes {
        availability_zone: None,
        attach: Some(AttachTo { instance: other.id.clone(), devices: Vec::new() }),
    };
    let new = || RestoreTarget::Instance(Box::default());
    for (target, action) in [
        (VOLUMES, "ec2:CreateVolume"),
        (attach(), "ec2:AttachVolume"),
        (attach(), "ec2:ModifyInstanceAttribute"),
        (new(), "ec2:RegisterImage"),
        (IN_PLACE, "ec2:CreateVolume"),
        (IN_PLACE, "ec2:StopInstances"),
        (IN_PLACE, "ec2:StartInstances"),
        (IN_PLACE, "ec2:DetachVolume"),
        (IN_PLACE, "ec2:AttachVolume"),
        (IN_PLACE, "ec2:ModifyInstanceAttribute"),
        (IN_PLACE, "ec2:DeleteVolume"),
    ] {
        rig.deny(&[action]);
        let job = restore(&rig, point, target, TransportWish::Automatic, None);
        let words = [action, "the tenant's account", ACCOUNT, "nothing was made"];
        refused(&rig, job, "access_denied", &words).await;
    }
    // Two that are missing are told together.
    rig.deny(&["ec2:StopInstances", "ec2:DetachVolume"]);
    let job = restore(&rig, point, IN_PLACE, TransportWish::Automatic, None);
    refused(&rig, job, "access_denied", &["ec2:StopInstances", "ec2:DetachVolume"]).await;
    rig.deny(&[]);
    assert_eq!(rig.calls("ebs", "StartSnapshot"), 0);
    assert_eq!(rig.calls("ec2", "StopInstances"), 0);

    // An instance with as many attachments as its type takes: 27 volumes and an interface.
    let full = sim.place_instance(ACCOUNT, REGION, "full", None, &[1; 27]).unwrap().instance;
    let to_full = RestoreTarget::Volumes {
        availability_zone: None,
        attach: Some(AttachTo { instance: full.parse().unwrap(), devices: Vec::new() }),
    };
    let job = restore(&rig, point, to_full, TransportWish::Automatic, None);
    refused(&rig, job, "invalid", &[full.as_str(), "m6i.large", "no room for 2 more"]).await;

    // Addresses: outside the subnet, kept by AWS, and taken.
    let seen = ec2::describe_instance(&rig.outsider().await.unwrap(), &other.id).await.unwrap();
    let interface = &seen.config.network_interfaces[0];
    let (subnet, taken) = (interface.subnet_id.as_str(), interface.private_ip.clone().unwrap());
    let kept = taken.rsplit_once('.').map(|(network, _)| format!("{network}.2")).unwrap();
    for (address, why) in [
        ("192.0.2.77", "is not in"),
        (kept.as_str(), "AWS keeps for itself"),
        (taken.as_str(), "is taken by network interface eni-"),
    ] {
        let wanted = NewInstance { private_ip: Some(address.to_owned()), ..NewInstance::default() };
        let target = RestoreTarget::Instance(Box::new(wanted));
        let job = restore(&rig, point, target, TransportWish::Automatic, None);
        refused(&rig, job, "invalid", &[address, why, subnet, "choose another address"]).await;
    }
    rig.succeed(restore(&rig, point, new(), TransportWish::Automatic, None).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_an_image_is_asked_about_with_its_role_and_its_instance_store() {
    let rig = rig(false).await;
    let sim = rig.sim.context().clone();
    let template = TestInstance::place(&sim, "template", 2).unwrap();
    rig.backed_up(&template).await.unwrap();
    // Somebody makes an image of it, and a machine with disks of its own from that.
    let owner = rig.outsider().await.unwrap();
    let seen = ec2::describe_instance(&owner, &template.id).await.unwrap().config;
    let snapshots = rig.snapshots_of(ACCOUNT, REGION).await.unwrap();
    let root = seen.volumes.iter().find(|volume| volume.device_name == seen.root_device_name).unwrap();
    let snapshot = snapshots.iter().find(|one| one.volume.as_ref() == Some(&root.volume_id)).unwrap();
    let image = NewImage {
        name: "golden".to_owned(),
        architecture: "x86_64".to_owned(),
        boot_mode: None,
        virtualization_type: None,
        ena_support: true,
        root_device_name: seen.root_device_name.clone(),
        volumes: vec![ImageVolume {
            device_name: seen.root_device_name.clone(),
            snapshot: snapshot.snapshot.clone(),
            size_gib: 1,
            volume_type: "gp3".to_owned(),
            iops: None,
            throughput_mibps: None,
            delete_on_termination: true,
        }],
        tags: Vec::new(),
    };
    let image = ec2::register_image(&owner, &image).await.unwrap();
    let machine = ec2::run_instance(
        &owner,
        &ec2::NewInstance {
            image_id: image,
            instance_type: "m5d.large".to_owned(),
            network_interfaces: seen.network_interfaces.clone(),
            private_ip: None,
            keep_private_ips: false,
            key_name: None,
            iam_instance_profile: Some("web".to_owned()),
            volume_keys: Vec::new(),
            availability_zone: None,
            tenancy: None,
            placement_group: None,
            ebs_optimized: false,
            tags: Vec::new(),
            client_token: "one".to_owned(),
        },
    )
    .await
    .unwrap();
    ec2::wait_instance_running(&owner, &machine, &Default::default()).await.unwrap();
    let placed = Placed { instance: machine.to_string(), volumes: Vec::new() };
    let instance = TestInstance::of(rig.sim.context(), placed).unwrap();
    let job = rig.succeed(back_up(&rig, &instance, TransportWish::EbsDirect).await).await.unwrap();
    let mut notes = job.tasks.iter().flat_map(|task| &task.notes);
    assert!(
        notes.any(|note| note.warning
            && note.text.contains("m5d.large (75 GB")
            && note.text.contains("/dev/nvme")),
        "{job:#?}"
    );
    let point = Rig::recovery_point(&job).unwrap();
    for (denied, words) in [
        ("ec2:RunInstances", vec!["ec2:RunInstances", ACCOUNT]),
        ("iam:PassRole", vec!["iam:PassRole", "role/web", ACCOUNT, "deploy/iam"]),
    ] {
        rig.deny(&[denied]);
        let target = RestoreTarget::Instance(Box::default());
        let job = restore(&rig, point, target, TransportWish::Automatic, None);
        refused(&rig, job, "access_denied", &words).await;
    }
    assert_eq!(rig.calls("ebs", "StartSnapshot"), 0);
}
