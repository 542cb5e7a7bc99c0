//! What is suspended in the middle at one agent is ended by another one, with the first one gone: restores to every
//! target by every transport, from a library and from a vault, disk images, and a backup copy. Meanwhile its node is
//! free, and what it has made stays in AWS; afterwards nothing was done twice but what cannot be known to be done.
//! Separate processes. Streaming backups are in process.rs, IntelliSnap and suspending in mid-swap in control.rs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use awssim::faults::Rule;
use snapferry_api::hypervisor::ReadAs;
use snapferry_api::job::{Job, JobState};
use snapferry_api::page::PageQuery;
use snapferry_api::protect::{Vault, VaultTo};
use snapferry_api::restore::{AttachTo, RestoreFrom, RestoreTarget};
use snapferry_testkit::eventually;
use snapferry_tests::breaking::{hang, has_met, once, only};
use snapferry_tests::{
    ACCOUNT, ELSEWHERE, REGION, Rig, RigOptions, SERVICE, TestInstance, files_in, says, vault, write_data,
    write_raw_image,
};
use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::{ImageFormat, InstanceId, JobId, RecoveryPointId, TaskState, TransportWish};

const BOUND: Duration = Duration::from_secs(60);
/// How far a task is, is recorded twice a second, and the reaper looks as often at what is a second old.
const SETTLED: Duration = Duration::from_secs(2);
/// What was sent to a library is made to last every ten seconds.
const MADE_TO_LAST: Duration = Duration::from_secs(13);
const MIB: u64 = 1 << 20;
const BLOCK: u64 = 512 << 10;
const PAGE: u64 = 1_024 * BLOCK;
const GET: (&str, &str) = ("ebs", "GetSnapshotBlock");
const PUT: (&str, &str) = ("ebs", "PutSnapshotBlock");

/// Where stretches of data, and of zeroes, of a volume of a GiB begin and how long they are, in MiB.
#[derive(Clone, Copy)]
struct Layout {
    data: &'static [(u64, u64)],
    zeroes: &'static [(u64, u64)],
}

/// For EBS direct: zeroes, which are put in their order, whatever the library has first. The data after them hang.
const PLAIN: Layout = Layout { data: &[(201, 30)], zeroes: &[(1, 200)] };
const PLAIN_BLOCKS: u64 = 400 + 60;
const HELD: Range<u32> = 402..462;
/// Of both volumes, that is without the last 50 zeroes: when they are read from a vault, they may wait behind what hangs.
const N_PASSED: u64 = 2 * 350;
/// The most that are put again: those 50, and a mark is recorded in steps of 64.
const N_AGAIN: u64 = 2 * (50 + 64);

/// For HotAdd: some data in the first page, and in both second pages more than an agent has in memory by far.
const PAGES: Layout = Layout { data: &[(1, FIRST_MIB), (520, SECOND_MIB)], zeroes: &[] };
const FIRST_MIB: u64 = 40;
const SECOND_MIB: u64 = 150;

/// For Import: one volume is through long before the other one is uploaded.
const UNLIKE: [Layout; 2] =
    [Layout { data: &[(1, 4)], zeroes: &[] }, Layout { data: &[(1, 100)], zeroes: &[] }];

/// So many of a kind in an account.
type Counts = &'static [(&'static str, &'static str, usize)];
/// So many calls of a service's action.
type Calls = &'static [(&'static str, &'static str, u64)];
type Holdings = BTreeMap<String, Vec<String>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Volumes,
    /// To another instance.
    Attached,
    Instance,
    InPlace,
}

/// Where a job is held until it is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the middle of the blocks of both volumes.
    Blocks,
    /// In the second page of both volumes: the MediaAgent is frozen.
    SecondPage,
    /// In the upload of the second disk image.
    Upload,
    /// In the import of the second disk image, which AWS does not get on with.
    Import,
    /// In a call of an account to EC2 whose answer the agent waits for, after so many of the same.
    Call(&'static str, &'static str, u64),
}

