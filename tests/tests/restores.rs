//! Every target of a restore, by separate processes: what comes back is compared byte for byte and with the
//! configuration; kills and cancels at each step of an in-place restore leave the instance whole, with its old volumes
//! or with the new ones.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use awssim::faults::{Effect, Rule};
use snapferry_api::job::{Job, JobState, Work};
use snapferry_api::restore::{AttachDevice, AttachTo, NewInstance, Restore, RestoreFrom, RestoreTarget};
use snapferry_aws::ec2;
use snapferry_testkit::eventually;
use snapferry_tests::{
    ACCOUNT, Disk, REGION, Rig, RigOptions, TestInstance, check_has_all, check_kept, check_volumes_kept,
    write_data, write_raw_image,
};
use snapferry_types::aws::Tag;
use snapferry_types::instance::InstanceConfig;
use snapferry_types::{ImageFormat, RecoveryPointId, TaskState, TransportWish, VolumeId};

const BOUND: Duration = Duration::from_secs(60);

fn made<'a>(job: &'a Job, kind: &str, source: &str) -> &'a str {
    let mut made = job.tasks.iter().flat_map(|task| &task.made);
    let found = made.find(|made| made.kind == kind && (source.is_empty() || made.source == source));
    &found.unwrap_or_else(|| panic!("no {kind} of {source} in {job:#?}")).id
}

