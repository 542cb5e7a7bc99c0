//! What nobody can ask for beforehand: the calls that move blocks know no dry run, nor does an upload, nor the role by
//! which EC2 reads an image. What is missing comes out in the middle: it is named with the account and the volume, the
//! task is not tried again, and both accounts hold what they held. And a subnet on an Outpost, which is found before.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use awssim::world::Marks;
use serde_json::json;
use snapferry_api::restore::{NewInstance, RestoreTarget};
use snapferry_testkit::eventually;
use snapferry_tests::breaking::refused;
use snapferry_tests::{ACCOUNT, BUCKET, Rig, RigOptions, SERVICE, TestInstance, write_data};
use snapferry_types::{JobId, RecoveryPointId, TransportWish};

/// The reaper's delay and some rounds.
const BOUND: Duration = Duration::from_secs(30);
const OUTPOST: &str = "arn:aws:outposts:eu-central-1:222222222222:outpost/op-1";
/// The role by which EC2 reads images when none is configured, and whom it has to trust.
const ROLE: &str = "vmimport";
const IMPORTER: &str = "vmie.amazonaws.com";

async fn rig(with_service_resources: bool) -> Rig {
    let options = RigOptions { n_agents: 1, with_service_resources, ..RigOptions::default() };
    Rig::start(options).await.unwrap()
}

async fn back_up(rig: &Rig, instance: &TestInstance) -> JobId {
    rig.back_up_by(&instance.id, TransportWish::EbsDirect).await.unwrap()
}

async fn restore(rig: &Rig, point: RecoveryPointId, transport: TransportWish) -> JobId {
    rig.restore_by(point, transport, None).await.unwrap()
}

