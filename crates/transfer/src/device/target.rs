//! A device that is written.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use snapferry_types::{BLOCK_SIZE, BlockIndex, Sha256Digest};

use super::open;
use crate::block::Block;
use crate::buffers::{BlockBuffer, is_aligned};
use crate::error::{ErrorClass, TransferError};
use crate::file::{blocking, failed, os};
use crate::sink::{BlockTarget, TargetNeeds};
use crate::zero::zero_block;

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Writes of 512 KiB in flight unless told otherwise: a deep queue, whose bytes are there already.
const WRITES: usize = 32;

/// What lies on a device before the first attempt writes to it. It is the same in every attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// It reads as zeroes, as a new volume does: holes are left alone.
    Blank,
    /// It may hold old data: what the source has no block of is overwritten with zeroes.
    Used,
}

/// A block device that is written with direct I/O. On Linux nobody else may have it open for one user: a mounted device
/// is refused.
#[derive(Debug)]
pub struct DeviceTarget {
    device: Arc<Device>,
    n_blocks: u32,
    in_flight: usize,
    overwrite: Overwrite,
}

#[derive(Debug)]
struct Device {
    file: File,
    path: PathBuf,
    n_failed: AtomicU64,
}

impl DeviceTarget {
    /// Opens a device as a volume of `n_blocks`; what lies after them is not touched.
    ///
    /// # Errors
    /// It cannot be opened (on Linux, for one user), or is shorter than the volume: the message has both sizes.
    pub fn open(
        path: impl Into<PathBuf>,
        n_blocks: u32,
        overwrite: Overwrite,
    ) -> Result<Self, TransferError> {
        let path = path.into();
        let file = open(&path, n_blocks, true)?;
        let device = Arc::new(Device { file, path, n_failed: AtomicU64::new(0) });
        Ok(Self { device, n_blocks, in_flight: WRITES, overwrite })
    }

    /// Writes in flight, 32 unless told.
    #[must_use]
    pub fn with_in_flight(self, in_flight: usize) -> Self {
        Self { in_flight: in_flight.max(1), ..self }
    }

    /// Whether a range lies in the volume.
    fn check(&self, first: BlockIndex, n_blocks: u32) -> Result<(), TransferError> {
        if u64::from(first.0) + u64::from(n_blocks) <= u64::from(self.n_blocks) {
            return Ok(());
        }
        let message = format!(
            "{n_blocks} blocks from {first} on do not fit into {} of {} blocks",
            self.device.path.display(),
            self.n_blocks
        );
        Err(TransferError::new(ErrorClass::Invalid, message))
    }

    async fn sync(&self) -> Result<(), TransferError> {
        let device = Arc::clone(&self.device);
        blocking(move || device.file.sync_all().map_err(|cause| device.failed("sync", &cause))).await
    }
}

impl Device {
    fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, doing: &str, cause: &std::io::Error) -> TransferError {
        self.n_failed.fetch_add(1, Ordering::Relaxed);
        failed(doing, self.path(), cause)
    }

    fn write(&self, data: &Bytes, index: BlockIndex) -> Result<(), TransferError> {
        let offset = index.byte_offset();
        let written = if is_aligned(data) {
            os::write_all_at(&self.file, data, offset)
        } else {
            let mut aligned = BlockBuffer::take(BLOCK_SIZE);
            aligned.as_mut_slice().copy_from_slice(data);
            os::write_all_at(&self.file, aligned.as_ref(), offset)
        };
        written
            .map_err(|cause| self.failed("write", &cause).context(format!("block {index} at byte {offset}")))
    }

    fn write_zeroes(&self, first: BlockIndex, n_blocks: u32) -> Result<(), TransferError> {
        let (offset, len) = (first.byte_offset(), u64::from(n_blocks) * BLOCK);
        let doing = |cause: std::io::Error| {
            self.failed("write", &cause).context(format!("zeroes over {len} bytes at byte {offset}"))
        };
        if os::zero_range(&self.file, offset, len).map_err(doing)? {
            return Ok(());
        }
        for block in 0..u64::from(n_blocks) {
            os::write_all_at(&self.file, &zero_block(), offset + block * BLOCK).map_err(doing)?;
        }
        Ok(())
    }
}

#[async_trait]
impl BlockTarget for DeviceTarget {
    fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    fn wanted_writes(&self) -> usize {
        self.in_flight
    }

    fn needs(&self) -> TargetNeeds {
        TargetNeeds { holes: self.overwrite == Overwrite::Used, aggregate: false, persist: true }
    }

    async fn write(&self, block: &Block) -> Result<(), TransferError> {
        self.check(block.index, 1)?;
        if block.data.len() != BLOCK_SIZE {
            let message = format!("block {} has {} bytes, not {BLOCK_SIZE}", block.index, block.data.len());
            return Err(TransferError::new(ErrorClass::Invalid, message));
        }
        let (device, data, index) = (Arc::clone(&self.device), block.data.clone(), block.index);
        blocking(move || device.write(&data, index)).await
    }

    async fn write_hole_range(&self, first: BlockIndex, n_blocks: u32) -> Result<(), TransferError> {
        self.check(first, n_blocks)?;
        if n_blocks == 0 {
            return Ok(());
        }
        let device = Arc::clone(&self.device);
        blocking(move || device.write_zeroes(first, n_blocks)).await
    }

    async fn persist(&self) -> Result<(), TransferError> {
        self.sync().await
    }

    async fn complete(&self, _n_written: u32, _aggregate: Sha256Digest) -> Result<(), TransferError> {
        self.sync().await?;
        match self.device.n_failed.load(Ordering::Relaxed) {
            0 => Ok(()),
            n_failed => {
                let path = self.device.path().display();
                let message = format!("{path} reported {n_failed} errors while it was written");
                Err(TransferError::new(ErrorClass::Unavailable, message))
            }
        }
    }
}
