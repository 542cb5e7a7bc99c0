//! A fetch: asks the store for chunks and passes each on with the memory it will need. Each asked chunk comes
//! exactly once, or the fetch fails.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt;
use snapferry_types::ChunkId;
use tokio::sync::mpsc;

use super::cache::CachedBudget;
use crate::budget::BudgetPermit;
use crate::error::{ErrorClass, TransferError};
use crate::record::MAX_RECORD_BYTES;
use crate::sink::SealedChunk;
use crate::source::ChunkSource;

/// A sealed chunk, and memory for its plain block.
pub(super) type Fetched = (SealedChunk, BudgetPermit);

/// Fetches `ids`, each different.
pub(super) async fn fetch(
    source: Arc<dyn ChunkSource>,
    ids: Vec<ChunkId>,
    budget: Arc<CachedBudget>,
    fetched: mpsc::Sender<Fetched>,
) -> Result<(), TransferError> {
    let mut wanted: HashSet<ChunkId> = ids.iter().copied().collect();
    let mut chunks = source.chunks(ids);
    while !wanted.is_empty() {
        let permit = budget.take_block().await;
        let Some(chunk) = chunks.next().await else { break };
        let chunk = chunk?;
        if !wanted.remove(&chunk.id) {
            let message = format!("the store sent chunk {}, which was not asked for, or not twice", chunk.id);
            return Err(TransferError::new(ErrorClass::Internal, message));
        }
        if chunk.sealed.len() > MAX_RECORD_BYTES {
            let message =
                format!("chunk {} has {} bytes, more than a chunk can", chunk.id, chunk.sealed.len());
            return Err(TransferError::new(ErrorClass::Corrupt, message));
        }
        if fetched.send((chunk, permit)).await.is_err() {
            return Err(TransferError::cancelled());
        }
    }
    match wanted.iter().next() {
        None => Ok(()),
        Some(id) => {
            let n = wanted.len();
            let message =
                format!("the store did not send {n} of the chunks it was asked for, {id} among them");
            Err(TransferError::new(ErrorClass::NotFound, message))
        }
    }
}
