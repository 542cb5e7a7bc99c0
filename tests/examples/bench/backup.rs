//! A full streaming backup through scheduler, RabbitMQ, agent and MediaAgent, each a process of its own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use awssim::faults::Quotas;
use snapferry_api::job::{Job, JobState};
use snapferry_tests::{Rig, RigOptions};
use snapferry_types::JobId;

use crate::meter::{Spread, peak_of, stat_of};
use crate::reader::Reader;
use crate::setup::{ACCOUNT, Access, REGION};
use crate::{Bench, data, say};

const SIZE_GIB: u64 = 8;
/// Nothing here takes longer unless it is broken.
pub(super) const BOUND: Duration = Duration::from_secs(1_200);

/// What one round showed.
struct Round {
    wall_s: f64,
    /// Without the phase in which the simulator copies the volume for its snapshot: the peer is given a snapshot.
    without_snapshot_s: f64,
    agent_cpu_s: f64,
    media_agent_cpu_s: f64,
    agent_peak_mib: f64,
    media_agent_peak_mib: f64,
    scheduler_peak_mib: f64,
    scheduler_idle_mib: f64,
    coldsnap_wall_s: Option<f64>,
    coldsnap_cpu_s: Option<f64>,
    bytes_stored: u64,
}

pub(super) async fn run(bench: &Bench) -> Result<()> {
    let mut rounds = Vec::new();
    for round in 0..bench.rounds {
        say(&format!("full backup, round {}", round + 1));
        rounds.push(one_round(bench).await?);
    }
    let spread = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of));
    println!("| what | wall, s | CPU, s | peak RSS, MiB |\n|---|---|---|---|");
    println!("| full backup: the whole job | {} | | |", spread(|r| r.wall_s));
    println!(
        "| from the complete snapshot on; agent of the whole job | {} | {} | {} |",
        spread(|r| r.without_snapshot_s),
        spread(|r| r.agent_cpu_s),
        spread(|r| r.agent_peak_mib)
    );
    println!(
        "| full backup: MediaAgent | | {} | {} |",
        spread(|r| r.media_agent_cpu_s),
        spread(|r| r.media_agent_peak_mib)
    );
    println!(
        "| scheduler, idle, then with the job | | | {}, {} |",
        spread(|r| r.scheduler_idle_mib),
        spread(|r| r.scheduler_peak_mib)
    );
    let theirs = Spread::of(rounds.iter().filter_map(|round| round.coldsnap_wall_s));
    if !theirs.median.is_nan() {
        let cpu = Spread::of(rounds.iter().filter_map(|round| round.coldsnap_cpu_s));
        println!("| coldsnap download, 64 workers, same snapshot | {theirs} | {cpu} | |");
        println!("| ratio of wall | {:.2} | | |", spread(|r| r.without_snapshot_s).median / theirs.median);
    }
    let stored = rounds.first().map_or(0, |round| round.bytes_stored);
    println!("\nstored in the library: {:.2} GiB of {SIZE_GIB}", stored as f64 / f64::from(1 << 30));
    Ok(())
}

async fn one_round(bench: &Bench) -> Result<Round> {
    let rig = start().await?;
    let sim = rig.sim.context().clone();
    let scheduler_idle_mib = peak_of(rig.scheduler.id()).context("the scheduler's memory")?;
    let placed = sim.place_instance(ACCOUNT, REGION, "bench", None, &[SIZE_GIB])?;
    let volume = placed.volumes.first().context("a volume")?.clone();
    data::fill(&sim, &volume, 1, |_| true)?;
    let agent = rig.agents.first().context("an agent")?.id();
    let media_agent = rig.media_agent.id();
    let before = (cpu(agent)?, cpu(media_agent)?);
    let started = Instant::now();
    let id = rig.back_up(&placed.instance.parse()?).await?;
    let job = finish(&rig, id).await?;
    let wall_s = started.elapsed().as_secs_f64();
    let after = (cpu(agent)?, cpu(media_agent)?);
    let phases = job.tasks.iter().flat_map(|task| &task.history).flat_map(|attempt| &attempt.phases);
    let snapshot_ms: u64 = phases.filter(|phase| phase.name == "snapshot").map(|phase| phase.took_ms).sum();
    ensure!(snapshot_ms > 0, "the job names no snapshot phase: {job:#?}");
    let bytes_stored = job.tasks.iter().map(|task| task.progress.bytes_sent).sum();

    let (mut coldsnap_wall_s, mut coldsnap_cpu_s) = (None, None);
    if let Some(reader) = Reader::coldsnap(bench, 64) {
        let inventory = sim.world.inventory(Some(ACCOUNT));
        let snapshot =
            inventory.get("snapshots").and_then(|ids| ids.first()).context("the base snapshot")?.clone();
        let out = tempfile::tempdir()?;
        say("coldsnap, the same snapshot");
        let cost =
            reader.read(&Access::new(&rig.sim), &snapshot, &out.path().join("volume.img"), false).await?;
        (coldsnap_wall_s, coldsnap_cpu_s) = (Some(cost.wall_s), Some(cost.cpu_s));
    }
    Ok(Round {
        wall_s,
        without_snapshot_s: wall_s - snapshot_ms as f64 / 1_000.0,
        agent_cpu_s: after.0 - before.0,
        media_agent_cpu_s: after.1 - before.1,
        agent_peak_mib: peak_of(agent).context("the agent's memory")?,
        media_agent_peak_mib: peak_of(media_agent).context("the MediaAgent's memory")?,
        scheduler_peak_mib: peak_of(rig.scheduler.id()).context("the scheduler's memory")?,
        scheduler_idle_mib,
        coldsnap_wall_s,
        coldsnap_cpu_s,
        bytes_stored,
    })
}

/// All processes, one agent, quotas out of the way on both sides.
pub(super) async fn start() -> Result<Rig> {
    let rig = Rig::start(RigOptions { lease_ms: 90_000, n_agents: 1, ..RigOptions::default() }).await?;
    rig.sim.context().faults.set_quotas(Quotas::off());
    Ok(rig)
}

/// Waits for a job's good end.
pub(super) async fn finish(rig: &Rig, id: JobId) -> Result<Job> {
    let started = Instant::now();
    loop {
        let job = rig.client.job(id).await?;
        if job.summary.state.is_terminal() {
            ensure!(job.summary.state == JobState::Succeeded, "the job did not succeed: {job:#?}");
            return Ok(job);
        }
        ensure!(started.elapsed() < BOUND, "the job takes more than {BOUND:?}: {job:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn cpu(id: u32) -> Result<f64> {
    Ok(stat_of(id).context("read /proc")?.1)
}