fn has_note(job: &Job, text: &str) -> bool {
    job.tasks.iter().flat_map(|task| &task.notes).any(|note| note.text.contains(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_instance_comes_back_with_its_configuration_and_the_wishes() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "web", 10).unwrap();
    let content = instance.content(&sim).unwrap();
    let original = rig.describe(&instance.id).await.unwrap();
    let point = rig.backed_up(&instance).await.unwrap();

    let wanted = NewInstance {
        name: Some("web restored".to_owned()),
        instance_type: Some("m6i.xlarge".to_owned()),
        iam_instance_profile: Some("other".to_owned()),
        private_ip: Some("10.0.0.77".to_owned()),
        stopped: true,
        ..NewInstance::default()
    };
    // What a restore made, its content compared.
    let new_instance = async |wanted: NewInstance| {
        let id = rig.restore_to(point, RestoreTarget::Instance(Box::new(wanted))).await.unwrap();
        let job = rig.succeed(id).await.unwrap();
        instance.check(&sim, &job, &content).unwrap();
        rig.describe(&made(&job, "instance", instance.id.as_str()).parse().unwrap()).await.unwrap()
    };
    let restored = new_instance(wanted).await;
    assert_eq!(restored.state, "stopped");
    assert_eq!(
        (restored.config.name(), restored.config.instance_type.as_str()),
        (Some("web restored"), "m6i.xlarge")
    );
    let profile = restored.config.iam_instance_profile_arn.as_ref().unwrap();
    assert!(profile.ends_with(":instance-profile/other"), "{profile}");
    assert_eq!(restored.config.network_interfaces[0].private_ip.as_deref(), Some("10.0.0.77"));
    assert!(restored.config.tags.contains(&Tag::new("environment", "production")));
    assert!(!restored.config.tags.iter().any(Tag::is_ownership), "{:?}", restored.config.tags);
    check_volumes_kept(&original.config, &restored.config, None).unwrap();

    sim.world.add_key_pair(ACCOUNT, REGION, original.config.key_name.as_ref().unwrap());
    let restored = new_instance(NewInstance::default()).await;
    assert_eq!((restored.state.as_str(), restored.config.name()), ("running", Some("web")));
    check_has_all(&original.config).unwrap();
    check_kept(&original.config, &restored.config, None).unwrap();

    // Another subnet, which decides the zone, with its security groups; another key pair.
    let neighbour = sim.place_instance_in(ACCOUNT, "eu-central-1b", "neighbour", None, &[1]).unwrap();
    let neighbour = rig.describe(&neighbour.instance.parse().unwrap()).await.unwrap();
    let interface = &neighbour.config.network_interfaces[0];
    assert_ne!(interface.subnet_id, original.config.network_interfaces[0].subnet_id);
    sim.world.add_key_pair(ACCOUNT, REGION, "other");
    let wanted = NewInstance {
        subnet_id: Some(interface.subnet_id.clone()),
        security_group_ids: interface.security_group_ids.clone(),
        key_name: Some("other".to_owned()),
        ..NewInstance::default()
    };
    let restored = new_instance(wanted).await;
    assert_eq!(restored.config.availability_zone, "eu-central-1b");
    assert_eq!(restored.config.key_name.as_deref(), Some("other"));
    let at = &restored.config.network_interfaces[0];
    assert_eq!(
        (&at.subnet_id, &at.security_group_ids),
        (&interface.subnet_id, &interface.security_group_ids)
    );
    check_volumes_kept(&original.config, &restored.config, None).unwrap();
    rig.left(2, 9).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_cannot_be_made_is_refused_before_anything_is() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "web", 2).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let new = |wanted| RestoreTarget::Instance(Box::new(wanted));
    let volumes =
        |zone: &str| RestoreTarget::Volumes { availability_zone: Some(zone.to_owned()), attach: None };
    let attach = |instance: &str, devices| RestoreTarget::Volumes {
        availability_zone: None,
        attach: Some(AttachTo { instance: instance.parse().unwrap(), devices }),
    };
    let taken =
        vec![AttachDevice { volume: instance.volumes[0].parse().unwrap(), device: "/dev/xvda".to_owned() }];
    let cases = [
        (new(NewInstance { subnet_id: Some("subnet-0bad".to_owned()), ..Default::default() }), "subnet-0bad"),
        (
            new(NewInstance { security_group_ids: vec!["sg-0bad".to_owned()], ..Default::default() }),
            "sg-0bad",
        ),
        (new(NewInstance { private_ip: Some("10.0.0".to_owned()), ..Default::default() }), "10.0.0"),
        (volumes("eu-central-1z"), "eu-central-1z"),
        (attach("i-0123456789abcdef0", Vec::new()), "i-0123456789abcdef0"),
        (attach(instance.id.as_str(), taken), "/dev/xvda"),
        (RestoreTarget::DiskImage { folder: "../out".to_owned(), format: ImageFormat::Raw }, "../out"),
    ];
    let mut n_refused = 0;
    for (target, named) in cases {
        // What the API refuses already is refused before anything is made, too.
        let Ok(id) = rig.restore_to(point, target).await else { continue };
        let (_, task) = rig.fail(id).await.unwrap();
        let error = task.error.unwrap();
        assert!(error.message.contains(named), "{named}: {}", error.message);
        assert_eq!(task.attempts, 1, "{}", error.message);
        n_refused += 1;
    }
    assert!(n_refused >= 4);
    assert_eq!(rig.calls("ebs", "StartSnapshot"), 0);
    rig.left(2, 2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_attached_to_an_instance_of_choice() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 5).unwrap();
    let other = TestInstance::place(&sim, "two", 1).unwrap();
    let content = instance.content(&sim).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let device = AttachDevice { volume: instance.volumes[1].parse().unwrap(), device: "/dev/sdk".to_owned() };
    let target = RestoreTarget::Volumes {
        availability_zone: None,
        attach: Some(AttachTo { instance: other.id.clone(), devices: vec![device] }),
    };
    // The reply of the first order to attach is lost.
    rig.hurt(Rule::new(Effect::LoseReply).on("ec2", "AttachVolume").times(1));
    let job = rig.succeed(rig.restore_to(point, target).await.unwrap()).await.unwrap();
    assert_eq!(rig.fired(), 1);
    instance.check(&sim, &job, &content).unwrap();
    let devices = rig.attached(&other.id).await.unwrap();
    assert_eq!(devices.len(), 4);
    assert_eq!(devices["/dev/sdk"], made(&job, "volume", &instance.volumes[1]));
    let described = rig.describe(&other.id).await.unwrap();
    let root = made(&job, "volume", &instance.volumes[0]);
    let root = described.config.volumes.iter().find(|one| one.volume_id.as_str() == root).unwrap();
    assert!(root.delete_on_termination, "as it was");
    assert!(!root.tags.iter().any(Tag::is_ownership), "{:?}", root.tags);
    rig.left(2, 6).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_whose_attaching_was_killed_are_attached_once() {
    let mut rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 3).unwrap();
    let other = TestInstance::place(&sim, "two", 1).unwrap();
    let content = instance.content(&sim).unwrap();
    let before = rig.attached(&other.id).await.unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    // The first volume is attached, and nobody has heard of that.
    let lost = Rule::new(Effect::LoseReply).on("ec2", "AttachVolume").times(1);
    let hang = Rule::new(Effect::Hang { seconds: None }).on("ec2", "AttachVolume");
    sim.faults.set_rules(vec![lost, Rule { skip: 1, ..hang }]);
    let target = RestoreTarget::Volumes {
        availability_zone: None,
        attach: Some(AttachTo { instance: other.id.clone(), devices: Vec::new() }),
    };
    let id = rig.restore_to(point, target).await.unwrap();
    eventually(BOUND, "the next order hangs", || async { rig.fired() == 2 }).await.unwrap();
    rig.agents[0].kill9().unwrap();
    assert_eq!(rig.attached(&other.id).await.unwrap().len(), 3, "one is attached at the time of the kill");
    rig.let_go();
    rig.add_agent().unwrap();
    let job = rig.succeed(id).await.unwrap();
    assert_eq!(job.tasks[0].attempts, 2, "the first attempt was not interrupted");
    instance.check(&sim, &job, &content).unwrap();
    let mut after = rig.attached(&other.id).await.unwrap();
    after.retain(|device, volume| before.get(device) != Some(volume));
    let new: BTreeSet<&str> = after.values().map(String::as_str).collect();
    let made: BTreeSet<&str> = instance.volumes.iter().map(|volume| made(&job, "volume", volume)).collect();
    assert_eq!((after.len(), new), (2, made));
    rig.left(2, 6).await.unwrap();
}

