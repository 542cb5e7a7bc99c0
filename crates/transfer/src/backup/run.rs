//! The owner of a running backup: one loop, one state.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use snapferry_types::{BLOCK_SIZE, BlockIndex, ChunkId, LEAF_BLOCKS, ZERO_BLOCK_SHA256};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::batch::{self, StoredBatch};
use super::leaves::{OpenLeaf, OpenLeaves};
use super::{
    BATCH_AGE, BATCHES_IN_BUDGET, FLUSH_AGE, FLUSH_BYTES, MAX_BATCH, MAX_BATCHES, MAX_LEAVES_ON_THEIR_WAY,
    MAX_OPEN_LEAVES, VolumeSummary, WIND_DOWN,
};
use crate::block::{Block, BlockState, Leaf, ListedBlock};
use crate::budget::ByteBudget;
use crate::error::{ErrorClass, TransferError};
use crate::pool::WorkPool;
use crate::progress::TransferProgress;
use crate::seal::Sealer;
use crate::sink::ChunkSink;
use crate::source::{BaseLeaves, BlockListing, BlockSource, read_within};
use crate::tasks::{joined, next};

/// What a backup works with.
pub(super) struct Parts {
    pub(super) source: Arc<dyn BlockSource>,
    pub(super) sink: Arc<dyn ChunkSink>,
    pub(super) base: Option<Arc<dyn BaseLeaves>>,
    pub(super) sealer: Arc<Sealer>,
    pub(super) budget: ByteBudget,
    pub(super) workers: WorkPool,
    pub(super) progress: Arc<TransferProgress>,
}

type Tasks<T> = JoinSet<Result<T, TransferError>>;

/// A backup under way.
pub(super) struct Run {
    parts: Parts,
    /// Ascending.
    durable: Vec<u32>,
    listing: Option<BlockListing>,
    last_listed: Option<u32>,
    reads: Tasks<Block>,
    /// Blocks that wait for a question to the store, each id once.
    batch: Vec<(ChunkId, Block)>,
    batch_since: Instant,
    batch_target: usize,
    batches: Tasks<StoredBatch>,
    /// For each id that waits or is on its way: the blocks that are in the store when it is.
    holders: HashMap<ChunkId, Vec<BlockIndex>>,
    leaves: OpenLeaves,
    leaf_puts: Tasks<()>,
    flush: Tasks<()>,
    unflushed_bytes: u64,
    /// Since when something is handed over and not durable.
    unflushed_since: Option<Instant>,
    summary: VolumeSummary,
}

impl Run {
    pub(super) fn new(parts: Parts, mut durable: Vec<u32>) -> Self {
        durable.sort_unstable();
        durable.dedup();
        // The leading leaves without a gap need not even be listed.
        let n_leading = durable.iter().zip(0_u32..).take_while(|(leaf, n)| **leaf == *n).count();
        let from_block = u32::try_from(n_leading).unwrap_or(u32::MAX).saturating_mul(LEAF_BLOCKS);
        let listing = parts.source.list(from_block);
        let share = parts.budget.total() / BATCHES_IN_BUDGET / BLOCK_SIZE as u64;
        Self {
            durable,
            listing: Some(listing),
            last_listed: None,
            reads: JoinSet::new(),
            batch: Vec::new(),
            batch_since: Instant::now(),
            batch_target: usize::try_from(share).unwrap_or(MAX_BATCH).clamp(1, MAX_BATCH),
            batches: JoinSet::new(),
            holders: HashMap::new(),
            leaves: OpenLeaves::default(),
            leaf_puts: JoinSet::new(),
            flush: JoinSet::new(),
            unflushed_bytes: 0,
            unflushed_since: None,
            summary: VolumeSummary::default(),
            parts,
        }
    }

    pub(super) const fn summary(&self) -> VolumeSummary {
        self.summary
    }

