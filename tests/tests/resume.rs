//! A restore by EBS direct that is killed goes on where it was, and puts no more than a page of blocks twice, of all its
//! volumes together. Separate processes, a real RabbitMQ.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use awssim::faults::Latency;
use snapferry_api::job::Job;
use snapferry_testkit::eventually;
use snapferry_tests::{ACCOUNT, CommandLine, REGION, Rig, RigOptions, TestInstance, write_data};
use snapferry_types::{BLOCK_SIZE, LEAF_BLOCKS};

const MIB: u64 = 1 << 20;
/// Pages of each volume that are written, of each so many MiB of data and then of zeroes: two blocks a MiB.
const PAGES: u64 = 3;
const DATA_MIB: u64 = 20;
const ZERO_MIB: u64 = 200;
const PAGE_MIB: u64 = 512;
/// A kill with fewer blocks put could not put more than a page twice.
const PUT_AT_KILL: u64 = 1_500;

/// An agent that is killed tells no more, but what it told until then is in the job's history.
async fn what_the_killed_attempt_told_is_shown(rig: &Rig, job: &Job) {
    let lost = &job.tasks[0].history[0];
    assert_eq!(lost.outcome, "lost");
    let phases: Vec<&str> = lost.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(phases, ["start", "plan", "write"]);
    assert!(lost.phases[2].took_ms > 0, "{:?}", lost.phases);
    assert!(lost.log_excerpt.contains("phase=write"), "the log says nothing of it: {}", lost.log_excerpt);
    let command = CommandLine { server: rig.api_url(), token: None };
    let shown = command.succeed(&["job", "show", &job.summary.id.to_string()]).await.unwrap();
    let node = lost.access_node.unwrap();
    let line = shown.lines().find(|line| line.contains(&format!("attempt 1 on {node} lost at")));
    assert!(line.is_some_and(|line| line.contains("plan") && line.contains("write")), "{shown}");
    let first = lost.log_excerpt.lines().next().unwrap();
    assert!(shown.contains(&format!("    | {first}")), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_restore_puts_no_more_than_a_page_of_blocks_twice() {
    let mut rig = Rig::start(RigOptions { n_agents: 1, ..RigOptions::default() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let placed = sim.place_instance(ACCOUNT, REGION, "one", None, &[2, 2]).unwrap();
    for (volume, page) in placed.volumes.iter().flat_map(|volume| (0..PAGES).map(move |page| (volume, page)))
    {
        let offset = page * PAGE_MIB;
        write_data(&sim, volume, offset, DATA_MIB, page + 1).unwrap();
        for n in 0..ZERO_MIB {
            sim.store.write_volume(volume, (offset + 100 + n) * MIB, &vec![0; 2 * BLOCK_SIZE]).unwrap();
        }
    }
    let n_written = 2 * PAGES * (DATA_MIB + ZERO_MIB) * 2;
    let instance = TestInstance::of(&sim, placed).unwrap();
    let content = instance.content(&sim).unwrap();
    let backup = rig.succeed(rig.back_up(&instance.id).await.unwrap()).await.unwrap();

    let slow = Latency { action: Some("PutSnapshotBlock".to_owned()), ..Latency::of("ebs", 60.0) };
    sim.faults.set_latency(vec![slow]);
    let restore = rig.restore(Rig::recovery_point(&backup).unwrap()).await.unwrap();
    eventually(Duration::from_secs(60), "much is written", || async {
        rig.calls("ebs", "PutSnapshotBlock") >= PUT_AT_KILL
    })
    .await
    .unwrap();
    rig.wait(restore, "it is told of", |job| job.tasks[0].progress.phase == "write").await.unwrap();
    rig.agents[0].kill9().unwrap();
    let put_at_kill = rig.calls("ebs", "PutSnapshotBlock");
    assert!(put_at_kill < n_written, "the kill came when all {put_at_kill} blocks were put");
    assert_eq!(sim.store.stats().n_repeated_puts, 0);
    rig.add_agent().unwrap();
    let restored = rig.succeed(restore).await.unwrap();
    assert_eq!(restored.tasks[0].attempts, 2, "the first attempt was not interrupted");
    what_the_killed_attempt_told_is_shown(&rig, &restored).await;

    let n_twice = sim.store.stats().n_repeated_puts;
    assert!(n_twice > 0, "the next attempt cannot know which of the last blocks arrived");
    assert!(n_twice <= u64::from(LEAF_BLOCKS), "{n_twice} of {n_written} blocks were put twice");
    assert_eq!(rig.calls("ebs", "StartSnapshot"), 2, "the next attempt began another snapshot");
    instance.check(&sim, &restored, &content).unwrap();
    rig.left(2, 4).await.unwrap();
}