const IN_PLACE: RestoreTarget = RestoreTarget::InPlace { delete_old_volumes: false, leave_stopped: false };

#[tokio::test(flavor = "multi_thread")]
async fn in_place_the_instance_runs_again_with_what_it_had() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "web", 10).unwrap();
    let content = instance.content(&sim).unwrap();
    let original = rig.describe(&instance.id).await.unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    for volume in &instance.volumes {
        write_data(&sim, volume, 3, 4, 77).unwrap();
    }
    let outsider = rig.outsider().await.unwrap();
    let [lost, changed, ..] = original.config.tags.as_slice() else { panic!("{:?}", original.config.tags) };
    ec2::delete_tags(&outsider, instance.id.as_str(), &[&lost.key]).await.unwrap();
    let since = [Tag::new(&changed.key, "another value"), Tag::new("since", "the backup")];
    ec2::create_tags(&outsider, instance.id.as_str(), &since).await.unwrap();

    let job = rig.succeed(rig.restore_to(point, IN_PLACE).await.unwrap()).await.unwrap();
    instance.check(&sim, &job, &content).unwrap();
    let restored = rig.describe(&instance.id).await.unwrap();
    assert_eq!(restored.state, "running");
    // Of the tags not all come back.
    let expected = InstanceConfig { tags: restored.config.tags.clone(), ..original.config.clone() };
    check_kept(&expected, &restored.config, None).unwrap();
    let wanted: BTreeSet<_> = original.config.tags.iter().chain(&since[1..]).cloned().collect();
    assert_eq!(restored.config.tags.iter().cloned().collect::<BTreeSet<_>>(), wanted);
    assert!(has_note(&job, &format!("{} (is {:?}, was \"another value\")", changed.key, changed.value)));
    for old in &instance.volumes {
        let new = made(&job, "volume", old);
        assert!(rig.attached(&instance.id).await.unwrap().values().any(|one| one == new));
        assert_eq!(sim.world.volume_tags(old).unwrap()["snapferry:replaced-by"], new);
        assert!(has_note(&job, old), "{:#?}", job.tasks[0].notes);
    }
    rig.left(2, 4).await.unwrap();

    // One volume of it brings back no tags of the instance; nor does who may not, but the restore is done.
    ec2::create_tags(&outsider, instance.id.as_str(), &since[..1]).await.unwrap();
    let one = vec![instance.volumes[1].parse().unwrap()];
    let target = RestoreTarget::InPlace { delete_old_volumes: true, leave_stopped: false };
    let job = rig.succeed(rig.submit(only(point, one, target.clone())).await.unwrap()).await.unwrap();
    assert!(!has_note(&job, "tags of"), "{job:#?}");
    assert!(rig.describe(&instance.id).await.unwrap().config.tags.contains(&since[0]));
    let denied =
        Effect::Error { status: 403, code: "UnauthorizedOperation".to_owned(), message: None, reason: None };
    rig.hurt(Rule::new(denied).on("ec2", "CreateTags").times(1));
    let job = rig.succeed(rig.restore_to(point, target).await.unwrap()).await.unwrap();
    assert_eq!(rig.fired(), 1);
    assert!(has_note(&job, "are left as they are, not as in the recovery point"), "{job:#?}");
    instance.check(&sim, &job, &content).unwrap();
    assert!(rig.describe(&instance.id).await.unwrap().config.tags.contains(&since[0]));

    // Once more, and what it has now goes.
    let target = RestoreTarget::InPlace { delete_old_volumes: true, leave_stopped: true };
    let job = rig.succeed(rig.restore_to(point, target).await.unwrap()).await.unwrap();
    instance.check(&sim, &job, &content).unwrap();
    assert_eq!(rig.describe(&instance.id).await.unwrap().state, "stopped");
    rig.left(2, 4).await.unwrap();
}

