//! An image file in which each block has its place, whatever was written before.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use snapferry_types::{BLOCK_SIZE, BlockIndex, Sha256Digest, ZERO_BLOCK_SHA256};

use crate::block::Block;
use crate::error::{ErrorClass, TransferError};
use crate::file::{blocking, failed, os};
use crate::sink::{BlockTarget, TargetNeeds};

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Writes at once, as for a raw image.
const IN_FLIGHT: usize = 16;

/// Bytes and where in the file they stand.
pub(super) type Placed = (u64, Vec<u8>);

/// Where everything stands in a file of some format.
pub(super) trait Layout: Send + Sync + 'static {
    /// Length of the whole file in bytes.
    fn file_len(&self) -> u64;

    /// The first bytes of the file. They are written last: a file that has them has all of [`tables`](Self::tables).
    fn head(&self) -> Vec<u8>;

    /// Whether a file's first bytes (as many as [`head`](Self::head) has) are those of an image of this layout.
    fn is_head(&self, found: &[u8]) -> bool;

    /// What else stands in an image without blocks.
    fn tables(&self) -> Vec<Placed>;

    /// Where a block's bytes stand, in one piece.
    fn data_offset(&self, index: BlockIndex) -> u64;

    /// What says that a block is there. Blocks that share a byte of it write the same there.
    fn marks(&self, index: BlockIndex) -> Vec<Placed>;
}

/// An image file that is written.
pub(super) struct FixedTarget<L> {
    image: Arc<Image<L>>,
    n_blocks: u32,
    is_resumed: bool,
}

struct Image<L> {
    file: File,
    path: PathBuf,
    layout: L,
}

impl<L: Layout> FixedTarget<L> {
    /// Goes on with the file if it is an image of this layout, else begins it anew. Also says whether it goes on.
    pub(super) fn open_or_create(
        path: PathBuf,
        layout: L,
        n_blocks: u32,
    ) -> Result<(Self, bool), TransferError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(|cause| failed("open", &path, &cause))?;
        let image = Image { file, path, layout };
        let is_resumed = image.is_begun()?;
        if !is_resumed {
            image.begin()?;
        }
        Ok((Self { image: Arc::new(image), n_blocks, is_resumed }, is_resumed))
    }
}

impl<L: Layout> Image<L> {
    fn is_begun(&self) -> Result<bool, TransferError> {
        let found = self.file.metadata().map_err(|cause| failed("measure", &self.path, &cause))?;
        if found.len() != self.layout.file_len() {
            return Ok(false);
        }
        let mut head = vec![0; self.layout.head().len()];
        os::read_up_to(&self.file, &mut head, 0).map_err(|cause| failed("read", &self.path, &cause))?;
        Ok(self.layout.is_head(&head))
    }

    fn begin(&self) -> Result<(), TransferError> {
        let begun = || {
            self.file.set_len(0)?;
            self.file.set_len(self.layout.file_len())?;
            for (offset, bytes) in self.layout.tables() {
                os::write_all_at(&self.file, &bytes, offset)?;
            }
            self.file.sync_all()?;
            os::write_all_at(&self.file, &self.layout.head(), 0)
        };
        begun().map_err(|cause| failed("begin", &self.path, &cause))
    }

    fn write(&self, index: BlockIndex, data: &[u8]) -> std::io::Result<()> {
        os::write_all_at(&self.file, data, self.layout.data_offset(index))?;
        for (offset, bytes) in self.layout.marks(index) {
            os::write_all_at(&self.file, &bytes, offset)?;
        }
        Ok(())
    }

    /// A block that no attempt marked reads as zeroes; one that was marked does when its bytes are zeroes.
    fn write_zeroes(&self, index: BlockIndex, zeroes: &[u8]) -> std::io::Result<()> {
        let offset = self.layout.data_offset(index);
        if os::punch(&self.file, offset, BLOCK)? {
            return Ok(());
        }
        os::write_all_at(&self.file, zeroes, offset)
    }
}

#[async_trait]
impl<L: Layout> BlockTarget for FixedTarget<L> {
    fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    fn wanted_writes(&self) -> usize {
        IN_FLIGHT
    }

    fn needs(&self) -> TargetNeeds {
        TargetNeeds { holes: false, aggregate: false, persist: true }
    }

    async fn write(&self, block: &Block) -> Result<(), TransferError> {
        let index = block.index;
        let (image, data) = (Arc::clone(&self.image), block.data.clone());
        if index.0 >= self.n_blocks || data.len() != BLOCK_SIZE {
            let path = image.path.display();
            let message = format!(
                "block {index} of {} bytes does not fit into {path} of {} blocks",
                data.len(),
                self.n_blocks
            );
            return Err(TransferError::new(ErrorClass::Invalid, message));
        }
        let is_zero = block.sha256 == ZERO_BLOCK_SHA256;
        if is_zero && !self.is_resumed {
            return Ok(());
        }
        blocking(move || {
            let written = if is_zero { image.write_zeroes(index, &data) } else { image.write(index, &data) };
            written.map_err(|cause| failed("write", &image.path, &cause).context(format!("block {index}")))
        })
        .await
    }

    async fn persist(&self) -> Result<(), TransferError> {
        let image = Arc::clone(&self.image);
        blocking(move || image.file.sync_all().map_err(|cause| failed("sync", &image.path, &cause))).await
    }

    async fn complete(&self, _n_written: u32, _aggregate: Sha256Digest) -> Result<(), TransferError> {
        self.persist().await
    }
}
