//! A batch: asks the store which chunks it lacks, seals those, hands them over.

use std::sync::Arc;

use futures::StreamExt;
use snapferry_types::ChunkId;

use super::PUT_BYTES;
use crate::block::Block;
use crate::budget::BudgetPermit;
use crate::error::{ErrorClass, TransferError};
use crate::pool::WorkPool;
use crate::seal::Sealer;
use crate::sink::{ChunkSink, SealedChunk};

/// A batch that is in the store, though not yet durable.
#[derive(Debug)]
pub(super) struct StoredBatch {
    pub(super) ids: Vec<ChunkId>,
    pub(super) n_sent: u64,
    pub(super) bytes_sent: u64,
}

/// Brings `blocks`, all of different ids, into the store.
pub(super) async fn store(
    sink: Arc<dyn ChunkSink>,
    sealer: Arc<Sealer>,
    workers: WorkPool,
    blocks: Vec<(ChunkId, Block)>,
) -> Result<StoredBatch, TransferError> {
    let ids: Vec<ChunkId> = blocks.iter().map(|(id, _)| *id).collect();
    let missing = sink.missing(&ids).await?;
    if missing.len() != ids.len() {
        let message = format!("asked for {} chunks, the store answered for {}", ids.len(), missing.len());
        return Err(TransferError::new(ErrorClass::Internal, message));
    }
    // Blocks that the store has are dropped here, and their memory with them.
    let lacking: Vec<_> =
        blocks.into_iter().zip(missing).filter_map(|(block, missing)| missing.then_some(block)).collect();

    let mut done = StoredBatch { ids, n_sent: 0, bytes_sent: 0 };
    let mut sealed = futures::stream::iter(lacking)
        .map(|(id, block)| seal(&workers, &sealer, id, block))
        .buffer_unordered(workers.n_workers() + 1);
    let mut chunks = Vec::new();
    let mut permits = Vec::new();
    let mut n_bytes = 0;
    while let Some(result) = sealed.next().await {
        let (chunk, permit) = result?;
        n_bytes += chunk.sealed.len();
        done.n_sent += 1;
        done.bytes_sent += chunk.sealed.len() as u64;
        chunks.push(chunk);
        permits.push(permit);
        if n_bytes >= PUT_BYTES {
            n_bytes = 0;
            sink.put_chunks(std::mem::take(&mut chunks)).await?;
            permits.clear();
        }
    }
    if !chunks.is_empty() {
        sink.put_chunks(chunks).await?;
    }
    Ok(done)
}

async fn seal(
    workers: &WorkPool,
    sealer: &Arc<Sealer>,
    id: ChunkId,
    block: Block,
) -> Result<(SealedChunk, BudgetPermit), TransferError> {
    let sealer = Arc::clone(sealer);
    workers
        .run(move |scratch| {
            let chunk = sealer.seal_chunk(id, &block.data, scratch)?;
            Ok((chunk, block.permit))
        })
        .await?
}
