//! A block device read and written by the pipeline, beside `dd`: what HotAdd does on an access node, as bare reading and
//! writing, then with all that a backup and a restore do besides. Then a restore onto a device that is full of old data.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use awssim::faults::Quotas;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use snapferry_types::BLOCK_SIZE;

use crate::meter::{self, Cost, Spread};
use crate::reader::{Reader, example};
use crate::setup::Sim;
use crate::{Bench, data, say};

const SIZE_GIB: u64 = 4;
const SNAPSHOT: &str = "snap-0000000000000004a";
const OLD: u8 = 0xFF;

pub(super) async fn run(bench: &Bench) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("snapferry-bench-").tempdir()?;
    let size_gib = bench.gib.unwrap_or(SIZE_GIB);
    let device = Loop::over(&dir.path().join("device.img"), size_gib)?;
    println!("A loop device of {size_gib} GiB over a file; {}.\n", device.kind()?);
    beside_dd(bench, &device, dir.path(), size_gib).await?;
    sealed_beside_dd(bench, &device, dir.path(), size_gib).await?;
    onto_old_data(bench, &device, dir.path(), size_gib).await
}

/// The file is whole before the first round, so that no writer has to make room in it; then each round writes first.
async fn beside_dd(bench: &Bench, device: &Loop, dir: &Path, size_gib: u64) -> Result<()> {
    device.fill(size_gib)?;
    let mut costs: [Vec<Cost>; 4] = Default::default();
    let count = format!("count={}", size_gib * 256);
    let path = device.path.display();
    for round in 0..bench.rounds {
        let commands = [
            dd(&["if=/dev/zero", &format!("of={path}"), &count, "oflag=direct", "conv=fsync"]),
            ours("write", &device.path)?,
            dd(&[&format!("if={path}"), "of=/dev/null", &count, "iflag=direct"]),
            ours("read", &device.path)?,
        ];
        for (command, costs) in commands.into_iter().zip(&mut costs) {
            say(&format!("hotadd, round {}: {command:?}", round + 1));
            costs.push(meter::run(command, &dir.join("device.log")).await?);
        }
    }
    print_rates(&["dd writes", "snapferry writes", "dd reads", "snapferry reads"], &costs, size_gib);
    Ok(())
}

/// All of a backup but its way to the MediaAgent, and all of a restore but its way from there, of a device full of noise, no
/// block of which comes twice.
async fn sealed_beside_dd(bench: &Bench, device: &Loop, dir: &Path, size_gib: u64) -> Result<()> {
    device.fill_with_noise(size_gib)?;
    let mut costs: [Vec<Cost>; 4] = Default::default();
    let (mut theirs, mut restored) = (Vec::new(), Vec::new());
    let (count, path, log) = (format!("count={}", size_gib * 256), &device.path, dir.join("device.log"));
    let (from, to) = (format!("if={}", path.display()), format!("of={}", path.display()));
    let noise = dir.join("noise");
    meter::run(dd(&[&from, &format!("of={}", noise.display()), &count]), &log).await?;
    for round in 0..bench.rounds {
        let reads = || dd(&[&from, "of=/dev/null", &count, "iflag=direct"]);
        let commands = [reads(), ours("seal", path)?, reads(), ours("back-up", path)?];
        for (command, costs) in commands.into_iter().zip(&mut costs) {
            say(&format!("hotadd, round {}: {command:?}", round + 1));
            costs.push(meter::run(command, &log).await?);
        }
        let noise = format!("if={}", noise.display());
        let writes = dd(&[&noise, &to, &count, "oflag=direct", "conv=fsync"]);
        say(&format!("hotadd, round {}: {writes:?}", round + 1));
        theirs.push(megabytes(size_gib) / meter::run(writes, &log).await?.wall_s);
        let mut restore = ours("restore", path)?;
        restore.arg(path);
        say(&format!("hotadd, round {}: {restore:?}", round + 1));
        meter::run(restore, &log).await?;
        restored.push(rate_in(&log)?);
    }
    println!();
    let names = [
        "dd reads",
        "snapferry reads, hashes, seals",
        "dd reads",
        "snapferry reads, hashes, compresses, seals",
    ];
    print_rates(&names, &costs, size_gib);
    let [theirs, restored] = [theirs, restored].map(|rates| Spread::of(rates.into_iter()));
    println!("| dd writes what is in the page cache | {theirs} | | |");
    println!("| snapferry restores what is in memory: opens, checks, writes | {restored} | | |");
    println!("| ratio | {:.2} | | |", restored.median / theirs.median);
    Ok(())
}

/// The rate that the last program has said, MB/s.
fn rate_in(log: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(log)?;
    let said = text.trim().strip_suffix(" MB/s").and_then(|text| text.rsplit(' ').next()?.parse().ok());
    said.with_context(|| format!("no rate in {text:?}"))
}

fn megabytes(size_gib: u64) -> f64 {
    (size_gib * data::BLOCKS_IN_GIB * BLOCK_SIZE as u64) as f64 / 1e6
}

/// Rates of dd and of ours in turns.
fn print_rates(names: &[&str], costs: &[Vec<Cost>], size_gib: u64) {
    println!("| what | MB/s | CPU, s | peak RSS, MiB |\n|---|---|---|---|");
    let mut theirs = None;
    for (what, costs) in names.iter().zip(costs) {
        let rate = Spread::of(costs.iter().map(|cost| megabytes(size_gib) / cost.wall_s));
        let cpu = Spread::of(costs.iter().map(|cost| cost.cpu_s));
        let peak = Spread::of(costs.iter().map(|cost| cost.peak_mib));
        println!("| {what} | {rate} | {cpu} | {peak} |");
        theirs = match theirs {
            None => Some(rate.median),
            Some(theirs) => {
                println!("| ratio | {:.2} | | |", rate.median / theirs);
                None
            }
        };
    }
}

