//! A restore that does not end well leaves nothing in either account, and the instances as they were: from a library, from a
//! vault and from snapshots, by every transport, to every target, refused by AWS in the middle, cancelled while a call
//! hangs, or killed and cancelled with nobody left. Disk images, which AWS has nothing of, are in leftovers.rs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::time::Duration;

use awssim::faults::Rule;
use snapferry_api::protect::VaultTo;
use snapferry_api::restore::{AttachTo, RestoreFrom, RestoreTarget};
use snapferry_testkit::eventually;
use snapferry_tests::breaking::{cancel, cancelled_there, hang, has_met, is_cancelled, is_denied, refusal};
use snapferry_tests::{
    ACCOUNT, ELSEWHERE, REGION, Rig, RigOptions, SERVICE, TestInstance, VOLUMES, key_for_both, says, vault,
};
use snapferry_types::instance::OsFamily;
use snapferry_types::{InstanceId, JobId, RecoveryPointId, TransportWish};

const BOUND: Duration = Duration::from_secs(60);
const DATA_MIB: u64 = 8;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Origin {
    Library,
    /// Copies in another region; the snapshots are gone.
    Vault,
    /// Snapshots in place: no blocks are moved.
    Snapshots,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    Volumes,
    Attached,
    Instance,
    InPlace,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    Refused,
    Cancelled,
    Killed,
}

