//! Job control over running work: a task that is suspended and resumed, or whose agent is stopped in good order, is ended
//! by another agent from where it was. Every test proves that the task ran when it was taken off.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use awssim::faults::{Behaviour, Effect, Rule};
use snapferry_api::job::{Job, JobState};
use snapferry_api::protect::VaultTo;
use snapferry_api::restore::{RestoreFrom, RestoreTarget};
use snapferry_testkit::eventually;
use snapferry_tests::{ELSEWHERE, Rig, RigOptions, TestInstance, VOLUMES, vault, write_data};
use snapferry_types::{JobId, TaskState, TransportWish};

const BOUND: Duration = Duration::from_secs(60);

/// How a task comes off its agent in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// It is suspended, and resumed when that agent has ended.
    Suspend,
    /// The agent is stopped as a service manager does it.
    Stop,
}

impl Leaving {
    const ALL: [Self; 2] = [Self::Suspend, Self::Stop];
}

fn is_suspended(job: &Job) -> bool {
    job.summary.state == JobState::Suspended
}

/// The agent that works at a job now.
async fn worker(rig: &Rig, id: JobId) -> usize {
    let now = rig.client.job(id).await.unwrap();
    assert_eq!(now.tasks[0].state, TaskState::Running, "it is not in the middle: {now:#?}");
    rig.agent_of(now.tasks[0].access_node.unwrap()).await.unwrap()
}

/// Ends an agent in good order.
async fn stop(rig: &mut Rig, index: usize) {
    rig.agents[index].terminate().unwrap();
    let status = rig.agents[index].wait(BOUND).await.unwrap();
    assert!(status.success(), "{status}");
}