impl At {
    fn rules(self) -> Vec<Rule> {
        match self {
            Self::Blocks => {
                let put = Rule::new(hang()).on(PUT.0, PUT.1);
                HELD.map(|block| Rule { block: Some(block), ..put.clone() }).collect()
            }
            Self::SecondPage => Vec::new(),
            // The small image is one part.
            Self::Upload => vec![Rule { skip: 2, ..Rule::new(hang()).on("s3", "UploadPart") }],
            Self::Import => vec![Rule { skip: 1, ..Rule::new(hang()).on("vmie", "ImportSnapshot") }],
            Self::Call(account, action, skip) => {
                vec![Rule { account: Some(account.to_owned()), ..once(hang(), ("ec2", action), skip) }]
            }
        }
    }
}

/// A restore that is suspended and ended by another agent.
struct Case {
    to: Target,
    by: TransportWish,
    at: At,
    /// What the accounts have more where it is held.
    held: Counts,
    /// What they have more while it is suspended: a call that was under way is carried out.
    suspended: Counts,
    /// Calls that all of it makes.
    calls: Calls,
    /// MiB that the other agent fetches from the library.
    again: RangeInclusive<u64>,
}

struct World {
    rig: Rig,
    instance: TestInstance,
    content: Vec<Vec<u64>>,
    /// Volumes are attached to it.
    other: TestInstance,
    /// A node that is free does something about it.
    bystander: TestInstance,
    from: RestoreFrom,
    point: RecoveryPointId,
}

fn is_suspended(job: &Job) -> bool {
    job.summary.state == JobState::Suspended
}

async fn snapped(rig: &Rig, instance: &TestInstance, to: Option<Vault>) -> RecoveryPointId {
    let job = rig.succeed(rig.snap(&instance.id, to).await.unwrap()).await.unwrap();
    Rig::recovery_point(&job).unwrap()
}

/// What there is more than before.
fn more(before: &Holdings, now: &Holdings) -> BTreeMap<String, usize> {
    let n_before = |kind: &String| before.get(kind).map_or(0, Vec::len);
    let more = now.iter().map(|(kind, ids)| (kind.clone(), ids.len().saturating_sub(n_before(kind))));
    more.filter(|(_, n)| *n > 0).collect()
}

fn counted(counts: Counts) -> BTreeMap<String, usize> {
    counts.iter().map(|(account, kind, n)| (format!("{account} {kind}"), *n)).collect()
}

/// Of each volume that HotAdd writes: bytes of its first page and of its second one.
fn written(rig: &Rig) -> Vec<[u64; 2]> {
    let sim = rig.sim.context();
    let volumes = sim.world.volumes(SERVICE).into_iter();
    let moving = volumes.filter(|one| one.tags.keys().any(|key| key.starts_with("snapferry:")));
    let sized = moving.map(|one| {
        let mut pages = [0, 0];
        for extent in sim.store.volume_extents(&one.id).unwrap_or_default() {
            let middle = PAGE.clamp(extent.start, extent.end);
            pages[0] += middle - extent.start;
            pages[1] += extent.end - middle;
        }
        pages
    });
    sized.collect()
}

impl World {
    /// An instance with two volumes, in a library, in snapshots, or in a vault with its snapshots lost.
    async fn new(options: RigOptions, from: RestoreFrom, volumes: [Layout; 2]) -> Self {
        let rig = Rig::start(options).await.unwrap();
        let sim = rig.sim.context().clone();
        let placed = sim.place_instance(ACCOUNT, REGION, "one", None, &[1, 1]).unwrap();
        // No block comes twice.
        let (mut seed, zeroes) = (0, vec![0_u8; 8 << 20]);
        for (volume, layout) in placed.volumes.iter().zip(volumes) {
            for (at, mib) in layout.data {
                seed += 1;
                write_data(&sim, volume, *at, *mib, seed).unwrap();
            }
            for (start, mib) in layout.zeroes {
                for at in (*start..start + mib).step_by(8) {
                    sim.store.write_volume(volume, at << 20, &zeroes).unwrap();
                }
            }
        }
        let instance = TestInstance::of(&sim, placed).unwrap();
        let content = instance.content(&sim).unwrap();
        let point = match from {
            RestoreFrom::MediaAgent => rig.backed_up(&instance).await.unwrap(),
            RestoreFrom::Snapshot => snapped(&rig, &instance, None).await,
            RestoreFrom::Automatic => {
                let elsewhere = vault(VaultTo::Tenant, Some(ELSEWHERE));
                let point = snapped(&rig, &instance, Some(elsewhere)).await;
                rig.lose_snapshots(|_| true).await.unwrap();
                point
            }
        };
        let other = TestInstance::place(&sim, "other", 1).unwrap();
        let bystander = TestInstance::place(&sim, "bystander", 1).unwrap();
        Self { rig, instance, content, other, bystander, from, point }
    }