/// The device is full of old data; the snapshot has holes and zeroes.
async fn onto_old_data(bench: &Bench, device: &Loop, dir: &Path, size_gib: u64) -> Result<()> {
    let sim = Sim::start(dir).await?;
    sim.running.context().faults.set_quotas(Quotas::off());
    sim.synthetic(SNAPSHOT, &data::mixture(size_gib))?;
    println!("\n| restored onto a device full of 0x{OLD:X} | blocks | of them not as in the snapshot |");
    println!("|---|---|---|");
    let (ours, log) = (Reader::Ours { requests_per_second: 5_000 }, dir.join("onto.log"));
    let row = |name: &str| -> Result<()> {
        let n_wrong = n_wrong_blocks(&sim, &device.path, size_gib)?;
        println!("| {name} | {} | {n_wrong} |", size_gib * data::BLOCKS_IN_GIB);
        Ok(())
    };
    for reader in [Some(&ours), Reader::coldsnap(bench, 64).as_ref()].into_iter().flatten() {
        say(&format!("hotadd, onto old data: {}", reader.name()));
        device.fill(size_gib)?;
        reader.read_onto(&sim.access, SNAPSHOT, &device.path, &log).await?;
        row(&reader.name())?;
    }
    // A copy of it, as a MediaAgent has one: sealed, then restored.
    say("hotadd, onto old data: a restore");
    let raw = dir.join("mixture.raw");
    ours.read(&sim.access, SNAPSHOT, &raw, false).await?;
    device.fill(size_gib)?;
    let mut restore = self::ours("restore", &raw)?;
    restore.arg(&device.path);
    meter::run(restore, &log).await?;
    row("snapferry, a restore of sealed blocks")
}

/// Blocks of the device that are not what the snapshot has, or not zeroes where it has none.
fn n_wrong_blocks(sim: &Sim, device: &Path, size_gib: u64) -> Result<u64> {
    use std::io::Read as _;
    let mut opened = std::fs::File::open(device)?;
    let (mut block, zeroes) = (vec![0; BLOCK_SIZE], vec![0; BLOCK_SIZE]);
    let mut n_wrong = 0;
    for index in 0..u32::try_from(size_gib * data::BLOCKS_IN_GIB)? {
        opened.read_exact(&mut block)?;
        let is_right = match sim.running.context().store.read_block(SNAPSHOT, index)? {
            Some((data, _)) => data[..] == block[..],
            None => block == zeroes,
        };
        n_wrong += u64::from(!is_right);
    }
    Ok(n_wrong)
}

fn dd(arguments: &[&str]) -> Command {
    let mut command = Command::new("dd");
    command.args(["bs=4M", "status=none"]).args(arguments);
    command
}

fn ours(doing: &str, device: &Path) -> Result<Command> {
    let mut command = Command::new(example("device")?);
    command.arg(doing).arg(device);
    Ok(command)
}

/// A loop device, gone when it is dropped.
struct Loop {
    path: PathBuf,
}

impl Loop {
    /// A device over a new file, past the page cache where its file system can do that.
    fn over(file: &Path, size_gib: u64) -> Result<Self> {
        std::fs::File::create(file)?.set_len(size_gib << 30)?;
        let direct = losetup(&["--find", "--show", "--direct-io=on"], file);
        let name = direct.or_else(|_| losetup(&["--find", "--show"], file));
        let name = name.context("a loop device needs root, and losetup of util-linux")?;
        Ok(Self { path: PathBuf::from(name) })
    }

    /// How it reaches its file.
    fn kind(&self) -> Result<&'static str> {
        let is_direct = losetup(&["--list", "--noheadings", "--output", "DIO"], &self.path)?;
        Ok(if is_direct == "1" {
            "it reaches the file by direct I/O"
        } else {
            "the file is in the page cache"
        })
    }

    fn fill_with_noise(&self, size_gib: u64) -> Result<()> {
        use std::io::Write as _;
        let mut device = std::fs::OpenOptions::new().write(true).open(&self.path)?;
        let mut noise = SmallRng::seed_from_u64(size_gib);
        let mut block = vec![0; BLOCK_SIZE];
        for _ in 0..size_gib * data::BLOCKS_IN_GIB {
            noise.fill_bytes(&mut block);
            device.write_all(&block)?;
        }
        Ok(device.sync_all()?)
    }

    fn fill(&self, size_gib: u64) -> Result<()> {
        use std::io::Write as _;
        let mut device = std::fs::OpenOptions::new().write(true).open(&self.path)?;
        let old = vec![OLD; BLOCK_SIZE];
        for _ in 0..size_gib * data::BLOCKS_IN_GIB {
            device.write_all(&old)?;
        }
        Ok(device.sync_all()?)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Err(error) = losetup(&["--detach"], &self.path) {
            say(&format!("{} is left: {error:#}", self.path.display()));
        }
    }
}

fn losetup(arguments: &[&str], path: &Path) -> Result<String> {
    let output = Command::new("losetup").args(arguments).arg(path).output()?;
    ensure!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
