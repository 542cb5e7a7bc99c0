//! Every target of a restore, from snapshots, from a library and from a vault by every transport, as before and under
//! another key: content, type, IOPS, throughput, key, delete-on-termination and tags of volumes, and the whole configuration
//! of instances, new ones and those in place, are compared with what was.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use snapferry_api::job::Job;
use snapferry_api::protect::VaultTo;
use snapferry_api::restore::{AttachTo, RestoreFrom, RestoreTarget};
use snapferry_aws::ec2;
use snapferry_tests::{
    ACCOUNT, ELSEWHERE, REGION, Rig, RigOptions, TestInstance, VOLUMES, check_has_all, check_kept,
    key_for_both, says, vault, write_data, write_raw_image,
};
use snapferry_types::instance::{InstanceConfig, OsFamily};
use snapferry_types::{ImageFormat, InstanceId, RecoveryPointId, TransportWish};

const WRITES: [TransportWish; 3] = [TransportWish::EbsDirect, TransportWish::HotAdd, TransportWish::Import];

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
    /// All that it had.
    before: InstanceConfig,
}

impl World {
    async fn new(os: OsFamily, encryption: Encryption) -> Self {
        Self::on(Rig::start(RigOptions::one_node()).await.unwrap(), os, encryption).await
    }

    /// Another instance, on the same rig.
    async fn next(self, os: OsFamily, encryption: Encryption) -> Self {
        Self::on(self.rig, os, encryption).await
    }

    async fn on(rig: Rig, os: OsFamily, encryption: Encryption) -> Self {
        let sim = rig.sim.context().clone();
        let key = match encryption {
            Encryption::Plain => None,
            Encryption::AwsManaged => Some(sim.world.managed_key(ACCOUNT, REGION)),
            Encryption::Customer => Some(sim.world.create_key(ACCOUNT, REGION, Some(key_for_both()))),
        };
        let instance = TestInstance::place_as(&sim, "web", 3, os, key.as_deref()).unwrap();
        let content = instance.content(&sim).unwrap();
        let before = rig.describe(&instance.id).await.unwrap().config;
        check_has_all(&before).unwrap();
        assert_eq!(before.os, os);
        sim.world.add_key_pair(ACCOUNT, REGION, before.key_name.as_ref().unwrap());
        let mut world = Self { rig, instance, content, key, goes: BTreeMap::new(), before };
        world.goes = world.goes_with(&world.instance.id).await.into_values().collect();
        world
    }

    /// An instance has all that the one that was backed up had.
    async fn check_kept(
        &self,
        instance: &InstanceId,
        (from, transport, key): (RestoreFrom, TransportWish, Option<&str>),
    ) {
        let now = self.rig.describe(instance).await.unwrap().config;
        let kept = check_kept(&self.before, &now, key);
        kept.unwrap_or_else(|error| panic!("{from:?}, {transport:?}, {key:?}: {error}"));
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
        self.check_kept(&new, how).await;
        // AWS takes what is made of snapshots for Linux, whatever it is.
        assert_eq!(says(&job, "runs Windows, but AWS"), self.before.os == OsFamily::Windows, "{job:#?}");

        // What it has now is not what comes back.
        let lost = self.before.tags.first().unwrap();
        let outsider = self.rig.outsider().await.unwrap();
        ec2::delete_tags(&outsider, self.instance.id.as_str(), &[&lost.key]).await.unwrap();
        for (volume, _) in self.goes_with(&self.instance.id).await.into_values() {
            write_data(sim, &volume, 2, 1, 99).unwrap();
        }
        let target = RestoreTarget::InPlace { delete_old_volumes: false, leave_stopped: false };
        let job = self.restored(point, target, how).await;
        self.check_attached(&job, &self.instance.id).await;
        self.check_kept(&self.instance.id, how).await;
    }

