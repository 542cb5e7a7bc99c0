//! Nothing is left after a job that failed, was cancelled or was killed in the middle: both accounts are listed. Separate
//! processes. Every test proves that its fault came in the middle; here are the ways of work that no other file breaks off.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use awssim::faults::{Effect, Rule};
use serde_json::Value;
use snapferry_api::job::Job;
use snapferry_api::ledger::LedgerQuery;
use snapferry_api::protect::{Vault, VaultTo};
use snapferry_api::restore::{AttachTo, RestoreFrom, RestoreTarget};
use snapferry_testkit::eventually;
use snapferry_tests::breaking::{
    cancel, cancelled_there, hang, has_met, is_cancelled, is_denied, killed_and_cancelled, once, only, reads,
    refusal,
};
use snapferry_tests::{
    ACCOUNT, CommandLine, Machine, REGION, Rig, RigOptions, SERVICE, TestInstance, VOLUMES, files_in, vault,
    write_data,
};
use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind};
use snapferry_types::{ImageFormat, JobId, RecoveryPointId, TaskId, TransportWish, VolumeId};

const BOUND: Duration = Duration::from_secs(60);
/// Data of a volume: more than an agent has in memory by far.
const DATA_MIB: u64 = 250;
const CREATE_SNAPSHOTS: (&str, &str) = ("ec2", "CreateSnapshots");
const DESCRIBE_SNAPSHOTS: (&str, &str) = ("ec2", "DescribeSnapshots");
const SHARE: (&str, &str) = ("ec2", "ModifySnapshotAttribute");

fn with_nodes(n_agents: usize) -> RigOptions {
    RigOptions { n_agents, with_service_resources: true, ..RigOptions::default() }
}

/// The job ends by the call that the rule in force has refused, at its first attempt.
async fn is_refused(rig: &Rig, id: JobId, action: &str) {
    is_denied(rig, id, action).await;
    assert_eq!(rig.fired(), 1, "{action}");
}

/// An instance with an IntelliSnap recovery point, whose own snapshots are restored from.
struct Snapped {
    rig: Rig,
    instance: TestInstance,
    content: Vec<Vec<u64>>,
    /// An instance that volumes are attached to.
    other: TestInstance,
    point: RecoveryPointId,
    /// The volumes of both.
    before: [BTreeMap<String, String>; 2],
}

impl Snapped {
    async fn new() -> Self {
        let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
        let instance = TestInstance::place(rig.sim.context(), "web", 3).unwrap();
        let other = TestInstance::place(rig.sim.context(), "other", 1).unwrap();
        let content = instance.content(rig.sim.context()).unwrap();
        let snapped = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
        let point = Rig::recovery_point(&snapped).unwrap();
        let before = [rig.attached(&instance.id).await.unwrap(), rig.attached(&other.id).await.unwrap()];
        Self { rig, instance, content, other, point, before }
    }

    fn attached(&self) -> RestoreTarget {
        let attach = AttachTo { instance: self.other.id.clone(), devices: Vec::new() };
        RestoreTarget::Volumes { availability_zone: None, attach: Some(attach) }
    }

    async fn restore(&self, target: RestoreTarget) -> JobId {
        let (from, by) = (RestoreFrom::Snapshot, TransportWish::Automatic);
        self.rig.restore_with(self.point, from, target, by, None).await.unwrap()
    }

    /// Both instances are as before, and nothing else is there but the recovery point.
    async fn is_untouched(&self, what: &str) {
        let rig = &self.rig;
        only(rig, 2, 4, what).await;
        eventually(BOUND, what, || async { rig.count("instances") == 2 }).await.unwrap();
        for (instance, before) in [&self.instance, &self.other].into_iter().zip(&self.before) {
            assert_eq!(rig.attached(&instance.id).await.unwrap(), *before, "{what}");
            assert_eq!(rig.describe(&instance.id).await.unwrap().state, "running", "{what}");
        }
    }
}

