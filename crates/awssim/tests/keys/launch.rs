//! Instances whose volumes need a key, and the role that an instance is handed.

use awssim::world::KeyState;
use serde_json::json;

use crate::client::{Client, OWNER, REGION, Sim};

async fn image(by: &Client, snapshot: &str) -> String {
    let parameters = [
        ("Name", snapshot),
        ("RootDeviceName", "/dev/xvda"),
        ("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
        ("BlockDeviceMapping.1.Ebs.SnapshotId", snapshot),
    ];
    by.ec2("RegisterImage", &parameters).await.assert_done().xml("imageId")
}

async fn run(by: &Client, image: &str, more: &[(&str, &str)]) -> String {
    let mut parameters = vec![("ImageId", image), ("MinCount", "1"), ("MaxCount", "1")];
    parameters.extend(more);
    by.ec2("RunInstances", &parameters).await.assert_done().xml("instanceId")
}

#[tokio::test]
async fn an_instance_whose_key_cannot_be_used_ends_and_says_why() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let key = sim.world().create_key(OWNER, REGION, None);
    let image = image(&admin, &sim.snapshot(&admin, Some(&key)).await).await;
    let unpermitted = sim.without_keys(OWNER, "unpermitted", &[]);
    let denied = run(&unpermitted, &image, &[]).await;
    let shown = admin.until("DescribeInstances", &[("InstanceId.1", &denied)], "name", "terminated").await;
    assert!(shown.xml("stateReason").contains("<code>Client.InternalError</code>"));
    assert_eq!(shown.xml("reason"), "Client.InternalError: Client error on launch");

    assert!(sim.world().set_key_state(&key, KeyState::Disabled));
    let disabled = run(&admin, &image, &[]).await;
    let shown = admin.until("DescribeInstances", &[("InstanceId.1", &disabled)], "name", "terminated").await;
    assert!(shown.xml("stateReason").contains("<code>Client.InvalidKMSKey.InvalidState</code>"));
    assert!(!admin.ec2("DescribeVolumes", &[]).await.text().contains("volumeId"), "no volume is left behind");

    assert!(sim.world().set_key_state(&key, KeyState::Enabled));
    let good = run(&admin, &image, &[]).await;
    admin.until("DescribeInstances", &[("InstanceId.1", &good)], "name", "running").await;
    assert_eq!(admin.ec2("DescribeVolumes", &[]).await.xml("kmsKeyId"), key);
}

#[tokio::test]
async fn a_stopped_instance_starts_and_volumes_attach_with_the_key_only() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let key = sim.world().create_key(OWNER, REGION, None);
    let placed = sim.server.context().place_instance(OWNER, REGION, "web", None, &[1, 1]).unwrap();
    assert!(sim.world().encrypt(&placed.volumes[0], &key) && sim.world().encrypt(&placed.volumes[1], &key));
    assert!(!sim.world().encrypt("vol-none", &key));
    let id = placed.instance.as_str();
    admin.ec2("StopInstances", &[("InstanceId.1", id)]).await.assert_done();
    let shown = admin.until("DescribeInstances", &[("InstanceId.1", id)], "name", "stopped").await;
    assert!(shown.xml("stateReason").contains("Client.UserInitiatedShutdown"));
    let unpermitted = sim.without_keys(OWNER, "unpermitted", &[]);
    unpermitted.ec2("StartInstances", &[("InstanceId.1", id)]).await.assert_done();
    let shown = admin.until("DescribeInstances", &[("InstanceId.1", id)], "name", "stopped").await;
    assert_eq!(shown.xml("reason"), "Client.InternalError: Client error on launch");

    let data = [("VolumeId", placed.volumes[1].as_str()), ("InstanceId", id), ("Device", "/dev/sdf")];
    admin.ec2("DetachVolume", &data[..1]).await.assert_done();
    admin.until("DescribeVolumes", &[("VolumeId.1", data[0].1)], "status", "available").await;
    unpermitted.ec2("AttachVolume", &data).await.assert_refused("CustomerKeyHasBeenRevoked");
    assert!(sim.world().set_key_state(&key, KeyState::Disabled));
    admin.ec2("AttachVolume", &data).await.assert_refused("CustomerKeyHasBeenRevoked");
    assert!(sim.world().set_key_state(&key, KeyState::Enabled));
    admin.ec2("AttachVolume", &data).await.assert_done();
    admin.ec2("StartInstances", &[("InstanceId.1", id)]).await.assert_done();
    let shown = admin.until("DescribeInstances", &[("InstanceId.1", id)], "name", "running").await;
    assert!(!shown.text().contains("stateReason"));
}

#[tokio::test]
async fn an_instance_with_a_profile_takes_pass_role() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let image = image(&admin, &sim.snapshot(&admin, None).await).await;
    let role = format!("arn:aws:iam::{OWNER}:role/web");
    let launcher = sim.user(
        OWNER,
        "launcher",
        json!([
            { "Effect": "Allow", "Action": "ec2:*", "Resource": "*" },
            { "Effect": "Allow", "Action": "iam:PassRole", "Resource": role,
              "Condition": { "StringEquals": { "iam:PassedToService": "ec2.amazonaws.com" } } }
        ]),
    );
    run(&launcher, &image, &[]).await;
    let profile = format!("arn:aws:iam::{OWNER}:instance-profile/web");
    run(&launcher, &image, &[("IamInstanceProfile.Arn", &profile)]).await;
    run(&launcher, &image, &[("IamInstanceProfile.Name", "web")]).await;
    let parameters = [("ImageId", image.as_str()), ("IamInstanceProfile.Name", "root"), ("DryRun", "true")];
    let refused = launcher.ec2("RunInstances", &parameters).await;
    let text = refused.assert_refused("UnauthorizedOperation").text();
    assert!(text.contains("iam:PassRole on resource: arn:aws:iam::111122223333:role/root"), "{text}");
}
