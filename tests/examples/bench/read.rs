//! A snapshot into a raw file, as fast as it goes.

use anyhow::Result;
use awssim::faults::Quotas;

use crate::meter::Spread;
use crate::reader::{Reader, ensure_equal};
use crate::setup::Sim;
use crate::{Bench, data, say};

const SIZE_GIB: u64 = 8;
/// A rate that this machine does not reach; what is in flight follows from it, so it is not absurdly high.
const NO_LIMIT: u32 = 5_000;

pub(super) async fn run(bench: &Bench) -> Result<()> {
    let dir = tempfile::tempdir()?;
    // Files in memory: the readers are measured, not the disk.
    let out = tempfile::Builder::new().prefix("snapferry-bench-").tempdir_in("/dev/shm")?;
    let sim = Sim::start(dir.path()).await?;
    sim.running.context().faults.set_quotas(Quotas::off());
    sim.synthetic("snap-0000000000000001a", &data::mixture(SIZE_GIB))?;
    let readers: Vec<Reader> =
        [Some(Reader::Ours { requests_per_second: NO_LIMIT }), Reader::coldsnap(bench, 64)]
            .into_iter()
            .flatten()
            .collect();
    let mut costs = vec![Vec::new(); readers.len()];
    for round in 0..bench.rounds {
        let mut first = None;
        for (reader, costs) in readers.iter().zip(&mut costs) {
            say(&format!("read, round {}: {}", round + 1, reader.name()));
            let file = out.path().join(format!("{}.img", costs.len() * 2 + usize::from(first.is_some())));
            costs.push(reader.read(&sim.access, "snap-0000000000000001a", &file, true).await?);
            match &first {
                None => first = Some(file),
                Some(first) => {
                    ensure_equal(first, &file)?;
                    std::fs::remove_file(file)?;
                }
            }
        }
        if let Some(first) = first {
            std::fs::remove_file(first)?;
        }
    }
    println!("| reader | wall, s | CPU, s | peak RSS, MiB |\n|---|---|---|---|");
    let mut medians = Vec::new();
    for (reader, costs) in readers.iter().zip(&costs) {
        let wall = Spread::of(costs.iter().map(|cost| cost.wall_s));
        let cpu = Spread::of(costs.iter().map(|cost| cost.cpu_s));
        let peak = Spread::of(costs.iter().map(|cost| cost.peak_mib));
        println!("| {} | {wall} | {cpu} | {peak} |", reader.name());
        medians.push((wall.median, cpu.median));
    }
    if let [(wall, cpu), (their_wall, their_cpu)] = medians.as_slice() {
        println!("| ratio | {:.2} | {:.2} | |", wall / their_wall, cpu / their_cpu);
    }
    Ok(())
}
