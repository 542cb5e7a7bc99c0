//! Permissions asked about beforehand: nothing is made, and what is missing is named.

use secrecy::SecretString;
use serde_json::json;
use snapferry_aws::{Account, Preflight, Probe, ec2};
use snapferry_types::Credentials;
use snapferry_types::access::SignIn;
use snapferry_types::ledger::Purpose;

use crate::world::{SERVICE, TENANT, TestWorld, our_tags};

async fn with_only(world: &TestWorld, actions: &[&str]) -> Account {
    let policy = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": actions, "Resource": "*" }
    ] });
    let key = world.server.context().world.create_user(TENANT, "narrow", vec![policy]);
    let mut access = world.tenant_access();
    access.sign_in = SignIn::AccessKey(Credentials {
        access_key_id: key.access_key_id,
        secret_access_key: SecretString::from(key.secret_access_key),
    });
    world.open(&access).await
}

#[tokio::test]
async fn what_is_missing_is_named_and_nothing_is_made() {
    let world = TestWorld::start().await;
    let owner = world.tenant().await;
    let instance = world.instance(&owner).await;
    let config = ec2::describe_instance(&owner, &instance).await.unwrap().config;
    let (snapshot, volume) = (world.synthetic("snap-0c", 1, None), config.volumes[0].volume_id.clone());
    let before = world.server.context().world.inventory(Some(TENANT));
    let probes = [
        Probe::CreateSnapshots(instance.clone()),
        Probe::CreateSnapshot(volume.clone()),
        Probe::CopySnapshot { source_region: owner.region().clone(), snapshot: snapshot.clone() },
        Probe::ShareSnapshot { snapshot: snapshot.clone(), with: SERVICE.parse().unwrap() },
        Probe::DeleteSnapshot(snapshot.clone()),
        Probe::CreateVolume {
            zone: config.availability_zone.clone(),
            snapshot: Some(snapshot.clone()),
            kms_key_id: None,
        },
        Probe::AttachVolume {
            volume: volume.clone(),
            instance: instance.clone(),
            device: "/dev/sdz".to_owned(),
        },
        Probe::DetachVolume(volume.clone()),
        Probe::DeleteVolume(volume),
        Probe::RunInstance {
            image: config.image_id.clone().unwrap(),
            instance_type: config.instance_type.clone(),
            subnet: Some(config.network_interfaces[0].subnet_id.clone()),
            security_groups: config.network_interfaces[0].security_group_ids.clone(),
            profile: config.iam_instance_profile_arn.clone(),
        },
        Probe::RegisterImage { snapshot: snapshot.clone(), root_device: config.root_device_name.clone() },
        Probe::StopInstance(instance.clone()),
        Probe::StartInstance(instance.clone()),
        Probe::TerminateInstance(instance.clone()),
        Probe::ModifyInstance { instance: instance.clone(), device: "/dev/xvda".to_owned() },
        Probe::CreateTags(instance.to_string()),
    ];
    let (_, tags) = our_tags(Purpose::RestoreResult);
    let preflight = Preflight::new(tags);
    assert_eq!(preflight.check(&owner, &probes).await.unwrap(), []);

    let narrow = with_only(&world, &["ec2:Describe*", "ec2:CreateSnapshots", "ec2:CreateTags"]).await;
    let denied = preflight.check(&narrow, &probes).await.unwrap();
    let actions: Vec<&str> = denied.iter().map(|one| one.action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "ec2:CreateSnapshot",
            "ec2:CopySnapshot",
            "ec2:ModifySnapshotAttribute",
            "ec2:DeleteSnapshot",
            "ec2:CreateVolume",
            "ec2:AttachVolume",
            "ec2:DetachVolume",
            "ec2:DeleteVolume",
            "ec2:RunInstances",
            "ec2:RegisterImage",
            "ec2:StopInstances",
            "ec2:StartInstances",
            "ec2:TerminateInstances",
            "ec2:ModifyInstanceAttribute",
        ]
    );
    assert_eq!(world.server.context().world.inventory(Some(TENANT)), before, "nothing was made");
    let described = ec2::describe_instance(&owner, &instance).await.unwrap();
    assert_eq!((described.state.as_str(), described.config), ("running", config));
}

#[tokio::test]
async fn what_does_not_exist_is_an_error_and_no_verdict() {
    let world = TestWorld::start().await;
    let account = world.tenant().await;
    let probes = [Probe::CreateSnapshots("i-0123456789abcdef0".parse().unwrap())];
    let error = Preflight::default().check(&account, &probes).await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("i-0123456789abcdef0"), "{error}");
}