    fn target(&self, target: Target) -> RestoreTarget {
        match target {
            Target::Volumes => RestoreTarget::Volumes { availability_zone: None, attach: None },
            Target::Attached => {
                let attach = AttachTo { instance: self.other.id.clone(), devices: Vec::new() };
                RestoreTarget::Volumes { availability_zone: None, attach: Some(attach) }
            }
            Target::Instance => RestoreTarget::Instance(Box::default()),
            Target::InPlace => RestoreTarget::InPlace { delete_old_volumes: true, leave_stopped: false },
        }
    }

    /// Starts a restore and brings it to where it is held.
    async fn held(&mut self, case: &Case, before: &Holdings, what: &str) -> JobId {
        let n_put = self.rig.calls(PUT.0, PUT.1);
        self.rig.sim.context().faults.set_rules(case.at.rules());
        let target = self.target(case.to);
        let id = self.rig.restore_with(self.point, self.from, target, case.by, None).await.unwrap();
        if case.at == At::SecondPage {
            let are_second = |_: &Job| {
                let volumes = written(&self.rig).into_iter();
                volumes.filter(|[first, second]| *first >= FIRST_MIB * MIB && *second > 0).count() == 2
            };
            self.rig.wait(id, "the first pages are written", are_second).await.unwrap();
            self.rig.media_agent.sigstop().await.unwrap();
        } else {
            has_met(&self.rig, 1, what).await;
        }
        let rig = &self.rig;
        let has_made = || async { more(before, &rig.holdings()) == counted(case.held) };
        let made = eventually(BOUND, "it has made what it makes before", has_made).await;
        made.unwrap_or_else(|error| panic!("{what}: {error:#}: {:#?}", more(before, &rig.holdings())));
        if case.at == At::Blocks {
            let n_passed = || rig.calls(PUT.0, PUT.1).saturating_sub(n_put + rig.fired());
            rig.wait(id, "the others are put", |_| n_passed() >= N_PASSED).await.unwrap();
        }
        tokio::time::sleep(SETTLED).await;
        id
    }

    /// The only agent, which has let go of everything, does other work from its beginning to its end.
    async fn its_node_is_free(&self, what: &str) {
        let (rig, index) = (&self.rig, self.rig.agents.len() - 1);
        if let Some(node) = rig.instances.get(index) {
            let attached = rig.sim.context().world.attached_to(node);
            assert_eq!(attached.len(), 1, "{what}: the node has {attached:?}");
        }
        let job = rig.succeed(rig.snap(&self.bystander.id, None).await.unwrap()).await.unwrap();
        assert_eq!(rig.agent_of(job.tasks[0].access_node.unwrap()).await.unwrap(), index, "{what}");
        let point = Rig::recovery_point(&job).unwrap();
        rig.succeed(rig.client.delete_recovery_point(point).await.unwrap().summary.id).await.unwrap();
    }

