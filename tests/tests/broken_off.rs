//! Nothing is left in either account after the filling of a vault, a restore from a vault, or a backup copy
//! was broken off: refused by AWS in the middle, cancelled while a call hangs, or killed and cancelled with
//! nobody left to clean up but the scheduler. What there was before stays. Vaults in the service account or
//! under another key are in broken_vaults.rs. Separate processes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use awssim::faults::{Behaviour, Rule};
use snapferry_api::hypervisor::ReadAs;
use snapferry_api::protect::{Vault, VaultTo};
use snapferry_api::restore::RestoreFrom;
use snapferry_testkit::eventually;
use snapferry_tests::breaking::{
    cancelled_there, hang, has_met, is_denied, killed_and_cancelled, once, only, reads, refusal,
};
use snapferry_tests::{
    ACCOUNT, ELSEWHERE, REGION, Rig, RigOptions, SERVICE, TestInstance, VOLUMES, says, vault,
};
use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::instance::OsFamily;
use snapferry_types::{JobId, RecoveryPointId, TransportWish};

const BOUND: Duration = Duration::from_secs(60);
const COPY_SNAPSHOT: (&str, &str) = ("ec2", "CopySnapshot");
/// Longer than any test: a copy stays pending.
const FOR_GOOD_MILLIS: u64 = 600_000;
/// Data of a volume that is copied.
const DATA_MIB: u64 = 20;

async fn n_elsewhere(rig: &Rig) -> usize {
    rig.snapshots_of(ACCOUNT, ELSEWHERE).await.unwrap().len()
}

fn into_elsewhere() -> Option<Vault> {
    Some(vault(VaultTo::Tenant, Some(ELSEWHERE)))
}

/// Starts an IntelliSnap backup whose two copies in the other region are there, and never complete.
async fn with_pending_copies(rig: &Rig, instance: &TestInstance) -> JobId {
    let id = rig.snap(&instance.id, into_elsewhere()).await.unwrap();
    rig.wait(id, "both copies are made", |_| rig.count("snapshots") == 2 + 2).await.unwrap();
    assert_eq!(n_elsewhere(rig).await, 2, "the copies are in the other region");
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_in_another_region_that_is_broken_off_leaves_neither_copies_nor_snapshots() {
    let mut rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 3).unwrap();

    // The second copy is refused when the first is there.
    let rules = vec![once(hang(), COPY_SNAPSHOT, 1), once(refusal(), COPY_SNAPSHOT, 1)];
    rig.sim.context().faults.set_rules(rules);
    let id = rig.snap(&instance.id, into_elsewhere()).await.unwrap();
    has_met(&rig, 2, "the second copy is asked for").await;
    let has_one = || async { n_elsewhere(&rig).await == 1 };
    eventually(BOUND, "the first copy is there", has_one).await.unwrap();
    assert_eq!(rig.count("snapshots"), 2 + 1);
    rig.let_go();
    is_denied(&rig, id, "refused").await;
    assert_eq!(rig.calls("ec2", "CopySnapshot"), 2);
    only(&rig, 0, 2, "refused").await;

    rig.copies_take(FOR_GOOD_MILLIS);
    let id = with_pending_copies(&rig, &instance).await;
    rig.hurt(once(hang(), ("ec2", "DescribeSnapshots"), 0));
    has_met(&rig, 1, "a copy is looked at").await;
    cancelled_there(&rig, id, "cancelled").await;
    only(&rig, 0, 2, "cancelled").await;

    let id = with_pending_copies(&rig, &instance).await;
    killed_and_cancelled(&mut rig, id, "killed").await;
    only(&rig, 0, 2, "killed").await;
    assert_eq!(n_elsewhere(&rig).await, 0);
    assert_eq!(rig.points(RecoveryPointKind::Snapshot).await.unwrap().len(), 0);
}

/// A recovery point of which only the copies in another region are left, and that is known.
struct Vaulted {
    rig: Rig,
    instance: TestInstance,
    content: Vec<Vec<u64>>,
    point: RecoveryPointId,
}

