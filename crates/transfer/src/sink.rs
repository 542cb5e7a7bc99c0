//! Where bytes go.

use async_trait::async_trait;
use bytes::Bytes;
use snapferry_types::{BlockIndex, ChunkId, Sha256Digest};

use crate::block::{Block, Leaf};
use crate::error::TransferError;

/// A chunk as it is stored: compressed where that helps, sealed, opaque to who has no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedChunk {
    /// Its name.
    pub id: ChunkId,
    /// The sealed record (see the library's FORMAT.md).
    pub sealed: Bytes,
}

/// One volume of an open upload session. Safe to repeat in every call.
#[async_trait]
pub trait ChunkSink: Send + Sync {
    /// Leaves that an earlier attempt has made durable, ascending: they need not be read again.
    ///
    /// # Errors
    /// [`TransferError`] of the store behind.
    async fn durable_leaves(&self) -> Result<Vec<u32>, TransferError>;

    /// For each id, whether the store lacks it. At most 4,096.
    ///
    /// # Errors
    /// [`TransferError`] of the store behind.
    async fn missing(&self, ids: &[ChunkId]) -> Result<Vec<bool>, TransferError>;

    /// Hands over chunks. Returns when they are taken, which is not yet durable.
    ///
    /// # Errors
    /// [`TransferError`]; `StorageFull` keeps the session.
    async fn put_chunks(&self, chunks: Vec<SealedChunk>) -> Result<(), TransferError>;

    /// Hands over a leaf, all of whose chunks have been handed over or found present.
    ///
    /// # Errors
    /// [`TransferError`] of the store behind.
    async fn put_leaf(&self, leaf: &Leaf) -> Result<(), TransferError>;

    /// Returns when everything handed over so far survives a power loss.
    ///
    /// # Errors
    /// [`TransferError`] of the store behind.
    async fn flush(&self) -> Result<(), TransferError>;
}

/// Most blocks of one [`BlockTarget::write_hole_range`]: 1 GiB, so that a stop is seen soon.
pub const MAX_HOLE_BLOCKS: u32 = 2_048;

/// What a target needs of who writes it, beyond the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetNeeds {
    /// Old data lies on it: what the source has no block of is handed to [`BlockTarget::write_hole_range`].
    pub holes: bool,
    /// Its `complete` checks number and aggregate over the whole volume, so they must be known also of blocks that
    /// an earlier attempt wrote.
    pub aggregate: bool,
    /// A power loss takes written blocks away until [`BlockTarget::persist`] has returned: a high-water mark waits
    /// for it.
    pub persist: bool,
}

impl Default for TargetNeeds {
    /// As EBS: new snapshots are blank, the aggregate is checked, and what was taken is durable.
    fn default() -> Self {
        Self { holes: false, aggregate: true, persist: false }
    }
}

/// What a restore writes: a snapshot being made, a file, a device.
#[async_trait]
pub trait BlockTarget: Send + Sync {
    /// Size in blocks.
    fn n_blocks(&self) -> u32;

    /// How many writes in flight the target wants now.
    fn wanted_writes(&self) -> usize;

    /// What else it needs; the same in each call.
    fn needs(&self) -> TargetNeeds {
        TargetNeeds::default()
    }

    /// Writes a block; its `sha256` is known and goes out with it. Repeating it is harmless.
    ///
    /// # Errors
    /// [`TransferError`] after its own retries.
    async fn write(&self, block: &Block) -> Result<(), TransferError>;

    /// Makes `n_blocks` (at most [`MAX_HOLE_BLOCKS`]) from `first` on read as zeroes: the source has none of them.
    /// Called only where [`TargetNeeds::holes`] is; others were made blank. Repeating it is harmless.
    ///
    /// # Errors
    /// [`TransferError`] after its own retries.
    async fn write_hole_range(&self, _first: BlockIndex, _n_blocks: u32) -> Result<(), TransferError> {
        Ok(())
    }

    /// Returns when everything written so far survives a power loss. Called only where [`TargetNeeds::persist`] is.
    ///
    /// # Errors
    /// [`TransferError`]; what was written since the last success counts as lost.
    async fn persist(&self) -> Result<(), TransferError> {
        Ok(())
    }

    /// Ends the target: `n_written` blocks, whose SHA-256s in ascending order hash to `aggregate`. Where
    /// [`TargetNeeds::aggregate`] is not, they may leave out what earlier attempts wrote.
    ///
    /// # Errors
    /// [`TransferError`]; the target is not usable then.
    async fn complete(&self, n_written: u32, aggregate: Sha256Digest) -> Result<(), TransferError>;
}
