//! The content that is moved: of 10 blocks 2 are holes, 2 zeroes, 1 repeats another, 3 compress to about half, 2 are
//! noise. The same seed gives the same bytes.

use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use awssim::Context;
use awssim::store::SyntheticSpec;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use snapferry_types::BLOCK_SIZE;

/// Blocks of 512 KiB in a GiB.
pub(super) const BLOCKS_IN_GIB: u64 = 2_048;

/// A snapshot of that mixture whose blocks are computed.
pub(super) fn mixture(volume_size_gib: u64) -> SyntheticSpec {
    SyntheticSpec {
        volume_size_gib,
        seed: 1,
        fraction_hole: 0.2,
        fraction_zero: 0.2,
        fraction_duplicate: 0.1,
        fraction_compressible: 0.3,
        fraction_random: 0.2,
        changed_from: None,
    }
}

/// Writes that mixture to every block of a volume for which `wanted` says so.
pub(super) fn fill(sim: &Context, volume: &str, seed: u64, wanted: impl Fn(u64) -> bool) -> Result<u64> {
    let n_blocks = sim.store.volume_size(volume)? / BLOCK_SIZE as u64;
    let mut blocks = Mixture::new(seed);
    let mut n_written = 0;
    for index in (0..n_blocks).filter(|index| wanted(*index)) {
        if let Some(data) = blocks.block(index) {
            sim.store.write_volume(volume, index * BLOCK_SIZE as u64, &data)?;
            n_written += 1;
        }
    }
    Ok(n_written)
}

/// A raw file without holes: that mixture where `wanted` says so, zeroes everywhere else.
pub(super) fn raw_file(path: &Path, size_gib: u64, seed: u64, wanted: impl Fn(u64) -> bool) -> Result<()> {
    let mut file = std::fs::File::create(path)?;
    let mut blocks = Mixture::new(seed);
    let zeroes = vec![0; BLOCK_SIZE];
    for index in 0..size_gib * BLOCKS_IN_GIB {
        let data = if wanted(index) { blocks.block(index) } else { None };
        file.write_all(data.as_ref().unwrap_or(&zeroes))?;
    }
    Ok(())
}

/// The mixture, block by block.
struct Mixture {
    rng: SmallRng,
    repeated: Vec<u8>,
}

impl Mixture {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let repeated = noise(&mut rng, BLOCK_SIZE);
        Self { rng, repeated }
    }

    /// The block at an index; nothing where there is a hole.
    fn block(&mut self, index: u64) -> Option<Vec<u8>> {
        match index % 10 {
            0 | 5 => None,
            1 | 6 => Some(vec![0; BLOCK_SIZE]),
            2 => Some(self.repeated.clone()),
            3 | 7 | 8 => {
                let half = noise(&mut self.rng, BLOCK_SIZE / 2);
                Some([half, vec![0x55; BLOCK_SIZE / 2]].concat())
            }
            _ => Some(noise(&mut self.rng, BLOCK_SIZE)),
        }
    }
}

/// Writes noise over single blocks.
pub(super) fn change(sim: &Context, volume: &str, seed: u64, blocks: &[u64]) -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    for index in blocks {
        let data = noise(&mut rng, BLOCK_SIZE);
        sim.store.write_volume(volume, index * BLOCK_SIZE as u64, &data)?;
    }
    Ok(())
}

fn noise(rng: &mut SmallRng, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    rng.fill_bytes(&mut data);
    data
}