impl Vaulted {
    async fn new() -> Self {
        let rig = Rig::start(RigOptions::one_node()).await.unwrap();
        let instance = TestInstance::place(rig.sim.context(), "one", 8).unwrap();
        let content = instance.content(rig.sim.context()).unwrap();
        let snapped = rig.snap(&instance.id, into_elsewhere()).await.unwrap();
        let point = Rig::recovery_point(&rig.succeed(snapped).await.unwrap()).unwrap();
        rig.lose_snapshots(|_| true).await.unwrap();
        let world = Self { rig, instance, content, point };
        world.only_the_copies("prepared").await;
        world
    }

    async fn restore(&self, by: TransportWish) -> JobId {
        self.rig.restore_with(self.point, RestoreFrom::Automatic, VOLUMES, by, None).await.unwrap()
    }

    /// Starts a restore of which both volumes hang at an action; the service account has something of each then.
    async fn hanging(&self, by: TransportWish, action: &str) -> JobId {
        let (rig, what) = (&self.rig, format!("{action} by {by:?}"));
        rig.hurt(Rule::new(hang()).on("ec2", action));
        let id = self.restore(by).await;
        has_met(rig, 2, &what).await;
        let inventory = rig.sim.context().world.inventory(Some(SERVICE));
        let n_moving = inventory["volumes"].len() - rig.instances.len() + inventory["snapshots"].len();
        assert!(n_moving >= 2, "{what}: nothing is there that could be left: {inventory:#?}");
        id
    }