/// A restore of some volumes.
fn only(point: RecoveryPointId, volumes: Vec<VolumeId>, target: RestoreTarget) -> Work {
    Work::Restore(Restore {
        recovery_point: point,
        from: RestoreFrom::MediaAgent,
        volumes,
        target,
        tags: Vec::new(),
        transport: TransportWish::Automatic,
        kms_key_id: None,
    })
}

/// The calls of a swap, in their order.
const STEPS: [&str; 5] =
    ["StopInstances", "DetachVolume", "AttachVolume", "ModifyInstanceAttribute", "StartInstances"];

#[tokio::test(flavor = "multi_thread")]
async fn in_place_killed_at_each_step_is_gone_on_with() {
    let mut rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "web", 3).unwrap();
    let content = instance.content(&sim).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let outsider = rig.outsider().await.unwrap();
    for (n, step) in STEPS.into_iter().chain(["CreateTags"]).enumerate() {
        ec2::create_tags(&outsider, instance.id.as_str(), &[Tag::new("environment", "other")]).await.unwrap();
        rig.hurt(Rule::new(Effect::Hang { seconds: None }).on("ec2", step).times(1));
        let target = RestoreTarget::InPlace { delete_old_volumes: true, leave_stopped: false };
        let id = rig.restore_to(point, target).await.unwrap();
        eventually(BOUND, "the step hangs", || async { rig.fired() == 1 }).await.unwrap();
        rig.agents[n].kill9().unwrap();
        rig.add_agent().unwrap();
        let job = rig.succeed(id).await.unwrap();
        assert_eq!(job.tasks[0].attempts, 2, "{step}");
        instance.check(&sim, &job, &content).unwrap();
        let now = rig.describe(&instance.id).await.unwrap();
        assert_eq!(now.state, "running", "{step}");
        assert!(
            now.config.tags.contains(&Tag::new("environment", "production")),
            "{step}: {:?}",
            now.config.tags
        );
        assert_eq!(rig.attached(&instance.id).await.unwrap().len(), 2);
        rig.left(2, 2).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_cancelled_at_each_step_is_taken_back() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "web", 3).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let before = rig.attached(&instance.id).await.unwrap();
    for step in STEPS {
        rig.hurt(Rule::new(Effect::Hang { seconds: Some(4.0) }).on("ec2", step).times(1));
        let id = rig.restore_to(point, IN_PLACE).await.unwrap();
        eventually(BOUND, "the step hangs", || async { rig.fired() == 1 }).await.unwrap();
        rig.client.cancel_job(id).await.unwrap();
        let job = rig.wait(id, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap();
        assert_eq!(job.summary.state, JobState::Cancelled, "{step}: {job:#?}");
        assert_eq!(rig.attached(&instance.id).await.unwrap(), before, "{step}");
        let described = rig.describe(&instance.id).await.unwrap();
        assert_eq!(described.state, "running", "{step}");
        let roots: Vec<bool> =
            described.config.volumes.iter().map(|volume| volume.delete_on_termination).collect();
        assert_eq!(roots, [false, true], "{step}");
        rig.left(2, 2).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_place_that_fails_for_good_is_taken_back_with_the_cause() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "web", 3).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let before = rig.attached(&instance.id).await.unwrap();
    let refused = Effect::Error {
        status: 400,
        code: "InvalidParameterValue".to_owned(),
        message: Some("no such thing".to_owned()),
        reason: None,
    };
    for step in ["DetachVolume", "AttachVolume", "StartInstances"] {
        let skip = u64::from(step != "StartInstances");
        rig.hurt(Rule { skip, ..Rule::new(refused.clone()).on("ec2", step).times(1) });
        let (_, task) = rig.fail(rig.restore_to(point, IN_PLACE).await.unwrap()).await.unwrap();
        assert_eq!(rig.fired(), 1, "{step}");
        assert!(task.error.unwrap().message.contains("no such thing"), "{step}");
        assert_eq!(rig.attached(&instance.id).await.unwrap(), before, "{step}");
        assert_eq!(rig.describe(&instance.id).await.unwrap().state, "running", "{step}");
        rig.left(2, 2).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_images_hold_what_the_volumes_held() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "web", 5).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    for (format, name) in [
        (ImageFormat::Raw, "raw"),
        (ImageFormat::Qcow2, "qcow2"),
        (ImageFormat::Vmdk, "vmdk"),
        (ImageFormat::Vhd, "vpc"),
    ] {
        let target = RestoreTarget::DiskImage { folder: format!("all/{name}"), format };
        let job = rig.succeed(rig.restore_to(point, target).await.unwrap()).await.unwrap();
        for volume in &instance.volumes {
            let image = made(&job, "disk_image", volume);
            let raw = rig.dir.join(format!("{volume}.reference"));
            write_raw_image(&sim, volume, &raw).unwrap();
            same_image(Path::new(image), name, &raw);
            let on_disk = std::fs::metadata(image).unwrap().blocks() * 512;
            assert!(on_disk < 64 << 20, "{image} of a GiB takes {on_disk} bytes: it is not sparse");
        }
    }
    // The same again would write over what is there.
    let target = RestoreTarget::DiskImage { folder: "all/raw".to_owned(), format: ImageFormat::Raw };
    let (_, task) = rig.fail(rig.restore_to(point, target).await.unwrap()).await.unwrap();
    assert!(task.error.unwrap().message.contains("exists already"));
    rig.left(2, 2).await.unwrap();
}