    /// Suspends a job at the only agent, where it is held. The node is free then, and all that it has made stays. Ends
    /// the agent, and lets what is held go. Answers what the accounts had meanwhile, and how many calls hung.
    async fn suspended(&mut self, id: JobId, at: At, what: &str) -> (Holdings, u64) {
        let now = self.rig.client.job(id).await.unwrap();
        assert_eq!(now.tasks[0].state, TaskState::Running, "{what}: it is not in the middle: {now:#?}");
        self.rig.client.suspend_job(id).await.unwrap();
        if matches!(at, At::Call(..)) {
            self.rig.agents.last_mut().unwrap().wait_for_line("told to stop", BOUND).await.unwrap();
            self.rig.let_go();
        }
        let suspended = self.rig.wait(id, "it is suspended", is_suspended).await;
        suspended.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        if at == At::SecondPage {
            self.rig.media_agent.sigcont().unwrap();
        }
        let meanwhile = self.rig.holdings();
        self.its_node_is_free(what).await;
        tokio::time::sleep(SETTLED).await;
        assert_eq!(self.rig.holdings(), meanwhile, "{what}: something has come or gone");
        assert!(is_suspended(&self.rig.client.job(id).await.unwrap()), "{what}: it went on by itself");

        let agent = self.rig.agents.last_mut().unwrap();
        agent.terminate().unwrap();
        let status = agent.wait(BOUND).await.unwrap();
        assert!(status.success(), "{what}: {status}");
        let n_hung = self.rig.fired();
        self.rig.let_go();
        (meanwhile, n_hung)
    }

    /// Lets a suspended job go on at an agent that was not there before.
    async fn ended_by_another(&mut self, id: JobId, what: &str) -> Job {
        self.rig.add_agent().unwrap();
        let last = self.rig.agents.len() - 1;
        self.resumed(id, [last - 1, last], what).await
    }

    /// Lets a suspended job go on; it had an attempt at each of these agents, of which the second one is there now.
    async fn resumed(&self, id: JobId, agents: [usize; 2], what: &str) -> Job {
        let (rig, name) = (&self.rig, format!("agent-{}", agents[1] + 1));
        let is_there = || async {
            let nodes = rig.client.access_nodes(&PageQuery::default()).await;
            nodes.is_ok_and(|page| page.items.iter().any(|one| one.name == name && one.online))
        };
        eventually(BOUND, "the next agent is there", is_there).await.unwrap();
        assert!(is_suspended(&rig.client.job(id).await.unwrap()), "{what}: it went on by itself");
        rig.client.resume_job(id).await.unwrap();
        let job = rig.succeed(id).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        let task = &job.tasks[0];
        let outcomes: Vec<&str> = task.history.iter().map(|attempt| attempt.outcome.as_str()).collect();
        assert_eq!(outcomes, ["yielded", "succeeded"], "{what}");
        assert_eq!(task.attempts, 1, "{what}: an orderly end is no failed attempt");
        let mut workers = Vec::new();
        for attempt in &task.history {
            workers.push(rig.agent_of(attempt.access_node.unwrap()).await.unwrap());
        }
        assert_eq!(workers, agents, "{what}");
        job
    }