    /// Runs until everything listed is durable.
    pub(super) async fn transfer(&mut self, stop: &CancellationToken) -> Result<(), TransferError> {
        loop {
            self.start_batch();
            self.start_leaf_puts();
            self.start_flush();
            if self.is_done() {
                return Ok(());
            }
            let wants_listing = self.wants_listing();
            let batch_waits = !self.batch.is_empty() && self.batches.len() < MAX_BATCHES;
            let flush_waits = self.unflushed_since.filter(|_| self.flush.is_empty());
            let listing = &mut self.listing;
            tokio::select! {
                () = stop.cancelled() => return Err(TransferError::cancelled()),
                Some(read) = self.reads.join_next() => {
                    let block = joined(read)?;
                    self.on_read(block)?;
                }
                Some(stored) = self.batches.join_next() => {
                    let stored = joined(stored)?;
                    self.on_stored(stored);
                }
                Some(put) = self.leaf_puts.join_next() => {
                    joined(put)?;
                    self.on_leaf_put();
                }
                Some(flushed) = self.flush.join_next() => joined(flushed)?,
                listed = next(listing), if wants_listing => match listed {
                    Some(listed) => self.on_listed(listed?)?,
                    None => self.on_listing_end(),
                },
                () = sleep_until(self.batch_since + BATCH_AGE), if batch_waits => {}
                () = sleep_until(flush_waits.unwrap_or(self.batch_since) + FLUSH_AGE), if flush_waits.is_some() => {}
            }
        }
    }

    /// Ends the reads, and lets what is on its way become durable within a few seconds.
    pub(super) async fn wind_down(&mut self) {
        self.listing = None;
        self.reads.shutdown().await;
        self.batch.clear();
        let rest = async {
            while let Some(stored) = self.batches.join_next().await {
                if let Ok(stored) = joined(stored) {
                    self.on_stored(stored);
                }
            }
            self.start_leaf_puts();
            while let Some(put) = self.leaf_puts.join_next().await {
                if joined(put).is_ok() {
                    self.on_leaf_put();
                }
                self.start_leaf_puts();
            }
            while let Some(flushed) = self.flush.join_next().await {
                let _ = joined(flushed);
            }
            if self.unflushed_since.is_some() {
                let _ = self.parts.sink.flush().await;
            }
        };
        if timeout(WIND_DOWN, rest).await.is_err() {
            tracing::warn!(
                "a stopped backup could not make durable what was on its way within {WIND_DOWN:?}"
            );
        }
        self.batches.shutdown().await;
        self.leaf_puts.shutdown().await;
        self.flush.shutdown().await;
        self.parts.workers.idle().await;
    }

    fn wants_listing(&self) -> bool {
        let wanted = self.parts.source.wanted_reads();
        self.listing.is_some()
            && self.reads.len() < wanted.max(1)
            // What waits for the store is memory: the slower side sets the pace.
            && self.batch.len() < self.batch_target.max(wanted / 2)
            && self.leaves.len() < MAX_OPEN_LEAVES
    }

    fn nothing_to_read(&self) -> bool {
        self.listing.is_none() && self.reads.is_empty()
    }

    /// Everything is handed over.
    fn is_handed_over(&self) -> bool {
        self.nothing_to_read()
            && self.batch.is_empty()
            && self.batches.is_empty()
            && self.leaves.is_empty()
            && self.leaf_puts.is_empty()
    }

    fn is_done(&self) -> bool {
        self.is_handed_over() && self.flush.is_empty() && self.unflushed_since.is_none()
    }

    fn on_listed(&mut self, listed: ListedBlock) -> Result<(), TransferError> {
        let index = listed.index;
        let n_blocks = self.parts.source.n_blocks();
        if index.0 >= n_blocks || self.last_listed.is_some_and(|last| last >= index.0) {
            let after = self.last_listed.map_or_else(String::new, |last| format!(" after block {last}"));
            let message = format!("the listing has block {index}{after} in a volume of {n_blocks} blocks");
            return Err(TransferError::new(ErrorClass::Internal, message));
        }
        self.last_listed = Some(index.0);
        self.parts.progress.reach(u64::from(index.0) + 1);
        if self.durable.binary_search(&index.leaf()).is_ok() {
            self.summary.n_skipped += 1;
            self.parts.progress.add_skipped(1);
            return Ok(());
        }
        self.leaves.list(index);
        if listed.token.is_none() {
            self.summary.n_gone += 1;
            self.parts.progress.add_gone(1);
            self.leaves.set(index, BlockState::Hole);
            self.leaves.settle(index);
            return Ok(());
        }
        let source = Arc::clone(&self.parts.source);
        let budget = self.parts.budget.clone();
        let read = async move { read_within(&budget, &*source, &listed).await };
        self.reads.spawn(read.in_current_span());
        Ok(())
    }

    fn on_listing_end(&mut self) {
        self.listing = None;
        self.leaves.listed_out();
        self.parts.progress.reach(u64::from(self.parts.source.n_blocks()));
    }

