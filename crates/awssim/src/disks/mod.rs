//! Disks with real file systems for instances, made without mounting anything: GPT by the `gpt` crate, ext4 by `mke2fs -d`
//! and `debugfs` (e2fsprogs), NTFS by `mkntfs` and `ntfscp` (ntfs-3g). A disk is a sparse raw file; what was never written
//! is a hole, and so it is in the volume that it is copied into.

mod content;
mod extent;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use gpt::disk::LogicalBlockSize;
use gpt::partition_types;
use snapferry_types::BLOCK_SIZE;

use crate::store::BlockStore;

pub use extent::for_each_data;

/// Where the first partition begins: 1 MiB, as every installer has it.
const PARTITION_OFFSET: u64 = 1 << 20;

/// Kept free behind the partition for the second partition table.
const TAIL: u64 = 1 << 20;

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// As Linux instances have it.
    Ext4,
    /// As Windows instances have it.
    Ntfs,
}

/// A disk of one partition.
#[derive(Debug)]
pub struct Disk {
    label: String,
    file_system: FileSystem,
    partition: PathBuf,
    image: PathBuf,
    size: u64,
}

impl Disk {
    /// Makes a disk of `size` bytes in `folder`, with files of `fill` bytes in all: text, noise, and copies of that. The
    /// same `seed` makes the same files.
    ///
    /// # Errors
    /// Names the tool that is missing or failed, with what it wrote.
    pub fn make(
        folder: &Path,
        label: &str,
        file_system: FileSystem,
        size: u64,
        fill: u64,
        seed: u64,
    ) -> Result<Self> {
        let files = folder.join(format!("{label}.files"));
        content::write_files(&files, fill, seed)?;
        let partition = folder.join(format!("{label}.part"));
        let sparse = File::create(&partition).with_context(|| format!("create {}", partition.display()))?;
        sparse.set_len(size - PARTITION_OFFSET - TAIL)?;
        match file_system {
            FileSystem::Ext4 => run(Command::new("mke2fs")
                .args(["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1,nodiscard", "-L", label, "-d"])
                .arg(&files)
                .arg(&partition))?,
            FileSystem::Ntfs => {
                run(Command::new("mkntfs")
                    .args(["-F", "-Q", "-q", "-s", "512", "-p", "2048", "-H", "255", "-S", "63", "-L", label])
                    .arg(&partition))?;
                for entry in files.read_dir()? {
                    let entry = entry?;
                    copy_into_ntfs(&partition, &entry.path())?;
                }
            }
        }
        std::fs::remove_dir_all(&files)?;
        let image = folder.join(format!("{label}.img"));
        let disk = Self { label: label.to_owned(), file_system, partition, image, size };
        disk.assemble()?;
        Ok(disk)
    }

    /// The disk as a sparse raw file.
    #[must_use]
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Adds a file of `bytes` to the file system, as a day's work would.
    ///
    /// # Errors
    /// As [`Disk::make`].
    pub fn change(&self, folder: &Path, name: &str, bytes: u64, seed: u64) -> Result<()> {
        let source = folder.join(name);
        content::write_file(&source, bytes, seed)?;
        match self.file_system {
            FileSystem::Ext4 => run(Command::new("debugfs")
                .args(["-w", "-R"])
                .arg(format!("write {} {name}", source.display()))
                .arg(&self.partition))?,
            FileSystem::Ntfs => copy_into_ntfs(&self.partition, &source)?,
        }
        std::fs::remove_file(&source)?;
        self.assemble()
    }

    /// Writes the disk image anew: partition table, then the partition's data where it has any.
    fn assemble(&self) -> Result<()> {
        let _absent_at_first = std::fs::remove_file(&self.image);
        let image = File::create(&self.image).with_context(|| format!("create {}", self.image.display()))?;
        image.set_len(self.size)?;
        drop(image);
        self.write_partition_table().with_context(|| format!("write the GPT of {}", self.image.display()))?;
        let source = File::open(&self.partition)?;
        let target = File::options().write(true).open(&self.image)?;
        extent::for_each_data(&source, |offset, bytes| target.write_all_at(bytes, PARTITION_OFFSET + offset))
    }

    fn write_partition_table(&self) -> Result<()> {
        let sectors = u32::try_from(self.size / 512 - 1).unwrap_or(u32::MAX);
        let mut file = File::options().read(true).write(true).open(&self.image)?;
        gpt::mbr::ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(&mut file)?;
        let mut table = gpt::GptConfig::new()
            .writable(true)
            .logical_block_size(LogicalBlockSize::Lb512)
            .create(&self.image)?;
        let kind = match self.file_system {
            FileSystem::Ext4 => partition_types::LINUX_FS,
            FileSystem::Ntfs => partition_types::BASIC,
        };
        table.add_partition(&self.label, self.size - PARTITION_OFFSET - TAIL, kind, 0, Some(2_048))?;
        table.write()?;
        Ok(())
    }
}

/// Writes an image's data into a new volume; what is a hole in the one stays a hole in the other.
///
/// # Errors
/// The file's, or the store's.
pub fn fill(store: &BlockStore, volume: &str, image: &Path) -> Result<()> {
    let file = File::open(image).with_context(|| format!("open {}", image.display()))?;
    for_each_data(&file, |offset, bytes| {
        store.write_volume(volume, offset, bytes).map_err(std::io::Error::other)
    })
}

/// Writes the blocks of an image's data that a volume of it has otherwise, as a day's work on the instance would. What
/// became a hole in the image stays as it was in the volume.
///
/// # Errors
/// As [`fill`].
pub fn update(store: &BlockStore, volume: &str, image: &Path) -> Result<()> {
    let file = File::open(image).with_context(|| format!("open {}", image.display()))?;
    for_each_data(&file, |offset, bytes| {
        for (n, block) in bytes.chunks(BLOCK_SIZE).enumerate() {
            let at = offset + (n * BLOCK_SIZE) as u64;
            let now = store.read_volume(volume, at, block.len()).map_err(std::io::Error::other)?;
            if now != block {
                store.write_volume(volume, at, block).map_err(std::io::Error::other)?;
            }
        }
        Ok(())
    })
}

fn copy_into_ntfs(partition: &Path, file: &Path) -> Result<()> {
    let name = file.file_name().unwrap_or_default();
    run(Command::new("ntfscp").args(["-f", "-q"]).arg(partition).arg(file).arg(name))
}

fn run(command: &mut Command) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = format!("{}:/usr/sbin:/sbin", path.to_string_lossy());
    let output = command
        .env("PATH", &path)
        .output()
        .with_context(|| format!("start {}", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}",
            command.get_program().to_string_lossy(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
