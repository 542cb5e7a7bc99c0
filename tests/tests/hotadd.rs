//! HotAdd when something goes wrong in the middle, when a node may attach little, and when not every node can: separate
//! processes, the kernel's block devices. Every test proves that it came in the middle.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::time::Duration;

use snapferry_api::job::{Job, JobState, Work};
use snapferry_api::protect::BackupCopy;
use snapferry_testkit::eventually;
use snapferry_tests::{ACCOUNT, Machine, REGION, Rig, RigOptions, SERVICE, TestInstance};
use snapferry_types::instance::OsFamily;
use snapferry_types::{JobId, RecoveryPointId, TransportWish};

const BOUND: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
/// Data of a volume: more than an agent has in memory by far.
const DATA_MIB: u64 = 250;

fn options() -> RigOptions {
    RigOptions { n_agents: 2, with_service_resources: true, ..RigOptions::default() }
}

/// A volume of the service account that only moves blocks.
struct Moving {
    id: String,
    zone: String,
    /// How much was written to it in bytes.
    written: u64,
}

fn moving(rig: &Rig) -> Vec<Moving> {
    let sim = rig.sim.context();
    let volumes = sim.world.volumes(SERVICE).into_iter();
    let moving = volumes.filter(|one| one.tags.keys().any(|key| key.starts_with("snapferry:")));
    let sized = moving.map(|one| {
        let extents = sim.store.volume_extents(&one.id).unwrap_or_default();
        let written = extents.iter().map(|extent| extent.end - extent.start).sum();
        Moving { id: one.id, zone: one.zone, written }
    });
    sized.collect()
}

fn written(rig: &Rig) -> u64 {
    moving(rig).iter().map(|one| one.written).sum()
}

/// Brings a restore to the middle of writing, and keeps it there by freezing the MediaAgent; answers which agent writes.
async fn frozen_in_mid_write(rig: &mut Rig, job: JobId) -> usize {
    eventually(BOUND, "some blocks are written", || async { written(rig) > 16 * MIB }).await.unwrap();
    rig.media_agent.sigstop().await.unwrap();
    // The agent tells of it with its next renewal, and comes no further.
    let writes = |job: &Job| job.tasks[0].progress.phase == "write";
    let now = rig.wait(job, "the agent writes", writes).await.unwrap();
    let index = rig.agent_of(now.tasks[0].access_node.unwrap()).await.unwrap();
    let attached = rig.sim.context().world.attached_to(&rig.instances[index]);
    assert!(attached.len() > 1, "nothing is attached to the node that writes");
    index
}

/// What is in the middle cannot end while the MediaAgent is frozen; that all was there to write already is excluded.
fn is_in_the_middle(rig: &Rig) {
    let bytes = written(rig);
    assert!(0 < bytes && bytes < 2 * DATA_MIB * MIB, "{bytes} bytes are written: that is not the middle");
}

