//! Where bytes come from.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use snapferry_types::{BLOCK_SIZE, ChunkId};

use crate::block::{Block, Leaf, ListedBlock};
use crate::budget::{BudgetPermit, ByteBudget};
use crate::error::TransferError;
use crate::sink::SealedChunk;

/// The blocks of a listing, ascending, without repeats, streamed page by page: never the whole volume in memory.
pub type BlockListing = BoxStream<'static, Result<ListedBlock, TransferError>>;

/// Waits for the memory, and reads.
pub(crate) async fn read_within(
    budget: &ByteBudget,
    source: &dyn BlockSource,
    block: &ListedBlock,
) -> Result<Block, TransferError> {
    let permit = budget.take(BLOCK_SIZE as u64).await;
    source.read(block, permit).await
}

/// A volume whose blocks can be read in any order, by many readers at once.
#[async_trait]
pub trait BlockSource: Send + Sync {
    /// Size of the volume in blocks.
    fn n_blocks(&self) -> u32;

    /// How many reads in flight the source wants now; it adapts to latency and quota.
    fn wanted_reads(&self) -> usize;

    /// Blocks at or after `from_block`: all written ones, or, when the source was opened against a base, the
    /// changed ones.
    fn list(&self, from_block: u32) -> BlockListing;

    /// Reads a listed block and checks it against its checksum. Retries what can be retried; what comes out as an
    /// error has used up its tries. The permit is for the block's memory.
    ///
    /// # Errors
    /// [`TransferError`]; `Corrupt` when the bytes did not match twice.
    async fn read(&self, block: &ListedBlock, permit: BudgetPermit) -> Result<Block, TransferError>;
}

/// Leaves of the recovery point that an incremental is based on.
#[async_trait]
pub trait BaseLeaves: Send + Sync {
    /// The leaf, or one of holes where the base has none.
    ///
    /// # Errors
    /// [`TransferError`] of the store behind.
    async fn base_leaf(&self, leaf_index: u32) -> Result<Leaf, TransferError>;
}

/// A stored volume.
#[async_trait]
pub trait ChunkSource: Send + Sync {
    /// Size of the volume in blocks.
    fn n_blocks(&self) -> u32;

    /// Leaves at or after `from_leaf`, ascending; leaves of holes are left out.
    fn leaves(self: Arc<Self>, from_leaf: u32) -> BoxStream<'static, Result<Leaf, TransferError>>;

    /// The sealed bytes of chunks (at most 1,024), each once, in whatever order the store reads fastest.
    fn chunks(self: Arc<Self>, ids: Vec<ChunkId>) -> BoxStream<'static, Result<SealedChunk, TransferError>>;
}