fn new_instance() -> RestoreTarget {
    RestoreTarget::Instance(Box::default())
}

fn in_place(delete_old_volumes: bool) -> RestoreTarget {
    RestoreTarget::InPlace { delete_old_volumes, leave_stopped: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_from_snapshots_that_is_refused_in_the_middle_leaves_nothing() {
    let world = Snapped::new().await;
    for (target, action, skip) in [
        (VOLUMES, "CreateVolume", 1),
        (world.attached(), "AttachVolume", 1),
        (new_instance(), "RunInstances", 0),
        (new_instance(), "CreateTags", 1),
        (new_instance(), "ModifyInstanceAttribute", 0),
        (in_place(false), "CreateVolume", 1),
        (in_place(false), "AttachVolume", 1),
        (in_place(true), "StartInstances", 0),
    ] {
        let what = format!("{action} of {target:?}");
        world.rig.hurt(once(refusal(), ("ec2", action), skip));
        let id = world.restore(target).await;
        is_refused(&world.rig, id, &what).await;
        world.is_untouched(&what).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_from_snapshots_that_is_cancelled_in_the_middle_leaves_nothing() {
    let world = Snapped::new().await;
    for (target, action, skip) in [
        (VOLUMES, "CreateVolume", 1),
        (world.attached(), "AttachVolume", 1),
        (new_instance(), "RunInstances", 0),
        (new_instance(), "CreateTags", 1),
        (in_place(true), "AttachVolume", 1),
    ] {
        let what = format!("{action} of {target:?}");
        world.rig.hurt(once(hang(), ("ec2", action), skip));
        let id = world.restore(target).await;
        has_met(&world.rig, 1, &what).await;
        cancelled_there(&world.rig, id, &what).await;
        world.is_untouched(&what).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_from_snapshots_whose_agent_is_killed_is_ended_by_another_that_makes_nothing_twice() {
    let mut world = Snapped::new().await;
    // Launched, and nobody has heard of it.
    let run = ("ec2", "RunInstances");
    let launched = vec![once(Effect::LoseReply, run, 0), once(hang(), run, 1)];
    let at = |action, skip| vec![once(hang(), ("ec2", action), skip)];
    // Volumes and instances of the tenant afterwards: the first two add theirs, the third exchanges what was there.
    for (target, rules, left) in [
        (VOLUMES, at("CreateVolume", 1), (6, 2)),
        (new_instance(), launched, (8, 3)),
        (in_place(true), at("AttachVolume", 1), (8, 3)),
    ] {
        let what = format!("{target:?}");
        let n_rules = rules.len() as u64;
        world.rig.sim.context().faults.set_rules(rules);
        let id = world.restore(target).await;
        has_met(&world.rig, n_rules, &what).await;
        world.rig.agents.last_mut().unwrap().kill9().unwrap();
        world.rig.let_go();
        world.rig.add_agent().unwrap();
        let job = world.rig.succeed(id).await.unwrap();
        assert_eq!(job.tasks[0].attempts, 2, "{what}: the first attempt was not interrupted");
        world.instance.check(world.rig.sim.context(), &job, &world.content).unwrap();
        only(&world.rig, 2, left.0, &what).await;
        assert_eq!(world.rig.count("instances"), left.1, "{what}");
        assert_eq!(world.rig.describe(&world.instance.id).await.unwrap().state, "running", "{what}");
    }
    assert_eq!(world.rig.attached(&world.instance.id).await.unwrap().len(), 2);
    assert_eq!(world.rig.attached(&world.other.id).await.unwrap(), world.before[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_add_that_is_refused_or_cancelled_in_mid_read_leaves_nothing() {
    let mut rig = Rig::start(with_nodes(1)).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", DATA_MIB).unwrap();
    // The first volume is read while the second waits to be attached, which is refused then.
    let attach = ("ec2", "AttachVolume");
    sim.faults.set_rules(vec![once(hang(), attach, 1), once(refusal(), attach, 1)]);
    let id = rig.back_up_by(&instance.id, TransportWish::HotAdd).await.unwrap();
    let is_reading = |job: &Job| rig.fired() == 2 && reads(job);
    rig.wait(id, "the first volume is read", is_reading).await.unwrap();
    assert_eq!(rig.calls("ec2", "CreateVolume"), 2, "both volumes are there");
    rig.let_go();
    is_denied(&rig, id, "AttachVolume").await;
    assert_eq!(sim.world.most_attached(&rig.instances[0]), 2, "the second was never attached");
    only(&rig, 0, 2, "refused").await;

    let id = rig.back_up_by(&instance.id, TransportWish::HotAdd).await.unwrap();
    rig.wait(id, "blocks are read", reads).await.unwrap();
    rig.media_agent.sigstop().await.unwrap();
    let attached = || sim.world.attached_to(&rig.instances[0]).len();
    assert!(attached() > 1, "nothing is attached");
    cancel(&rig, id, "a read").await;
    eventually(BOUND, "it has let go", || async { attached() == 1 }).await.unwrap();
    rig.media_agent.sigcont().unwrap();
    is_cancelled(&rig, id, "a read").await;
    only(&rig, 0, 2, "cancelled").await;
    assert_eq!(rig.points(RecoveryPointKind::Streamed).await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_by_hot_add_whose_agent_is_killed_in_mid_read_is_ended_by_another() {
    let mut rig = Rig::start(with_nodes(2)).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", DATA_MIB).unwrap();
    let content = instance.content(&sim).unwrap();
    let snapped = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
    let id = rig.copy_by(Rig::recovery_point(&snapped).unwrap(), TransportWish::HotAdd).await.unwrap();
    let now = rig.wait(id, "blocks are read", reads).await.unwrap();
    rig.media_agent.sigstop().await.unwrap();
    let index = rig.agent_of(now.tasks[0].access_node.unwrap()).await.unwrap();
    assert!(sim.world.attached_to(&rig.instances[index]).len() > 1, "nothing is attached");
    rig.agents[index].kill9().unwrap();
    rig.media_agent.sigcont().unwrap();
    let done = rig.succeed(id).await.unwrap();
    assert!(done.tasks[0].attempts >= 2, "the first attempt was not interrupted: {done:#?}");
    let other = rig.agent_of(done.tasks[0].access_node.unwrap()).await.unwrap();
    assert_ne!(other, index, "the killed agent cannot have ended it");
    assert_eq!(rig.points(RecoveryPointKind::Copy).await.unwrap().len(), 1);
    only(&rig, 2, 2, "killed").await;
    rig.shared_with(0).await.unwrap();
    let restored = rig.restore_copy(Rig::recovery_point(&done).unwrap()).await.unwrap();
    instance.check(&sim, &restored, &content).unwrap();
    only(&rig, 2, 4, "restored").await;
}

/// Asks for an IntelliSnap backup, and lets these rules be in force from when its snapshots are made.
async fn snap_into(rig: &Rig, instance: &TestInstance, to: Option<Vault>, rules: Vec<Rule>) -> JobId {
    rig.hurt(once(hang(), CREATE_SNAPSHOTS, 0));
    let id = rig.snap(&instance.id, to).await.unwrap();
    has_met(rig, 1, "snapshots are asked for").await;
    rig.sim.context().faults.set_rules(rules);
    id
}

fn shared() -> Option<Vault> {
    Some(vault(VaultTo::ServiceShare, None))
}

#[tokio::test(flavor = "multi_thread")]
async fn intellisnap_and_a_copy_that_are_refused_or_cancelled_in_the_middle_leave_nothing() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 20).unwrap();
    // The snapshots are made and looked at, which a cancel finds throttled; one of them is shared, and the other is to be.
    let throttled = Rule::new(Effect::Throttle { snapshot_level: false }).on("ec2", "DescribeSnapshots");
    for (to, call, skip, held) in
        [(None, DESCRIBE_SNAPSHOTS, 0, throttled), (shared(), SHARE, 1, once(hang(), SHARE, 1))]
    {
        let id = snap_into(&rig, &instance, to.clone(), vec![once(refusal(), call, skip)]).await;
        is_refused(&rig, id, call.1).await;
        only(&rig, 0, 2, call.1).await;

        let id = snap_into(&rig, &instance, to, vec![held]).await;
        has_met(&rig, 1, call.1).await;
        assert_eq!(rig.count("snapshots"), 2, "{}: nothing is there that could be left", call.1);
        cancelled_there(&rig, id, call.1).await;
        only(&rig, 0, 2, call.1).await;
    }
    assert_eq!(rig.points(RecoveryPointKind::Snapshot).await.unwrap().len(), 0);

    rig.let_go();
    let snapped = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
    rig.hurt(once(refusal(), ("ebs", "GetSnapshotBlock"), 30));
    let id = rig.copy(Rig::recovery_point(&snapped).unwrap()).await.unwrap();
    is_refused(&rig, id, "GetSnapshotBlock").await;
    assert!(rig.calls("ebs", "GetSnapshotBlock") > 30, "nothing was read before");
    // The recovery point is as it was.
    only(&rig, 2, 2, "copy").await;
    rig.shared_with(0).await.unwrap();
    assert_eq!(rig.points(RecoveryPointKind::Copy).await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_killed_and_nobody_goes_on_with_is_gone_when_it_is_cancelled() {
    let mut rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 60).unwrap();
    rig.hold_reads(20);
    let id = rig.back_up_by(&instance.id, TransportWish::EbsDirect).await.unwrap();
    rig.wait(id, "blocks are read", |job| rig.fired() > 0 && reads(job)).await.unwrap();
    assert_eq!(rig.count("snapshots"), 2);
    killed_and_cancelled(&mut rig, id, "a backup").await;
    only(&rig, 0, 2, "a backup").await;

    // The snapshots of the second are made, and nobody has heard of it.
    let unheard = vec![once(hang(), CREATE_SNAPSHOTS, 0), once(Effect::LoseReply, CREATE_SNAPSHOTS, 0)];
    let again = vec![
        Rule::new(hang()).on("ec2", "CreateSnapshots"),
        Rule::new(hang()).on("ec2", "DescribeSnapshots"),
    ];
    let made = vec![once(hang(), CREATE_SNAPSHOTS, 0)];
    for (what, to, first, then) in [
        ("IntelliSnap", None, made.clone(), vec![once(hang(), DESCRIBE_SNAPSHOTS, 0)]),
        ("IntelliSnap, unheard of", None, unheard, again),
        ("a share", shared(), made, vec![once(hang(), SHARE, 1)]),
    ] {
        rig.add_agent().unwrap();
        rig.sim.context().faults.set_rules(first);
        let id = rig.snap(&instance.id, to).await.unwrap();
        has_met(&rig, 1, what).await;
        rig.sim.context().faults.set_rules(then);
        has_met(&rig, 1, what).await;
        assert_eq!(rig.count("snapshots"), 2, "{what}: nothing is there that could be left");
        killed_and_cancelled(&mut rig, id, what).await;
        only(&rig, 0, 2, what).await;
    }

    rig.add_agent().unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    rig.hurt(Rule { skip: 50, ..Rule::new(hang()).on("ebs", "PutSnapshotBlock") });
    let id = rig.restore_by(point, TransportWish::EbsDirect, None).await.unwrap();
    has_met(&rig, 1, "a restore").await;
    assert_eq!(rig.count("snapshots"), 2 + 2, "nothing is there that could be left");
    killed_and_cancelled(&mut rig, id, "a restore").await;
    only(&rig, 2, 2, "a restore").await;
}

async fn ledger(rig: &Rig) -> Vec<LedgerEntry> {
    let lines = rig.client.ledger(&LedgerQuery::default()).await.unwrap().items;
    lines.into_iter().map(|line| line.entry).collect()
}

/// How many objects of a kind are in the ledger as made.
async fn n_made(rig: &Rig, kind: ObjectKind) -> usize {
    let entries = ledger(rig).await;
    entries.iter().filter(|one| (one.kind, one.state) == (kind, LedgerState::Made)).count()
}

/// What the service account has, besides the nodes' own volumes, as the ledger names it.
fn of_service(rig: &Rig) -> BTreeSet<String> {
    let (world, owned) = (&rig.sim.context().world, |id: &String| id.clone());
    let inventory = world.inventory(Some(SERVICE));
    let kinds = ["volumes", "snapshots", "s3_objects", "import_tasks"];
    let all = kinds.iter().flat_map(|kind| inventory.get(kind).into_iter().flatten());
    let nodes: Vec<String> = world
        .volumes(SERVICE)
        .into_iter()
        .filter(|one| !one.tags.keys().any(|key| key.starts_with("snapferry:")))
        .map(|one| one.id)
        .collect();
    let shares = inventory.get("snapshots").into_iter().flatten().map(|id| format!("{id}/{ACCOUNT}"));
    all.filter(|id| !nodes.contains(id)).map(owned).chain(shares).collect()
}

/// The ids of objects in lines of the command line's JSON.
fn ids<'a>(lines: impl IntoIterator<Item = &'a Value>) -> BTreeSet<String> {
    let ids = lines.into_iter().flat_map(|line| line["object_ids"].as_array().unwrap());
    ids.map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_what_would_go_and_why_and_it_goes_only_when_that_is_asked_for() {
    // No round of the reaper comes to any of it.
    let options = RigOptions { reaper_delay_ms: 600_000, ..with_nodes(1) };
    let mut rig = Rig::start(options).await.unwrap();
    let shell = CommandLine { server: rig.api_url(), token: None };
    let instance = TestInstance::place(rig.sim.context(), "one", 8).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let import = ("vmie", "ImportSnapshot");
    for (transport, (service, action), kind) in [
        (TransportWish::HotAdd, ("ec2", "DetachVolume"), ObjectKind::Volume),
        (TransportWish::HotAdd, ("ec2", "CopySnapshot"), ObjectKind::Share),
        (TransportWish::Import, import, ObjectKind::ImportTask),
    ] {
        rig.hurt(Rule::new(hang()).on(service, action));
        let id = rig.restore_by(point, transport, None).await.unwrap();
        let both = || async { rig.fired() > 0 && n_made(&rig, kind).await >= 2 };
        eventually(BOUND, "both volumes hang there", both).await.unwrap();
        rig.agents.last_mut().unwrap().kill9().unwrap();
        if (service, action) != import {
            // The imports hang on, so that there is something to cancel.
            rig.nobody_hangs().await.unwrap();
            rig.let_go();
            rig.add_agent().unwrap();
        }
        cancel(&rig, id, action).await;
        is_cancelled(&rig, id, action).await;
    }

    let (holdings, expected) = (rig.holdings(), of_service(&rig));
    assert!(
        expected.len() >= 2 + 2 + 2 + 2 + 2,
        "volumes, snapshots, shares, objects, imports: {expected:#?}"
    );
    let would_go = shell.json(&["ledger", "reap", "--dry-run"]).await.unwrap();
    let would_go = would_go.as_array().unwrap();
    assert_eq!(ids(would_go), expected);
    let kinds: BTreeSet<&str> = would_go.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, BTreeSet::from(["import_task", "s3_object", "share", "snapshot", "volume"]));
    for line in would_go {
        assert_eq!(line["reason"], "its task is over and never handed it over", "{line:#}");
        assert_eq!((&line["reapable"], &line["removed"]), (&true.into(), &false.into()), "{line:#}");
    }
    let reapable = shell.json(&["ledger", "list", "--reapable"]).await.unwrap();
    assert_eq!(ids(reapable.as_array().unwrap()), expected);
    // What the backup keeps is listed, and would stay.
    let all = shell.json(&["ledger", "list"]).await.unwrap();
    let (goes, stays): (Vec<&Value>, Vec<&Value>) =
        all.as_array().unwrap().iter().partition(|line| line["reapable"] == true);
    assert_eq!(ids(goes), expected);
    let kept = rig.sim.context().world.inventory(Some(ACCOUNT)).remove("snapshots").unwrap();
    assert!(stays.iter().all(|line| line["reason"].is_null()), "{stays:#?}");
    assert_eq!(ids(stays), kept.into_iter().collect());
    let table = shell.succeed(&["ledger", "reap", "--dry-run"]).await.unwrap();
    assert_eq!(table.matches("would be removed").count(), would_go.len(), "{table}");
    assert_eq!(rig.holdings(), holdings, "looking has removed something");

    // What cannot be removed is told, and stays.
    rig.deny_service(&["ec2:*", "s3:*"]);
    let answer = shell.run(&["ledger", "reap", "--output", "json"]).await.unwrap();
    // What was meant to be made and never was is nothing to remove.
    let told = format!("{} of {} objects could not be removed", expected.len(), would_go.len());
    assert!(answer.code == 1 && answer.stderr.contains(&told), "{answer:#?}");
    let lines: Value = serde_json::from_str(&answer.stdout).unwrap();
    let (failed, never_made): (Vec<&Value>, Vec<&Value>) =
        lines.as_array().unwrap().iter().partition(|line| line["removed"] == false);
    assert_eq!(ids(never_made), BTreeSet::new());
    for line in &failed {
        assert!(line["error"].as_str().unwrap().contains(SERVICE), "{line:#}");
    }
    assert_eq!(ids(failed), expected);
    assert_eq!(rig.holdings(), holdings, "something was removed");
    rig.deny_service(&[]);

    let went = shell.json(&["ledger", "reap"]).await.unwrap();
    for line in went.as_array().unwrap() {
        assert!(line["removed"] == true && line["error"].is_null(), "{line:#}");
    }
    assert_eq!(ids(went.as_array().unwrap()), expected);
    rig.let_go();
    only(&rig, 2, 2, "reaped").await;
    assert_eq!(shell.json(&["ledger", "reap", "--dry-run"]).await.unwrap(), Value::Array(Vec::new()));
}

/// Asks for qcow2 images of a recovery point's snapshots.
async fn restore_to_images(rig: &Rig, point: RecoveryPointId, folder: &str) -> JobId {
    let target = RestoreTarget::DiskImage { folder: folder.to_owned(), format: ImageFormat::Qcow2 };
    rig.restore_with(point, RestoreFrom::Snapshot, target, TransportWish::Automatic, None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_image_that_nobody_was_there_to_remove_goes_when_its_node_is_back() {
    let Snapped { mut rig, instance, point, .. } = Snapped::new().await;
    let (folder, records) = (rig.dir.join("images/monday"), rig.dir.join("agent-1/images"));
    rig.hold_reads(1);
    let id = restore_to_images(&rig, point, "monday").await;
    let has_begun = || async { rig.fired() > 0 && files_in(&folder).len() == 1 };
    eventually(BOUND, "the first image is begun", has_begun).await.unwrap();
    let record = format!("{}.json", rig.client.job(id).await.unwrap().tasks[0].id);
    assert_eq!(files_in(&records), BTreeSet::from([record]));
    killed_and_cancelled(&mut rig, id, "a disk image").await;
    std::fs::write(folder.join("photo.raw"), b"somebody else's").unwrap();
    assert_eq!(files_in(&folder).len(), 2, "what was begun is there, and nobody to remove it");

    rig.restart_killed_agent().unwrap();
    let is_gone = || async { files_in(&folder) == BTreeSet::from(["photo.raw".to_owned()]) };
    eventually(BOUND, "what was begun goes", is_gone).await.unwrap();

    // The place is free again. What succeeds stays, whenever the node comes back and whatever it hears.
    let done = rig.succeed(restore_to_images(&rig, point, "monday").await).await.unwrap();
    let whole = files_in(&folder);
    assert_eq!((done.tasks[0].made.len(), whole.len()), (instance.volumes.len(), 3), "{whole:?}");
    rig.restart_agent().await.unwrap();
    let is_told = || async { files_in(&records).is_empty() };
    eventually(BOUND, "it is told that the task is over", is_told).await.unwrap();
    assert_eq!(files_in(&folder), whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_another_node_went_on_with_go_from_the_first_and_stay_on_the_other() {
    let Snapped { mut rig, instance, point, .. } = Snapped::new().await;
    let folders = ["images/monday", "agent-2-images/monday"].map(|folder| rig.dir.join(folder));
    let images = instance.volumes.iter().map(|volume| format!("{volume}.qcow2"));
    let images: BTreeSet<String> = images.collect();
    rig.hold_reads(1);
    let id = restore_to_images(&rig, point, "monday").await;
    eventually(BOUND, "the first is begun", || async { !files_in(&folders[0]).is_empty() }).await.unwrap();
    has_met(&rig, 1, "the first is read").await;
    let first = files_in(&folders[0]).pop_first().unwrap();
    // It is read to its end, and the other one is not.
    let snapshots = rig.snapshots_of(ACCOUNT, REGION).await.unwrap().into_iter();
    let is_second = |volume: &VolumeId| !first.starts_with(volume.as_str());
    let mut second =
        snapshots.filter(|one| one.volume.as_ref().is_some_and(is_second)).map(|one| one.snapshot);
    let reads = Rule::new(hang()).on("ebs", "GetSnapshotBlock");
    rig.hurt(Rule { snapshot: second.next().map(|id| id.to_string()), ..reads });
    has_met(&rig, 1, "the second is read").await;
    let half = files_in(&folders[0]);
    assert!(
        half.len() == 2 && half.intersection(&images).count() == 1,
        "one is whole, one is begun: {half:?}"
    );
    rig.agents[0].kill9().unwrap();
    rig.let_go();
    rig.add_agent().unwrap();
    let done = rig.succeed(id).await.unwrap();
    assert_eq!(done.tasks[0].attempts, 2, "{done:#?}");
    assert_eq!(files_in(&folders[0]), half, "the first node was not there to remove it");

    rig.restart_killed_agent().unwrap();
    let is_gone = || async { !folders[0].exists() };
    eventually(BOUND, "what came to nothing goes", is_gone).await.unwrap();
    assert_eq!(files_in(&folders[1]), images);
    for made in &done.tasks[0].made {
        assert!(Path::new(&made.id).is_file(), "{made:?}");
    }
}

/// An instance with one volume.
fn with_one_volume(rig: &Rig, name: &str, seed: u64) -> TestInstance {
    let sim = rig.sim.context();
    let placed = sim.place_instance(ACCOUNT, REGION, name, None, &[1]).unwrap();
    write_data(sim, &placed.volumes[0], 1, 20, seed).unwrap();
    TestInstance::of(sim, placed).unwrap()
}

/// Whether a task has shared the one snapshot it reads: it attaches a volume next.
async fn has_shared(rig: &Rig, task: TaskId) -> bool {
    let is_share = |one: &LedgerEntry| one.task == task && one.kind == ObjectKind::Share;
    ledger(rig).await.iter().any(|one| is_share(one) && one.state == LedgerState::Made)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_running_tasks_the_second_attaches_nothing_while_the_first_has_the_only_place() {
    let machine = Machine { max_attachments: 1, ..Machine::default() };
    let rig = Rig::start(RigOptions { slots: 2, machine, ..with_nodes(1) }).await.unwrap();
    let sim = rig.sim.context().clone();
    let instances = [with_one_volume(&rig, "one", 1), with_one_volume(&rig, "two", 2)];
    let content = [instances[0].content(&sim).unwrap(), instances[1].content(&sim).unwrap()];
    // The MediaAgent goes on, so that the second comes as far as it may.
    rig.hurt(Rule::new(hang()).on("ec2", "DetachVolume"));
    let first = rig.back_up_by(&instances[0].id, TransportWish::HotAdd).await.unwrap();
    has_met(&rig, 1, "the first would let its volume go").await;
    let before = sim.world.attached_to(&rig.instances[0]);
    assert_eq!(before.len(), 2, "the node's own volume and the one that is read");

    let second = rig.back_up_by(&instances[1].id, TransportWish::HotAdd).await.unwrap();
    let is_reading = |job: &Job| job.tasks[0].progress.phase == "read";
    let task = rig.wait(second, "the second is to read", is_reading).await.unwrap().tasks[0].id;
    eventually(BOUND, "the second has shared", || has_shared(&rig, task)).await.unwrap();
    assert!(is_reading(&rig.client.job(first).await.unwrap()), "the first has ended");
    assert_eq!(sim.world.attached_to(&rig.instances[0]), before);
    assert_eq!((rig.calls("ec2", "CreateVolume"), rig.calls("ec2", "AttachVolume")), (1, 1));

    rig.let_go();
    for ((id, instance), content) in [first, second].into_iter().zip(&instances).zip(&content) {
        let done = rig.succeed(id).await.unwrap();
        assert_eq!(done.tasks[0].attempts, 1, "{done:#?}");
        let point = Rig::recovery_point(&done).unwrap();
        let restore = rig.restore_by(point, TransportWish::EbsDirect, None).await.unwrap();
        instance.check(&sim, &rig.succeed(restore).await.unwrap(), content).unwrap();
    }
    assert_eq!(sim.world.most_attached(&rig.instances[0]), 2, "its own and one more, at any time");
    only(&rig, 2, 4, "both").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_is_refused_or_killed_in_the_middle_is_ended_by_the_next() {
    let mut rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 3).unwrap();
    let snapped = async |rig: &Rig| {
        let job = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
        Rig::recovery_point(&job).unwrap()
    };
    let delete = async |rig: &Rig, point| rig.client.delete_recovery_point(point).await.unwrap().summary.id;
    let second = ("ec2", "DeleteSnapshot");

    let point = snapped(&rig).await;
    rig.hurt(once(refusal(), second, 1));
    let id = delete(&rig, point).await;
    is_refused(&rig, id, second.1).await;
    assert_eq!(rig.count("snapshots"), 1, "it was not in the middle");
    rig.let_go();
    let id = delete(&rig, point).await;
    rig.succeed(id).await.unwrap();
    only(&rig, 0, 2, "refused, and asked for again").await;

    let point = snapped(&rig).await;
    rig.hurt(once(hang(), second, 1));
    let id = delete(&rig, point).await;
    has_met(&rig, 1, second.1).await;
    assert_eq!(rig.count("snapshots"), 1, "it was not in the middle");
    rig.agents[0].kill9().unwrap();
    rig.let_go();
    rig.add_agent().unwrap();
    let job = rig.succeed(id).await.unwrap();
    assert_eq!(job.tasks[0].attempts, 2, "the first attempt was not interrupted");
    only(&rig, 0, 2, "killed").await;
    assert_eq!(rig.points(RecoveryPointKind::Snapshot).await.unwrap().len(), 0);
}
