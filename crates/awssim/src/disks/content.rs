//! What the files hold: text that compresses, noise that does not, and copies that deduplicate, all from a
//! seed, so that every run moves the same bytes.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

const WORDS: [&str; 16] = [
    "backup",
    "restore",
    "snapshot",
    "volume",
    "block",
    "tenant",
    "region",
    "instance",
    "policy",
    "ledger",
    "lease",
    "epoch",
    "chunk",
    "page",
    "pack",
    "scheduler",
];

/// Fills a folder with files of `fill` bytes in all: half text, a third noise, the rest a copy of the noise.
pub(super) fn write_files(folder: &Path, fill: u64, seed: u64) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let text = fill / 2;
    let noise = fill / 3;
    write_text(&folder.join("journal.log"), text, seed)?;
    write_noise(&folder.join("photos.bin"), noise, seed + 1)?;
    let mut copy = File::open(folder.join("photos.bin"))?;
    let mut target = File::create(folder.join("photos-copy.bin"))?;
    std::io::copy(&mut std::io::Read::take(&mut copy, fill - text - noise), &mut target)?;
    Ok(())
}

/// One new file of noise.
pub(super) fn write_file(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    write_noise(path, bytes, seed)
}

fn write_text(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut file = BufWriter::new(File::create(path).with_context(|| format!("create {}", path.display()))?);
    let mut written = 0_u64;
    let mut line = 0_u64;
    while written < bytes {
        let words: Vec<&str> =
            (0..9).filter_map(|_| WORDS.get(rng.random_range(0..WORDS.len())).copied()).collect();
        let text = format!("{line:010} {:08x} {}\n", rng.random::<u32>(), words.join(" "));
        file.write_all(text.as_bytes())?;
        written += text.len() as u64;
        line += 1;
    }
    Ok(file.flush()?)
}

fn write_noise(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut file = BufWriter::new(File::create(path).with_context(|| format!("create {}", path.display()))?);
    let mut buffer = vec![0_u8; 1 << 16];
    let mut left = bytes;
    while left > 0 {
        rng.fill(buffer.as_mut_slice());
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        file.write_all(buffer.get(..part).unwrap_or_default())?;
        left -= part as u64;
    }
    Ok(file.flush()?)
}
