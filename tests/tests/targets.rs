//! Every target of a restore, from snapshots and from a library by every transport, as before and under another key: content, type, IOPS, throughput, tags, key and delete-on-termination are compared with what was.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use snapferry_api::job::Job;
use snapferry_api::restore::{AttachTo, RestoreFrom, RestoreTarget};
use snapferry_aws::ec2;
use snapferry_tests::{
    ACCOUNT, REGION, Rig, RigOptions, TestInstance, key_for_both, says, write_data, write_raw_image,
};
use snapferry_types::instance::OsFamily;
use snapferry_types::{ImageFormat, InstanceId, RecoveryPointId, TransportWish};

struct World {
    rig: Rig,
    instance: TestInstance,
    content: Vec<Vec<u64>>,
    /// Key of its volumes.
    key: Option<String>,
    /// Which of its volumes go with it.
    goes: BTreeMap<String, bool>,
}

impl World {
    async fn new(os: OsFamily, is_encrypted: bool) -> Self {
        let options = RigOptions { n_agents: 1, with_service_resources: true, ..RigOptions::default() };
        let rig = Rig::start(options).await.unwrap();
        let sim = rig.sim.context().clone();
        let key = is_encrypted.then(|| sim.world.create_key(ACCOUNT, REGION, Some(key_for_both())));
        let instance = TestInstance::place_as(&sim, "web", 3, os, key.as_deref()).unwrap();
        let content = instance.content(&sim).unwrap();
        let mut world = Self { rig, instance, content, key, goes: BTreeMap::new() };
        world.goes = world.goes_with(&world.instance.id).await.into_values().collect();
        world
    }

    /// Of an instance's devices: the volume, and whether it goes with the instance.
    async fn goes_with(&self, instance: &InstanceId) -> BTreeMap<String, (String, bool)> {
        let described = ec2::describe_instance(&self.rig.outsider().await.unwrap(), instance).await.unwrap();
        let volumes = described.config.volumes.into_iter();
        volumes.map(|one| (one.device_name, (one.volume_id.to_string(), one.delete_on_termination))).collect()
    }

    async fn restored(
        &self,
        point: RecoveryPointId,
        target: RestoreTarget,
        (from, transport, key): (RestoreFrom, TransportWish, Option<&str>),
    ) -> Job {
        let id =
            self.rig.restore_with(point, from, target, transport, key.map(ToOwned::to_owned)).await.unwrap();
        let job = self.rig.succeed(id).await.unwrap();
        if from == RestoreFrom::MediaAgent && transport != TransportWish::Automatic {
            assert!(says(&job, &format!("blocks are moved by {}", transport.as_str())), "{job:#?}");
        }
        self.instance.check(self.rig.sim.context(), &job, &self.content).unwrap();
        for made in job.tasks[0].made.iter().filter(|made| made.kind == "volume") {
            let is = self.rig.key_of_volume(&made.id).await.unwrap();
            assert_eq!(is.as_deref(), key.or(self.key.as_deref()), "the key of {}", made.id);
        }
        self.rig.nothing_is_left().unwrap();
        job
    }

    /// Each restored volume is attached to the instance, and goes with it as the one it was made of did.
    async fn check_attached(&self, job: &Job, to: &InstanceId) {
        let attached: BTreeMap<String, bool> = self.goes_with(to).await.into_values().collect();
        for made in job.tasks[0].made.iter().filter(|made| made.kind == "volume") {
            assert_eq!(attached.get(&made.id), Some(&self.goes[&made.source]), "{made:?}: {attached:?}");
        }
    }

    /// All targets that volumes are made for.
    async fn every_target(&self, point: RecoveryPointId, how: (RestoreFrom, TransportWish, Option<&str>)) {
        let sim = self.rig.sim.context();
        let other = TestInstance::place(sim, "other", 1).unwrap();
        let attach = Some(AttachTo { instance: other.id.clone(), devices: Vec::new() });
        let job = self.restored(point, RestoreTarget::Volumes { availability_zone: None, attach }, how).await;
        self.check_attached(&job, &other.id).await;

        let job = self.restored(point, RestoreTarget::Instance(Box::default()), how).await;
        let new = job.tasks[0].made.iter().find(|made| made.kind == "instance").unwrap();
        self.check_attached(&job, &new.id.parse().unwrap()).await;

        // What it has now is not what comes back.
        for (volume, _) in self.goes_with(&self.instance.id).await.into_values() {
            write_data(sim, &volume, 2, 1, 99).unwrap();
        }
        let target = RestoreTarget::InPlace { delete_old_volumes: false, leave_stopped: false };
        let job = self.restored(point, target, how).await;
        self.check_attached(&job, &self.instance.id).await;
        assert_eq!(self.goes_with(&self.instance.id).await.len(), self.goes.len());
    }