/// A call of an account, after so many of the same that are let through.
#[derive(Debug, Clone, Copy)]
struct At(&'static str, &'static str, &'static str, u64);

/// Where a restore is broken off: when blocks are moved, and one of two volumes is done.
fn moving(by: TransportWish) -> At {
    match by {
        TransportWish::EbsDirect => At(ACCOUNT, "ebs", "CompleteSnapshot", 1),
        TransportWish::HotAdd => At(SERVICE, "ec2", "CreateSnapshot", 1),
        TransportWish::Import => At(SERVICE, "ec2", "ImportSnapshot", 1),
        TransportWish::Automatic => panic!("no blocks are moved"),
    }
}

/// Where it is broken off when all is staged, and half of the target is there: one of two volumes, or the instance.
const fn placing(target: Target) -> At {
    match target {
        Target::Volumes => At(ACCOUNT, "ec2", "CreateVolume", 1),
        Target::Attached | Target::InPlace => At(ACCOUNT, "ec2", "AttachVolume", 1),
        Target::Instance => At(ACCOUNT, "ec2", "ModifyInstanceAttribute", 0),
    }
}

/// Of each ending one is early and one late, the one from a library and the other from a vault.
fn break_off_at(origin: Origin, by: TransportWish, target: Target, ending: Ending) -> At {
    let is_early = match origin {
        Origin::Library => ending == Ending::Cancelled,
        Origin::Vault => ending != Ending::Cancelled,
        Origin::Snapshots => false,
    };
    if is_early { moving(by) } else { placing(target) }
}

struct World {
    rig: Rig,
    instance: TestInstance,
    content: Vec<Vec<u64>>,
    /// Volumes are attached to it.
    other: InstanceId,
    origin: Origin,
    point: RecoveryPointId,
}

impl World {
    async fn new(origin: Origin) -> Self {
        Self::with_key(origin, false).await
    }

    /// A set-up whose instance has volumes under a key of the tenant's, or plain ones.
    async fn with_key(origin: Origin, is_sealed: bool) -> Self {
        let options = RigOptions::one_node();
        let rig = Rig::start(options).await.unwrap();
        let sim = rig.sim.context();
        let key = is_sealed.then(|| sim.world.create_key(ACCOUNT, REGION, Some(key_for_both())));
        let instance = TestInstance::place_as(sim, "one", DATA_MIB, OsFamily::Linux, key.as_deref()).unwrap();
        let content = instance.content(sim).unwrap();
        let other = TestInstance::place(sim, "other", 1).unwrap().id;
        sim.world.add_key_pair(ACCOUNT, REGION, &key_pair(&rig, &instance).await);
        let point = match origin {
            Origin::Library => rig.backed_up(&instance).await.unwrap(),
            Origin::Vault | Origin::Snapshots => {
                let elsewhere = (origin == Origin::Vault).then(|| vault(VaultTo::Tenant, Some(ELSEWHERE)));
                let snapped = rig.snap(&instance.id, elsewhere).await.unwrap();
                Rig::recovery_point(&rig.succeed(snapped).await.unwrap()).unwrap()
            }
        };
        if origin == Origin::Vault {
            rig.lose_snapshots(|_| true).await.unwrap();
        }
        Self { rig, instance, content, other, origin, point }
    }

    async fn restore(&self, by: TransportWish, target: Target) -> JobId {
        let target = match target {
            Target::Volumes => VOLUMES,
            Target::Attached => {
                let attach = AttachTo { instance: self.other.clone(), devices: Vec::new() };
                RestoreTarget::Volumes { availability_zone: None, attach: Some(attach) }
            }
            Target::Instance => RestoreTarget::Instance(Box::default()),
            Target::InPlace => RestoreTarget::InPlace { delete_old_volumes: true, leave_stopped: false },
        };
        // The snapshots that the next backup compares with would be the fastest.
        let from =
            if self.origin == Origin::Library { RestoreFrom::MediaAgent } else { RestoreFrom::Automatic };
        self.rig.restore_with(self.point, from, target, by, None).await.unwrap()
    }

    fn of_tenant(&self) -> BTreeMap<&'static str, Vec<String>> {
        self.rig.sim.context().world.inventory(Some(ACCOUNT))
    }

    /// State and volumes of both instances.
    async fn instances(&self) -> Vec<(String, BTreeMap<String, String>)> {
        let mut found = Vec::new();
        for id in [&self.instance.id, &self.other] {
            // Without a volume it cannot be described.
            let Ok(described) = self.rig.describe(id).await else { return Vec::new() };
            let volumes = described.config.volumes.into_iter();
            let volumes = volumes.map(|one| (one.device_name, one.volume_id.to_string())).collect();
            found.push((described.state, volumes));
        }
        found
    }

    /// Breaks a restore off; both accounts have what they had, and the instances too.
    async fn broken_off(&mut self, at: At, by: TransportWish, target: Target, ending: Ending) {
        let what = format!("{:?} to {target:?} by {by:?}, {ending:?} at {at:?}", self.origin);
        let (before, instances) = (self.of_tenant(), self.instances().await);
        assert_eq!(instances.len(), 2, "{what}");
        let At(account, service, action, skip) = at;
        let effect = if ending == Ending::Refused { refusal() } else { hang() };
        let rule = Rule::new(effect).on(service, action).times(1);
        self.rig.hurt(Rule { account: Some(account.to_owned()), skip, ..rule });
        let id = self.restore(by, target).await;
        match ending {
            Ending::Refused => {
                is_denied(&self.rig, id, &what).await;
                assert_eq!(self.rig.fired(), 1, "{what}");
            }
            Ending::Cancelled => {
                self.hangs(id, &before, &what).await;
                cancelled_there(&self.rig, id, &what).await;
            }
            Ending::Killed => {
                self.hangs(id, &before, &what).await;
                self.rig.agents.last_mut().unwrap().kill9().unwrap();
                self.rig.let_go();
                cancel(&self.rig, id, &what).await;
                // Only an agent gives an instance its own volumes back.
                if target == Target::InPlace {
                    self.rig.add_agent().unwrap();
                }
                is_cancelled(&self.rig, id, &what).await;
            }
        }
        self.is_as_before(&before, &instances, &what).await;
        match (ending, target) {
            (Ending::Killed, Target::InPlace) => {}
            (Ending::Killed, _) => self.rig.add_agent().unwrap(),
            _ => {
                assert_eq!(self.rig.n_staged(self.rig.agents.len() - 1), 0, "{what}: an image is on the node")
            }
        }
    }

    /// Waits until the call hangs; there is something by then that could be left.
    async fn hangs(&self, id: JobId, before: &BTreeMap<&'static str, Vec<String>>, what: &str) {
        has_met(&self.rig, 1, what).await;
        let of_service = self.rig.nothing_is_left();
        assert!(self.of_tenant() != *before || of_service.is_err(), "{what}: nothing is there yet");
        let job = self.rig.client.job(id).await.unwrap();
        assert_eq!(job.tasks[0].attempts, 1, "{what}");
    }

    /// What it is restored from is whole, and nothing of all that broke off is in the way.
    async fn succeeds(&self, by: TransportWish) {
        self.rig.let_go();
        let job = self.rig.succeed(self.restore(by, Target::Volumes).await).await.unwrap();
        let moved = match by {
            TransportWish::Automatic => "no blocks are moved".to_owned(),
            by => format!("blocks are moved by {}, as asked for", by.as_str()),
        };
        assert!(says(&job, &moved), "{job:#?}");
        self.instance.check(self.rig.sim.context(), &job, &self.content).unwrap();
    }

    async fn is_as_before(
        &self,
        before: &BTreeMap<&'static str, Vec<String>>,
        instances: &[(String, BTreeMap<String, String>)],
        what: &str,
    ) {
        let is_so = || async {
            self.of_tenant() == *before
                && self.rig.nothing_is_left().is_ok()
                && self.rig.shared_with(0).await.is_ok()
                && self.instances().await == instances
        };
        let waited = eventually(BOUND, "all is as before", is_so).await;
        waited.unwrap_or_else(|error| {
            panic!("{what}: {error}\n{:#?}\n{:?}", self.of_tenant(), self.rig.nothing_is_left());
        });
    }
}