/// Sees a job fail for good at its first attempt, with all these words and a volume of the instance in its error. Soon both
/// accounts hold what they held.
async fn fails(
    rig: &Rig,
    instance: &TestInstance,
    job: impl Future<Output = JobId>,
    class: &str,
    words: &[&str],
) {
    let before = rig.holdings();
    let (_, task) = rig.fail(job.await).await.unwrap();
    let error = task.error.unwrap();
    assert_eq!((error.class.as_str(), task.attempts), (class, 1), "{words:?}: {}", error.message);
    for word in words {
        assert!(error.message.contains(word), "{word} is not in: {}", error.message);
    }
    // Both volumes are worked on at the same time: either may be the first.
    let is_named = |volume: &String| error.message.contains(volume.as_str());
    assert!(instance.volumes.iter().any(is_named), "no volume is in: {}", error.message);
    let is_clean = || async { rig.holdings() == before && rig.nothing_is_left().is_ok() };
    let cleaned = eventually(BOUND, "both accounts hold what they held", is_clean).await;
    let left = || format!("{:?}; {:?} instead of {before:?}", rig.nothing_is_left(), rig.holdings());
    cleaned.unwrap_or_else(|error| panic!("{words:?}: {error:#}\n{}", left()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_to_read_or_write_blocks_that_is_missing_is_named_and_nothing_is_left() {
    let rig = rig(false).await;
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 2).unwrap();
    let content = instance.content(&sim).unwrap();
    let words = |action, object| [action, object, ACCOUNT, "deploy/iam"];

    let action = "ebs:ListSnapshotBlocks";
    rig.deny(&[action]);
    let job = back_up(&rig, &instance);
    fails(&rig, &instance, job, "access_denied", &words(action, "in snap-")).await;
    rig.deny(&[]);
    let point = rig.backed_up(&instance).await.unwrap();

    write_data(&sim, &instance.volumes[0], 4, 1, 99).unwrap();
    for (action, object) in [("ebs:ListChangedBlocks", "in snap-"), ("ebs:GetSnapshotBlock", "from snap-")] {
        rig.deny(&[action]);
        let job = back_up(&rig, &instance);
        fails(&rig, &instance, job, "access_denied", &words(action, object)).await;
    }
    for (action, object) in [
        // The snapshot that was to be started has no name yet.
        ("ebs:StartSnapshot", "start the snapshot"),
        ("ebs:PutSnapshotBlock", "into snap-"),
        ("ebs:CompleteSnapshot", "into snap-"),
    ] {
        rig.deny(&[action]);
        let job = restore(&rig, point, TransportWish::EbsDirect);
        fails(&rig, &instance, job, "access_denied", &words(action, object)).await;
    }
    assert_eq!(rig.client.recovery_points(&Default::default()).await.unwrap().items.len(), 1);

    // With the permissions back, the same works: the denials were the cause.
    rig.deny(&[]);
    rig.succeed(back_up(&rig, &instance).await).await.unwrap();
    let restored = rig.succeed(restore(&rig, point, TransportWish::EbsDirect).await).await.unwrap();
    instance.check(&sim, &restored, &content).unwrap();
    rig.left(2, 4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_uploaded_or_read_by_ec2_is_named_with_the_role_and_nothing_is_left() {
    let mut rig = rig(true).await;
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 2).unwrap();
    let content = instance.content(&sim).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();

    rig.deny_service(&["s3:PutObject"]);
    let job = restore(&rig, point, TransportWish::Import);
    let words = ["s3:PutObject", SERVICE, BUCKET, "deploy/iam"];
    fails(&rig, &instance, job, "access_denied", &words).await;
    assert_eq!(rig.calls("ec2", "ImportSnapshot"), 0);
    rig.deny_service(&[]);

    // The role is there, but does not trust VM import, or may not read the image.
    let set_role = |trusted: &str, policies| {
        let trust = json!({ "Statement": [{
            "Effect": "Allow", "Principal": { "Service": trusted }, "Action": "sts:AssumeRole",
        }] });
        sim.world.create_role(SERVICE, ROLE, trust, policies)
    };
    let account = format!("account {SERVICE}");
    let blind = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": "*", "Resource": "*" },
        { "Effect": "Deny", "Action": "s3:GetObject", "Resource": "*" },
    ] });
    let words = ["ec2:ImportSnapshot", BUCKET, account.as_str(), "by the role vmimport", IMPORTER];
    for (trusted, policies) in [("ec2.amazonaws.com", Vec::new()), (IMPORTER, vec![blind])] {
        set_role(trusted, policies);
        let job = restore(&rig, point, TransportWish::Import);
        fails(&rig, &instance, job, "invalid", &words).await;
    }
    assert!(rig.calls("s3", "CompleteMultipartUpload") > 0, "there was no image to read");
    set_role(IMPORTER, Vec::new());
    let restored = rig.succeed(restore(&rig, point, TransportWish::Import).await).await.unwrap();
    instance.check(&sim, &restored, &content).unwrap();
    rig.only_these_are_left(2, 4).await.unwrap();

    // There is no such role.
    let with_role = |text: &str| text.replace("import = { ", "import = { role = \"no-such-role\", ");
    rig.reconfigure_agent(with_role).await.unwrap();
    let job = restore(&rig, point, TransportWish::Import);
    let words = ["ec2:ImportSnapshot", BUCKET, account.as_str(), "by the role no-such-role", IMPORTER];
    fails(&rig, &instance, job, "invalid", &words).await;
    let no_image = || async { rig.n_staged(0) == 0 };
    eventually(BOUND, "no image is left on the node", no_image).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_instance_in_a_subnet_on_an_outpost_is_refused() {
    let rig = rig(false).await;
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 2).unwrap();
    let content = instance.content(&sim).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let neighbour = sim.place_instance_in(ACCOUNT, "eu-central-1b", "neighbour", None, &[1]).unwrap();
    let neighbour = rig.describe(&neighbour.instance.parse().unwrap()).await.unwrap();
    let subnet = neighbour.config.network_interfaces[0].subnet_id.as_str();
    let in_subnet = || async {
        let wanted = NewInstance { subnet_id: Some(subnet.to_owned()), ..NewInstance::default() };
        rig.restore_to(point, RestoreTarget::Instance(Box::new(wanted))).await.unwrap()
    };

    let outpost = Marks { outpost: Some(OUTPOST.to_owned()), ..Marks::default() };
    sim.world.mark(subnet, outpost).unwrap();
    refused(&rig, in_subnet(), "invalid", &[subnet, OUTPOST, "choose another subnet"]).await;
    assert_eq!(rig.calls("ebs", "StartSnapshot"), 0);

    // In a subnet of the region the same works: the Outpost was the cause.
    sim.world.mark(subnet, Marks::default()).unwrap();
    let restored = rig.succeed(in_subnet().await).await.unwrap();
    instance.check(&sim, &restored, &content).unwrap();
    rig.left(2, 5).await.unwrap();
}
