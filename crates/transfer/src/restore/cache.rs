//! A few plain chunks that were just restored, for leaves that repeat them. They count against the byte budget,
//! and give way as soon as anybody here waits for it: who waits holds no cache, so the budget never deadlocks.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use snapferry_types::{BLOCK_SIZE, ChunkId};

use super::MAX_CACHED_CHUNKS;
use crate::budget::{BudgetPermit, ByteBudget};

/// An opened chunk and the memory it counts for.
#[derive(Debug, Clone)]
pub(super) struct PlainChunk {
    pub(super) data: Bytes,
    pub(super) permit: Arc<BudgetPermit>,
}

/// The budget as a restore uses it, with the cache that gives way to it.
#[derive(Debug)]
pub(super) struct CachedBudget {
    budget: ByteBudget,
    capacity: usize,
    n_waiting: AtomicUsize,
    recent: Mutex<VecDeque<(ChunkId, PlainChunk)>>,
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl CachedBudget {
    pub(super) fn new(budget: ByteBudget) -> Self {
        let capacity = (budget.total() / 8 / BLOCK_SIZE as u64).min(MAX_CACHED_CHUNKS);
        let capacity = usize::try_from(capacity).unwrap_or(0);
        Self { budget, capacity, n_waiting: AtomicUsize::new(0), recent: Mutex::default() }
    }

    /// Memory for one block; the cache is dropped rather than waited for.
    pub(super) async fn take_block(&self) -> BudgetPermit {
        if let Some(permit) = self.budget.try_take(BLOCK_SIZE as u64) {
            return permit;
        }
        // First the count, then the clearing: what is kept after the clearing has seen the count.
        self.n_waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.n_waiting);
        self.recent().clear();
        self.budget.take(BLOCK_SIZE as u64).await
    }

    /// The chunk, if it was kept; it counts as used again.
    pub(super) fn get(&self, id: &ChunkId) -> Option<PlainChunk> {
        let mut recent = self.recent();
        let at = recent.iter().position(|(kept, _)| kept == id)?;
        let entry = recent.remove(at)?;
        let chunk = entry.1.clone();
        recent.push_back(entry);
        Some(chunk)
    }

    /// Keeps a chunk, unless somebody waits for memory.
    pub(super) fn keep(&self, id: ChunkId, chunk: &PlainChunk) {
        let mut recent = self.recent();
        if self.capacity == 0 || self.n_waiting.load(Ordering::SeqCst) > 0 {
            return;
        }
        while recent.len() >= self.capacity {
            recent.pop_front();
        }
        recent.push_back((id, chunk.clone()));
    }

    /// Drops all that is kept.
    pub(super) fn clear(&self) {
        self.recent().clear();
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<(ChunkId, PlainChunk)>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
