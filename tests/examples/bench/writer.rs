//! The two programs that write a raw file into a snapshot.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use awssim::Context;
use snapferry_types::BLOCK_SIZE;

use crate::Bench;
use crate::meter::{self, Cost};
use crate::reader::example;
use crate::setup::{ACCOUNT, Access, REGION};

/// Workers of coldsnap that share a client, in the peer's own advice for many of them.
const WORKERS_OF_A_CLIENT: u32 = 32;
/// coldsnap's own number of workers, all with one client.
const ITS_OWN: u32 = 64;

/// Who writes.
#[derive(Debug, Clone)]
pub(super) enum Writer {
    /// Our example `write_snapshot`, at a rate.
    Ours { requests_per_second: u32 },
    /// coldsnap with so many workers.
    Coldsnap { program: PathBuf, n_workers: u32 },
}

impl Writer {
    /// coldsnap, if it is measured.
    pub(super) fn coldsnap(bench: &Bench, n_workers: u32) -> Option<Self> {
        bench.coldsnap.clone().map(|program| Self::Coldsnap { program, n_workers })
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Ours { .. } => "snapferry".to_owned(),
            Self::Coldsnap { n_workers, .. } => {
                format!("coldsnap, {n_workers} workers, {} clients", clients_of(*n_workers))
            }
        }
    }

    /// Writes `file` into a new snapshot, on the second core.
    pub(super) async fn write(&self, access: &Access, file: &Path) -> Result<Cost> {
        let program = match self {
            Self::Ours { .. } => example("write_snapshot")?,
            Self::Coldsnap { program, .. } => program.clone(),
        };
        let mut command = Command::new("taskset");
        command.args(["-c", "1"]).arg(program);
        match self {
            Self::Ours { requests_per_second } => {
                command.args([ACCOUNT, REGION]).arg(file).arg(requests_per_second.to_string());
            }
            Self::Coldsnap { n_workers, .. } => {
                command.args(["--endpoint", &access.endpoint, "upload"]).arg(file).arg("--no-progress");
                command.args(["--workers", &n_workers.to_string()]);
                command.args(["--client-shards", &clients_of(*n_workers).to_string()]);
            }
        }
        access.tell(&mut command);
        meter::run(command, &file.with_extension("log")).await
    }
}

fn clients_of(n_workers: u32) -> u32 {
    if n_workers <= ITS_OWN { 1 } else { n_workers / WORKERS_OF_A_CLIENT }
}

/// The one snapshot of the account that the store has.
pub(super) fn written(sim: &Context) -> Result<String> {
    let inventory = sim.world.inventory(Some(ACCOUNT));
    let mut ids = inventory.get("snapshots").into_iter().flatten().filter(|id| sim.store.has_snapshot(id));
    let id = ids.next().context("nothing was written")?;
    ensure!(ids.next().is_none(), "more than one snapshot was written");
    Ok(id.clone())
}

/// Where a completed snapshot and a raw file have to be equal.
pub(super) fn ensure_equal(sim: &Context, snapshot: &str, file: &Path) -> Result<()> {
    use std::io::Read as _;
    let mut opened = std::fs::File::open(file)?;
    let n_blocks = u32::try_from(opened.metadata()?.len() / BLOCK_SIZE as u64)?;
    let (mut block, zeroes) = (vec![0; BLOCK_SIZE], vec![0; BLOCK_SIZE]);
    for index in 0..n_blocks {
        opened.read_exact(&mut block)?;
        let found = sim.store.read_block(snapshot, index)?;
        let is_equal = match &found {
            Some((data, _)) => data[..] == block[..],
            None => block == zeroes,
        };
        ensure!(is_equal, "block {index} of {snapshot} differs from {}", file.display());
    }
    Ok(())
}
