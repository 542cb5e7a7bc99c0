//! An image or device that is written.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use snapferry_types::{BLOCK_SIZE, Sha256Digest, ZERO_BLOCK_SHA256};

use super::{IN_FLIGHT, blocking, failed, os};
use crate::block::Block;
use crate::error::{ErrorClass, TransferError};
use crate::sink::{BlockTarget, TargetNeeds};
use crate::zero::zero_block;

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Blanking goes on in steps of this many bytes.
const BLANK_STEP: u64 = 1 << 30;

/// A raw image or a block device. `complete` returns when all is on the disk.
#[derive(Debug)]
pub struct FileTarget {
    file: Arc<File>,
    path: PathBuf,
    n_blocks: u32,
    zeroes: Zeroes,
    syncs: bool,
}

/// How a block of zeroes is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zeroes {
    /// What is not written reads as zeroes: not at all.
    Left,
    /// What is not written reads as zeroes, but an earlier attempt may have written: as a hole.
    Punched,
    /// Old data may lie there: as any block.
    Written,
}

impl FileTarget {
    /// A new sparse image of `n_blocks`; an existing file is emptied first.
    ///
    /// # Errors
    /// The file cannot be made that large.
    pub fn create(path: impl Into<PathBuf>, n_blocks: u32) -> Result<Self, TransferError> {
        let path = path.into();
        let file = File::create(&path).map_err(|cause| failed("create", &path, &cause))?;
        file.set_len(u64::from(n_blocks) * BLOCK).map_err(|cause| failed("make room for", &path, &cause))?;
        Ok(Self { file: Arc::new(file), path, n_blocks, zeroes: Zeroes::Left, syncs: true })
    }

    /// As [`create`](Self::create), but a file of the right size is gone on with: it is the unfinished image of an
    /// earlier attempt. Also says whether it was.
    ///
    /// # Errors
    /// The file cannot be made that large.
    pub fn create_or_resume(path: impl Into<PathBuf>, n_blocks: u32) -> Result<(Self, bool), TransferError> {
        let path = path.into();
        let found = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file);
        if found.is_none_or(|found| found.len() != u64::from(n_blocks) * BLOCK) {
            return Ok((Self::create(path, n_blocks)?, false));
        }
        let file = OpenOptions::new().write(true).open(&path);
        let file = file.map_err(|cause| failed("open", &path, &cause))?;
        Ok((Self { file: Arc::new(file), path, n_blocks, zeroes: Zeroes::Punched, syncs: true }, true))
    }

    /// An existing device or image, written over: zero blocks are written, holes keep what lies there. A first
    /// attempt calls [`blank`](Self::blank) before; one that goes on does not.
    ///
    /// # Errors
    /// It cannot be opened for writing, or is larger than 2^32 blocks.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, TransferError> {
        let path = path.into();
        let file =
            OpenOptions::new().write(true).open(&path).map_err(|cause| failed("open", &path, &cause))?;
        let len = os::length(&file, &path).map_err(|cause| failed("measure", &path, &cause))?;
        let n_blocks = u32::try_from(len / BLOCK).map_err(|_| {
            let message = format!("{} has {len} bytes, more than a volume can", path.display());
            TransferError::new(ErrorClass::Invalid, message)
        })?;
        Ok(Self { file: Arc::new(file), path, n_blocks, zeroes: Zeroes::Written, syncs: true })
    }

    /// Leaves it to the system when the bytes reach the disk, as for a measurement.
    #[must_use]
    pub fn without_sync(self) -> Self {
        Self { syncs: false, ..self }
    }

    /// Makes the whole target read as zeroes: by discarding where that is to be had, else by writing.
    ///
    /// # Errors
    /// The disk refuses.
    pub async fn blank(&mut self) -> Result<(), TransferError> {
        let len = u64::from(self.n_blocks) * BLOCK;
        let mut offset = 0;
        while offset < len {
            let step = BLANK_STEP.min(len - offset);
            let (file, path) = (Arc::clone(&self.file), self.path.clone());
            blocking(move || {
                blank_range(&file, offset, step).map_err(|cause| failed("blank", &path, &cause))
            })
            .await?;
            offset += step;
        }
        self.zeroes = Zeroes::Left;
        Ok(())
    }
}

impl FileTarget {
    async fn sync(&self) -> Result<(), TransferError> {
        let (file, path) = (Arc::clone(&self.file), self.path.clone());
        blocking(move || file.sync_all().map_err(|cause| failed("sync", &path, &cause))).await
    }
}

fn blank_range(file: &File, offset: u64, len: u64) -> std::io::Result<()> {
    if os::punch(file, offset, len)? {
        return Ok(());
    }
    for block in 0..len / BLOCK {
        os::write_all_at(file, &zero_block(), offset + block * BLOCK)?;
    }
    Ok(())
}

#[async_trait]
impl BlockTarget for FileTarget {
    fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    fn wanted_writes(&self) -> usize {
        IN_FLIGHT
    }

    fn needs(&self) -> TargetNeeds {
        TargetNeeds { holes: false, aggregate: false, persist: self.syncs }
    }

    async fn write(&self, block: &Block) -> Result<(), TransferError> {
        let index = block.index;
        if index.0 >= self.n_blocks || block.data.len() != BLOCK_SIZE {
            let message = format!(
                "block {index} of {} bytes does not fit into {} of {} blocks",
                block.data.len(),
                self.path.display(),
                self.n_blocks
            );
            return Err(TransferError::new(ErrorClass::Invalid, message));
        }
        let is_zero = block.sha256 == ZERO_BLOCK_SHA256;
        if is_zero && self.zeroes == Zeroes::Left {
            return Ok(());
        }
        let punches = is_zero && self.zeroes == Zeroes::Punched;
        let (file, path, data) = (Arc::clone(&self.file), self.path.clone(), block.data.clone());
        blocking(move || {
            let offset = index.byte_offset();
            let written = match if punches { os::punch(&file, offset, BLOCK) } else { Ok(false) } {
                Ok(false) => os::write_all_at(&file, &data, offset),
                punched => punched.map(|_| ()),
            };
            written.map_err(|cause| failed("write", &path, &cause).context(format!("block {index}")))
        })
        .await
    }

    async fn persist(&self) -> Result<(), TransferError> {
        self.sync().await
    }

    async fn complete(&self, _n_written: u32, _aggregate: Sha256Digest) -> Result<(), TransferError> {
        if self.syncs { self.sync().await } else { Ok(()) }
    }
}
