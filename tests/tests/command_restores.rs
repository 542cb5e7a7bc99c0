//! Restores by commands: a new instance has each thing that it was told, wrong wishes are refused by name, and disk
//! images of every format hold what the volume held.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::process::Command;

use awssim::world::Placed;
use snapferry_api::job::Job;
use snapferry_tests::{ACCOUNT, CommandLine, REGION, Rig, RigOptions, TestInstance, write_raw_image};

struct Desk {
    rig: Rig,
    shell: CommandLine,
    instance: TestInstance,
    /// Its recovery point.
    point: String,
}

impl Desk {
    async fn new() -> Self {
        let rig = Rig::start(RigOptions { n_agents: 1, ..RigOptions::default() }).await.unwrap();
        let instance = TestInstance::place(rig.sim.context(), "web", 4).unwrap();
        let point = rig.backed_up(&instance).await.unwrap().to_string();
        let shell = CommandLine { server: rig.api_url(), token: None };
        Self { rig, shell, instance, point }
    }

    async fn restored(&self, target: &str, options: &[&str]) -> Job {
        self.shell.done(&[&["restore", target, &self.point], options].concat()).await.unwrap()
    }
}

fn made<'a>(job: &'a Job, kind: &str, source: &str) -> &'a str {
    let found = job.tasks[0].made.iter().find(|made| made.kind == kind && made.source == source);
    &found.unwrap_or_else(|| panic!("no {kind} of {source} in {job:#?}")).id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_instance_has_each_thing_it_was_told() {
    let desk = Desk::new().await;
    let (rig, instance) = (&desk.rig, &desk.instance);
    let sim = rig.sim.context().clone();
    let content = instance.content(&sim).unwrap();
    sim.world.add_key_pair(ACCOUNT, REGION, "other");
    let neighbour = sim.place_instance_in(ACCOUNT, "eu-central-1b", "neighbour", None, &[1]).unwrap();
    let neighbour = rig.describe(&neighbour.instance.parse().unwrap()).await.unwrap();
    let at = &neighbour.config.network_interfaces[0];
    let (subnet, group) = (at.subnet_id.as_str(), at.security_group_ids[0].as_str());
    let taken = at.private_ip.as_deref().unwrap();
    let address = format!("{}.77", taken.rsplit_once('.').unwrap().0);

    let network = ["--subnet", subnet, "--security-group", group, "--private-ip", &address];
    let others = ["--key-name", "other", "--iam-instance-profile", "backup", "--instance-type", "m6i.xlarge"];
    let tags = ["--stopped", "--name", "web restored", "--tag", "by=hand"];
    let job = desk.restored("instance", &[&network[..], &others, &tags].concat()).await;
    let restored = made(&job, "instance", instance.id.as_str());
    let volumes = instance.volumes.iter().map(|volume| made(&job, "volume", volume).to_owned()).collect();
    let placed = Placed { instance: restored.to_owned(), volumes };
    assert!(TestInstance::of(&sim, placed).unwrap().content(&sim).unwrap() == content);
    let restored = rig.describe(&restored.parse().unwrap()).await.unwrap();
    let is = &restored.config;
    assert_eq!((restored.state.as_str(), is.name()), ("stopped", Some("web restored")));
    assert_eq!((is.instance_type.as_str(), is.key_name.as_deref()), ("m6i.xlarge", Some("other")));
    let profile = is.iam_instance_profile_arn.as_ref().unwrap();
    assert!(profile.ends_with(":instance-profile/backup"), "{profile}");
    assert_eq!(is.availability_zone, "eu-central-1b");
    let [interface] = is.network_interfaces.as_slice() else { panic!("{:?}", is.network_interfaces) };
    assert_eq!(interface.subnet_id, subnet);
    assert_eq!(interface.security_group_ids, [group]);
    assert_eq!(interface.private_ip.as_ref(), Some(&address));
    let has = |key: &str, value: &str| is.tags.iter().any(|tag| tag.key == key && tag.value == value);
    assert!(has("by", "hand") && has("environment", "production"), "{:?}", is.tags);

    let in_subnet = ["--subnet", subnet, "--private-ip"];
    let cases: [(&[&str], &str); 5] = [
        (&["--subnet", "subnet-0bad"], "subnet-0bad"),
        (&["--security-group", "sg-0bad"], "sg-0bad"),
        (&["--key-name", "no-such-key"], "no-such-key"),
        (&[&in_subnet[..], &[taken]].concat(), taken),
        (&[&in_subnet[..], &["192.0.2.1"]].concat(), "192.0.2.1"),
    ];
    for (wish, named) in cases {
        let arguments = [&["restore", "instance", &desk.point, "--watch"], wish].concat();
        let answer = desk.shell.run(&arguments).await.unwrap();
        assert_eq!(answer.code, 6, "{wish:?}: {answer:#?}");
        let last = answer.stderr.lines().last().unwrap();
        assert!(last.starts_with("error: job ") && last.contains(named), "{wish:?}: {answer:#?}");
    }
    // The original's volumes, the neighbour's and the new instance's: the refused ones made nothing.
    rig.left(2, 2 + 1 + 2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_image_of_each_format_holds_what_the_volume_held() {
    let desk = Desk::new().await;
    let volume = desk.instance.volumes[0].as_str();
    let raw = desk.rig.dir.join("reference.raw");
    write_raw_image(desk.rig.sim.context(), volume, &raw).unwrap();
    // What qemu-img calls them. Without a wish it is a raw one.
    let formats: [(&[&str], &str); 5] = [
        (&[], "raw"),
        (&["--format", "raw"], "raw"),
        (&["--format", "qcow2"], "qcow2"),
        (&["--format", "vmdk"], "vmdk"),
        (&["--format", "vhd"], "vpc"),
    ];
    for (n, (wish, name)) in formats.into_iter().enumerate() {
        let folder = format!("by-hand/{n}");
        let options = [&["--folder", &folder, "--volume", volume], wish].concat();
        let job = desk.restored("disk-image", &options).await;
        let [image] = job.tasks[0].made.as_slice() else { panic!("one volume was asked for: {job:#?}") };
        assert!(image.kind == "disk_image" && image.id.contains(&folder), "{image:?}");
        let mut qemu = Command::new("qemu-img");
        let output = qemu.args(["compare", "-f", name, "-F", "raw", &image.id]).arg(&raw).output().unwrap();
        assert!(output.status.success(), "{wish:?}: {output:?}");
    }
    let folder = ["restore", "disk-image", &desk.point, "--folder"];
    for (wrong, named) in [(&["x", "--format", "iso"][..], "vmdk or vhd"), (&["../x"][..], "folder")] {
        let answer = desk.shell.run(&[&folder[..], wrong].concat()).await.unwrap();
        assert!(answer.code == 2 && answer.stderr.contains(named), "{answer:#?}");
    }
    let images = std::fs::read_dir(desk.rig.dir.join("images/by-hand")).unwrap();
    assert_eq!(images.count(), formats.len());
}