    async fn images(&self, point: RecoveryPointId, from: RestoreFrom, folder: &str) {
        let target = RestoreTarget::DiskImage { folder: folder.to_owned(), format: ImageFormat::Raw };
        let id = self.rig.restore_with(point, from, target, TransportWish::Automatic, None).await.unwrap();
        let job = self.rig.succeed(id).await.unwrap();
        let made: Vec<_> = job.tasks.iter().flat_map(|task| &task.made).collect();
        assert_eq!(made.len(), self.instance.volumes.len());
        for made in made {
            let expected = self.rig.dir.join("expected.raw");
            write_raw_image(self.rig.sim.context(), &made.source, &expected).unwrap();
            let (image, expected) = (std::fs::read(&made.id).unwrap(), std::fs::read(expected).unwrap());
            assert!(image == expected, "{} differs from {}", made.id, made.source);
        }
        self.rig.nothing_is_left().unwrap();
    }
}

async fn every_target_from_snapshots(world: World) {
    let job = world.rig.snap(&world.instance.id, None).await.unwrap();
    let point = Rig::recovery_point(&world.rig.succeed(job).await.unwrap()).unwrap();
    world.images(point, RestoreFrom::Snapshot, "images").await;
    let key = world.rig.sim.context().world.create_key(ACCOUNT, REGION, None);
    for key in [None, Some(key.as_str())] {
        world.every_target(point, (RestoreFrom::Snapshot, TransportWish::Automatic, key)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_snapshots() {
    every_target_from_snapshots(World::new(OsFamily::Linux, false).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_snapshots_under_a_key() {
    every_target_from_snapshots(World::new(OsFamily::Windows, true).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_library_by_each_transport() {
    let world = World::new(OsFamily::Linux, false).await;
    let point = world.rig.backed_up(&world.instance).await.unwrap();
    world.images(point, RestoreFrom::MediaAgent, "plain").await;
    for transport in [TransportWish::EbsDirect, TransportWish::HotAdd, TransportWish::Import] {
        world.every_target(point, (RestoreFrom::MediaAgent, transport, None)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_library_by_each_transport_under_another_key() {
    let world = World::new(OsFamily::Windows, true).await;
    let point = world.rig.backed_up(&world.instance).await.unwrap();
    let key = world.rig.sim.context().world.create_key(ACCOUNT, REGION, Some(key_for_both()));
    for transport in [TransportWish::EbsDirect, TransportWish::HotAdd, TransportWish::Import] {
        world.every_target(point, (RestoreFrom::MediaAgent, transport, Some(&key))).await;
    }
}

/// Volumes with provisioned performance, and one for throughput; the least sizes of their types in GiB.
const KINDS: [(&str, u64, Option<u32>); 4] =
    [("gp2", 1, Some(100)), ("io1", 4, Some(150)), ("io2", 4, Some(1_000)), ("st1", 125, None)];

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_volume_comes_back_with_what_was_provisioned() {
    let options = RigOptions { n_agents: 1, with_service_resources: true, ..RigOptions::default() };
    let rig = Rig::start(options).await.unwrap();
    let sim = rig.sim.context().clone();
    let placed = sim.place_instance(ACCOUNT, REGION, "web", None, &KINDS.map(|(_, gib, _)| gib)).unwrap();
    for (volume, (kind, _, iops)) in placed.volumes.iter().zip(KINDS) {
        assert!(sim.world.retype(volume, kind, iops, None));
        write_data(&sim, volume, 1, 2, 5).unwrap();
    }
    let instance = TestInstance::of(&sim, placed).unwrap();
    let content = instance.content(&sim).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let volumes = RestoreTarget::Volumes { availability_zone: None, attach: None };
    let in_place = RestoreTarget::InPlace { delete_old_volumes: true, leave_stopped: false };
    for (target, transport) in [
        (volumes.clone(), TransportWish::EbsDirect),
        (volumes, TransportWish::HotAdd),
        (RestoreTarget::Instance(Box::default()), TransportWish::EbsDirect),
        (in_place, TransportWish::EbsDirect),
    ] {
        let id = rig.restore_with(point, RestoreFrom::MediaAgent, target, transport, None).await.unwrap();
        instance.check(&sim, &rig.succeed(id).await.unwrap(), &content).unwrap();
    }
    rig.only_these_are_left(4, 4 * 4).await.unwrap();
}
