//! A restore by EBS direct through all processes at AWS's default quota; then others that are killed in the middle, and
//! what the next attempt puts once more.

use anyhow::{Context as _, Result, ensure};
use awssim::faults::{Latency, Quotas};
use snapferry_tests::{Rig, RigOptions, TestInstance};
use snapferry_types::LEAF_BLOCKS;

use crate::backup::finish;
use crate::meter;
use crate::setup::{ACCOUNT, REGION};
use crate::{Bench, data, say};

const PUT: &str = "PutSnapshotBlock";
const SIZE_GIB: u64 = 8;
/// Latencies in ms of restores that nobody disturbs; those that are killed have the last.
const LATENCIES: [f64; 3] = [20.0, 60.0, 150.0];

pub(super) async fn run(bench: &Bench) -> Result<()> {
    let mut rig = Rig::start(RigOptions { lease_ms: 10_000, n_agents: 1, ..RigOptions::default() }).await?;
    let sim = rig.sim.context().clone();
    sim.faults.set_quotas(Quotas::off());
    let size_gib = bench.gib.unwrap_or(SIZE_GIB);
    let placed = sim.place_instance(ACCOUNT, REGION, "bench", None, &[size_gib])?;
    let volume = placed.volumes.first().context("a volume")?.clone();
    let n_written = data::fill(&sim, &volume, 1, |_| true)?;
    let instance = TestInstance::of(&sim, placed)?;
    let content = instance.content(&sim)?;
    say("resume: backup");
    let backup = finish(&rig, rig.back_up(&instance.id).await?).await?;
    let recovery_point = Rig::recovery_point(&backup)?;
    sim.faults.set_quotas(Quotas::default());

    println!(
        "| restore of {n_written} blocks | puts answered a second | throttled | blocks put twice | pages |"
    );
    println!("|---|---|---|---|---|");
    let kills = (1..=bench.rounds as u64).map(|n| Some(n * n_written / (bench.rounds as u64 + 1)));
    let undisturbed = LATENCIES.map(|latency| (latency, None));
    let last = LATENCIES.last().copied().unwrap_or_default();
    for (latency, kill_at) in undisturbed.into_iter().chain(kills.map(|kill_at| (last, kill_at))) {
        let put = Latency { action: Some(PUT.to_owned()), ..Latency::of("ebs", latency) };
        sim.faults.set_latency(vec![put]);
        sim.faults.clear_counters();
        let before = sim.store.stats().n_repeated_puts;
        let what = match kill_at {
            None => format!("{latency} ms, undisturbed"),
            Some(kill_at) => format!("{latency} ms, killed after {kill_at} puts"),
        };
        say(&format!("resume: {what}"));
        let id = rig.restore(recovery_point).await?;
        if let Some(kill_at) = kill_at {
            kill(&mut rig, kill_at, n_written).await?;
        }
        let (job, rate) = meter::steady_rate(&sim.faults, PUT, finish(&rig, id)).await;
        let job = job?;
        let attempts = job.tasks.first().context("a task")?.attempts;
        ensure!(attempts == 1 + u32::from(kill_at.is_some()), "{attempts} attempts");
        instance.check(&sim, &job, &content)?;
        // Each is as large as the first: all of them would not fit on a usual disk.
        for made in job.tasks.iter().flat_map(|task| &task.made).filter(|made| made.kind == "volume") {
            sim.store.delete_volume(&made.id)?;
        }
        let counters = sim.faults.counters();
        let (calls, throttled) = (counters.calls_of("ebs", PUT), counters.throttled_of("ebs", PUT));
        let share = 100.0 * throttled as f64 / calls.max(1) as f64;
        let n_twice = sim.store.stats().n_repeated_puts - before;
        let pages = n_twice as f64 / f64::from(LEAF_BLOCKS);
        // A rate over a pause would say nothing.
        let rate = if kill_at.is_none() { format!("{rate:.0}") } else { "–".to_owned() };
        println!("| {what} | {rate} | {share:.2} % | {n_twice} | {pages:.2} |");
    }
    Ok(())
}

/// Kills the agent that writes once so many blocks were put, and starts another.
async fn kill(rig: &mut Rig, kill_at: u64, n_written: u64) -> Result<()> {
    snapferry_testkit::eventually(crate::backup::BOUND, "enough is put", || async {
        rig.calls("ebs", PUT) >= kill_at
    })
    .await?;
    rig.agents.last_mut().context("an agent")?.kill9()?;
    let n_put = rig.calls("ebs", PUT);
    ensure!(n_put < n_written, "the kill came when all {n_put} blocks were put");
    rig.add_agent()
}
