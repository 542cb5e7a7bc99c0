//! Instances with known content, and the comparison with what came back.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use awssim::Context;
use awssim::world::Placed;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use snapferry_api::job::Job;
use snapferry_types::instance::OsFamily;
use snapferry_types::{BLOCK_SIZE, InstanceId};

use crate::rig::{ACCOUNT, REGION};

const MIB: u64 = 1 << 20;

/// An instance in the tenant's account.
#[derive(Debug)]
pub struct TestInstance {
    /// Its id.
    pub id: InstanceId,
    /// Its volumes.
    pub volumes: Vec<String>,
    /// How they were when it was placed.
    kinds: Vec<Kind>,
}

/// What comes back of a volume besides its content: type, IOPS, throughput and tags.
type Kind = (String, Option<u32>, Option<u32>, BTreeMap<String, String>);

fn kind_of(sim: &Context, volume: &str) -> Result<Kind> {
    let mut all = sim.world.volumes(ACCOUNT).into_iter();
    let found = all.find(|one| one.id == volume).with_context(|| format!("{volume} is not there"))?;
    Ok((found.kind, found.iops, found.throughput, found.tags))
}

/// Writes `mib` MiB of noise from a seed at `offset` (in MiB).
///
/// # Errors
/// The store's.
pub fn write_data(sim: &Context, volume: &str, offset_mib: u64, mib: u64, seed: u64) -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut piece = vec![0_u8; 1 << 20];
    for n in 0..mib {
        rng.fill_bytes(&mut piece);
        sim.store.write_volume(volume, (offset_mib + n) * MIB, &piece)?;
    }
    Ok(())
}

impl TestInstance {
    /// Places an instance with two volumes: `mib` MiB of data on each, a written stretch of zeroes, and holes.
    ///
    /// # Errors
    /// The store's.
    pub fn place(sim: &Context, name: &str, mib: u64) -> Result<Self> {
        Self::place_as(sim, name, mib, OsFamily::Linux, None)
    }

    /// As [`TestInstance::place`], of an operating system, and encrypted with a key where one is given.
    ///
    /// # Errors
    /// The store's.
    pub fn place_as(sim: &Context, name: &str, mib: u64, os: OsFamily, key: Option<&str>) -> Result<Self> {
        let platform = (os == OsFamily::Windows).then_some("windows");
        let placed = sim.place_instance(ACCOUNT, REGION, name, platform, &[1, 1])?;
        for (n, volume) in placed.volumes.iter().enumerate() {
            write_data(sim, volume, 1, mib, n as u64 + 1)?;
            sim.store.write_volume(volume, 900 * MIB, &vec![0_u8; BLOCK_SIZE * 3])?;
            if let Some(key) = key {
                ensure!(sim.world.encrypt(volume, key), "{volume} was not encrypted");
            }
        }
        if let Some(root) = placed.volumes.first() {
            ensure!(sim.world.retype(root, "gp2", Some(100), None), "{root} is not there");
        }
        Self::of(sim, placed)
    }

    /// What was placed, as it is now.
    ///
    /// # Errors
    /// A volume is not the tenant's.
    pub fn of(sim: &Context, placed: Placed) -> Result<Self> {
        let kinds = placed.volumes.iter().map(|volume| kind_of(sim, volume)).collect::<Result<_>>()?;
        Ok(Self { id: placed.instance.parse()?, volumes: placed.volumes, kinds })
    }

    /// What every volume holds now, as checksums of its blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn content(&self, sim: &Context) -> Result<Vec<Vec<u64>>> {
        self.volumes.iter().map(|volume| content_of(sim, volume)).collect()
    }

    /// Checks that a restore job's volumes hold `content`, and have type, IOPS, throughput and tags of those before.
    ///
    /// # Errors
    /// Names the volume and what differs.
    pub fn check(&self, sim: &Context, job: &Job, content: &[Vec<u64>]) -> Result<()> {
        for ((volume, kind), expected) in self.volumes.iter().zip(&self.kinds).zip(content) {
            let mut made = job.tasks.iter().flat_map(|task| &task.made);
            let made = made.find(|made| made.kind == "volume" && made.source == *volume);
            let made = made.with_context(|| format!("the restore made nothing of {volume}"))?;
            let restored = content_of(sim, &made.id)?;
            let differs = expected.iter().zip(&restored).position(|(a, b)| a != b);
            ensure!(differs.is_none(), "{} differs from {volume} at block {differs:?}", made.id);
            ensure!(restored.len() == expected.len(), "{} has another size than {volume}", made.id);
            let is = kind_of(sim, &made.id)?;
            ensure!(is == *kind, "{} is {is:?}, {volume} was {kind:?}", made.id);
        }
        Ok(())
    }
}

/// Writes what a volume holds into a sparse raw file.
///
/// # Errors
/// The store's, the disk's.
pub fn write_raw_image(sim: &Context, volume: &str, path: &std::path::Path) -> Result<()> {
    use std::io::{Seek as _, SeekFrom, Write as _};
    let mut file = std::fs::File::create(path)?;
    file.set_len(sim.store.volume_size(volume)?)?;
    for extent in sim.store.volume_extents(volume)? {
        file.seek(SeekFrom::Start(extent.start))?;
        let len = usize::try_from(extent.end - extent.start)?;
        file.write_all(&sim.store.read_volume(volume, extent.start, len)?)?;
    }
    Ok(())
}

/// Checksums of all blocks. What the store holds nothing of reads as zeroes, and need not be read to know that.
fn content_of(sim: &Context, volume: &str) -> Result<Vec<u64>> {
    let block = BLOCK_SIZE as u64;
    let n_blocks = usize::try_from(sim.store.volume_size(volume)? / block)?;
    let mut content = vec![checksum(&vec![0; BLOCK_SIZE]); n_blocks];
    for extent in sim.store.volume_extents(volume)? {
        for index in extent.start / block..extent.end.div_ceil(block) {
            let bytes = sim.store.read_volume(volume, index * block, BLOCK_SIZE)?;
            let place = content.get_mut(usize::try_from(index)?).context("an extent beyond the volume")?;
            *place = checksum(&bytes);
        }
    }
    Ok(content)
}

fn checksum(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