async fn prepared(options: RigOptions) -> (Rig, TestInstance, Vec<Vec<u64>>, RecoveryPointId) {
    let rig = Rig::start(options).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", DATA_MIB).unwrap();
    let content = instance.content(rig.sim.context()).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    (rig, instance, content, point)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agent_ends_a_write_in_the_middle_of_which_the_first_was_killed() {
    let (mut rig, instance, content, point) = prepared(options()).await;
    let job = rig.restore_by(point, TransportWish::HotAdd, None).await.unwrap();
    let index = frozen_in_mid_write(&mut rig, job).await;
    rig.agents[index].kill9().unwrap();
    is_in_the_middle(&rig);
    rig.media_agent.sigcont().unwrap();
    let done = rig.succeed(job).await.unwrap();
    assert!(done.tasks[0].attempts >= 2, "{done:#?}");
    let other = rig.agent_of(done.tasks[0].access_node.unwrap()).await.unwrap();
    assert_ne!(other, index, "the killed agent cannot have ended it");
    instance.check(rig.sim.context(), &done, &content).unwrap();
    rig.only_these_are_left(2, 4).await.unwrap();
}

/// Where the volumes of an instance have neither data nor zeroes that were written, as MiB from and how many:
/// before all data, after them, and in the second page.
const IN_HOLES: [(u64, u64); 3] = [(0, 1), (300, 4), (600, 4)];

#[tokio::test(flavor = "multi_thread")]
async fn old_data_in_the_holes_of_an_encrypted_volume_that_was_begun_is_overwritten() {
    let mut rig = Rig::start(options()).await.unwrap();
    let sim = rig.sim.context().clone();
    let key = sim.world.create_key(ACCOUNT, REGION, None);
    let instance = TestInstance::place_as(&sim, "one", DATA_MIB, OsFamily::Linux, Some(&key)).unwrap();
    let content = instance.content(&sim).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let job = rig.restore_by(point, TransportWish::HotAdd, None).await.unwrap();
    let index = frozen_in_mid_write(&mut rig, job).await;
    rig.agents[index].kill9().unwrap();
    is_in_the_middle(&rig);
    // No first page is through, so no mark is beyond the start. A plain volume, which was made blank for the task,
    // would keep what is in its holes; what an encrypted one reads as there nobody knows.
    let begun = moving(&rig);
    assert_eq!(begun.len(), 2);
    for one in &begun {
        assert!(one.written < DATA_MIB * MIB, "{} has {} bytes", one.id, one.written);
        for (from, mib) in IN_HOLES {
            for n in from..from + mib {
                sim.store.write_volume(&one.id, n * MIB, &vec![0xFF_u8; 1 << 20]).unwrap();
            }
        }
    }
    rig.media_agent.sigcont().unwrap();
    let done = rig.succeed(job).await.unwrap();
    assert!(done.tasks[0].attempts >= 2, "{done:#?}");
    let other = rig.agent_of(done.tasks[0].access_node.unwrap()).await.unwrap();
    assert_ne!(other, index, "the killed agent cannot have ended it");
    // Two that moved the blocks and two that were restored.
    assert_eq!(rig.calls("ec2", "CreateVolume"), 2 + 2, "not the volumes with old data were gone on with");
    instance.check(&sim, &done, &content).unwrap();
    rig.only_these_are_left(2, 4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_cancelled_in_the_middle_leaves_nothing() {
    let (mut rig, _, _, point) = prepared(RigOptions { n_agents: 1, ..options() }).await;
    let job = rig.restore_by(point, TransportWish::HotAdd, None).await.unwrap();
    frozen_in_mid_write(&mut rig, job).await;
    is_in_the_middle(&rig);
    rig.client.cancel_job(job).await.unwrap();
    let ended = rig.wait(job, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap();
    assert_eq!(ended.summary.state, JobState::Cancelled, "{ended:#?}");
    rig.media_agent.sigcont().unwrap();
    rig.only_these_are_left(2, 2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_suspended_in_the_middle_is_ended_when_it_is_resumed() {
    let (mut rig, instance, content, point) = prepared(options()).await;
    let job = rig.restore_by(point, TransportWish::HotAdd, None).await.unwrap();
    let index = frozen_in_mid_write(&mut rig, job).await;
    is_in_the_middle(&rig);
    rig.client.suspend_job(job).await.unwrap();
    let is_suspended = |job: &Job| job.summary.state == JobState::Suspended;
    rig.wait(job, "it is suspended", is_suspended).await.unwrap();
    let attached = rig.sim.context().world.attached_to(&rig.instances[index]);
    assert_eq!(attached.len(), 1, "the suspended one has let go");
    rig.media_agent.sigcont().unwrap();
    rig.client.resume_job(job).await.unwrap();
    let done = rig.succeed(job).await.unwrap();
    let outcomes: Vec<&str> = done.tasks[0].history.iter().map(|one| one.outcome.as_str()).collect();
    assert_eq!(outcomes, ["yielded", "succeeded"]);
    instance.check(rig.sim.context(), &done, &content).unwrap();
    rig.only_these_are_left(2, 4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_agent_left_of_a_write_and_a_read_goes_when_they_are_cancelled() {
    let (mut rig, instance, _, point) = prepared(RigOptions { n_agents: 1, ..options() }).await;
    let write = rig.restore_by(point, TransportWish::HotAdd, None).await.unwrap();
    frozen_in_mid_write(&mut rig, write).await;
    is_in_the_middle(&rig);
    killed_and_cancelled(&mut rig, write, 0).await;
    rig.only_these_are_left(2, 2).await.unwrap();

    // Nobody is there any more that could clean up: only the scheduler.
    rig.add_agent().unwrap();
    let snapped = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
    let copy = Work::BackupCopy(BackupCopy {
        hypervisor: rig.tenant,
        recovery_points: vec![Rig::recovery_point(&snapped).unwrap()],
        media_agent: None,
        full: true,
        transport: TransportWish::HotAdd,
        retention: None,
    });
    // What is in the library is read all the same.
    let read = rig.submit(copy).await.unwrap();
    let reads = |job: &Job| job.tasks[0].progress.bytes_read > 0;
    rig.wait(read, "blocks are read", reads).await.unwrap();
    rig.media_agent.sigstop().await.unwrap();
    assert!(rig.sim.context().world.attached_to(&rig.instances[1]).len() > 1, "nothing is attached");
    killed_and_cancelled(&mut rig, read, 1).await;
    rig.only_these_are_left(4, 2).await.unwrap();
    rig.shared_with(0).await.unwrap();
}

/// Kills the only agent, lets the MediaAgent go on, and cancels the job.
async fn killed_and_cancelled(rig: &mut Rig, job: JobId, index: usize) {
    rig.agents[index].kill9().unwrap();
    rig.media_agent.sigcont().unwrap();
    rig.client.cancel_job(job).await.unwrap();
    let ended = rig.wait(job, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap();
    assert_eq!(ended.summary.state, JobState::Cancelled, "{ended:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_killed_in_mid_write_is_gone_on_with_in_another_zone_by_a_node_that_can() {
    let (mut rig, instance, content, point) = prepared(RigOptions { n_agents: 1, ..options() }).await;
    let job = rig.restore_by(point, TransportWish::HotAdd, None).await.unwrap();
    assert_eq!(frozen_in_mid_write(&mut rig, job).await, 0);
    rig.add_machine(Machine { can_hot_add: false, ..Machine::default() }).unwrap();
    rig.add_machine(Machine { zone: 'b', ..Machine::default() }).unwrap();
    rig.wait_for_agents().await.unwrap();
    rig.agents[0].kill9().unwrap();
    is_in_the_middle(&rig);
    assert_eq!(zones(&rig), BTreeSet::from(["eu-central-1a".to_owned()]));
    rig.media_agent.sigcont().unwrap();
    let in_b = || async { zones(&rig).contains("eu-central-1b") };
    eventually(BOUND, "a volume is made in the zone of the node that goes on", in_b).await.unwrap();
    let done = rig.succeed(job).await.unwrap();
    assert_eq!(rig.agent_of(done.tasks[0].access_node.unwrap()).await.unwrap(), 2, "{done:#?}");
    instance.check(rig.sim.context(), &done, &content).unwrap();
    rig.only_these_are_left(2, 4).await.unwrap();
}

fn zones(rig: &Rig) -> BTreeSet<String> {
    moving(rig).into_iter().map(|one| one.zone).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_add_goes_to_the_only_node_that_can_and_any_other_work_to_all() {
    let machine = Machine { can_hot_add: false, ..Machine::default() };
    let mut rig = Rig::start(RigOptions { machine, ..options() }).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 4).unwrap();
    let refused = rig.back_up_by(&instance.id, TransportWish::HotAdd).await.unwrap();
    let (_, task) = rig.fail(refused).await.unwrap();
    let error = task.error.unwrap();
    assert!(error.message.contains("hot_add was asked for and cannot be used"), "{error:?}");
    assert_eq!(task.attempts, 1);

    rig.add_machine(Machine { zone: 'b', ..Machine::default() }).unwrap();
    rig.wait_for_agents().await.unwrap();
    // Two of three nodes cannot: it would be luck three times.
    for _ in 0..3 {
        let job = rig.back_up_by(&instance.id, TransportWish::HotAdd).await.unwrap();
        let done = rig.succeed(job).await.unwrap();
        assert_eq!(rig.agent_of(done.tasks[0].access_node.unwrap()).await.unwrap(), 2, "{done:#?}");
        assert_eq!(done.tasks[0].attempts, 1);
    }
    rig.only_these_are_left(2, 2).await.unwrap();
}

/// Starts a HotAdd backup and brings it to the middle of reading, with its volume attached to the only node.
async fn frozen_in_mid_read(rig: &mut Rig, instance: &TestInstance) -> JobId {
    let job = rig.back_up_by(&instance.id, TransportWish::HotAdd).await.unwrap();
    let reads = |job: &Job| job.tasks[0].progress.bytes_read > 0;
    rig.wait(job, "blocks are read", reads).await.unwrap();
    rig.media_agent.sigstop().await.unwrap();
    let attached = rig.sim.context().world.attached_to(&rig.instances[0]);
    assert_eq!(attached.len(), 2, "the node's own volume and the one that is read");
    job
}

fn one_place() -> RigOptions {
    let machine = Machine { max_attachments: 1, ..Machine::default() };
    RigOptions { n_agents: 1, slots: 2, machine, ..options() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_task_leaves_its_place_on_the_node_to_another() {
    let mut rig = Rig::start(one_place()).await.unwrap();
    let sim = rig.sim.context().clone();
    let one = TestInstance::place(&sim, "one", DATA_MIB).unwrap();
    let two = TestInstance::place(&sim, "two", 4).unwrap();
    let content = [one.content(&sim).unwrap(), two.content(&sim).unwrap()];
    let first = frozen_in_mid_read(&mut rig, &one).await;
    rig.client.suspend_job(first).await.unwrap();
    let is_suspended = |job: &Job| job.summary.state == JobState::Suspended;
    rig.wait(first, "the first is suspended", is_suspended).await.unwrap();
    assert_eq!(sim.world.attached_to(&rig.instances[0]).len(), 1, "the suspended one has let go");
    rig.media_agent.sigcont().unwrap();

    let second = rig.succeed(rig.back_up_by(&two.id, TransportWish::HotAdd).await.unwrap()).await.unwrap();
    assert!(is_suspended(&rig.client.job(first).await.unwrap()), "it went on by itself");
    rig.client.resume_job(first).await.unwrap();
    let first = rig.succeed(first).await.unwrap();
    assert_eq!(sim.world.most_attached(&rig.instances[0]), 2, "its own and one more, at any time");
    for ((instance, job), content) in [(&one, first), (&two, second)].into_iter().zip(content) {
        let point = Rig::recovery_point(&job).unwrap();
        let restore = rig.restore_by(point, TransportWish::EbsDirect, None).await.unwrap();
        let restored = rig.succeed(restore).await.unwrap();
        instance.check(&sim, &restored, &content).unwrap();
    }
    rig.only_these_are_left(4, 8).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_agent_left_attached_makes_room_for_another_task() {
    let mut rig = Rig::start(one_place()).await.unwrap();
    let sim = rig.sim.context().clone();
    let one = TestInstance::place(&sim, "one", DATA_MIB).unwrap();
    let two = TestInstance::place(&sim, "two", 4).unwrap();
    let first = frozen_in_mid_read(&mut rig, &one).await;
    rig.agents[0].kill9().unwrap();
    rig.media_agent.sigcont().unwrap();
    rig.client.suspend_job(first).await.unwrap();
    let is_suspended = |job: &Job| job.summary.state == JobState::Suspended;
    rig.wait(first, "the first is suspended", is_suspended).await.unwrap();
    assert_eq!(sim.world.attached_to(&rig.instances[0]).len(), 2, "nobody was there to let go");

    rig.start_again(0).unwrap();
    rig.succeed(rig.back_up_by(&two.id, TransportWish::HotAdd).await.unwrap()).await.unwrap();
    assert!(is_suspended(&rig.client.job(first).await.unwrap()), "it went on by itself");
    rig.client.resume_job(first).await.unwrap();
    rig.succeed(first).await.unwrap();
    assert_eq!(sim.world.most_attached(&rig.instances[0]), 2, "its own and one more, at any time");
    rig.only_these_are_left(4, 4).await.unwrap();
}
