//! Nothing is left in either account after an IntelliSnap backup was broken off that copies into the service
//! account or under another key: refused by AWS in the middle, cancelled, or killed and cancelled with nobody
//! left to clean up but the scheduler. One that was killed, and that another agent ends, makes and shares
//! nothing twice. Separate processes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use awssim::faults::{Effect, Rule};
use snapferry_api::protect::{Vault, VaultTo};
use snapferry_api::restore::RestoreFrom;
use snapferry_tests::breaking::{
    cancelled_there, hang, has_met, is_denied, killed_and_cancelled, once, only, refusal,
};
use snapferry_tests::{
    ACCOUNT, ELSEWHERE, REGION, Rig, RigOptions, SERVICE, TestInstance, VOLUMES, key_for_both, vault,
};
use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::instance::OsFamily;
use snapferry_types::{JobId, TransportWish};

const COPY_SNAPSHOT: (&str, &str) = ("ec2", "CopySnapshot");
const CREATE_SNAPSHOTS: (&str, &str) = ("ec2", "CreateSnapshots");
const SHARE: (&str, &str) = ("ec2", "ModifySnapshotAttribute");
const AT_ONCE_MILLIS: u64 = 5;
/// Longer than any test: a copy stays pending.
const FOR_GOOD_MILLIS: u64 = 600_000;

/// How many snapshots the tenant and the service account have.
fn held(rig: &Rig) -> (usize, usize) {
    let of_service = rig.sim.context().world.inventory(Some(SERVICE)).get("snapshots").map_or(0, Vec::len);
    (rig.count("snapshots"), of_service)
}

/// What both have when so many copies of two snapshots are in a vault.
fn with_copies(to: &Vault, n_copies: usize) -> (usize, usize) {
    if to.to == VaultTo::Tenant { (2 + n_copies, 0) } else { (2, n_copies) }
}

