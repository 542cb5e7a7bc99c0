//! The content that is moved: of 10 blocks 2 are holes, 2 zeroes, 1 repeats another, 3 compress to about half, 2 are
//! noise. The same seed gives the same bytes.

use anyhow::Result;
use awssim::Context;
use awssim::store::SyntheticSpec;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use snapferry_types::BLOCK_SIZE;

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
    let mut rng = SmallRng::seed_from_u64(seed);
    let zeroes = vec![0; BLOCK_SIZE];
    let repeated = noise(&mut rng, BLOCK_SIZE);
    let mut n_written = 0;
    for index in (0..n_blocks).filter(|index| wanted(*index)) {
        let offset = index * BLOCK_SIZE as u64;
        match index % 10 {
            0 | 5 => continue,
            1 | 6 => sim.store.write_volume(volume, offset, &zeroes)?,
            2 => sim.store.write_volume(volume, offset, &repeated)?,
            3 | 7 | 8 => {
                let half = noise(&mut rng, BLOCK_SIZE / 2);
                sim.store.write_volume(volume, offset, &[half, vec![0x55; BLOCK_SIZE / 2]].concat())?;
            }
            _ => sim.store.write_volume(volume, offset, &noise(&mut rng, BLOCK_SIZE))?,
        }
        n_written += 1;
    }
    Ok(n_written)
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
