//! An incremental takes what changed, whatever the size of the volume.

use std::time::Instant;

use anyhow::{Context as _, Result};
use snapferry_tests::Rig;
use snapferry_types::InstanceId;

use crate::backup::{finish, start};
use crate::meter::peak_of;
use crate::setup::{ACCOUNT, REGION};
use crate::{data, say};

/// Sizes in GiB, and which eighth of the blocks is written: beyond 8 GiB the rest are holes.
const SIZES: [(u64, u64); 3] = [(1, 8), (8, 8), (64, 1)];
const CONSTANT: u64 = 16;

pub(super) async fn run() -> Result<()> {
    println!(
        "| volume | changed | calls of all kinds | blocks read | listings | read, MiB | sent, MiB | wall, s | agent's peak RSS, MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (size_gib, eighths) in SIZES {
        let rig = start().await?;
        let sim = rig.sim.context().clone();
        let placed = sim.place_instance(ACCOUNT, REGION, "bench", None, &[size_gib])?;
        let volume = placed.volumes.first().context("a volume")?.clone();
        let instance: InstanceId = placed.instance.parse()?;
        say(&format!("{size_gib} GiB: first backup"));
        let n_written = data::fill(&sim, &volume, size_gib, |index| index / 1_024 % 8 < eighths)?;
        measure(&rig, &instance, size_gib, &format!("first, {n_written} blocks written")).await?;
        let n_blocks = size_gib * 2_048;
        let share = n_blocks.div_ceil(1_000);
        for (seed, what, n_changed) in
            [(11, format!("0.1 %: {share} blocks"), share), (12, format!("{CONSTANT} blocks"), CONSTANT)]
        {
            let blocks: Vec<u64> = (0..n_changed).map(|n| n * n_blocks / n_changed).collect();
            data::change(&sim, &volume, seed, &blocks)?;
            say(&format!("{size_gib} GiB: {what}"));
            measure(&rig, &instance, size_gib, &what).await?;
        }
    }
    Ok(())
}

async fn measure(rig: &Rig, instance: &InstanceId, size_gib: u64, what: &str) -> Result<()> {
    let faults = &rig.sim.context().faults;
    faults.clear_counters();
    let started = Instant::now();
    let job = finish(rig, rig.back_up(instance).await?).await?;
    let wall_s = started.elapsed().as_secs_f64();
    let counters = faults.counters();
    let calls: u64 = counters.calls.iter().map(|count| count.calls).sum();
    let listings =
        counters.calls_of("ebs", "ListSnapshotBlocks") + counters.calls_of("ebs", "ListChangedBlocks");
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let progress = &job.tasks.first().context("a task")?.progress;
    println!(
        "| {size_gib} GiB | {what} | {calls} | {} | {listings} | {:.1} | {:.1} | {wall_s:.1} | {:.0} |",
        counters.calls_of("ebs", "GetSnapshotBlock"),
        mib(progress.bytes_read),
        mib(progress.bytes_sent),
        peak_of(rig.agents.first().context("an agent")?.id()).context("the agent's memory")?,
    );
    Ok(())
}
