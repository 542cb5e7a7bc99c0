//! A raw file into a snapshot: at AWS's default quota with latency and errors, then as fast as it goes.

use std::path::Path;

use anyhow::Result;
use awssim::faults::{Effect, Latency, Quotas, Rule};

use crate::meter::{self, Cost, Spread};
use crate::setup::Sim;
use crate::writer::{Writer, ensure_equal, written};
use crate::{Bench, data, say};

const PUT: &str = "PutSnapshotBlock";
/// Sizes of the files, which lie in memory, as what the simulator stores.
const QUOTA_GIB: u64 = 6;
const SPEED_GIB: u64 = 4;
/// Latency in ms, and the numbers of workers that are tried for the peer.
const LATENCIES: [(f64, [u32; 2]); 3] = [(20.0, [24, 64]), (60.0, [64, 96]), (150.0, [160, 256])];
/// A rate that this machine does not reach.
const NO_LIMIT: u32 = 5_000;

pub(super) async fn run(bench: &Bench) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("snapferry-bench-").tempdir_in("/dev/shm")?;
    let sim = Sim::start(dir.path()).await?;
    let file = dir.path().join("volume.img");
    // Most are zeroes, so that the rate is what is measured.
    data::raw_file(&file, bench.gib.unwrap_or(QUOTA_GIB), 1, |index| index % 10 == 4)?;
    at_the_quota(bench, &sim, &file).await?;
    data::raw_file(&file, bench.gib.unwrap_or(SPEED_GIB), 2, |_| true)?;
    as_fast_as_it_goes(bench, &sim, &file).await
}

async fn at_the_quota(bench: &Bench, sim: &Sim, file: &Path) -> Result<()> {
    let faults = &sim.running.context().faults;
    faults.set_quotas(Quotas::default());
    let failure = Effect::Error {
        status: 500,
        code: "InternalServerException".to_owned(),
        message: None,
        reason: None,
    };
    println!("| latency, ms | writer | puts answered a second | throttled | failed puts met | outcome |");
    println!("|---|---|---|---|---|---|");
    for (latency, their_workers) in LATENCIES {
        let ours = Some(Writer::Ours { requests_per_second: 990 });
        let theirs = their_workers.map(|n_workers| Writer::coldsnap(bench, n_workers));
        for writer in std::iter::once(ours).chain(theirs).flatten() {
            say(&format!("put, {latency} ms: {}", writer.name()));
            faults.set_latency(vec![Latency::of("ebs", latency)]);
            let rule = Rule { action: Some(PUT.to_owned()), probability: 0.01, ..Rule::new(failure.clone()) };
            faults.set_rules(vec![rule]);
            faults.clear_counters();
            let (run, rate) = meter::steady_rate(faults, PUT, writer.write(&sim.access, file)).await;
            let counters = faults.counters();
            faults.set_rules(Vec::new());
            let (rate, outcome) = match &run {
                Ok(_) => (format!("{rate:.0}"), compare(sim, file)?),
                Err(error) => {
                    let text = format!("{error:#}");
                    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
                    ("–".to_owned(), format!("failed: {}", last.chars().take(120).collect::<String>()))
                }
            };
            let (calls, throttled) = (counters.calls_of("ebs", PUT), counters.throttled_of("ebs", PUT));
            let share = 100.0 * throttled as f64 / calls.max(1) as f64;
            let met = counters.faults_of("error");
            println!("| {latency} | {} | {rate} | {share:.2} % | {met} | {outcome} |", writer.name());
            forget(sim)?;
        }
    }
    faults.clear();
    Ok(())
}

async fn as_fast_as_it_goes(bench: &Bench, sim: &Sim, file: &Path) -> Result<()> {
    sim.running.context().faults.set_quotas(Quotas::off());
    let ours = Some(Writer::Ours { requests_per_second: NO_LIMIT });
    let theirs = [64, 256].map(|n_workers| Writer::coldsnap(bench, n_workers));
    let writers: Vec<Writer> = std::iter::once(ours).chain(theirs).flatten().collect();
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); writers.len()];
    for round in 0..bench.rounds {
        for (writer, costs) in writers.iter().zip(&mut costs) {
            say(&format!("put, round {}: {}", round + 1, writer.name()));
            costs.push(writer.write(&sim.access, file).await?);
            compare(sim, file)?;
            forget(sim)?;
        }
    }
    println!("\n| writer | wall, s | CPU, s | peak RSS, MiB |\n|---|---|---|---|");
    let mut ours = None;
    for (writer, costs) in writers.iter().zip(&costs) {
        let wall = Spread::of(costs.iter().map(|cost| cost.wall_s));
        let cpu = Spread::of(costs.iter().map(|cost| cost.cpu_s));
        let peak = Spread::of(costs.iter().map(|cost| cost.peak_mib));
        println!("| {} | {wall} | {cpu} | {peak} |", writer.name());
        match ours {
            None => ours = Some((wall.median, cpu.median)),
            Some((our_wall, our_cpu)) => {
                println!("| ratio to it | {:.2} | {:.2} | |", our_wall / wall.median, our_cpu / cpu.median);
            }
        }
    }
    Ok(())
}

/// Compares what was written with the file.
fn compare(sim: &Sim, file: &Path) -> Result<String> {
    let context = sim.running.context();
    ensure_equal(context, &written(context)?, file)?;
    Ok("done, equal".to_owned())
}

/// Gives back the memory of what was written, whole or not.
fn forget(sim: &Sim) -> Result<()> {
    let context = sim.running.context();
    let Ok(snapshot) = written(context) else { return Ok(()) };
    Ok(context.store.delete_snapshot(&snapshot)?)
}
