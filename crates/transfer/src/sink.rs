//! Where bytes go.

use async_trait::async_trait;
use bytes::Bytes;
use snapferry_types::{ChunkId, Sha256Digest};

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

/// What a restore writes: a snapshot being made, a file, a device.
#[async_trait]
pub trait BlockTarget: Send + Sync {
    /// Size in blocks.
    fn n_blocks(&self) -> u32;

    /// How many writes in flight the target wants now.
    fn wanted_writes(&self) -> usize;

    /// Writes a block; its `sha256` is known and goes out with it. Repeating it is harmless.
    ///
    /// # Errors
    /// [`TransferError`] after its own retries.
    async fn write(&self, block: &Block) -> Result<(), TransferError>;

    /// Ends the target: `n_written` blocks, whose SHA-256s in ascending order hash to `aggregate`.
    ///
    /// # Errors
    /// [`TransferError`]; the target is not usable then.
    async fn complete(&self, n_written: u32, aggregate: Sha256Digest) -> Result<(), TransferError>;
}
