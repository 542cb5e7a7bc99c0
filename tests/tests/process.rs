//! Separate processes and a real RabbitMQ: the main job, and what kills and floods do to it. Every test also checks
//! that its fault really took effect.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use awssim::faults::Rule;
use snapferry_api::fleet::Maintenance;
use snapferry_api::instance::InstanceQuery;
use snapferry_api::job::{Job, JobState, StreamingBackup, Work};
use snapferry_testkit::eventually;
use snapferry_tests::breaking::{hang, has_met};
use snapferry_tests::{Rig, RigOptions, TestInstance, write_data};
use snapferry_types::{TaskState, TransportWish};

/// So many blocks are read before the others wait: what is done then comes in the middle of the transfer.
const HELD_AFTER: u64 = 20;
const BOUND: Duration = Duration::from_secs(60);
/// What was sent to a library is made to last every ten seconds.
const MADE_TO_LAST: Duration = Duration::from_secs(13);

#[tokio::test(flavor = "multi_thread")]
async fn backup_incremental_and_restore_come_back_byte_for_byte() {
    let rig = Rig::start(RigOptions::default()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 20).unwrap();
    let before = instance.content(&sim).unwrap();
    let first = rig.succeed(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    let read_in_full: u64 = first.tasks.iter().map(|task| task.progress.bytes_read).sum();
    // Of each volume 20 MiB of data and three blocks of zeroes; what was never written is not read.
    let n_written = rig.calls("ebs", "GetSnapshotBlock");
    assert_eq!(n_written, 2 * (40 + 3));

    write_data(&sim, &instance.volumes[0], 4, 2, 99).unwrap();
    let after = instance.content(&sim).unwrap();
    let second = rig.succeed(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    let read_changed: u64 = second.tasks.iter().map(|task| task.progress.bytes_read).sum();
    assert!(read_in_full >= 40 << 20, "{read_in_full}");
    assert!(read_changed <= 3 << 20, "an incremental read {read_changed} bytes for 2 MiB of changes");

    for (job, content) in [(&first, &before), (&second, &after)] {
        let restore = rig.restore(Rig::recovery_point(job).unwrap()).await.unwrap();
        let restored = rig.succeed(restore).await.unwrap();
        instance.check(&sim, &restored, content).unwrap();
    }
    // Zeroes are written as such, and holes are left.
    assert_eq!(rig.calls("ebs", "PutSnapshotBlock"), 2 * n_written);
    // One base snapshot a volume stays; staging snapshots and the first base are gone.
    assert_eq!(rig.count("snapshots"), 2);
    assert_eq!(rig.count("images"), 0);
    assert_eq!(rig.count("volumes"), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_in_mid_transfer_is_followed_by_another_that_goes_on() {
    let mut rig = Rig::start(RigOptions { n_agents: 1, ..RigOptions::default() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 150).unwrap();
    let content = instance.content(&sim).unwrap();
    let id = rig.held_backup(&instance.id).await.unwrap();
    rig.agents[0].kill9().unwrap();
    rig.add_agent().unwrap();
    rig.let_go();
    let job = rig.succeed(id).await.unwrap();
    assert_eq!(job.tasks[0].attempts, 2, "the first attempt was not interrupted");
    let restored = rig.succeed(rig.restore(Rig::recovery_point(&job).unwrap()).await.unwrap()).await.unwrap();
    instance.check(&sim, &restored, &content).unwrap();
    // The second attempt found the first one's snapshots by their tag instead of making more.
    assert_eq!(sim.faults.counters().calls_of("ec2", "CreateSnapshots"), 1);
    assert_eq!(rig.count("snapshots"), 2);
}

/// A page of blocks in the library.
const PAGE_BLOCKS: u64 = 1_024;

/// What ends the first attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interruption {
    KillAgent,
    Suspend,
    KillMediaAgent,
}

/// Whether there is a file in a folder's folders.
fn has_files(folder: &Path) -> bool {
    let folders = std::fs::read_dir(folder).into_iter().flatten().flatten();
    folders.flat_map(|folder| std::fs::read_dir(folder.path())).any(|mut files| files.next().is_some())
}

fn is_unavailable(job: &Job) -> bool {
    job.tasks.iter().any(|task| task.error.as_ref().is_some_and(|error| error.class == "unavailable"))
}

/// A backup of two volumes whose first pages are stored when it is interrupted in their second ones; another agent ends it,
/// or the same one, in the same session, when it is the MediaAgent that was away.
async fn goes_on_from_what_is_stored(interruption: Interruption) {
    let mut rig = Rig::start(RigOptions { n_agents: 1, ..RigOptions::default() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 20).unwrap();
    // Zeroes have to be read, too, and are quickly stored.
    let zeroes = vec![0_u8; 8 << 20];
    for volume in &instance.volumes {
        for at in (32..800).step_by(8) {
            sim.store.write_volume(volume, at << 20, &zeroes).unwrap();
        }
    }
    let content = instance.content(&sim).unwrap();
    let n_written = 2 * (40 + 1_536 + 3);
    let n_held = n_written - 300;
    rig.hold_reads(n_held);
    let id = rig.back_up(&instance.id).await.unwrap();
    rig.wait(id, "most is read", |job| {
        let is_running = job.tasks.iter().all(|task| task.state == TaskState::Running);
        is_running && rig.calls("ebs", "GetSnapshotBlock") > n_held
    })
    .await
    .unwrap();
    if interruption != Interruption::Suspend {
        tokio::time::sleep(MADE_TO_LAST).await;
    }
    let n_nodes = if interruption == Interruption::KillMediaAgent { 1 } else { 2 };
    match interruption {
        Interruption::KillMediaAgent => {
            rig.media_agent.kill9().unwrap();
            // The next block that is to be sent finds nobody.
            rig.let_go();
            rig.wait(id, "the attempt fails, to be tried again", is_unavailable).await.unwrap();
            rig.restart_media_agent().unwrap();
        }
        Interruption::KillAgent => {
            rig.agents[0].kill9().unwrap();
            rig.add_agent().unwrap();
        }
        Interruption::Suspend => {
            rig.client.suspend_job(id).await.unwrap();
            let is_suspended = |job: &Job| job.summary.state == JobState::Suspended;
            rig.wait(id, "it is suspended", is_suspended).await.unwrap();
            rig.agents[0].kill9().unwrap();
            rig.add_agent().unwrap();
            rig.client.resume_job(id).await.unwrap();
        }
    }
    rig.let_go();
    let job = rig.succeed(id).await.unwrap();
    let task = &job.tasks[0];
    let nodes: BTreeSet<_> = task.history.iter().map(|attempt| attempt.access_node).collect();
    assert_eq!(nodes.len(), n_nodes, "{task:#?}");
    let (last, before) = task.history.split_last().unwrap();
    assert_eq!(last.outcome, "succeeded");
    match interruption {
        // It may take more than one until the MediaAgent is there again.
        Interruption::KillMediaAgent => assert!(before.iter().all(|one| one.outcome == "retryable")),
        Interruption::KillAgent | Interruption::Suspend => assert_eq!(before.len(), 1, "{task:#?}"),
    }
    let n_read = task.progress.bytes_read / (512 << 10);
    assert!(
        n_read > 0 && n_read <= n_written - PAGE_BLOCKS,
        "{n_read} of {n_written} blocks were read again"
    );
    let restored = rig.succeed(rig.restore(Rig::recovery_point(&job).unwrap()).await.unwrap()).await.unwrap();
    instance.check(&sim, &restored, &content).unwrap();
    rig.left(2, 4).await.unwrap();
    library_is_clean(&rig, &job).await;
}

/// All that is stored reads, and belongs to the job's recovery point: nothing of an attempt that broke off holds a pack.
async fn library_is_clean(rig: &Rig, job: &Job) {
    let (daemon, scrub) = rig.scrubbed().await.unwrap();
    assert!(scrub.bytes_read > 0 && scrub.damaged == 0, "{scrub:?}");
    let point = Rig::recovery_point(job).unwrap();
    rig.succeed(rig.client.delete_recovery_point(point).await.unwrap().summary.id).await.unwrap();
    let packs = rig.dir.join("library/objects/packs");
    assert!(has_files(&packs), "there was nothing to collect");
    rig.client.maintain(daemon, Maintenance::CollectGarbage).await.unwrap();
    eventually(BOUND, "nothing is stored any more", || async { !has_files(&packs) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backup_goes_on_from_its_stored_pages_on_another_agent() {
    goes_on_from_what_is_stored(Interruption::KillAgent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_media_agent_was_killed_goes_on_in_its_session_from_its_stored_pages() {
    goes_on_from_what_is_stored(Interruption::KillMediaAgent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_backup_goes_on_from_its_stored_pages_on_another_agent() {
    goes_on_from_what_is_stored(Interruption::Suspend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_agent_that_wakes_past_its_lease_commits_nothing() {
    let mut rig = Rig::start(RigOptions { n_agents: 1, ..RigOptions::default() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 100).unwrap();
    let content = instance.content(&sim).unwrap();
    let id = rig.held_backup(&instance.id).await.unwrap();
    rig.agents[0].sigstop().await.unwrap();
    rig.add_agent().unwrap();
    let follows = |job: &Job| job.tasks[0].attempts == 2 && job.tasks[0].state == TaskState::Running;
    let job = rig.wait(id, "another agent has the task", follows).await.unwrap();
    // The woken agent sees by its own clock that it is late. One whose clock is wrong would say that it is done.
    let late = rig.finish_as(job.tasks[0].id, 1).await.unwrap().unwrap_err();
    assert_eq!(late.code(), tonic::Code::FailedPrecondition, "{late}");
    assert!(late.message().contains("the fence is stale"), "{late}");
    rig.agents[0].sigcont().unwrap();
    rig.agents[0].wait_for_line("stopping", Duration::from_secs(30)).await.unwrap();
    let job = rig.client.job(id).await.unwrap();
    assert!(follows(&job), "the late agent's word counted: {job:#?}");
    rig.let_go();
    let job = rig.succeed(id).await.unwrap();
    assert_eq!(job.tasks[0].attempts, 2, "the stopped agent kept its lease");
    let points = rig.client.recovery_points(&Default::default()).await.unwrap().items;
    assert_eq!(points.len(), 1, "the late agent's work was taken");
    let restored = rig.succeed(rig.restore(points[0].id).await.unwrap()).await.unwrap();
    instance.check(&sim, &restored, &content).unwrap();
    rig.left(2, 4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_restart_under_a_running_task_runs_nothing_twice() {
    let mut rig = Rig::start(RigOptions { own_broker: true, ..RigOptions::default() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let instances = ["one", "two"].map(|name| TestInstance::place(&sim, name, 60).unwrap());
    rig.hold_reads(HELD_AFTER);
    // One at each agent.
    let mut jobs = Vec::new();
    for instance in &instances {
        jobs.push(rig.back_up(&instance.id).await.unwrap());
    }
    let runs = |job: &Job| job.tasks.iter().all(|task| task.state == TaskState::Running);
    for id in &jobs {
        rig.wait(*id, "the task runs", runs).await.unwrap();
    }
    rig.broker.own().unwrap().restart().await.unwrap();
    for id in &jobs {
        let under = rig.client.job(*id).await.unwrap();
        assert!(runs(&under), "the task had ended before the broker was back: {under:#?}");
    }
    rig.let_go();
    for (id, instance) in jobs.into_iter().zip(&instances) {
        let job = rig.succeed(id).await.unwrap();
        assert_eq!(job.tasks[0].attempts, 1, "the task ran twice");
        let point = Rig::recovery_point(&job).unwrap();
        let restored = rig.succeed(rig.restore(point).await.unwrap()).await.unwrap();
        instance.check(&sim, &restored, &instance.content(&sim).unwrap()).unwrap();
    }
    assert_eq!(rig.calls("ec2", "CreateSnapshots"), 2, "a task ran twice");
    let points = rig.client.recovery_points(&Default::default()).await.unwrap().items;
    assert_eq!(points.len(), 2, "a task ran twice");
    // The queue works again.
    rig.succeed(rig.back_up(&instances[0].id).await.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_killed_right_after_a_submit_loses_nothing() {
    let mut rig = Rig::start(RigOptions { own_broker: true, ..RigOptions::default() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 5).unwrap();
    let content = instance.content(&sim).unwrap();
    // Without a broker the offer is committed and cannot be published.
    rig.broker.own().unwrap().stop().await.unwrap();
    let id = rig.back_up(&instance.id).await.unwrap();
    let is_offered = |job: &Job| job.tasks.iter().any(|task| task.state == TaskState::Dispatched);
    rig.wait(id, "the offer is committed", is_offered).await.unwrap();
    rig.scheduler.kill9().unwrap();
    rig.broker.own().unwrap().launch().await.unwrap();
    rig.restart_scheduler().await.unwrap();
    let job = rig.succeed(id).await.unwrap();
    assert_eq!(job.tasks[0].attempts, 1);
    let restored = rig.succeed(rig.restore(Rig::recovery_point(&job).unwrap()).await.unwrap()).await.unwrap();
    instance.check(&sim, &restored, &content).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_media_agent_that_is_down_keeps_the_task_waiting_and_nothing_is_lost() {
    let mut rig = Rig::start(RigOptions { n_agents: 1, ..RigOptions::default() }).await.unwrap();
    let sim = rig.sim.context().clone();
    // More than an agent has in memory.
    let instance = TestInstance::place(&sim, "one", 150).unwrap();
    let content = instance.content(&sim).unwrap();
    let id = rig.held_backup(&instance.id).await.unwrap();
    rig.media_agent.kill9().unwrap();
    rig.wait(id, "the attempt fails, to be tried again", is_unavailable).await.unwrap();
    rig.restart_media_agent().unwrap();
    rig.let_go();
    let job = rig.succeed(id).await.unwrap();

    rig.hurt(Rule { skip: 20, ..Rule::new(hang()).on("ebs", "PutSnapshotBlock") });
    let id = rig.restore(Rig::recovery_point(&job).unwrap()).await.unwrap();
    has_met(&rig, 1, "blocks are written").await;
    rig.media_agent.kill9().unwrap();
    rig.let_go();
    rig.wait(id, "the attempt fails, to be tried again", is_unavailable).await.unwrap();
    rig.restart_media_agent().unwrap();
    let restored = rig.succeed(id).await.unwrap();
    instance.check(&sim, &restored, &content).unwrap();
    assert_eq!(rig.count("snapshots"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_compresses_blocks_unless_it_is_told_not_to() {
    let mut rig = Rig::start(RigOptions { n_agents: 1, ..RigOptions::default() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let mut stored = Vec::new();
    for (name, compresses) in [("first", true), ("second", false)] {
        if !compresses {
            let told = |text: &str| text.replace("[agent]\n", "[agent]\ncompress = false\n");
            rig.reconfigure_agent(told).await.unwrap();
        }
        let instance = TestInstance::place(&sim, name, 1).unwrap();
        for n in 0..16 {
            // No block comes twice, and each is easy to compress.
            let block = format!("{name} {n:02} ").repeat(1 << 19);
            sim.store
                .write_volume(&instance.volumes[1], (16 + n) << 19, &block.as_bytes()[..1 << 19])
                .unwrap();
        }
        let content = instance.content(&sim).unwrap();
        let point = rig.backed_up(&instance).await.unwrap();
        let restored = rig.succeed(rig.restore(point).await.unwrap()).await.unwrap();
        instance.check(&sim, &restored, &content).unwrap();
        stored.push(rig.client.recovery_point(point).await.unwrap().summary.stored_bytes);
    }
    // Beside two MiB of noise, which the second has in common with the first.
    assert!(stored[0] < 4 << 20 && stored[1] > 8 << 20, "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_backup_leaves_nothing_behind() {
    let rig = Rig::start(RigOptions::default()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 100).unwrap();
    let id = rig.held_backup(&instance.id).await.unwrap();
    assert_eq!(rig.count("snapshots"), 2, "there is something to clean up");
    rig.client.cancel_job(id).await.unwrap();
    rig.let_go();
    let job = rig.wait(id, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap();
    assert_eq!(job.summary.state.as_str(), "cancelled");
    snapferry_testkit::eventually(Duration::from_secs(30), "nothing is left in AWS", || async {
        rig.count("snapshots") == 0
    })
    .await
    .unwrap();
    assert_eq!(rig.count("volumes"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_restarted_works_at_once() {
    let mut rig = Rig::start(RigOptions { n_agents: 1, ..RigOptions::default() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 5).unwrap();
    rig.restart_agent().await.unwrap();
    let since = std::time::Instant::now();
    rig.succeed(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    // A node that went without a word is waited for, for a minute here.
    assert!(since.elapsed() < Duration::from_secs(40), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_instance_is_named_and_not_retried() {
    let rig = Rig::start(RigOptions { n_agents: 1, ..RigOptions::default() }).await.unwrap();
    let id = rig.back_up(&"i-0123456789abcdef0".parse().unwrap()).await.unwrap();
    let job = rig.wait(id, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap();
    let error = job.tasks[0].error.as_ref().unwrap();
    assert_eq!((error.class.as_str(), job.tasks[0].attempts), ("not_found", 1));
    assert!(error.message.contains("i-0123456789abcdef0"), "{}", error.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_aws_does_not_have_is_named_and_not_retried() {
    let rig = Rig::start(RigOptions { n_agents: 1, ..RigOptions::default() }).await.unwrap();
    let nowhere = "mars-north-1";
    let tenant = rig.tenant_in(nowhere).await.unwrap();
    let listed = rig.client.instances(tenant, &InstanceQuery::default()).await.unwrap_err().to_string();
    let backup = StreamingBackup {
        hypervisor: tenant,
        instances: vec!["i-0123456789abcdef0".parse().unwrap()],
        region: None,
        media_agent: None,
        full: false,
        transport: TransportWish::default(),
        retention: None,
    };
    let job = rig.submit(Work::StreamingBackup(backup)).await.unwrap();
    let (_, task) = rig.fail(job).await.unwrap();
    let error = task.error.unwrap();
    assert_eq!((error.class.as_str(), task.attempts), ("invalid", 1), "{}", error.message);
    for text in [listed, error.message] {
        assert!(
            text.contains("AWS has no region mars-north-1") && text.contains("describe-regions"),
            "{text}"
        );
    }
    rig.left(0, 0).await.unwrap();
}