/// Takes a running task off its agent, which ends, and lets the other one end it.
async fn ended_by_another(rig: &mut Rig, id: JobId, leaving: Leaving) -> Job {
    let index = worker(rig, id).await;
    if leaving == Leaving::Suspend {
        rig.client.suspend_job(id).await.unwrap();
        rig.wait(id, "it is suspended", is_suspended).await.unwrap();
    }
    stop(rig, index).await;
    rig.let_go();
    if leaving == Leaving::Suspend {
        assert!(is_suspended(&rig.client.job(id).await.unwrap()), "it went on by itself");
        rig.client.resume_job(id).await.unwrap();
    }
    let job = rig.succeed(id).await.unwrap();
    let history = &job.tasks[0].history;
    let outcomes: Vec<&str> = history.iter().map(|attempt| attempt.outcome.as_str()).collect();
    assert_eq!(outcomes, ["yielded", "succeeded"], "{leaving:?}");
    let mut workers = Vec::new();
    for attempt in history {
        workers.push(rig.agent_of(attempt.access_node.unwrap()).await.unwrap());
    }
    assert_eq!(workers, [index, 1 - index], "{leaving:?}");
    assert_eq!(job.tasks[0].attempts, 1, "an orderly end is no failed attempt");
    rig.start_again(index).unwrap();
    rig.wait_for_agents().await.unwrap();
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_and_a_restore_that_leave_their_agent_are_ended_by_another() {
    let mut rig = Rig::start(RigOptions::default()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 60).unwrap();
    for (n, leaving) in Leaving::ALL.into_iter().enumerate() {
        // The second copy reads what changed since the first.
        write_data(&sim, &instance.volumes[0], 200, 60, 9 + n as u64).unwrap();
        let content = instance.content(&sim).unwrap();
        let snapped = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
        rig.hold_reads(50);
        let id = rig.copy(Rig::recovery_point(&snapped).unwrap()).await.unwrap();
        let is_reading = |job: &Job| rig.fired() > 0 && job.tasks[0].progress.bytes_read > 0;
        rig.wait(id, "blocks are read", is_reading).await.unwrap();
        let copied = ended_by_another(&mut rig, id, leaving).await;

        let hang = Rule::new(Effect::Hang { seconds: None }).on("ebs", "PutSnapshotBlock");
        rig.hurt(Rule { skip: 200, ..hang });
        let id = rig.restore(Rig::recovery_point(&copied).unwrap()).await.unwrap();
        eventually(BOUND, "blocks are written", || async { rig.fired() > 0 }).await.unwrap();
        let restored = ended_by_another(&mut rig, id, leaving).await;
        instance.check(&sim, &restored, &content).unwrap();
        assert_eq!(rig.calls("ebs", "StartSnapshot"), 2 * (n as u64 + 1), "{leaving:?}: it was begun anew");
        rig.left(2 * (n + 1), 2 * (n + 2)).await.unwrap();
    }
    rig.shared_with(0).await.unwrap();
    rig.nothing_is_left().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intellisnap_backup_that_waits_for_its_vault_leaves_its_agent_and_makes_nothing_twice() {
    let mut rig = Rig::start(RigOptions::default()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 8).unwrap();
    let content = instance.content(&sim).unwrap();
    sim.faults.set_behaviour(Behaviour { copy_millis: 8_000, ..Behaviour::default() });
    for (n, leaving) in Leaving::ALL.into_iter().enumerate() {
        let id = rig.snap(&instance.id, Some(vault(VaultTo::Tenant, Some(ELSEWHERE)))).await.unwrap();
        let copies = || async { rig.count("snapshots") == 4 * (n + 1) };
        eventually(BOUND, "snapshots and copies are there", copies).await.unwrap();
        let job = ended_by_another(&mut rig, id, leaving).await;
        assert_eq!(rig.calls("ec2", "CreateSnapshots"), n as u64 + 1, "{leaving:?}");
        assert_eq!(rig.calls("ec2", "CopySnapshot"), 2 * (n as u64 + 1), "{leaving:?}");
        let point = Rig::recovery_point(&job).unwrap();
        let (from, by) = (RestoreFrom::Snapshot, TransportWish::Automatic);
        let restore = rig.restore_with(point, from, VOLUMES, by, None).await.unwrap();
        instance.check(&sim, &rig.succeed(restore).await.unwrap(), &content).unwrap();
        rig.left(4 * (n + 1), 2 * (n + 2)).await.unwrap();
    }
    rig.nothing_is_left().unwrap();
}

fn in_place(delete_old_volumes: bool) -> RestoreTarget {
    RestoreTarget::InPlace { delete_old_volumes, leave_stopped: false }
}

/// An instance that was backed up and has other bytes since, with what is restored into its place.
struct Swapped {
    rig: Rig,
    instance: TestInstance,
    /// What the recovery point holds.
    content: Vec<Vec<u64>>,
    point: snapferry_types::RecoveryPointId,
}

impl Swapped {
    async fn prepared() -> Self {
        let rig = Rig::start(RigOptions::default()).await.unwrap();
        let sim = rig.sim.context().clone();
        let instance = TestInstance::place(&sim, "web", 3).unwrap();
        let content = instance.content(&sim).unwrap();
        let point = rig.backed_up(&instance).await.unwrap();
        for volume in &instance.volumes {
            write_data(&sim, volume, 2, 2, 77).unwrap();
        }
        Self { rig, instance, content, point }
    }

    /// A restore in place that hangs in a step of the swap; answers its agent.
    async fn hanging(&self, step: &str, delete_old_volumes: bool) -> (JobId, usize) {
        self.rig.hurt(Rule::new(Effect::Hang { seconds: None }).on("ec2", step).times(1));
        let id = self.rig.restore_to(self.point, in_place(delete_old_volumes)).await.unwrap();
        eventually(BOUND, "the step hangs", || async { self.rig.fired() == 1 }).await.unwrap();
        (id, worker(&self.rig, id).await)
    }

    /// The instance runs with the restored volumes and no others.
    async fn check(&self, job: &Job) {
        self.instance.check(self.rig.sim.context(), job, &self.content).unwrap();
        let made = job.tasks[0].made.iter().filter(|made| made.kind == "volume").map(|made| made.id.clone());
        let mut made: Vec<String> = made.collect();
        let mut has: Vec<String> =
            self.rig.attached(&self.instance.id).await.unwrap().into_values().collect();
        made.sort();
        has.sort();
        assert_eq!(has, made);
        assert_eq!(self.rig.describe(&self.instance.id).await.unwrap().state, "running");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_mid_swap_suspending_and_stopping_wait_for_the_instance_to_be_whole() {
    let mut world = Swapped::prepared().await;
    let sim = world.rig.sim.context().clone();
    let old = world.instance.content(&sim).unwrap();
    for (n, (step, leaving)) in
        [("DetachVolume", Leaving::Suspend), ("AttachVolume", Leaving::Stop)].into_iter().enumerate()
    {
        let (id, index) = world.hanging(step, false).await;
        match leaving {
            Leaving::Suspend => world.rig.client.suspend_job(id).await.map(drop).unwrap(),
            Leaving::Stop => world.rig.agents[index].terminate().unwrap(),
        }
        let agent = &mut world.rig.agents[index];
        agent.wait_for_line("the swap is brought to its end before the task stops", BOUND).await.unwrap();
        assert_eq!(agent.status().unwrap(), None, "{step}: the agent went in mid-swap");
        let now = world.rig.client.job(id).await.unwrap();
        assert_eq!(now.tasks[0].state, TaskState::Running, "{step}: it left the instance in mid-swap");
        world.rig.let_go();
        let job = world.rig.succeed(id).await.unwrap();
        assert_eq!((job.tasks[0].attempts, job.tasks[0].history.len()), (1, 1), "{step}");
        world.check(&job).await;
        // What was replaced is all there.
        world.rig.left(2, 2 * (n + 2)).await.unwrap();
        assert_eq!(world.instance.content(&sim).unwrap(), old);
        for volume in &world.instance.volumes {
            assert!(sim.world.volume_tags(volume).unwrap().contains_key("snapferry:replaced-by"), "{volume}");
        }
        if leaving == Leaving::Stop {
            assert!(world.rig.agents[index].wait(BOUND).await.unwrap().success());
        }
    }
    world.rig.nothing_is_left().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_whose_agent_was_killed_is_suspended_as_it_is_and_resumed_to_its_end_or_taken_back() {
    let mut world = Swapped::prepared().await;
    let own = world.rig.attached(&world.instance.id).await.unwrap();
    // The first is taken back and the second goes on: only that exchanges anything for good.
    for is_resumed in [false, true] {
        let (id, index) = world.hanging("AttachVolume", true).await;
        world.rig.agents[index].kill9().unwrap();
        world.rig.client.suspend_job(id).await.unwrap();
        world.rig.let_go();
        world.rig.wait(id, "it is suspended", is_suspended).await.unwrap();
        let attached = world.rig.sim.context().world.attached_to(world.instance.id.as_str());
        assert!(attached.is_empty(), "in mid-swap the instance has {attached:?}");
        if is_resumed {
            world.rig.client.resume_job(id).await.unwrap();
            let job = world.rig.succeed(id).await.unwrap();
            assert_ne!(world.rig.agent_of(job.tasks[0].access_node.unwrap()).await.unwrap(), index);
            world.check(&job).await;
        } else {
            world.rig.client.cancel_job(id).await.unwrap();
            let ended = |job: &Job| job.summary.state.is_terminal();
            let job = world.rig.wait(id, "the job ends", ended).await.unwrap();
            assert_eq!(job.summary.state, JobState::Cancelled, "{job:#?}");
            assert_eq!(world.rig.attached(&world.instance.id).await.unwrap(), own);
            assert_eq!(world.rig.describe(&world.instance.id).await.unwrap().state, "running");
            world.rig.add_agent().unwrap();
        }
        world.rig.left(2, 2).await.unwrap();
    }
    world.rig.nothing_is_left().unwrap();
}