    async fn only_the_copies(&self, what: &str) {
        only(&self.rig, 2, 2, what).await;
        assert_eq!(n_elsewhere(&self.rig).await, 2, "{what}: the copies are not what is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_from_a_vault_that_is_broken_off_leaves_only_the_copies() {
    let mut world = Vaulted::new().await;
    for (by, action, skip) in [
        (TransportWish::HotAdd, "AttachVolume", 1),
        (TransportWish::HotAdd, "CopySnapshot", 1),
        (TransportWish::Import, "ImportSnapshot", 1),
        // A snapshot is imported, and has no tag.
        (TransportWish::Import, "CreateTags", 0),
    ] {
        let what = format!("{action} by {by:?} is refused");
        world.rig.hurt(once(refusal(), ("ec2", action), skip));
        let id = world.restore(by).await;
        is_denied(&world.rig, id, &what).await;
        assert_eq!(world.rig.fired(), 1, "{what}");
        world.only_the_copies(&what).await;
        assert_eq!(world.rig.n_staged(0), 0, "{what}: an image is left on the node");
    }
    // A volume has 19 blocks: both snapshots are begun when the next one is read.
    for (action, skip) in [("GetSnapshotBlock", 19), ("CompleteSnapshot", 1)] {
        let what = format!("{action} is refused");
        let n_begun = world.rig.calls("ebs", "StartSnapshot");
        world.rig.hurt(once(refusal(), ("ebs", action), skip));
        let id = world.restore(TransportWish::EbsDirect).await;
        is_denied(&world.rig, id, &what).await;
        assert_eq!(world.rig.fired(), 1, "{what}");
        let n_begun = world.rig.calls("ebs", "StartSnapshot") - n_begun;
        assert_eq!(n_begun, 2, "{what}: nothing was there that could be left");
        world.only_the_copies(&what).await;
    }
    world.rig.let_go();

    for (by, action) in [(TransportWish::HotAdd, "CopySnapshot"), (TransportWish::Import, "CreateTags")] {
        let what = format!("{action} by {by:?}, cancelled");
        let id = world.hanging(by, action).await;
        cancelled_there(&world.rig, id, &what).await;
        world.only_the_copies(&what).await;
        assert_eq!(world.rig.n_staged(0), 0, "{what}: an image is left on the node");
    }

    for (by, action) in [(TransportWish::HotAdd, "DetachVolume"), (TransportWish::Import, "CopySnapshot")] {
        let what = format!("{action} by {by:?}, killed");
        let id = world.hanging(by, action).await;
        killed_and_cancelled(&mut world.rig, id, &what).await;
        world.only_the_copies(&what).await;
        world.rig.add_agent().unwrap();
    }

    // The copies are whole, and the next restore is in nobody's way.
    let id = world.restore(TransportWish::HotAdd).await;
    let job = world.rig.succeed(id).await.unwrap();
    world.instance.check(world.rig.sim.context(), &job, &world.content).unwrap();
    only(&world.rig, 2, 4, "restored").await;
}

/// An instance with a recovery point that is to be copied.
struct Snapped {
    rig: Rig,
    instance: TestInstance,
    content: Vec<Vec<u64>>,
    point: RecoveryPointId,
}

impl Snapped {
    /// Of plain volumes, or of such under the AWS-managed key.
    async fn new(options: RigOptions, is_managed: bool) -> Self {
        let rig = Rig::start(options).await.unwrap();
        let sim = rig.sim.context();
        let key = is_managed.then(|| sim.world.managed_key(ACCOUNT, REGION));
        let instance = TestInstance::place_as(sim, "one", DATA_MIB, OsFamily::Linux, key.as_deref()).unwrap();
        let content = instance.content(sim).unwrap();
        let snapped = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
        let point = Rig::recovery_point(&snapped).unwrap();
        Self { rig, instance, content, point }
    }

    async fn copy(&self, by: TransportWish) -> JobId {
        self.rig.copy_by(self.point, by).await.unwrap()
    }

    /// The recovery point is as it was, shared with nobody, and nothing else is there.
    async fn only_the_point(&self, what: &str) {
        let rig = &self.rig;
        only(rig, 2, 2, what).await;
        eventually(BOUND, what, || async { rig.shared_with(0).await.is_ok() }).await.unwrap();
        assert_eq!(rig.points(RecoveryPointKind::Snapshot).await.unwrap().len(), 1, "{what}");
        assert_eq!(rig.points(RecoveryPointKind::Copy).await.unwrap().len(), 0, "{what}");
    }

    /// It can still be copied, which reads all of it anew, and the copy is what was.
    async fn can_be_copied(&self, by: TransportWish) {
        let rig = &self.rig;
        let done = rig.succeed(self.copy(by).await).await.unwrap();
        assert!(says(&done, &format!("blocks are moved by {}, as asked for", by.as_str())), "{done:#?}");
        let bytes_read = done.tasks[0].progress.bytes_read;
        assert!(
            bytes_read >= (2 * DATA_MIB) << 20,
            "only {bytes_read} bytes were read: the rest is of what was broken off"
        );
        let restored = rig.restore_copy(Rig::recovery_point(&done).unwrap()).await.unwrap();
        self.instance.check(rig.sim.context(), &restored, &self.content).unwrap();
        only(rig, 2, 4, "restored").await;
        rig.shared_with(0).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_by_hot_add_that_is_broken_off_leaves_the_recovery_point_which_can_be_copied_again() {
    let world = Snapped::new(RigOptions::one_node(), false).await;
    let (rig, by) = (&world.rig, TransportWish::HotAdd);

    // Of two volumes one is attached and read; the other is to be attached, or is read too and is to be taken off.
    for action in ["AttachVolume", "DetachVolume"] {
        let call = ("ec2", action);
        let what = format!("{action} is refused");
        rig.sim.context().faults.set_rules(vec![once(hang(), call, 1), once(refusal(), call, 1)]);
        let id = world.copy(by).await;
        has_met(rig, 2, &what).await;
        rig.wait(id, "blocks are read", reads).await.unwrap();
        rig.shared_with(1).await.unwrap();
        rig.let_go();
        is_denied(rig, id, &what).await;
        world.only_the_point(&what).await;

        let what = format!("{action}, cancelled");
        rig.hurt(once(hang(), call, 1));
        let id = world.copy(by).await;
        has_met(rig, 1, &what).await;
        rig.wait(id, "blocks are read", reads).await.unwrap();
        rig.shared_with(1).await.unwrap();
        let second = rig.copy_by(world.point, by).await;
        let refused = format!("{:#}", second.expect_err("it is copied twice at the same time"));
        assert!(refused.contains("being copied"), "{what}: {refused}");
        cancelled_there(rig, id, &what).await;
        world.only_the_point(&what).await;
    }
    world.can_be_copied(by).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_the_service_account_reads_and_that_is_broken_off_takes_its_shares_back() {
    let options = RigOptions { read_as: ReadAs::Service, ..RigOptions::one_agent() };
    let mut world = Snapped::new(options, false).await;
    let by = TransportWish::EbsDirect;
    let read = once(refusal(), ("ebs", "GetSnapshotBlock"), 30);
    world.rig.hurt(Rule { account: Some(SERVICE.to_owned()), ..read });
    let id = world.copy(by).await;
    is_denied(&world.rig, id, "refused").await;
    assert_eq!(world.rig.fired(), 1, "the service account has read less");
    world.only_the_point("refused").await;
    // Each snapshot was shared, and that was taken back.
    assert_eq!(world.rig.calls("ec2", "ModifySnapshotAttribute"), 2 + 2);

    let reading = async |world: &Snapped| {
        world.rig.hold_reads(30);
        let id = world.copy(by).await;
        world.rig.wait(id, "blocks are read", |job| world.rig.fired() > 0 && reads(job)).await.unwrap();
        world.rig.shared_with(1).await.unwrap();
        id
    };
    let id = reading(&world).await;
    cancelled_there(&world.rig, id, "cancelled").await;
    world.only_the_point("cancelled").await;

    let id = reading(&world).await;
    killed_and_cancelled(&mut world.rig, id, "killed").await;
    world.only_the_point("killed").await;

    world.rig.add_agent().unwrap();
    world.can_be_copied(by).await;
    let counters = world.rig.sim.context().faults.counters();
    let readers = counters.calls.iter().filter(|count| count.action == "GetSnapshotBlock");
    assert!(readers.map(|count| count.account.as_str()).eq([SERVICE]), "{counters:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_copied_first_to_be_read_by_hot_add_goes_when_the_backup_copy_is_broken_off() {
    let mut world = Snapped::new(RigOptions::one_node(), true).await;
    let by = TransportWish::HotAdd;
    let n_there = async |world: &Snapped, id: JobId, n: usize| {
        world.rig.wait(id, "snapshots are copied", |_| world.rig.count("snapshots") == n).await.unwrap();
    };
    world.rig.copies_take(FOR_GOOD_MILLIS);
    let rules = vec![once(hang(), COPY_SNAPSHOT, 1), once(refusal(), COPY_SNAPSHOT, 1)];
    world.rig.sim.context().faults.set_rules(rules);
    let id = world.copy(by).await;
    has_met(&world.rig, 2, "the second is to be copied").await;
    n_there(&world, id, 2 + 1).await;
    world.rig.let_go();
    is_denied(&world.rig, id, "refused").await;
    world.only_the_point("refused").await;

    // AWS carries it out when the agent has heard of the cancel.
    world.rig.hurt(once(hang(), COPY_SNAPSHOT, 1));
    let id = world.copy(by).await;
    has_met(&world.rig, 1, "the second is to be copied").await;
    n_there(&world, id, 2 + 1).await;
    cancelled_there(&world.rig, id, "cancelled").await;
    world.only_the_point("cancelled").await;

    let id = world.copy(by).await;
    n_there(&world, id, 2 + 2).await;
    killed_and_cancelled(&mut world.rig, id, "killed").await;
    world.only_the_point("killed").await;
    assert_eq!(world.rig.calls("ec2", "CopySnapshot"), 3 * 2, "something was copied twice");

    world.rig.sim.context().faults.set_behaviour(Behaviour::default());
    world.rig.add_agent().unwrap();
    world.can_be_copied(by).await;
}
