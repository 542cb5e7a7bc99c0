//! Copies blocks from a source to a target as they are: a snapshot to a raw image, an image to a snapshot.
//!
//! Reads and writes are tasks of one owner. The aggregate needs the digests in ascending order while blocks finish
//! in any: those between the oldest unread and the newest read block wait in a window of at most 4,096.

use std::collections::VecDeque;
use std::sync::Arc;

use snapferry_types::{BLOCK_SIZE, Sha256Digest, ZERO_BLOCK_SHA256};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::aggregate::Aggregate;
use crate::block::{Block, ListedBlock};
use crate::budget::ByteBudget;
use crate::error::{ErrorClass, TransferError};
use crate::progress::TransferProgress;
use crate::sink::BlockTarget;
use crate::source::{BlockListing, BlockSource};
use crate::tasks::{joined, next};

const MAX_WINDOW: usize = 4_096;

/// What a copy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopySummary {
    /// Blocks written.
    pub n_written: u32,
    /// SHA-256 over their SHA-256s in ascending order.
    pub aggregate: Sha256Digest,
    /// Of these, blocks of zeroes.
    pub n_zero: u64,
}

struct Copy {
    source: Arc<dyn BlockSource>,
    target: Arc<dyn BlockTarget>,
    budget: ByteBudget,
    progress: Arc<TransferProgress>,
    listing: Option<BlockListing>,
    reads: JoinSet<Result<(u64, Block), TransferError>>,
    to_write: VecDeque<Block>,
    writes: JoinSet<Result<(), TransferError>>,
    aggregate: Aggregate,
    /// Digests of the reads from `window_start` on, counted in the order of the listing.
    window: VecDeque<Option<Sha256Digest>>,
    window_start: u64,
    last_listed: Option<u32>,
    n_zero: u64,
}

/// Writes every block that `source` lists to `target` and completes it.
///
/// # Errors
/// The first [`TransferError`] of any part; `Cancelled` when `stop` was. The target is not completed then.
pub async fn copy_blocks(
    source: Arc<dyn BlockSource>,
    target: Arc<dyn BlockTarget>,
    budget: ByteBudget,
    progress: Arc<TransferProgress>,
    stop: CancellationToken,
) -> Result<CopySummary, TransferError> {
    let (n_source, n_target) = (source.n_blocks(), target.n_blocks());
    if n_target < n_source {
        let message = format!(
            "the target has {n_target} blocks of 512 KiB, the source {n_source}: choose a target at least as large"
        );
        return Err(TransferError::new(ErrorClass::Invalid, message));
    }
    progress.start(n_source);
    let mut copy = Copy {
        listing: Some(source.list(0)),
        source,
        target: Arc::clone(&target),
        budget,
        progress,
        reads: JoinSet::new(),
        to_write: VecDeque::new(),
        writes: JoinSet::new(),
        aggregate: Aggregate::new(),
        window: VecDeque::new(),
        window_start: 0,
        last_listed: None,
        n_zero: 0,
    };
    let done = copy.transfer(&stop).await;
    copy.listing = None;
    copy.reads.shutdown().await;
    copy.writes.shutdown().await;
    copy.to_write.clear();
    done?;
    let (n_written, aggregate) = copy.aggregate.finish();
    tokio::select! {
        () = stop.cancelled() => return Err(TransferError::cancelled()),
        completed = target.complete(n_written, aggregate) => completed?,
    }
    Ok(CopySummary { n_written, aggregate, n_zero: copy.n_zero })
}

impl Copy {
    async fn transfer(&mut self, stop: &CancellationToken) -> Result<(), TransferError> {
        loop {
            self.start_writes();
            if self.listing.is_none() && self.reads.is_empty() && self.writes.is_empty() {
                return Ok(());
            }
            let wants_listing = self.listing.is_some()
                && self.reads.len() < self.source.wanted_reads().max(1)
                && self.window.len() < MAX_WINDOW;
            let listing = &mut self.listing;
            tokio::select! {
                () = stop.cancelled() => return Err(TransferError::cancelled()),
                Some(read) = self.reads.join_next() => {
                    let (sequence, block) = joined(read)?;
                    self.on_read(sequence, block);
                }
                Some(written) = self.writes.join_next() => {
                    joined(written)?;
                    self.progress.add_done(1);
                    self.progress.add_written(BLOCK_SIZE as u64);
                }
                listed = next(listing), if wants_listing => match listed {
                    Some(listed) => self.on_listed(listed?)?,
                    None => {
                        self.listing = None;
                        self.progress.reach(u64::from(self.source.n_blocks()));
                    }
                },
            }
        }
    }

    fn on_listed(&mut self, listed: ListedBlock) -> Result<(), TransferError> {
        let index = listed.index;
        if index.0 >= self.source.n_blocks() || self.last_listed.is_some_and(|last| last >= index.0) {
            let message = format!("the listing has block {index} out of order, or past the volume's end");
            return Err(TransferError::new(ErrorClass::Internal, message));
        }
        self.last_listed = Some(index.0);
        self.progress.reach(u64::from(index.0) + 1);
        if listed.token.is_none() {
            self.progress.add_gone(1);
            return Ok(());
        }
        let sequence = self.window_start + self.window.len() as u64;
        self.window.push_back(None);
        let (source, budget) = (Arc::clone(&self.source), self.budget.clone());
        let read = async move {
            let permit = budget.take(BLOCK_SIZE as u64).await;
            Ok((sequence, source.read(&listed, permit).await?))
        };
        self.reads.spawn(read.in_current_span());
        Ok(())
    }

    fn on_read(&mut self, sequence: u64, block: Block) {
        self.progress.add_read(BLOCK_SIZE as u64);
        if block.sha256 == ZERO_BLOCK_SHA256 {
            self.n_zero += 1;
            self.progress.add_zero(1);
        }
        let place = usize::try_from(sequence - self.window_start).unwrap_or(usize::MAX);
        if let Some(digest) = self.window.get_mut(place) {
            *digest = Some(block.sha256);
        }
        while let Some(Some(digest)) = self.window.front() {
            self.aggregate.add(digest);
            self.window.pop_front();
            self.window_start += 1;
        }
        self.to_write.push_back(block);
    }

    fn start_writes(&mut self) {
        while self.writes.len() < self.target.wanted_writes().max(1) {
            let Some(block) = self.to_write.pop_front() else { return };
            let target = Arc::clone(&self.target);
            self.writes.spawn(async move { target.write(&block).await }.in_current_span());
        }
    }
}
