//! The demo's two instances, and what their volumes held at each backup.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Result;
use awssim::Context as Sim;
use awssim::disks::{self, Disk, FileSystem};
use snapferry_types::{InstanceId, VolumeId};

use super::accounts::{REGION, TENANT};
use super::image;
use super::stage::Stage;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// An instance and its volumes.
pub(super) struct DemoInstance {
    pub(super) id: InstanceId,
    pub(super) name: &'static str,
    pub(super) volumes: Vec<DemoVolume>,
}

/// A volume, the disk it was made of, and copies of its content at each backup.
pub(super) struct DemoVolume {
    pub(super) id: VolumeId,
    disk: Option<Disk>,
    image: PathBuf,
    truths: Vec<(&'static str, PathBuf)>,
}

/// Makes both.
pub(super) async fn make(stage: &Stage, folder: &Path, own: Option<&Path>) -> Result<Vec<DemoInstance>> {
    let sim = stage.sim.context();
    let root = match own {
        Some(own) => {
            let (image, size) = image::raw_copy(own, folder)?;
            Source { disk: None, image, size }
        }
        None => {
            Source::of(Disk::make(folder, "linux-root", FileSystem::Ext4, 2 * GIB, 300 * MIB, 1)?, 2 * GIB)
        }
    };
    let data = Disk::make(folder, "linux-data", FileSystem::Ext4, GIB, 200 * MIB, 2)?;
    let linux = launch(sim, "demo-linux", None, vec![root, Source::of(data, GIB)])?;
    let root = Disk::make(folder, "windows-c", FileSystem::Ntfs, 2 * GIB, 300 * MIB, 3)?;
    let data = Disk::make(folder, "windows-d", FileSystem::Ntfs, GIB, 200 * MIB, 4)?;
    let disks = vec![Source::of(root, 2 * GIB), Source::of(data, GIB)];
    let windows = launch(sim, "demo-windows", Some("windows"), disks)?;
    Ok(vec![linux, windows])
}

struct Source {
    disk: Option<Disk>,
    image: PathBuf,
    size: u64,
}

impl Source {
    fn of(disk: Disk, size: u64) -> Self {
        Self { image: disk.image().to_owned(), disk: Some(disk), size }
    }
}

/// Puts an instance with these disks into the simulated account.
fn launch(
    sim: &Sim,
    name: &'static str,
    platform: Option<&str>,
    sources: Vec<Source>,
) -> Result<DemoInstance> {
    let sizes: Vec<u64> = sources.iter().map(|source| source.size / GIB).collect();
    let placed = sim.place_instance(TENANT, REGION, name, platform, &sizes)?;
    let mut volumes = Vec::new();
    for (id, source) in placed.volumes.iter().zip(sources) {
        disks::fill(&sim.store, id, &source.image)?;
        volumes.push(DemoVolume {
            id: id.parse()?,
            disk: source.disk,
            image: source.image,
            truths: Vec::new(),
        });
    }
    Ok(DemoInstance { id: placed.instance.parse()?, name, volumes })
}

impl DemoInstance {
    /// Changes every file system a little and writes what changed into the volumes.
    pub(super) fn change(&mut self, stage: &Stage, folder: &Path) -> Result<()> {
        for (n, volume) in self.volumes.iter().enumerate() {
            let Some(disk) = &volume.disk else { continue };
            disk.change(folder, "today.bin", 12 * MIB, 100 + n as u64)?;
            disks::update(&stage.sim.context().store, volume.id.as_str(), &volume.image)?;
        }
        Ok(())
    }

    /// Keeps a copy of what every volume holds now.
    pub(super) fn keep_truth(&mut self, folder: &Path, moment: &'static str) -> Result<()> {
        for volume in &mut self.volumes {
            let copy = folder.join(format!("{}-{moment}.truth", volume.id));
            let source = File::open(&volume.image)?;
            let target = File::create(&copy)?;
            target.set_len(source.metadata()?.len())?;
            disks::for_each_data(&source, |offset, bytes| {
                std::os::unix::fs::FileExt::write_all_at(&target, bytes, offset)
            })?;
            volume.truths.push((moment, copy));
        }
        Ok(())
    }
}

impl DemoVolume {
    /// The copy of a moment.
    pub(super) fn truth(&self, moment: &str) -> Option<&Path> {
        self.truths.iter().find(|(kept, _)| *kept == moment).map(|(_, path)| path.as_path())
    }
}
