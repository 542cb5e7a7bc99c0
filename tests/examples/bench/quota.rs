//! Reading at AWS's default quota, with latency and errors.

use anyhow::Result;
use awssim::faults::{Effect, Latency, Quotas, Rule};
use awssim::store::SyntheticSpec;

use crate::meter;
use crate::reader::Reader;
use crate::setup::Sim;
use crate::{Bench, data, say};

const SIZE_GIB: u64 = 16;
const SNAPSHOT: &str = "snap-0000000000000002a";
const GET: &str = "GetSnapshotBlock";
/// Latency in ms, and the numbers of workers that are tried for the peer: what the quota needs, and its default.
const LATENCIES: [(f64, [u32; 2]); 5] =
    [(20.0, [24, 64]), (60.0, [64, 96]), (100.0, [64, 128]), (120.0, [128, 192]), (150.0, [160, 256])];

pub(super) async fn run(bench: &Bench) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let out = tempfile::Builder::new().prefix("snapferry-bench-").tempdir_in("/dev/shm")?;
    let sim = Sim::start(dir.path()).await?;
    let faults = &sim.running.context().faults;
    faults.set_quotas(Quotas::default());
    // Every block is written; most are zeroes, so that the rate is what is measured.
    let mostly_zero = SyntheticSpec {
        fraction_hole: 0.0,
        fraction_zero: 0.9,
        fraction_random: 0.1,
        ..data::mixture(SIZE_GIB)
    };
    let spec = SyntheticSpec { fraction_duplicate: 0.0, fraction_compressible: 0.0, ..mostly_zero };
    sim.synthetic(SNAPSHOT, &spec)?;
    let failure = Effect::Error {
        status: 500,
        code: "InternalServerException".to_owned(),
        message: None,
        reason: None,
    };
    println!(
        "| latency, ms | reader | answered a second | in the whole run | throttled | failed calls met | peak RSS, MiB | outcome |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (latency, their_workers) in LATENCIES {
        let ours = Some(Reader::Ours { requests_per_second: 990 });
        let theirs = their_workers.map(|n_workers| Reader::coldsnap(bench, n_workers));
        for reader in std::iter::once(ours).chain(theirs).flatten() {
            say(&format!("quota, {latency} ms: {}", reader.name()));
            faults.set_latency(vec![Latency::of("ebs", latency)]);
            let rule = Rule { action: Some(GET.to_owned()), probability: 0.01, ..Rule::new(failure.clone()) };
            faults.set_rules(vec![rule]);
            faults.clear_counters();
            let file = out.path().join("volume.img");
            let read = reader.read(&sim.access, SNAPSHOT, &file, true);
            let (run, steady) = meter::steady_rate(faults, GET, read).await;
            let counters = faults.counters();
            let calls = counters.calls_of("ebs", GET);
            let throttled = counters.throttled_of("ebs", GET);
            let (rates, peak, outcome) = match &run {
                Ok(cost) => {
                    let whole = (calls - throttled) as f64 / cost.wall_s;
                    (format!("{steady:.0} | {whole:.0}"), format!("{:.0}", cost.peak_mib), "done".to_owned())
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
                    let outcome = format!("failed: {}", last.chars().take(120).collect::<String>());
                    ("– | –".to_owned(), "–".to_owned(), outcome)
                }
            };
            let share = 100.0 * throttled as f64 / calls.max(1) as f64;
            let met = counters.faults_of("error");
            println!(
                "| {latency} | {} | {rates} | {share:.2} % | {met} | {peak} | {outcome} |",
                reader.name()
            );
        }
    }
    Ok(())
}
