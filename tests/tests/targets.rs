//! Every target of a restore, from snapshots, from a library and from a vault by every transport, as before and under
//! another key: content, type, IOPS, throughput, key, delete-on-termination and the tags of volumes and instances are
//! compared with what was.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use snapferry_api::job::Job;
use snapferry_api::protect::VaultTo;
use snapferry_api::restore::{AttachTo, RestoreFrom, RestoreTarget};
use snapferry_aws::ec2;
use snapferry_tests::{
    ACCOUNT, ELSEWHERE, REGION, Rig, RigOptions, TestInstance, key_for_both, says, vault, write_data,
    write_raw_image,
};
use snapferry_types::aws::Tag;
use snapferry_types::instance::OsFamily;
use snapferry_types::{ImageFormat, InstanceId, RecoveryPointId, TransportWish};

/// How the volumes of an instance are encrypted.
#[derive(Debug, Clone, Copy)]
enum Encryption {
    Plain,
    AwsManaged,
    Customer,
}

struct World {
    rig: Rig,
    instance: TestInstance,
    content: Vec<Vec<u64>>,
    /// Key of its volumes.
    key: Option<String>,
    /// Which of its volumes go with it.
    goes: BTreeMap<String, bool>,
    /// Its own tags.
    tags: BTreeSet<Tag>,
}

impl World {
    async fn new(os: OsFamily, encryption: Encryption) -> Self {
        let options = RigOptions { n_agents: 1, with_service_resources: true, ..RigOptions::default() };
        let rig = Rig::start(options).await.unwrap();
        let sim = rig.sim.context().clone();
        let key = match encryption {
            Encryption::Plain => None,
            Encryption::AwsManaged => Some(sim.world.managed_key(ACCOUNT, REGION)),
            Encryption::Customer => Some(sim.world.create_key(ACCOUNT, REGION, Some(key_for_both()))),
        };
        let instance = TestInstance::place_as(&sim, "web", 3, os, key.as_deref()).unwrap();
        let content = instance.content(&sim).unwrap();
        let (goes, tags) = (BTreeMap::new(), BTreeSet::new());
        let mut world = Self { rig, instance, content, key, goes, tags };
        world.goes = world.goes_with(&world.instance.id).await.into_values().collect();
        world.tags = world.tags_of(&world.instance.id).await;
        assert!(world.tags.len() > 1, "{:?}", world.tags);
        world
    }

    async fn tags_of(&self, instance: &InstanceId) -> BTreeSet<Tag> {
        self.rig.describe(instance).await.unwrap().config.tags.into_iter().collect()
    }

