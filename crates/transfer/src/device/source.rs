//! A device that is read.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use snapferry_types::{BLOCK_SIZE, BlockIndex};

use super::open;
use crate::block::{Block, ListedBlock};
use crate::budget::BudgetPermit;
use crate::buffers::BlockBuffer;
use crate::error::TransferError;
use crate::file::{blocking, failed, os};
use crate::open::sha256;
use crate::source::{BlockListing, BlockSource};

/// Reads of 512 KiB in flight unless told otherwise. AWS's fastest volume, io2 Block Express, gives at most
/// 4,000 MiB/s and answers within a millisecond: eight are on their way then. Four times as many were a tenth slower on a loop device, as they and the
/// hashing take turns on few processors.
const READS: usize = 8;

/// A block device that is read with direct I/O, each block's SHA-256 taken while its bytes are in the CPU's cache.
pub struct DeviceSource {
    file: Arc<File>,
    path: Arc<PathBuf>,
    n_blocks: u32,
    in_flight: usize,
    listing: Option<Arc<dyn BlockSource>>,
}

impl DeviceSource {
    /// Opens a device as a volume of `n_blocks`. With a listing (such as a snapshot's written or changed blocks)
    /// only what it lists is read, by position; without, every block.
    ///
    /// # Errors
    /// It cannot be opened, or is shorter than the volume: the message has both sizes.
    pub fn open(
        path: impl Into<PathBuf>,
        n_blocks: u32,
        listing: Option<Arc<dyn BlockSource>>,
    ) -> Result<Self, TransferError> {
        let path = path.into();
        let file = Arc::new(open(&path, n_blocks, false)?);
        Ok(Self { file, path: Arc::new(path), n_blocks, in_flight: READS, listing })
    }

    /// Reads in flight, 8 unless told.
    #[must_use]
    pub fn with_in_flight(self, in_flight: usize) -> Self {
        Self { in_flight: in_flight.max(1), ..self }
    }
}

/// Reads a block; a device that reports an error is asked once more.
fn read_block(file: &File, path: &Path, index: BlockIndex, bytes: &mut [u8]) -> Result<(), TransferError> {
    let offset = index.byte_offset();
    let Err(first) = os::read_exact_at(file, bytes, offset) else { return Ok(()) };
    tracing::warn!(device = %path.display(), offset, error = %first, "a read failed and is tried once more");
    os::read_exact_at(file, bytes, offset).map_err(|cause| {
        failed("read", path, &cause).context(format!("block {index} at byte {offset}, twice"))
    })
}

#[async_trait]
impl BlockSource for DeviceSource {
    fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    fn wanted_reads(&self) -> usize {
        self.in_flight
    }

    fn list(&self, from_block: u32) -> BlockListing {
        if let Some(listing) = &self.listing {
            return listing.list(from_block);
        }
        let entry = |index| Ok(ListedBlock { index: BlockIndex(index), token: Some(String::new()) });
        futures::stream::iter((from_block..self.n_blocks).map(entry)).boxed()
    }

    async fn read(&self, block: &ListedBlock, permit: BudgetPermit) -> Result<Block, TransferError> {
        let (file, path, index) = (Arc::clone(&self.file), Arc::clone(&self.path), block.index);
        let mut buffer = BlockBuffer::take(BLOCK_SIZE);
        blocking(move || {
            read_block(&file, &path, index, buffer.as_mut_slice())?;
            let data = buffer.freeze();
            Ok(Block { index, sha256: sha256(&data), data, permit })
        })
        .await
    }
}