/// The key pair that the instance was started with: a new one is started with it too.
async fn key_pair(rig: &Rig, instance: &TestInstance) -> String {
    rig.describe(&instance.id).await.unwrap().config.key_name.unwrap()
}

async fn every_ending(origin: Origin, by: TransportWish) {
    let mut world = World::new(origin).await;
    for target in [Target::Volumes, Target::Attached, Target::Instance, Target::InPlace] {
        for ending in [Ending::Refused, Ending::Cancelled, Ending::Killed] {
            world.broken_off(break_off_at(origin, by, target, ending), by, target, ending).await;
        }
    }
    world.succeeds(by).await;
}

/// What is encrypted lies in the service account under the transit key, and is copied from there under the tenant's.
async fn every_ending_on_the_way_through_transit(by: TransportWish) {
    let mut world = World::with_key(Origin::Library, true).await;
    for at in [moving(by), At(ACCOUNT, "ec2", "CopySnapshot", 1)] {
        for ending in [Ending::Refused, Ending::Cancelled, Ending::Killed] {
            world.broken_off(at, by, Target::Volumes, ending).await;
        }
    }
    world.succeeds(by).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_restore_of_encrypted_volumes_by_hot_add() {
    every_ending_on_the_way_through_transit(TransportWish::HotAdd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_restore_of_encrypted_volumes_by_import() {
    every_ending_on_the_way_through_transit(TransportWish::Import).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_restore_from_snapshots() {
    every_ending(Origin::Snapshots, TransportWish::Automatic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_restore_from_a_library_by_ebs_direct() {
    every_ending(Origin::Library, TransportWish::EbsDirect).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_restore_from_a_library_by_hot_add() {
    every_ending(Origin::Library, TransportWish::HotAdd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_restore_from_a_library_by_import() {
    every_ending(Origin::Library, TransportWish::Import).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_restore_from_a_vault_by_ebs_direct() {
    every_ending(Origin::Vault, TransportWish::EbsDirect).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_restore_from_a_vault_by_hot_add() {
    every_ending(Origin::Vault, TransportWish::HotAdd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_restore_from_a_vault_by_import() {
    every_ending(Origin::Vault, TransportWish::Import).await;
}