    fn on_read(&mut self, block: Block) -> Result<(), TransferError> {
        if block.data.len() != BLOCK_SIZE {
            let message = format!("block {} has {} bytes, not {BLOCK_SIZE}", block.index, block.data.len());
            return Err(TransferError::new(ErrorClass::Internal, message));
        }
        self.summary.n_read += 1;
        self.parts.progress.add_done(1);
        self.parts.progress.add_read(BLOCK_SIZE as u64);
        let index = block.index;
        if block.sha256 == ZERO_BLOCK_SHA256 {
            self.summary.n_zero += 1;
            self.parts.progress.add_zero(1);
            self.leaves.set(index, BlockState::Zero);
            self.leaves.settle(index);
            return Ok(());
        }
        self.leaves.set(index, BlockState::Data(block.sha256));
        let id = self.parts.sealer.chunk_id(&block.sha256);
        match self.holders.entry(id) {
            Entry::Occupied(mut holders) => {
                holders.get_mut().push(index);
                self.count_deduplicated(1);
            }
            Entry::Vacant(holders) => {
                holders.insert(vec![index]);
                if self.batch.is_empty() {
                    self.batch_since = Instant::now();
                }
                self.batch.push((id, block));
            }
        }
        Ok(())
    }

    fn on_stored(&mut self, stored: StoredBatch) {
        for id in &stored.ids {
            for index in self.holders.remove(id).unwrap_or_default() {
                self.leaves.settle(index);
            }
        }
        self.count_deduplicated((stored.ids.len() as u64).saturating_sub(stored.n_sent));
        self.summary.n_chunks_sent += stored.n_sent;
        self.summary.bytes_sent += stored.bytes_sent;
        self.parts.progress.add_chunks(stored.n_sent);
        self.parts.progress.add_sent(stored.bytes_sent);
        if stored.n_sent > 0 {
            self.unflushed_bytes += stored.bytes_sent;
            self.unflushed_since.get_or_insert_with(Instant::now);
        }
    }

    fn on_leaf_put(&mut self) {
        self.summary.n_leaves += 1;
        self.parts.progress.add_leaves(1);
        self.unflushed_since.get_or_insert_with(Instant::now);
    }

    fn count_deduplicated(&mut self, n: u64) {
        self.summary.n_deduplicated += n;
        self.parts.progress.add_deduplicated(n);
    }

    fn start_batch(&mut self) {
        let is_due = self.batch.len() >= self.batch_target
            || self.nothing_to_read()
            || self.batch_since.elapsed() >= BATCH_AGE;
        if self.batch.is_empty() || self.batches.len() >= MAX_BATCHES || !is_due {
            return;
        }
        let rest = self.batch.split_off(self.batch.len().min(self.batch_target));
        let blocks = std::mem::replace(&mut self.batch, rest);
        self.batch_since = Instant::now();
        let Parts { sink, sealer, workers, .. } = &self.parts;
        let store = batch::store(Arc::clone(sink), Arc::clone(sealer), workers.clone(), blocks);
        self.batches.spawn(store.in_current_span());
    }

    fn start_leaf_puts(&mut self) {
        while self.leaf_puts.len() < MAX_LEAVES_ON_THEIR_WAY {
            let Some(leaf) = self.leaves.take_complete() else { return };
            let put = put_leaf(Arc::clone(&self.parts.sink), self.parts.base.clone(), leaf);
            self.leaf_puts.spawn(put.in_current_span());
        }
    }

    fn start_flush(&mut self) {
        let Some(since) = self.unflushed_since else { return };
        let is_due =
            self.unflushed_bytes >= FLUSH_BYTES || since.elapsed() >= FLUSH_AGE || self.is_handed_over();
        if !is_due || !self.flush.is_empty() {
            return;
        }
        self.unflushed_bytes = 0;
        self.unflushed_since = None;
        let sink = Arc::clone(&self.parts.sink);
        self.flush.spawn(async move { sink.flush().await }.in_current_span());
    }
}

async fn put_leaf(
    sink: Arc<dyn ChunkSink>,
    base: Option<Arc<dyn BaseLeaves>>,
    open: OpenLeaf,
) -> Result<(), TransferError> {
    let index = open.index();
    let under = match base {
        Some(base) => base
            .base_leaf(index)
            .await
            .map_err(|error| error.context(format!("reading base leaf {index}")))?,
        None => Leaf::empty(index),
    };
    sink.put_leaf(&open.over(under)).await
}
