//! A batch: asks the store which chunks it lacks, seals those, hands them over.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
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
    // One hand-over is on its way while the next is sealed. Sealing goes on whatever the hand-over does: a job that nobody
    // polls would keep its worker from the other volumes.
    let mut puts = FuturesUnordered::new();
    let mut waiting = HandOver::default();
    loop {
        tokio::select! {
            Some(result) = sealed.next() => {
                let (chunk, permit) = result?;
                done.n_sent += 1;
                done.bytes_sent += chunk.sealed.len() as u64;
                waiting.add(chunk, permit);
            }
            Some(put) = puts.next() => put?,
            else => break,
        }
        if waiting.n_bytes >= PUT_BYTES && puts.is_empty() {
            puts.push(std::mem::take(&mut waiting).put(&*sink));
        }
    }
    waiting.put(&*sink).await?;
    Ok(done)
}

/// Sealed chunks that go together, and the memory they take.
#[derive(Default)]
struct HandOver {
    chunks: Vec<SealedChunk>,
    permits: Vec<BudgetPermit>,
    n_bytes: usize,
}

impl HandOver {
    fn add(&mut self, chunk: SealedChunk, permit: BudgetPermit) {
        self.n_bytes += chunk.sealed.len();
        self.chunks.push(chunk);
        self.permits.push(permit);
    }

    async fn put(self, sink: &dyn ChunkSink) -> Result<(), TransferError> {
        if self.chunks.is_empty() {
            return Ok(());
        }
        sink.put_chunks(self.chunks).await
    }
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