/// Asks for an IntelliSnap backup, and waits until the rules in force have hurt so many calls and both accounts
/// have so many snapshots.
async fn snapped_until(
    rig: &Rig,
    instance: &TestInstance,
    to: &Vault,
    n_fired: u64,
    there: (usize, usize),
) -> JobId {
    let id = rig.snap(&instance.id, Some(to.clone())).await.unwrap();
    let what = format!("{there:?} snapshots for {to:?}");
    has_met(rig, n_fired, &what).await;
    rig.wait(id, &what, |_| held(rig) == there).await.unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_of_the_service_account_or_under_another_key_that_is_broken_off_leaves_nothing() {
    let mut rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let plain = TestInstance::place(&sim, "one", 3).unwrap();
    let key = sim.world.create_key(ACCOUNT, REGION, Some(key_for_both()));
    let sealed = TestInstance::place_as(&sim, "two", 3, OsFamily::Windows, Some(&key)).unwrap();
    let other_key = sim.world.create_key(ACCOUNT, REGION, None);
    for (instance, to) in [
        (&plain, vault(VaultTo::ServiceCopy, None)),
        (&sealed, vault(VaultTo::ServiceCopy, Some(ELSEWHERE))),
        (&plain, Vault { kms_key_id: Some(other_key), ..vault(VaultTo::Tenant, None) }),
    ] {
        let what = format!("{to:?}");
        let (one, both) = (with_copies(&to, 1), with_copies(&to, 2));
        let n_shared = usize::from(to.to == VaultTo::ServiceCopy);
        // The second copy is refused when the first is there.
        rig.copies_take(AT_ONCE_MILLIS);
        sim.faults.set_rules(vec![once(hang(), COPY_SNAPSHOT, 1), once(refusal(), COPY_SNAPSHOT, 1)]);
        let id = snapped_until(&rig, instance, &to, 2, one).await;
        rig.shared_with(n_shared).await.unwrap();
        rig.let_go();
        is_denied(&rig, id, &what).await;
        only(&rig, 0, 4, &what).await;

        // One is pending; AWS makes the other when the agent has heard of the cancel.
        rig.copies_take(FOR_GOOD_MILLIS);
        rig.hurt(once(hang(), COPY_SNAPSHOT, 1));
        let id = snapped_until(&rig, instance, &to, 1, one).await;
        cancelled_there(&rig, id, &what).await;
        only(&rig, 0, 4, &what).await;

        // Both are pending.
        let id = snapped_until(&rig, instance, &to, 0, both).await;
        rig.shared_with(n_shared).await.unwrap();
        cancelled_there(&rig, id, &what).await;
        only(&rig, 0, 4, &what).await;

        let id = snapped_until(&rig, instance, &to, 0, both).await;
        rig.shared_with(n_shared).await.unwrap();
        killed_and_cancelled(&mut rig, id, &what).await;
        only(&rig, 0, 4, &what).await;
        rig.add_agent().unwrap();
    }
    assert_eq!(rig.points(RecoveryPointKind::Snapshot).await.unwrap().len(), 0);
    assert_eq!(rig.calls("ec2", "CopySnapshot"), 3 * 4 * 2, "something was copied twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_on_the_way_to_a_vault_that_is_refused_or_killed_are_gone_in_both_accounts() {
    let mut rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let managed = sim.world.managed_key(ACCOUNT, REGION);
    let instance = TestInstance::place_as(&sim, "one", 3, OsFamily::Linux, Some(&managed)).unwrap();
    let to = vault(VaultTo::ServiceCopy, None);
    // The tenant's second copy is refused; then, when both of those are there, the service account's.
    for (account, there) in [(ACCOUNT, (2 + 1, 0)), (SERVICE, (2 + 2, 1))] {
        let what = format!("the second copy of {account} is refused");
        let second = |effect| Rule { account: Some(account.to_owned()), ..once(effect, COPY_SNAPSHOT, 1) };
        sim.faults.set_rules(vec![second(hang()), second(refusal())]);
        let id = snapped_until(&rig, &instance, &to, 2, there).await;
        rig.let_go();
        is_denied(&rig, id, &what).await;
        only(&rig, 0, 2, &what).await;
    }

    rig.copies_take(FOR_GOOD_MILLIS);
    let id = snapped_until(&rig, &instance, &to, 0, (2 + 2, 0)).await;
    killed_and_cancelled(&mut rig, id, "killed with copies on the way").await;
    only(&rig, 0, 2, "killed with copies on the way").await;
    rig.add_agent().unwrap();

    // The copies on the way are complete, and shared, when the service account asks for its own.
    rig.copies_take(AT_ONCE_MILLIS);
    let copy = Rule::new(hang()).on("ec2", "CopySnapshot");
    rig.hurt(Rule { account: Some(SERVICE.to_owned()), ..copy });
    let id = snapped_until(&rig, &instance, &to, 2, (2 + 2, 0)).await;
    rig.copies_take(FOR_GOOD_MILLIS);
    rig.let_go();
    rig.wait(id, "the service account copies", |_| held(&rig) == (2 + 2, 2)).await.unwrap();
    killed_and_cancelled(&mut rig, id, "killed with all copies").await;
    only(&rig, 0, 2, "killed with all copies").await;
    assert_eq!(rig.points(RecoveryPointKind::Snapshot).await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intellisnap_backup_whose_agent_is_killed_is_ended_by_another_and_makes_nothing_twice() {
    let mut rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 3).unwrap();
    let content = instance.content(&sim).unwrap();
    let asked = || vec![once(hang(), CREATE_SNAPSHOTS, 0)];
    let looked_at = vec![once(hang(), ("ec2", "DescribeSnapshots"), 0)];
    // They are made, and nobody has heard of it.
    let unheard = vec![once(hang(), CREATE_SNAPSHOTS, 0), once(Effect::LoseReply, CREATE_SNAPSHOTS, 0)];
    let again = vec![
        Rule::new(hang()).on("ec2", "CreateSnapshots"),
        Rule::new(hang()).on("ec2", "DescribeSnapshots"),
    ];
    let shared = Some(vault(VaultTo::ServiceShare, None));
    // The rules before the snapshots are made and after it, and how often something is shared.
    let cases = [
        ("asked for", None, asked(), Vec::new(), 0),
        ("made", None, asked(), looked_at, 0),
        ("made and unheard of", None, unheard, again, 0),
        // The first is shared; the second is to be, by either agent.
        ("shared in part", shared, asked(), vec![once(hang(), SHARE, 1)], 1 + 2),
    ];
    for (n, (what, to, before, after, n_shares)) in cases.into_iter().enumerate() {
        let n_shares_before = rig.calls("ec2", "ModifySnapshotAttribute");
        let n_there = if after.is_empty() { 0 } else { 2 };
        sim.faults.set_rules(before);
        let id = rig.snap(&instance.id, to).await.unwrap();
        has_met(&rig, 1, what).await;
        if !after.is_empty() {
            sim.faults.set_rules(after);
            has_met(&rig, 1, what).await;
        }
        assert_eq!(rig.count("snapshots"), n_there, "{what}: it is elsewhere than in the middle");
        rig.agents.last_mut().unwrap().kill9().unwrap();
        // What hung is not carried out.
        rig.nobody_hangs().await.unwrap();
        rig.let_go();
        rig.add_agent().unwrap();
        let job = rig.succeed(id).await.unwrap();
        assert!(job.tasks[0].attempts >= 2, "{what}: the first attempt was not interrupted: {job:#?}");
        only(&rig, 2, 2 * (n + 1), what).await;
        rig.shared_with(usize::from(n_shares > 0)).await.unwrap();
        let n_shares_now = rig.calls("ec2", "ModifySnapshotAttribute") - n_shares_before;
        assert_eq!(n_shares_now, n_shares, "{what}: something was shared twice");

        // It is whole, and goes with all that it has.
        let point = Rig::recovery_point(&job).unwrap();
        let (from, by) = (RestoreFrom::Snapshot, TransportWish::Automatic);
        let restore = rig.restore_with(point, from, VOLUMES, by, None).await.unwrap();
        instance.check(&sim, &rig.succeed(restore).await.unwrap(), &content).unwrap();
        let deletion = rig.client.delete_recovery_point(point).await.unwrap();
        rig.succeed(deletion.summary.id).await.unwrap();
        only(&rig, 0, 2 * (n + 2), what).await;
    }

    // AWS may still make them after the kill, when nobody is there to hear of it.
    sim.faults.set_rules(asked());
    let id = rig.snap(&instance.id, None).await.unwrap();
    has_met(&rig, 1, "asked for").await;
    killed_and_cancelled(&mut rig, id, "asked for, and cancelled").await;
    only(&rig, 0, 2 + 4 * 2, "asked for, and cancelled").await;
    assert_eq!(rig.points(RecoveryPointKind::Snapshot).await.unwrap().len(), 0);
}