    /// Suspends a restore in the middle, and has another agent end it.
    async fn goes_on_elsewhere(&mut self, case: Case) {
        let what = format!("to {:?} by {:?}, held at {:?}", case.to, case.by, case.at);
        let (before, own) = (self.rig.holdings(), self.rig.attached(&self.instance.id).await.unwrap());
        let n_calls = |rig: &Rig| {
            let calls = case.calls.iter().map(|(service, action, _)| rig.calls(service, action));
            calls.collect::<Vec<u64>>()
        };
        let (n_before, n_put) = (n_calls(&self.rig), self.rig.calls(PUT.0, PUT.1));

        let id = self.held(&case, &before, &what).await;
        let (meanwhile, n_hung) = self.suspended(id, case.at, &what).await;
        assert_eq!(more(&before, &meanwhile), counted(case.suspended), "{what}");
        let now = self.rig.describe(&self.instance.id).await.unwrap();
        assert_eq!(now.state, "running", "{what}: the instance is not as it was");
        assert_eq!(self.rig.attached(&self.instance.id).await.unwrap(), own, "{what}");
        if case.at == At::Import {
            // AWS ends it with nobody at work, and what it makes is kept.
            let has_ended = || async { more(&before, &self.rig.holdings()) == counted(IMPORTED) };
            eventually(BOUND, "the import ends", has_ended).await.unwrap();
        }
        let job = self.ended_by_another(id, &what).await;

        let checked = self.instance.check(self.rig.sim.context(), &job, &self.content);
        checked.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        self.are_where_they_belong(case.to, &job, &what).await;
        let in_all = case.calls.iter().zip(n_before).map(|((.., n), before)| before + n);
        assert_eq!(n_calls(&self.rig), in_all.collect::<Vec<u64>>(), "{what}: {:?}", case.calls);
        if case.by == TransportWish::EbsDirect {
            let n_put = self.rig.calls(PUT.0, PUT.1) - n_put - n_hung;
            // A put that was slow is made again, too.
            assert!(n_put <= 2 * PLAIN_BLOCKS + N_AGAIN, "{what}: {n_put} puts, and {n_hung} that hung");
        }
        let fetched = job.tasks[0].history[1].progress.bytes_sent.div_ceil(MIB);
        assert!(case.again.contains(&fetched), "{what}: the other agent has fetched {fetched} MiB");
        let n_more = if case.to == Target::InPlace { 0 } else { 2 };
        only(&self.rig, 2, before[&format!("{ACCOUNT} volumes")].len() + n_more, &what).await;
    }

    /// The restored volumes are attached to what they were to come to.
    async fn are_where_they_belong(&self, target: Target, job: &Job, what: &str) {
        let made = |kind: &str| -> BTreeSet<String> {
            let all = job.tasks[0].made.iter().filter(|made| made.kind == kind);
            all.map(|made| made.id.clone()).collect()
        };
        let instance: InstanceId = match target {
            Target::Volumes => return,
            Target::Attached => self.other.id.clone(),
            Target::Instance => made("instance").pop_first().unwrap().parse().unwrap(),
            Target::InPlace => self.instance.id.clone(),
        };
        let has: BTreeSet<String> = self.rig.attached(&instance).await.unwrap().into_values().collect();
        let volumes = made("volume");
        assert!(volumes.len() == 2 && volumes.is_subset(&has), "{what}: {volumes:?}, it has {has:?}");
    }

    /// Starts a restore to disk images and holds it in the second page of the second one; answers the files.
    async fn held_images(&self, folder: &Path, name: &str) -> (JobId, BTreeSet<String>) {
        let (rig, n_before) = (&self.rig, self.rig.calls(GET.0, GET.1));
        rig.hold_reads(N_READ);
        let target = RestoreTarget::DiskImage { folder: name.to_owned(), format: ImageFormat::Qcow2 };
        let by = TransportWish::Automatic;
        let id = rig.restore_with(self.point, self.from, target, by, None).await.unwrap();
        let n_whole = |files: &BTreeSet<String>| files.iter().filter(|file| file.ends_with(".qcow2")).count();
        let is_held = |_: &Job| {
            let files = files_in(folder);
            rig.calls(GET.0, GET.1) > n_before + N_READ && files.len() == 2 && n_whole(&files) == 1
        };
        rig.wait(id, "the second image is begun", is_held).await.unwrap();
        tokio::time::sleep(SETTLED).await;
        let begun = files_in(folder);
        assert_eq!((begun.len(), n_whole(&begun)), (2, 1), "one is whole, one is not: {begun:?}");
        (id, begun)
    }

    /// The images of a job are in a folder, and hold what the volumes hold.
    fn check_images(&self, job: &Job, folder: &Path) {
        assert_eq!(job.tasks[0].made.len(), 2);
        for made in &job.tasks[0].made {
            let (image, raw) = (Path::new(&made.id), self.rig.dir.join("reference.raw"));
            assert_eq!(image.parent(), Some(folder));
            write_raw_image(self.rig.sim.context(), &made.source, &raw).unwrap();
            let compare = ["compare", "-f", "qcow2", "-F", "raw"];
            let output = Command::new("qemu-img").args(compare).arg(image).arg(raw).output().unwrap();
            assert!(output.status.success(), "{}: {output:?}", image.display());
        }
    }
}