fn same_image(image: &Path, format: &str, raw: &Path) {
    let mut qemu = Command::new("qemu-img");
    let output = qemu.args(["compare", "-f", format, "-F", "raw"]).arg(image).arg(raw).output().unwrap();
    assert!(output.status.success(), "{}: {output:?}", image.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_disk_was_full_is_gone_on_with_by_a_new_process() {
    let mut rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "web", 60).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let images = rig.dir.join("images");
    std::fs::create_dir_all(&images).unwrap();
    let disk = Disk::mount(&images, 40).unwrap();
    let target = RestoreTarget::DiskImage { folder: "full".to_owned(), format: ImageFormat::Qcow2 };
    let id = rig.restore_to(point, target).await.unwrap();
    let job = rig
        .wait(id, "the disk is full", |job| {
            job.tasks[0].error.as_ref().is_some_and(|error| error.class == "storage_full")
        })
        .await
        .unwrap();
    let message = &job.tasks[0].error.as_ref().unwrap().message;
    assert!(message.contains(&*images.join("full").to_string_lossy()), "{message}");
    assert!(std::fs::read_dir(images.join("full")).unwrap().count() > 0, "the partial file stays");
    rig.agents[0].kill9().unwrap();
    disk.resize(300).unwrap();
    rig.restart_killed_agent().unwrap();
    let job = rig.succeed(id).await.unwrap();
    assert!(job.tasks[0].attempts >= 2);
    for volume in &instance.volumes {
        let raw = rig.dir.join(format!("{volume}.reference"));
        write_raw_image(&sim, volume, &raw).unwrap();
        same_image(Path::new(made(&job, "disk_image", volume)), "qcow2", &raw);
    }
    assert_eq!(std::fs::read_dir(images.join("full")).unwrap().count(), 2, "only the images are left");
    rig.left(2, 2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_image_restore_leaves_no_file() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "web", 60).unwrap();
    let snapped = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
    let point = Rig::recovery_point(&snapped).unwrap();
    let folder = rig.dir.join("images/all/monday");
    let files = || std::fs::read_dir(&folder).map_or(0, Iterator::count);
    // One in the first of two volumes of 123 blocks, one in the second, when the image of the first is whole.
    for (format, n_read, n_files) in [(ImageFormat::Vmdk, 60, 1), (ImageFormat::Raw, 160, 2)] {
        rig.hold_reads(n_read);
        let target = RestoreTarget::DiskImage { folder: "all/monday".to_owned(), format };
        let (from, by) = (RestoreFrom::Snapshot, TransportWish::Automatic);
        let id = rig.restore_with(point, from, target, by, None).await.unwrap();
        let hangs = || async { rig.fired() > 0 && files() == n_files };
        eventually(BOUND, "an image is begun and not whole", hangs).await.unwrap();
        let says = |job: &Job| {
            let progress = &job.tasks[0].progress;
            progress.bytes_read > 0 && (1..progress.blocks_total).contains(&progress.blocks_done)
        };
        rig.wait(id, "the job says how far it is", says).await.unwrap();
        rig.client.cancel_job(id).await.unwrap();
        let job = rig.wait(id, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap();
        assert_eq!(job.summary.state, JobState::Cancelled, "{job:#?}");
        assert!(!folder.exists(), "{} files are left of a {}", files(), format.as_str());
        rig.left(2, 2).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_killed_while_its_staging_goes_has_succeeded() {
    let mut rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "web", 5).unwrap();
    let content = instance.content(&sim).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    // The first staging snapshot goes, the deletion of the second hangs.
    rig.hurt(Rule {
        skip: 1,
        ..Rule::new(Effect::Hang { seconds: None }).on("ec2", "DeleteSnapshot").times(1)
    });
    let id = rig.restore(point).await.unwrap();
    eventually(BOUND, "the second deletion hangs", || async { rig.fired() == 1 }).await.unwrap();
    let written = rig.calls("ebs", "PutSnapshotBlock");
    rig.agents[0].kill9().unwrap();
    rig.add_agent().unwrap();
    let job = rig.succeed(id).await.unwrap();
    assert_eq!((job.tasks[0].attempts, job.tasks[0].state), (2, TaskState::Succeeded));
    assert_eq!(rig.calls("ebs", "PutSnapshotBlock"), written, "something was written again");
    instance.check(&sim, &job, &content).unwrap();
    for volume in &instance.volumes {
        let tags = sim.world.volume_tags(made(&job, "volume", volume)).unwrap();
        assert!(!tags.keys().any(|key| key.starts_with("snapferry:")), "{tags:?}");
        assert_eq!(tags["Name"], sim.world.volume_tags(volume).unwrap()["Name"]);
    }
    rig.left(2, 4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_restore_that_is_killed_at_any_step_makes_one_instance() {
    let mut rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "web", 3).unwrap();
    let content = instance.content(&sim).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let hang = |step, skip| Rule { skip, ..Rule::new(Effect::Hang { seconds: None }).on("ec2", step) };
    let mut steps: Vec<(&str, Vec<Rule>, u64)> =
        ["RegisterImage", "RunInstances", "CreateTags", "DeregisterImage"]
            .map(|step| (step, vec![hang(step, 0)], 1))
            .into();
    // It is launched, and nobody has heard of that.
    let lost = Rule::new(Effect::LoseReply).on("ec2", "RunInstances").times(1);
    steps.push(("a lost reply", vec![lost, hang("RunInstances", 1)], 2));
    // The image is gone, and nobody has heard of that.
    let lost = Rule::new(Effect::LoseReply).on("ec2", "DeregisterImage").times(1);
    steps.push(("a lost reply at the end", vec![lost, hang("DeregisterImage", 1)], 2));
    for (n, (step, rules, n_fired)) in steps.into_iter().enumerate() {
        sim.faults.set_rules(rules);
        let id = rig.restore_to(point, RestoreTarget::Instance(Box::default())).await.unwrap();
        let hangs = eventually(BOUND, "the step hangs", || async { rig.fired() == n_fired }).await;
        hangs.unwrap_or_else(|error| panic!("{step}: {error:#}"));
        if n_fired == 2 {
            assert_eq!(rig.count("instances"), n + 2, "{step}: nothing was launched before the kill");
        }
        let last = rig.agents.len() - 1;
        rig.agents[last].kill9().unwrap();
        rig.let_go();
        rig.add_agent().unwrap();
        let job = rig.succeed(id).await.unwrap_or_else(|error| panic!("{step}: {error:#}"));
        assert_eq!(job.tasks[0].attempts, 2, "{step}: the first attempt was not interrupted");
        instance.check(&sim, &job, &content).unwrap();
        rig.left(2, 2 * (n + 2)).await.unwrap_or_else(|error| panic!("{step}: {error:#}"));
        assert_eq!(rig.count("instances"), n + 2, "{step}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_instance_restore_leaves_nothing() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "web", 3).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    for step in ["RegisterImage", "CreateTags", "ModifyInstanceAttribute"] {
        rig.hurt(Rule::new(Effect::Hang { seconds: Some(4.0) }).on("ec2", step).times(1));
        let id = rig.restore_to(point, RestoreTarget::Instance(Box::default())).await.unwrap();
        eventually(BOUND, "the step hangs", || async { rig.fired() == 1 }).await.unwrap();
        rig.client.cancel_job(id).await.unwrap();
        rig.wait(id, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap();
        rig.left(2, 2).await.unwrap_or_else(|error| panic!("{step}: {error:#}"));
    }
    let inventory = sim.world.inventory(Some(ACCOUNT));
    assert!(inventory.get("images").is_none_or(Vec::is_empty), "{inventory:?}");
}
