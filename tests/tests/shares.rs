//! A share that two tasks need: the one that ends first leaves it to the other.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use awssim::faults::Quotas;
use snapferry_api::hypervisor::ReadAs;
use snapferry_api::job::{Job, JobState};
use snapferry_api::ledger::LedgerQuery;
use snapferry_testkit::eventually;
use snapferry_tests::{Rig, RigOptions, TestInstance};
use snapferry_types::ledger::ObjectKind;
use snapferry_types::{TaskId, TaskState};

const BOUND: Duration = Duration::from_secs(60);

/// How many shares of a task are open in the ledger.
async fn open_shares(rig: &Rig, task: TaskId) -> usize {
    let lines = rig.client.ledger(&LedgerQuery::default()).await.unwrap().items;
    let is_one =
        |entry: &&snapferry_types::ledger::LedgerEntry| entry.task == task && entry.kind == ObjectKind::Share;
    lines.iter().map(|line| &line.entry).filter(is_one).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_task_had_shared_stays_for_the_next_one_that_reads_it() {
    let options = RigOptions { read_as: ReadAs::Service, reaper_delay_ms: 16_000, ..RigOptions::default() };
    let mut rig = Rig::start(options).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 20).unwrap();
    let content = instance.content(&sim).unwrap();
    let snapped = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
    let point = Rig::recovery_point(&snapped).unwrap();

    // The first copy is killed and cancelled while it reads; the reaper has not come to its shares yet.
    sim.faults.set_quotas(Quotas { get_per_account: 2.0, ..Quotas::default() });
    let first = rig.copy(point).await.unwrap();
    let reads = |job: &Job| job.tasks[0].state == TaskState::Running && job.tasks[0].progress.phase == "read";
    let running = rig.wait(first, "the first copy reads", reads).await.unwrap();
    let index = rig.agent_of(running.tasks[0].access_node.unwrap()).await.unwrap();
    rig.agents[index].kill9().unwrap();
    rig.client.cancel_job(first).await.unwrap();
    let is_cancelled = |job: &Job| job.summary.state == JobState::Cancelled;
    let first = rig.wait(first, "the first copy is cancelled", is_cancelled).await.unwrap().tasks[0].id;
    assert_eq!(open_shares(&rig, first).await, 2);

    let job = rig.copy(point).await.unwrap();
    let second = rig.wait(job, "the second copy reads", reads).await.unwrap().tasks[0].id;
    assert_eq!((open_shares(&rig, first).await, open_shares(&rig, second).await), (2, 2));
    eventually(BOUND, "the reaper comes to the first one's shares", || async {
        open_shares(&rig, first).await == 0
    })
    .await
    .unwrap();
    assert!(reads(&rig.client.job(job).await.unwrap()), "the second copy had ended before");
    rig.shared_with(1).await.unwrap();
    // Shared for each of them, and not taken back once.
    assert_eq!(rig.calls("ec2", "ModifySnapshotAttribute"), 4);

    sim.faults.set_quotas(Quotas::default());
    let done = rig.succeed(job).await.unwrap();
    assert_eq!(done.tasks[0].attempts, 1, "{done:#?}");
    rig.shared_with(0).await.unwrap();
    assert_eq!(rig.calls("ec2", "ModifySnapshotAttribute"), 6);
    let restored = rig.restore_copy(Rig::recovery_point(&done).unwrap()).await.unwrap();
    instance.check(&sim, &restored, &content).unwrap();
}