const STAGED: Counts = &[(ACCOUNT, "snapshots", 2)];
const MADE: Counts = &[(ACCOUNT, "snapshots", 2), (ACCOUNT, "volumes", 2)];
const ONE_MADE: Counts = &[(ACCOUNT, "snapshots", 2), (ACCOUNT, "volumes", 1)];
const REGISTERED: Counts = &[(ACCOUNT, "snapshots", 2), (ACCOUNT, "images", 1)];
const LAUNCHED: Counts =
    &[(ACCOUNT, "snapshots", 2), (ACCOUNT, "images", 1), (ACCOUNT, "instances", 1), (ACCOUNT, "volumes", 2)];
const BEGUN: (&str, &str, u64) = ("ebs", "StartSnapshot", 2);
const LAUNCHES: Calls = &[BEGUN, ("ec2", "RegisterImage", 1), ("ec2", "RunInstances", 1)];
const ATTACHES: Calls = &[BEGUN, ("ec2", "CreateVolume", 2), ("ec2", "AttachVolume", 2)];
const EXCHANGES: Calls = &[
    BEGUN,
    ("ec2", "CreateVolume", 2),
    ("ec2", "StopInstances", 1),
    ("ec2", "DetachVolume", 2),
    ("ec2", "AttachVolume", 2),
    ("ec2", "StartInstances", 1),
];
/// The data that hung.
const REST: RangeInclusive<u64> = 60..=61;
const NOTHING: RangeInclusive<u64> = 0..=0;

