use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use futures::TryStreamExt;
use snapferry_types::BLOCK_SIZE;
use snapferry_types::tenancy::TenantKeys;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{DeviceSource, DeviceTarget, Overwrite};
use crate::backup::back_up_volume;
use crate::budget::ByteBudget;
use crate::conformance::{check_block_source, check_block_target};
use crate::copy::copy_blocks;
use crate::error::ErrorClass;
use crate::high_water::HighWater;
use crate::pool::WorkPool;
use crate::restore::restore_volume;
use crate::seal::Sealer;
use crate::source::BlockSource;
use crate::twin::{MemoryStore, MemoryVolume, seeded_block};
use crate::zero::zero_block;

const N_BLOCKS: u32 = 40;

/// A loop device over a file; detached on drop. Only Linux has them.
struct Loop(PathBuf);

#[cfg(target_os = "linux")]
impl Loop {
    /// One over a file, for root.
    fn all(backing: &Path) -> Vec<Self> {
        if rustix::process::geteuid().is_root() {
            return vec![Self::attach(backing)];
        }
        eprintln!("not root: loop devices are left out");
        Vec::new()
    }

    fn attach(file: &Path) -> Self {
        let done = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let done = done.expect("losetup is needed by this test, and is not installed");
        assert!(done.status.success(), "losetup: {}", String::from_utf8_lossy(&done.stderr));
        Self(PathBuf::from(String::from_utf8(done.stdout).unwrap().trim()))
    }
}

