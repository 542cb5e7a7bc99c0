//! The figures of docs/performance.md, one part a run: `cargo xtask bench` builds and pins them.
//!
//! | part | what is measured |
//! |---|---|
//! | `read` | a snapshot read into a raw file, without latency and quotas, beside coldsnap |
//! | `quota` | the same at a quota of 1,000 requests a second, with latencies and 1 % errors |
//! | `put` | a raw file written into a snapshot: at the quota, and as fast as it goes, beside coldsnap |
//! | `hotadd` | a block device read and written, beside `dd`; a used device that is restored onto |
//! | `resume` | a restore at the quota, and blocks that are put twice when it is killed |
//! | `backup` | a full streaming backup of 8 GiB through all processes, beside coldsnap's plain download |
//! | `listing` | memory for 33 million blocks |
//! | `incremental` | calls and bytes of an incremental at 1, 8 and 64 GiB |
//!
//! AWS is the simulator, in this process; everything that is measured is a process of its own. Tables go to
//! standard output as Markdown, progress to standard error.

#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod backup;
mod data;
mod hotadd;
mod incremental;
mod listing;
mod meter;
mod put;
mod quota;
mod read;
mod reader;
mod resume;
mod setup;
mod writer;

use std::path::PathBuf;

use anyhow::{Result, bail};

/// What every part is given.
struct Bench {
    /// The peer's program, if it shall be measured.
    coldsnap: Option<PathBuf>,
    /// Rounds of each measurement.
    rounds: usize,
    /// Size of the volumes of `put`, `hotadd` and `resume` where it is not theirs, for a try.
    gib: Option<u64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut part = String::new();
    let mut bench = Bench { coldsnap: None, rounds: 5, gib: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--coldsnap" => bench.coldsnap = arguments.next().map(PathBuf::from),
            "--rounds" => bench.rounds = arguments.next().unwrap_or_default().parse()?,
            "--gib" => bench.gib = Some(arguments.next().unwrap_or_default().parse()?),
            _ => part = argument,
        }
    }
    match part.as_str() {
        "read" => read::run(&bench).await,
        "quota" => quota::run(&bench).await,
        "put" => put::run(&bench).await,
        "hotadd" => hotadd::run(&bench).await,
        "resume" => resume::run(&bench).await,
        "backup" => backup::run(&bench).await,
        "listing" => listing::run().await,
        "incremental" => incremental::run().await,
        other => bail!(
            "there is no part {other:?}: read, quota, put, hotadd, resume, backup, listing, incremental"
        ),
    }
}

fn say(what: &str) {
    eprintln!("• {what}");
}