#[tokio::test(flavor = "multi_thread")]
async fn restores_by_ebs_direct_to_an_instance_attached_and_in_place_are_ended_by_another_agent() {
    let mut world = World::new(RigOptions::one_agent(), RestoreFrom::MediaAgent, [PLAIN; 2]).await;
    let by = TransportWish::EbsDirect;
    for (to, at, held, suspended, calls, again) in [
        (Target::Instance, At::Blocks, STAGED, STAGED, LAUNCHES, REST),
        (Target::Instance, At::Call(ACCOUNT, "RunInstances", 0), REGISTERED, LAUNCHED, LAUNCHES, NOTHING),
        (Target::Attached, At::Call(ACCOUNT, "AttachVolume", 1), MADE, MADE, ATTACHES, NOTHING),
        // The instance is not touched before all is written, nor when the last of its new volumes is made.
        (Target::InPlace, At::Blocks, STAGED, STAGED, EXCHANGES, REST),
        (Target::InPlace, At::Call(ACCOUNT, "CreateVolume", 1), ONE_MADE, MADE, EXCHANGES, NOTHING),
    ] {
        world.goes_on_elsewhere(Case { to, by, at, held, suspended, calls, again }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_from_a_vault_by_ebs_direct_is_ended_by_another_agent() {
    let mut world = World::new(RigOptions::one_agent(), RestoreFrom::Automatic, [PLAIN; 2]).await;
    let (to, by, at, calls) = (Target::Attached, TransportWish::EbsDirect, At::Blocks, ATTACHES);
    // What is put already is read again, for AWS wants the checksum of all at the end, and not put again.
    let case = Case { to, by, at, held: STAGED, suspended: STAGED, calls, again: NOTHING };
    world.goes_on_elsewhere(case).await;
    let copies = world.rig.snapshots_of(ACCOUNT, ELSEWHERE).await.unwrap();
    assert_eq!(copies.len(), 2, "the copies are what stays");
}

const BOTH_MOVE: Counts = &[(SERVICE, "volumes", 2)];
const ONE_MOVES: Counts = &[(ACCOUNT, "snapshots", 1), (SERVICE, "volumes", 1)];
const ONE_IS_WRITTEN: Counts =
    &[(ACCOUNT, "snapshots", 1), (SERVICE, "volumes", 1), (SERVICE, "snapshots", 1)];
const MOVES: Calls =
    &[("ec2", "CreateVolume", 2 + 2), ("ec2", "CreateSnapshot", 2), ("ec2", "CopySnapshot", 2)];

#[tokio::test(flavor = "multi_thread")]
async fn restores_by_hot_add_are_ended_by_another_node_in_the_same_volumes() {
    let mut world = World::new(RigOptions::one_node(), RestoreFrom::MediaAgent, [PAGES; 2]).await;
    let (by, calls) = (TransportWish::HotAdd, MOVES);
    for (to, at, held, suspended, again) in [
        // Pages that are written are not written again.
        (Target::Volumes, At::SecondPage, BOTH_MOVE, BOTH_MOVE, 1..=2 * SECOND_MIB + 1),
        // One volume is through, the other one is written.
        (Target::Attached, At::Call(SERVICE, "CreateSnapshot", 1), ONE_MOVES, ONE_IS_WRITTEN, NOTHING),
    ] {
        world.goes_on_elsewhere(Case { to, by, at, held, suspended, calls, again }).await;
    }
}

const ONE_IS_THROUGH: Counts = &[(ACCOUNT, "snapshots", 1)];
const UPLOADING: Counts = &[(ACCOUNT, "snapshots", 1), (SERVICE, "s3_uploads", 1)];
const IMPORTING: Counts =
    &[(ACCOUNT, "snapshots", 1), (SERVICE, "s3_objects", 1), (SERVICE, "import_tasks", 1)];
const IMPORTED: Counts = &[(ACCOUNT, "snapshots", 1), (SERVICE, "s3_objects", 1), (SERVICE, "snapshots", 1)];
const IMPORTS: Calls = &[
    ("s3", "CompleteMultipartUpload", 2),
    ("ec2", "ImportSnapshot", 2),
    ("vmie", "ImportSnapshot", 2),
    ("ec2", "CopySnapshot", 2),
    ("ec2", "CreateVolume", 2),
];

#[tokio::test(flavor = "multi_thread")]
async fn restores_by_import_are_ended_by_another_node_which_imports_no_volume_twice() {
    let mut world = World::new(RigOptions::one_node(), RestoreFrom::MediaAgent, UNLIKE).await;
    let (to, by, calls) = (Target::Volumes, TransportWish::Import, IMPORTS);
    for (at, held, suspended, again) in [
        // An upload that stops in good order leaves no parts. The image is on a node that is gone: it is written anew.
        (At::Upload, UPLOADING, ONE_IS_THROUGH, 100..=101),
        (At::Import, IMPORTING, IMPORTING, NOTHING),
    ] {
        world.goes_on_elsewhere(Case { to, by, at, held, suspended, calls, again }).await;
    }
    // The nodes learn that their images are of no use any more when they are there again.
    assert_eq!([0, 1, 2].map(|index| world.rig.n_staged(index)), [1, 1, 0]);
    for index in [0, 1] {
        world.rig.start_again(index).unwrap();
    }
    let are_swept = || async { world.rig.n_staged(0) + world.rig.n_staged(1) == 0 };
    eventually(BOUND, "the images of the first nodes are swept", are_swept).await.unwrap();
}

/// Zeroes have to be read, too, and are quickly stored.
const ZEROES: Layout = Layout { data: &[(1, 20)], zeroes: &[(32, 768)] };
const ZEROES_BLOCKS: u64 = 40 + 1_536;
const ZEROES_FIRST_PAGE: u64 = 40 + 960;

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_copy_is_ended_by_another_agent_from_its_stored_pages_and_shares_nothing_twice() {
    let options = RigOptions { read_as: ReadAs::Service, ..RigOptions::one_agent() };
    let mut world = World::new(options, RestoreFrom::Snapshot, [ZEROES; 2]).await;
    let (before, n_held) = (world.rig.holdings(), 2 * ZEROES_BLOCKS - 300);
    world.rig.hold_reads(n_held);
    let id = world.rig.copy(world.point).await.unwrap();
    let are_read = |_: &Job| world.rig.calls(GET.0, GET.1) > n_held;
    world.rig.wait(id, "both first pages are read", are_read).await.unwrap();
    tokio::time::sleep(MADE_TO_LAST).await;
    let (meanwhile, _) = world.suspended(id, At::Blocks, "a copy").await;
    assert_eq!(meanwhile, before, "it makes nothing that could stay");
    world.rig.shared_with(1).await.unwrap();

    let job = world.ended_by_another(id, "a copy").await;
    let n_read = job.tasks[0].history[1].progress.bytes_read / BLOCK;
    let most = 2 * (ZEROES_BLOCKS - ZEROES_FIRST_PAGE);
    assert!((1..=most).contains(&n_read), "{n_read} blocks were read again, of {most} that were not stored");
    let rig = &world.rig;
    rig.shared_with(0).await.unwrap();
    assert_eq!(rig.calls("ec2", "ModifySnapshotAttribute"), 2 + 2, "each is shared once and taken back once");
    assert_eq!(rig.points(RecoveryPointKind::Copy).await.unwrap().len(), 1);
    let restored = rig.restore_copy(Rig::recovery_point(&job).unwrap()).await.unwrap();
    world.instance.check(rig.sim.context(), &restored, &world.content).unwrap();
    only(rig, 2, 6 + 2, "a copy").await;
}

/// For disk images: the first volume is read, and of the second one the first page and some of the second.
const TWO_PAGES: Layout = Layout { data: &[(1, 30), (520, 40)], zeroes: &[] };
const IMAGE_BLOCKS: u64 = 60 + 80;
const N_READ: u64 = IMAGE_BLOCKS + 60 + 50;

#[tokio::test(flavor = "multi_thread")]
async fn disk_images_are_gone_on_with_on_their_own_node_and_written_anew_on_another() {
    let mut world = World::new(RigOptions::one_agent(), RestoreFrom::Snapshot, [TWO_PAGES; 2]).await;
    let before = world.rig.holdings();
    let [monday, tuesday] = ["images/monday", "images/tuesday"].map(|folder| world.rig.dir.join(folder));

    // The node is started again: one image is whole, the other one is gone on with in its second page.
    let (id, begun) = world.held_images(&monday, "monday").await;
    let (meanwhile, _) = world.suspended(id, At::Blocks, "monday").await;
    assert_eq!((meanwhile, files_in(&monday)), (before.clone(), begun));
    world.rig.start_again(0).unwrap();
    let job = world.resumed(id, [0, 0], "monday").await;
    let n_read = job.tasks[0].history[1].progress.bytes_read / BLOCK;
    assert!((1..80).contains(&n_read), "{n_read} blocks were read again");
    assert!(!says(&job, "were begun on access node"), "{job:#?}");
    world.check_images(&job, &monday);
    let whole = files_in(&monday);

    // Another node has a folder of its own, and nothing in it.
    let (id, begun) = world.held_images(&tuesday, "tuesday").await;
    let (meanwhile, _) = world.suspended(id, At::Blocks, "tuesday").await;
    assert_eq!((meanwhile, files_in(&tuesday)), (before, begun.clone()));
    let job = world.ended_by_another(id, "tuesday").await;
    let n_read = job.tasks[0].history[1].progress.bytes_read / BLOCK;
    assert_eq!(n_read, 2 * IMAGE_BLOCKS, "both are written from the start");
    let first = job.tasks[0].history[0].access_node.unwrap();
    assert!(says(&job, &format!("were begun on access node {first}, too")), "{job:#?}");
    let elsewhere = world.rig.dir.join("agent-2-images/tuesday");
    world.check_images(&job, &elsewhere);
    assert_eq!(files_in(&tuesday), begun, "the first node was not there to remove it");

    world.rig.start_again(0).unwrap();
    let is_gone = || async { !tuesday.exists() };
    eventually(BOUND, "what came to nothing goes", is_gone).await.unwrap();
    assert_eq!((files_in(&monday), files_in(&elsewhere)), (whole.clone(), whole), "what is whole stays");
    only(&world.rig, 2, 6, "disk images").await;
}