#[cfg(not(target_os = "linux"))]
impl Loop {
    fn all(_backing: &Path) -> Vec<Self> {
        Vec::new()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// Files, and as root also loop devices, of `n_blocks` full of 0xFF.
struct Places {
    _folder: TempDir,
    files: Vec<PathBuf>,
    loops: Vec<Loop>,
}

impl Places {
    fn new(n_blocks: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let full = vec![0xFF; n_blocks as usize * BLOCK_SIZE];
        let files = ["file", "backing"].map(|name| folder.path().join(name));
        files.iter().for_each(|file| std::fs::write(file, &full).unwrap());
        let [file, backing] = files;
        Self { _folder: folder, files: vec![file], loops: Loop::all(&backing) }
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let files = self.files.iter().map(PathBuf::as_path);
        files.chain(self.loops.iter().map(|device| device.0.as_path()))
    }
}

fn volume(n_blocks: u32) -> Arc<MemoryVolume> {
    let volume = MemoryVolume::new(n_blocks, 8);
    for index in [0, 1, 7, 20, n_blocks - 1] {
        volume.put(index, seeded_block(u64::from(index)));
    }
    volume.put(9, zero_block());
    Arc::new(volume)
}

/// The bytes of a device against a volume whose holes are zeroes, or what was there before.
fn compare(path: &Path, volume: &MemoryVolume, hole: u8) {
    let (bytes, blocks) = (std::fs::read(path).unwrap(), volume.blocks());
    for (index, found) in (0..).zip(bytes.chunks_exact(BLOCK_SIZE)) {
        match blocks.get(&index) {
            Some(data) => assert!(found == &data[..], "block {index} of {}", path.display()),
            None => assert!(found.iter().all(|byte| *byte == hole), "hole {index} of {}", path.display()),
        }
    }
}

#[tokio::test]
async fn devices_keep_the_promises_of_a_source_and_of_a_target() {
    let places = Places::new(N_BLOCKS);
    for path in places.paths() {
        for overwrite in [Overwrite::Blank, Overwrite::Used] {
            check_block_target(Arc::new(DeviceTarget::open(path, N_BLOCKS, overwrite).unwrap())).await;
        }
        let bytes = std::fs::read(path).unwrap();
        let block = |index: usize| &bytes[index * BLOCK_SIZE..(index + 1) * BLOCK_SIZE];
        assert!(block(3) == seeded_block(3) && block(5) == zero_block() && block(15) == zero_block());
        assert!(block(16).iter().all(|byte| *byte == 0xFF));
        check_block_source(Arc::new(DeviceSource::open(path, N_BLOCKS, None).unwrap()), 17).await;
        let listing = volume(N_BLOCKS);
        let source = DeviceSource::open(path, N_BLOCKS, Some(listing)).unwrap();
        check_block_source(Arc::new(source), 9).await;
    }
}

#[tokio::test]
async fn a_used_device_is_byte_exact_after_a_restore_and_a_copy() {
    let places = Places::new(N_BLOCKS);
    let (volume, budget) = (volume(N_BLOCKS), ByteBudget::new(8 << 20));
    let sealer = Arc::new(Sealer::new(&TenantKeys::new([1; 32], [2; 32])));
    let store = Arc::new(MemoryStore::new(N_BLOCKS, Arc::clone(&sealer)));
    let (workers, stop) = (WorkPool::new(2), CancellationToken::new());
    let (key, mem, sink) = (Arc::clone(&sealer), budget.clone(), store.clone());
    back_up_volume(volume.clone(), sink, None, key, mem, &workers, Arc::default(), stop.clone())
        .await
        .unwrap();
    for path in places.paths() {
        let target = Arc::new(DeviceTarget::open(path, N_BLOCKS, Overwrite::Used).unwrap());
        let (store, key, mem) = (store.clone(), Arc::clone(&sealer), budget.clone());
        let mut nobody = |_| {};
        let mark = HighWater::new(0, &mut nobody);
        restore_volume(store, target, key, mem, &workers, mark, Arc::default(), stop.clone()).await.unwrap();
        compare(path, &volume, 0);

        let other = Arc::new(MemoryVolume::new(N_BLOCKS, 8));
        other.put(2, seeded_block(99));
        let target = Arc::new(DeviceTarget::open(path, N_BLOCKS, Overwrite::Used).unwrap());
        copy_blocks(other.clone(), target, budget.clone(), Arc::default(), stop.clone()).await.unwrap();
        compare(path, &other, 0);
    }
}

#[tokio::test]
async fn a_blank_device_keeps_its_holes_and_is_read_back_by_a_listing() {
    let places = Places::new(N_BLOCKS);
    let (volume, budget, stop) = (volume(N_BLOCKS), ByteBudget::new(8 << 20), CancellationToken::new());
    for path in places.paths() {
        let target = Arc::new(DeviceTarget::open(path, N_BLOCKS, Overwrite::Blank).unwrap());
        copy_blocks(volume.clone(), target, budget.clone(), Arc::default(), stop.clone()).await.unwrap();
        compare(path, &volume, 0xFF);

        let source = Arc::new(DeviceSource::open(path, N_BLOCKS, Some(volume.clone())).unwrap());
        let back = Arc::new(MemoryVolume::new(N_BLOCKS, 8));
        copy_blocks(source, back.clone(), budget.clone(), Arc::default(), stop.clone()).await.unwrap();
        assert!(back.blocks() == volume.blocks(), "only what is listed is read");
    }
}

#[tokio::test]
async fn every_block_is_listed_without_a_listing() {
    let places = Places::new(2);
    for path in places.paths() {
        let source = DeviceSource::open(path, 2, None).unwrap().with_in_flight(4);
        assert_eq!(source.wanted_reads(), 4);
        let listed: Vec<_> = source.list(0).try_collect().await.unwrap();
        assert_eq!(listed.iter().map(|listed| listed.index.0).collect::<Vec<_>>(), [0, 1]);
    }
}

#[test]
fn a_device_that_is_too_short_is_refused_with_both_sizes() {
    let places = Places::new(2);
    for path in places.paths() {
        let read = DeviceSource::open(path, 3, None).err().unwrap();
        let written = DeviceTarget::open(path, 3, Overwrite::Blank).err().unwrap();
        for error in [read, written] {
            assert_eq!(error.class, ErrorClass::Invalid);
            assert!(error.message.contains("1048576") && error.message.contains("1572864"), "{error}");
        }
    }
}

#[test]
fn a_device_that_somebody_has_for_himself_is_not_written() {
    let places = Places::new(2);
    for device in &places.loops {
        let first = DeviceTarget::open(&device.0, 2, Overwrite::Used).unwrap();
        let error = DeviceTarget::open(&device.0, 2, Overwrite::Used).err().unwrap();
        assert!(error.message.contains("busy"), "{error}");
        drop(first);
    }
}

#[tokio::test]
async fn a_device_that_shrank_is_an_error_that_names_device_and_offset() {
    let places = Places::new(2);
    let path = &places.files[0];
    let source = DeviceSource::open(path, 2, None).unwrap();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(BLOCK_SIZE as u64).unwrap();
    let listed: Vec<_> = source.list(1).try_collect().await.unwrap();
    let error = source.read(&listed[0], crate::budget::BudgetPermit::free()).await.unwrap_err();
    assert!(error.message.contains(path.to_str().unwrap()) && error.message.contains("524288"), "{error}");
    assert!(error.retryable());
}