    async fn snapped(&self) -> RecoveryPointId {
        let job = self.rig.snap(&self.instance.id, None).await.unwrap();
        Rig::recovery_point(&self.rig.succeed(job).await.unwrap()).unwrap()
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

/// A recovery point of which only the copies in another region are left, and that is known. The instance's only one yet.
async fn vaulted(rig: &Rig, instance: &TestInstance) -> RecoveryPointId {
    let elsewhere = vault(VaultTo::Tenant, Some(ELSEWHERE));
    let job = rig.snap(&instance.id, Some(elsewhere)).await.unwrap();
    let point = Rig::recovery_point(&rig.succeed(job).await.unwrap()).unwrap();
    assert_eq!(rig.lose_snapshots(|_| true).await.unwrap(), instance.volumes.len());
    point
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
    for transport in WRITES {
        world.every_target(point, (RestoreFrom::MediaAgent, transport, None)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_library_by_each_transport_under_another_key() {
    let mut world = World::new(OsFamily::Windows, Encryption::Customer).await;
    for is_next in [false, true] {
        if is_next {
            world = world.next(OsFamily::Linux, Encryption::Plain).await;
        }
        let point = world.rig.backed_up(&world.instance).await.unwrap();
        under_another_key(&world, (point, RestoreFrom::MediaAgent), &WRITES).await;
    }
}

async fn under_another_key(
    world: &World,
    (point, from): (RecoveryPointId, RestoreFrom),
    transports: &[TransportWish],
) {
    let key = world.rig.sim.context().world.create_key(ACCOUNT, REGION, Some(key_for_both()));
    for transport in transports {
        world.every_target(point, (from, *transport, Some(&key))).await;
    }
}

/// From snapshots, and from a library by each transport; under the key that the volumes have, and under another one.
async fn every_target_of_snapshots_and_library(world: &World) {
    let (snapped, backed_up) = (world.snapped().await, world.rig.backed_up(&world.instance).await.unwrap());
    let folder = |of: &str| format!("{}-{of}", world.instance.id);
    world.images(snapped, RestoreFrom::Snapshot, &folder("snapshots")).await;
    world.images(backed_up, RestoreFrom::MediaAgent, &folder("library")).await;
    world.every_target(snapped, (RestoreFrom::Snapshot, TransportWish::Automatic, None)).await;
    for transport in WRITES {
        world.every_target(backed_up, (RestoreFrom::MediaAgent, transport, None)).await;
    }
    under_another_key(world, (snapped, RestoreFrom::Snapshot), &[TransportWish::Automatic]).await;
    // Volumes by the others are in matrix.rs.
    under_another_key(world, (backed_up, RestoreFrom::MediaAgent), &[TransportWish::HotAdd]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_the_aws_managed_key_of_linux_instances() {
    every_target_of_snapshots_and_library(&World::new(OsFamily::Linux, Encryption::AwsManaged).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_the_aws_managed_key_of_windows_instances() {
    every_target_of_snapshots_and_library(&World::new(OsFamily::Windows, Encryption::AwsManaged).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_plain_windows_instances_and_of_linux_ones_under_a_key() {
    let world = World::new(OsFamily::Windows, Encryption::Plain).await;
    every_target_of_snapshots_and_library(&world).await;
    let world = world.next(OsFamily::Linux, Encryption::Customer).await;
    every_target_of_snapshots_and_library(&world).await;
}

/// From copies in another region by each transport; under the key that the volumes have, and under another one.
async fn every_target_from_a_vault(world: &World) {
    let point = vaulted(&world.rig, &world.instance).await;
    world.images(point, RestoreFrom::Automatic, &format!("{}-vault", world.instance.id)).await;
    for transport in WRITES {
        world.every_target(point, (RestoreFrom::Automatic, transport, None)).await;
    }
    under_another_key(world, (point, RestoreFrom::Automatic), &WRITES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_vault_of_linux_volumes_plain_and_under_a_key() {
    let world = World::new(OsFamily::Linux, Encryption::Plain).await;
    every_target_from_a_vault(&world).await;
    every_target_from_a_vault(&world.next(OsFamily::Linux, Encryption::Customer).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_vault_of_windows_volumes_plain_and_under_a_key() {
    let world = World::new(OsFamily::Windows, Encryption::Plain).await;
    every_target_from_a_vault(&world).await;
    every_target_from_a_vault(&world.next(OsFamily::Windows, Encryption::Customer).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_vault_of_what_the_aws_managed_key_encrypts() {
    let world = World::new(OsFamily::Linux, Encryption::AwsManaged).await;
    every_target_from_a_vault(&world).await;
    every_target_from_a_vault(&world.next(OsFamily::Windows, Encryption::AwsManaged).await).await;
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

const IN_PLACE: RestoreTarget = RestoreTarget::InPlace { delete_old_volumes: true, leave_stopped: false };

/// Where the volumes of every type are restored from.
#[derive(Debug, Clone, Copy)]
enum Origin {
    Snapshots,
    Library(TransportWish),
    Vault(TransportWish),
}

/// Restores an instance that has a volume of every type so.
async fn every_type_comes_back(platform: Option<&str>, restores: Vec<(RestoreTarget, Origin)>) {
    let rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let sizes = KINDS.map(|(_, gib, ..)| gib);
    let placed = sim.place_instance(ACCOUNT, REGION, "web", platform, &sizes).unwrap();
    for (volume, (kind, _, iops, throughput)) in placed.volumes.iter().zip(KINDS) {
        assert!(sim.world.retype(volume, kind, iops, throughput));
        write_data(&sim, volume, 1, 2, 5).unwrap();
    }
    let instance = TestInstance::of(&sim, placed).unwrap();
    let content = instance.content(&sim).unwrap();
    let in_a_vault = vaulted(&rig, &instance).await;
    let snapped = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
    let (snapped, backed_up) =
        (Rig::recovery_point(&snapped).unwrap(), rig.backed_up(&instance).await.unwrap());
    let n_beside = restores.iter().filter(|(target, _)| *target != IN_PLACE).count();
    for (target, origin) in restores {
        let (point, from, by) = match origin {
            Origin::Snapshots => (snapped, RestoreFrom::Snapshot, TransportWish::Automatic),
            Origin::Library(by) => (backed_up, RestoreFrom::MediaAgent, by),
            Origin::Vault(by) => (in_a_vault, RestoreFrom::Automatic, by),
        };
        let job = rig.succeed(rig.restore_with(point, from, target, by, None).await.unwrap()).await.unwrap();
        if let Origin::Library(by) | Origin::Vault(by) = origin {
            assert!(says(&job, &format!("blocks are moved by {}", by.as_str())), "{job:#?}");
        }
        let checked = instance.check(&sim, &job, &content);
        checked.unwrap_or_else(|error| panic!("{origin:?}: {error}"));
    }
    // The copies in the vault, the snapshots, and those that the next backup compares with.
    rig.only_these_are_left(3 * KINDS.len(), (1 + n_beside) * KINDS.len()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_volume_comes_back_with_what_was_provisioned() {
    let restores = vec![
        (VOLUMES, Origin::Library(TransportWish::EbsDirect)),
        (VOLUMES, Origin::Library(TransportWish::HotAdd)),
        (VOLUMES, Origin::Library(TransportWish::Import)),
        (VOLUMES, Origin::Vault(TransportWish::EbsDirect)),
        (VOLUMES, Origin::Vault(TransportWish::HotAdd)),
        (VOLUMES, Origin::Vault(TransportWish::Import)),
        (RestoreTarget::Instance(Box::default()), Origin::Library(TransportWish::EbsDirect)),
        (IN_PLACE, Origin::Library(TransportWish::EbsDirect)),
        (VOLUMES, Origin::Snapshots),
    ];
    every_type_comes_back(None, restores).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_volume_of_a_windows_instance_comes_back_with_what_was_provisioned() {
    let restores = vec![
        (VOLUMES, Origin::Snapshots),
        (RestoreTarget::Instance(Box::default()), Origin::Snapshots),
        (IN_PLACE, Origin::Snapshots),
        (RestoreTarget::Instance(Box::default()), Origin::Library(TransportWish::HotAdd)),
        (IN_PLACE, Origin::Library(TransportWish::Import)),
        (RestoreTarget::Instance(Box::default()), Origin::Vault(TransportWish::EbsDirect)),
        (IN_PLACE, Origin::Vault(TransportWish::HotAdd)),
    ];
    every_type_comes_back(Some("windows"), restores).await;
}
