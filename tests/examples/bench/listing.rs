//! Memory for the largest volume that EBS has: 16 TiB, 33,554,432 blocks.

use std::process::Command;

use anyhow::Result;
use awssim::faults::Quotas;
use awssim::store::SyntheticSpec;

use crate::reader::example;
use crate::setup::{ACCOUNT, REGION, Sim};
use crate::{data, meter, say};

const SIZE_GIB: u64 = 16_384;
const SNAPSHOT: &str = "snap-0000000000000003a";

pub(super) async fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sim = Sim::start(dir.path()).await?;
    sim.running.context().faults.set_quotas(Quotas::off());
    let spec = SyntheticSpec {
        fraction_hole: 0.0,
        fraction_zero: 1.0,
        fraction_duplicate: 0.0,
        fraction_compressible: 0.0,
        fraction_random: 0.0,
        ..data::mixture(SIZE_GIB)
    };
    sim.synthetic(SNAPSHOT, &spec)?;
    println!("| what | blocks | wall, s | CPU, s | peak RSS, MiB |\n|---|---|---|---|---|");
    say("listing 33 million blocks");
    let mut list = Command::new(example("list_snapshot")?);
    list.args([ACCOUNT, REGION, SNAPSHOT]);
    sim.access.tell(&mut list);
    let n_blocks = SIZE_GIB * 2_048;
    for (what, command) in
        [("listing over the wire", list), ("backup pipeline, blocks of zeroes", pipeline(n_blocks)?)]
    {
        let cost = meter::run(command, &dir.path().join("listing.log")).await?;
        println!("| {what} | {n_blocks} | {:.1} | {:.1} | {:.0} |", cost.wall_s, cost.cpu_s, cost.peak_mib);
    }
    Ok(())
}

fn pipeline(n_blocks: u64) -> Result<Command> {
    let mut command = Command::new(example("throughput")?);
    command.arg(n_blocks.to_string());
    Ok(command)
}