    /// Of an instance's devices: the volume, and whether it goes with the instance.
    async fn goes_with(&self, instance: &InstanceId) -> BTreeMap<String, (String, bool)> {
        let volumes = self.rig.describe(instance).await.unwrap().config.volumes.into_iter();
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
        if from != RestoreFrom::Snapshot && transport != TransportWish::Automatic {
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
        let new: InstanceId = new.id.parse().unwrap();
        self.check_attached(&job, &new).await;
        assert_eq!(self.tags_of(&new).await, self.tags, "{how:?}");

        // What it has now is not what comes back.
        let lost = self.tags.first().unwrap();
        let outsider = self.rig.outsider().await.unwrap();
        ec2::delete_tags(&outsider, self.instance.id.as_str(), &[&lost.key]).await.unwrap();
        for (volume, _) in self.goes_with(&self.instance.id).await.into_values() {
            write_data(sim, &volume, 2, 1, 99).unwrap();
        }
        let target = RestoreTarget::InPlace { delete_old_volumes: false, leave_stopped: false };
        let job = self.restored(point, target, how).await;
        self.check_attached(&job, &self.instance.id).await;
        assert_eq!(self.goes_with(&self.instance.id).await.len(), self.goes.len());
        assert_eq!(self.tags_of(&self.instance.id).await, self.tags, "{how:?}");
    }

    async fn snapped(&self) -> RecoveryPointId {
        let job = self.rig.snap(&self.instance.id, None).await.unwrap();
        Rig::recovery_point(&self.rig.succeed(job).await.unwrap()).unwrap()
    }

    /// A recovery point of which only the copies in another region are left, and that is known.
    async fn vaulted(&self) -> RecoveryPointId {
        let elsewhere = vault(VaultTo::Tenant, Some(ELSEWHERE));
        let job = self.rig.snap(&self.instance.id, Some(elsewhere)).await.unwrap();
        let point = Rig::recovery_point(&self.rig.succeed(job).await.unwrap()).unwrap();
        let outsider = self.rig.outsider().await.unwrap();
        let own = self.rig.snapshots_of(ACCOUNT, REGION).await.unwrap();
        assert_eq!(own.len(), self.instance.volumes.len());
        for state in own {
            ec2::delete_snapshot(&outsider, &state.snapshot).await.unwrap();
        }
        self.rig.client.reconcile(self.rig.tenant).await.unwrap();
        point
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
    let point = world.snapped().await;
    world.images(point, RestoreFrom::Snapshot, "images").await;
    let key = world.rig.sim.context().world.create_key(ACCOUNT, REGION, None);
    for key in [None, Some(key.as_str())] {
        world.every_target(point, (RestoreFrom::Snapshot, TransportWish::Automatic, key)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_snapshots() {
    every_target_from_snapshots(World::new(OsFamily::Linux, Encryption::Plain).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_snapshots_under_a_key() {
    every_target_from_snapshots(World::new(OsFamily::Windows, Encryption::Customer).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_library_by_each_transport() {
    let world = World::new(OsFamily::Linux, Encryption::Plain).await;
    let point = world.rig.backed_up(&world.instance).await.unwrap();
    world.images(point, RestoreFrom::MediaAgent, "plain").await;
    for transport in [TransportWish::EbsDirect, TransportWish::HotAdd, TransportWish::Import] {
        world.every_target(point, (RestoreFrom::MediaAgent, transport, None)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_library_by_each_transport_under_another_key() {
    let world = World::new(OsFamily::Windows, Encryption::Customer).await;
    let point = world.rig.backed_up(&world.instance).await.unwrap();
    let key = world.rig.sim.context().world.create_key(ACCOUNT, REGION, Some(key_for_both()));
    for transport in [TransportWish::EbsDirect, TransportWish::HotAdd, TransportWish::Import] {
        world.every_target(point, (RestoreFrom::MediaAgent, transport, Some(&key))).await;
    }
}

async fn under_the_aws_managed_key(os: OsFamily, transports: [TransportWish; 2]) {
    let world = World::new(os, Encryption::AwsManaged).await;
    let (snapped, backed_up) = (world.snapped().await, world.rig.backed_up(&world.instance).await.unwrap());
    world.images(snapped, RestoreFrom::Snapshot, "snapshots").await;
    world.images(backed_up, RestoreFrom::MediaAgent, "library").await;
    world.every_target(snapped, (RestoreFrom::Snapshot, TransportWish::Automatic, None)).await;
    for transport in transports {
        world.every_target(backed_up, (RestoreFrom::MediaAgent, transport, None)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_the_aws_managed_key_of_linux_instances() {
    under_the_aws_managed_key(OsFamily::Linux, [TransportWish::EbsDirect, TransportWish::HotAdd]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_the_aws_managed_key_of_windows_instances() {
    under_the_aws_managed_key(OsFamily::Windows, [TransportWish::HotAdd, TransportWish::Import]).await;
}

async fn every_target_from_a_vault(os: OsFamily, encryption: Encryption) {
    let world = World::new(os, encryption).await;
    let point = world.vaulted().await;
    world.images(point, RestoreFrom::Automatic, "vault").await;
    for transport in [TransportWish::EbsDirect, TransportWish::HotAdd, TransportWish::Import] {
        world.every_target(point, (RestoreFrom::Automatic, transport, None)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_vault_by_each_transport() {
    every_target_from_a_vault(OsFamily::Linux, Encryption::Plain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_vault_by_each_transport_under_a_key() {
    every_target_from_a_vault(OsFamily::Windows, Encryption::Customer).await;
}

/// Every type of volume, with the performance that is provisioned where it can be: type, GiB (the least, or what the IOPS
/// need), IOPS, throughput.
const KINDS: [(&str, u64, Option<u32>, Option<u32>); 7] = [
    ("gp2", 1, Some(100), None),
    ("gp3", 12, Some(5_000), Some(400)),
    ("io1", 4, Some(150), None),
    ("io2", 4, Some(1_000), None),
    ("st1", 125, None, None),
    ("sc1", 125, None, None),
    ("standard", 1, None, None),
];

const VOLUMES: RestoreTarget = RestoreTarget::Volumes { availability_zone: None, attach: None };
const IN_PLACE: RestoreTarget = RestoreTarget::InPlace { delete_old_volumes: true, leave_stopped: false };

/// Restores an instance that has a volume of every type so, from snapshots where no transport is named.
async fn every_type_comes_back(
    platform: Option<&str>,
    restores: Vec<(RestoreTarget, Option<TransportWish>)>,
) {
    let options = RigOptions { n_agents: 1, with_service_resources: true, ..RigOptions::default() };
    let rig = Rig::start(options).await.unwrap();
    let sim = rig.sim.context().clone();
    let sizes = KINDS.map(|(_, gib, ..)| gib);
    let placed = sim.place_instance(ACCOUNT, REGION, "web", platform, &sizes).unwrap();
    for (volume, (kind, _, iops, throughput)) in placed.volumes.iter().zip(KINDS) {
        assert!(sim.world.retype(volume, kind, iops, throughput));
        write_data(&sim, volume, 1, 2, 5).unwrap();
    }
    let instance = TestInstance::of(&sim, placed).unwrap();
    let content = instance.content(&sim).unwrap();
    let snapped = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
    let (snapped, backed_up) =
        (Rig::recovery_point(&snapped).unwrap(), rig.backed_up(&instance).await.unwrap());
    let n_beside = restores.iter().filter(|(target, _)| *target != IN_PLACE).count();
    for (target, transport) in restores {
        let id = match transport {
            Some(by) => rig.restore_with(backed_up, RestoreFrom::MediaAgent, target, by, None).await,
            None => {
                let (from, by) = (RestoreFrom::Snapshot, TransportWish::Automatic);
                rig.restore_with(snapped, from, target, by, None).await
            }
        };
        instance.check(&sim, &rig.succeed(id.unwrap()).await.unwrap(), &content).unwrap();
    }
    rig.only_these_are_left(2 * KINDS.len(), (1 + n_beside) * KINDS.len()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_volume_comes_back_with_what_was_provisioned() {
    let restores = vec![
        (VOLUMES, Some(TransportWish::EbsDirect)),
        (VOLUMES, Some(TransportWish::HotAdd)),
        (VOLUMES, Some(TransportWish::Import)),
        (RestoreTarget::Instance(Box::default()), Some(TransportWish::EbsDirect)),
        (IN_PLACE, Some(TransportWish::EbsDirect)),
        (VOLUMES, None),
    ];
    every_type_comes_back(None, restores).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_volume_of_a_windows_instance_comes_back_with_what_was_provisioned() {
    let restores = vec![
        (VOLUMES, None),
        (RestoreTarget::Instance(Box::default()), None),
        (IN_PLACE, None),
        (RestoreTarget::Instance(Box::default()), Some(TransportWish::HotAdd)),
        (IN_PLACE, Some(TransportWish::Import)),
    ];
    every_type_comes_back(Some("windows"), restores).await;
}
