//! An image or device that is read.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use snapferry_types::{BLOCK_SIZE, BlockIndex};

use super::{IN_FLIGHT, blocking, failed, os};
use crate::block::{Block, ListedBlock};
use crate::budget::BudgetPermit;
use crate::buffers::BlockBuffer;
use crate::error::{ErrorClass, TransferError};
use crate::open::sha256;
use crate::source::{BlockListing, BlockSource};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// A raw image or a block device. A last block that is not whole is filled up with zeroes.
#[derive(Debug, Clone)]
pub struct FileSource {
    file: Arc<File>,
    path: PathBuf,
    len: u64,
    n_blocks: u32,
}

impl FileSource {
    /// Opens an existing image or device.
    ///
    /// # Errors
    /// It cannot be opened, or is larger than 2^32 blocks.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, TransferError> {
        let path = path.into();
        let file = File::open(&path).map_err(|cause| failed("open", &path, &cause))?;
        let len = os::length(&file, &path).map_err(|cause| failed("measure", &path, &cause))?;
        let n_blocks = u32::try_from(len.div_ceil(BLOCK)).map_err(|_| {
            let message = format!("{} has {len} bytes, more than a volume can", path.display());
            TransferError::new(ErrorClass::Invalid, message)
        })?;
        Ok(Self { file: Arc::new(file), path, len, n_blocks })
    }

    /// Blocks of the next run of data at or after a block.
    fn next_run(&self, from: u64) -> Result<Option<(u64, u64)>, TransferError> {
        let offset = from.saturating_mul(BLOCK);
        let found = os::next_data(&self.file, offset, self.len);
        let run = found.map_err(|cause| failed("find the data of", &self.path, &cause))?;
        Ok(run.map(|(start, end)| ((start / BLOCK).max(from), end.div_ceil(BLOCK))))
    }
}

fn read_block(
    file: &File,
    path: &Path,
    index: BlockIndex,
    mut data: BlockBuffer,
) -> Result<Bytes, TransferError> {
    os::read_up_to(file, data.as_mut_slice(), index.byte_offset())
        .map_err(|cause| failed("read", path, &cause).context(format!("block {index}")))?;
    Ok(data.freeze())
}

#[async_trait]
impl BlockSource for FileSource {
    fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    fn wanted_reads(&self) -> usize {
        IN_FLIGHT
    }

    fn list(&self, from_block: u32) -> BlockListing {
        let runs =
            futures::stream::try_unfold((self.clone(), u64::from(from_block)), |(source, from)| async move {
                let asked = source.clone();
                let run = blocking(move || asked.next_run(from)).await?;
                Ok(run.map(|(start, end)| (start..end, (source, end))))
            });
        let entries = |run: std::ops::Range<u64>| {
            futures::stream::iter(
                run.map_while(|index| u32::try_from(index).ok())
                    .map(|index| Ok(ListedBlock { index: BlockIndex(index), token: Some(String::new()) })),
            )
        };
        runs.flat_map(move |run| match run {
            Ok(run) => entries(run).boxed(),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        })
        .boxed()
    }

    async fn read(&self, block: &ListedBlock, permit: BudgetPermit) -> Result<Block, TransferError> {
        let (file, path, index) = (Arc::clone(&self.file), self.path.clone(), block.index);
        let buffer = BlockBuffer::take(BLOCK_SIZE);
        blocking(move || {
            let data = read_block(&file, &path, index, buffer)?;
            Ok(Block { index, sha256: sha256(&data), data, permit })
        })
        .await
    }
}
