//! Copies blocks from a source to a target as they are: a snapshot to an image, an image to a snapshot.
//!
//! Reads and writes are tasks of one owner. The aggregate needs the digests in ascending order, the high-water mark
//! the writes, while blocks finish in any: what lies between the oldest unfinished and the newest block waits in a
//! window of at most 4,096.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use snapferry_types::{BLOCK_SIZE, BlockIndex, Sha256Digest, ZERO_BLOCK_SHA256};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::aggregate::Aggregate;
use crate::block::{Block, ListedBlock};
use crate::budget::ByteBudget;
use crate::buffers;
use crate::error::{ErrorClass, TransferError};
use crate::high_water::{HighWater, Window};
use crate::progress::TransferProgress;
use crate::sink::{BlockTarget, MAX_HOLE_BLOCKS, TargetNeeds};
use crate::source::{BlockListing, BlockSource, read_within};
use crate::tasks::{joined, next};

const MAX_WINDOW: usize = 4_096;

/// What a copy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopySummary {
    /// Blocks of the copy, those of earlier attempts included only where the target needs the aggregate.
    pub n_written: u32,
    /// SHA-256 over their SHA-256s in ascending order.
    pub aggregate: Sha256Digest,
    /// Of these, blocks of zeroes.
    pub n_zero: u64,
    /// Blocks that this attempt wrote.
    pub n_written_now: u64,
}

/// A block or a range of holes under way, in the order of the listing.
struct Slot {
    /// The block after it.
    end: u32,
    sha256: Option<Sha256Digest>,
    is_read: bool,
    is_written: bool,
}

enum Work {
    Block(Block),
    Holes(Range<u32>),
}

struct Copy<'a> {
    source: Arc<dyn BlockSource>,
    target: Arc<dyn BlockTarget>,
    needs: TargetNeeds,
    budget: ByteBudget,
    progress: Arc<TransferProgress>,
    mark: HighWater<'a>,
    beyond_mark: Window,
    listing: Option<BlockListing>,
    /// What was listed and waits for room, for the holes before it, or for the mark.
    ahead: Option<ListedBlock>,
    /// The first block that was not yet taken from the listing, nor as a hole.
    next_block: u32,
    reads: JoinSet<Result<(u64, Block), TransferError>>,
    to_write: VecDeque<(u64, Work)>,
    /// Each ends with its place in the order, and whether it was a block.
    writes: JoinSet<Result<(u64, bool), TransferError>>,
    /// At most one, of the high-water mark it will allow.
    persists: JoinSet<Result<u32, TransferError>>,
    aggregate: Aggregate,
    window: VecDeque<Slot>,
    window_start: u64,
    /// All before it is written.
    reached: u32,
    high_water: u32,
    n_zero: u64,
    n_written_now: u64,
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
    resume_copy(source, target, budget, HighWater::new(0, &mut |_| {}), progress, stop).await
}

/// As [`copy_blocks`], from the high-water mark of earlier attempts on: what they wrote is read again only where the
/// target needs the aggregate.
///
/// # Errors
/// See [`copy_blocks`].
pub async fn resume_copy(
    source: Arc<dyn BlockSource>,
    target: Arc<dyn BlockTarget>,
    budget: ByteBudget,
    mark: HighWater<'_>,
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
    let _in_use = buffers::in_use();
    progress.start(n_source);
    let needs = target.needs();
    let from_block = mark.from_block;
    let mut copy = Copy {
        listing: Some(source.list(if needs.aggregate { 0 } else { from_block })),
        source,
        target: Arc::clone(&target),
        needs,
        budget,
        progress,
        beyond_mark: mark.window(),
        mark,
        ahead: None,
        next_block: from_block,
        reads: JoinSet::new(),
        to_write: VecDeque::new(),
        writes: JoinSet::new(),
        persists: JoinSet::new(),
        aggregate: Aggregate::new(),
        window: VecDeque::new(),
        window_start: 0,
        reached: 0,
        high_water: from_block,
        n_zero: 0,
        n_written_now: 0,
    };
    let done = copy.transfer(&stop).await;
    copy.listing = None;
    copy.reads.shutdown().await;
    copy.writes.shutdown().await;
    copy.persists.shutdown().await;
    copy.to_write.clear();
    copy.beyond_mark.close();
    done?;
    let (n_written, aggregate) = copy.aggregate.finish();
    tokio::select! {
        () = stop.cancelled() => return Err(TransferError::cancelled()),
        completed = target.complete(n_written, aggregate) => completed?,
    }
    Ok(CopySummary { n_written, aggregate, n_zero: copy.n_zero, n_written_now: copy.n_written_now })
}

impl Copy<'_> {
    async fn transfer(&mut self, stop: &CancellationToken) -> Result<(), TransferError> {
        let mut last_listed = None;
        loop {
            self.beyond_mark.advance();
            self.take_listed();
            self.start_writes();
            self.raise_high_water();
            if self.is_done() {
                return Ok(());
            }
            let wants_listing = self.listing.is_some() && self.ahead.is_none() && self.has_room();
            let is_held = self.ahead.is_some() && self.beyond_mark.is_full();
            let listing = &mut self.listing;
            tokio::select! {
                () = stop.cancelled() => return Err(TransferError::cancelled()),
                Some(read) = self.reads.join_next() => {
                    let (sequence, block) = joined(read)?;
                    self.on_read(sequence, block);
                }
                Some(written) = self.writes.join_next() => {
                    let (sequence, is_block) = joined(written)?;
                    self.on_written(sequence, is_block);
                }
                Some(reached) = self.persists.join_next() => self.rise_to(joined(reached)?),
                moved = self.beyond_mark.moved(), if is_held => moved?,
                listed = next(listing), if wants_listing => match listed {
                    Some(listed) => {
                        let listed = listed?;
                        self.check_order(&mut last_listed, listed.index)?;
                        self.ahead = Some(listed);
                    }
                    None => {
                        self.listing = None;
                        self.progress.reach(u64::from(self.source.n_blocks()));
                    }
                },
            }
        }
    }

    fn check_order(&self, last: &mut Option<BlockIndex>, index: BlockIndex) -> Result<(), TransferError> {
        if index.0 >= self.source.n_blocks() || last.is_some_and(|last| last >= index) {
            let message = format!("the listing has block {index} out of order, or past the volume's end");
            return Err(TransferError::new(ErrorClass::Internal, message));
        }
        *last = Some(index);
        self.progress.reach(u64::from(index.0) + 1);
        Ok(())
    }

    fn has_room(&self) -> bool {
        // What was read and cannot be written yet is memory, too: the slower side sets the pace.
        let under_way = self.reads.len() + self.to_write.len();
        under_way < self.source.wanted_reads().max(1) && self.window.len() < MAX_WINDOW
    }

    /// Nothing more comes: neither blocks nor, where they are needed, holes.
    fn is_listed(&self) -> bool {
        let holes_done = !self.needs.holes || self.next_block >= self.target.n_blocks();
        self.listing.is_none() && self.ahead.is_none() && holes_done
    }

    fn is_done(&self) -> bool {
        self.is_listed() && self.reads.is_empty() && self.writes.is_empty() && self.persists.is_empty()
    }

    /// Starts what was listed, the holes before it first, as far as there is room.
    fn take_listed(&mut self) {
        while self.has_room() {
            let end = match &self.ahead {
                Some(listed) => listed.index.0,
                None if self.listing.is_none() => self.target.n_blocks(),
                None => return,
            };
            if self.needs.holes && self.next_block < end {
                let range = self.next_block..end.min(self.next_block.saturating_add(MAX_HOLE_BLOCKS));
                self.next_block = range.end;
                let slot = Slot { end: range.end, sha256: None, is_read: true, is_written: false };
                let sequence = self.push(slot);
                self.to_write.push_back((sequence, Work::Holes(range)));
                continue;
            }
            if self.ahead.is_none() || self.beyond_mark.is_full() {
                return;
            }
            let Some(listed) = self.ahead.take() else { return };
            self.on_listed(listed);
        }
    }

    fn push(&mut self, slot: Slot) -> u64 {
        let sequence = self.window_start + self.window.len() as u64;
        self.window.push_back(slot);
        sequence
    }

    fn on_listed(&mut self, listed: ListedBlock) {
        let index = listed.index.0;
        let end = index.saturating_add(1);
        if listed.token.is_none() {
            self.progress.add_gone(1);
            // A block that is gone is a hole, which its target may need to be told.
            return;
        }
        self.next_block = self.next_block.max(end);
        let is_written = index < self.mark.from_block;
        if !is_written {
            self.beyond_mark.enter(index);
        }
        let sequence = self.push(Slot { end, sha256: None, is_read: false, is_written });
        let (source, budget) = (Arc::clone(&self.source), self.budget.clone());
        let read = async move { Ok((sequence, read_within(&budget, &*source, &listed).await?)) };
        self.reads.spawn(read.in_current_span());
    }

    fn slot(&mut self, sequence: u64) -> Option<&mut Slot> {
        let place = usize::try_from(sequence.checked_sub(self.window_start)?).ok()?;
        self.window.get_mut(place)
    }

    fn on_read(&mut self, sequence: u64, block: Block) {
        self.progress.add_read(BLOCK_SIZE as u64);
        if block.sha256 == ZERO_BLOCK_SHA256 {
            self.n_zero += 1;
            self.progress.add_zero(1);
        }
        let Some(slot) = self.slot(sequence) else { return };
        slot.is_read = true;
        slot.sha256 = Some(block.sha256);
        if slot.is_written {
            self.progress.add_skipped(1);
            self.advance();
        } else {
            self.to_write.push_back((sequence, Work::Block(block)));
        }
    }

    fn on_written(&mut self, sequence: u64, is_block: bool) {
        if is_block {
            self.n_written_now += 1;
            self.progress.add_done(1);
            self.progress.add_written(BLOCK_SIZE as u64);
        }
        if let Some(slot) = self.slot(sequence) {
            slot.is_written = true;
        }
        self.advance();
    }

    fn advance(&mut self) {
        while let Some(slot) = self.window.front().filter(|slot| slot.is_read && slot.is_written) {
            if let Some(sha256) = &slot.sha256 {
                self.aggregate.add(sha256);
            }
            self.reached = slot.end;
            self.window.pop_front();
            self.window_start += 1;
        }
    }

    fn start_writes(&mut self) {
        while self.writes.len() < self.target.wanted_writes().max(1) {
            let Some((sequence, work)) = self.to_write.pop_front() else { return };
            let target = Arc::clone(&self.target);
            let write = async move {
                match work {
                    Work::Block(block) => target.write(&block).await.map(|()| (sequence, true)),
                    Work::Holes(Range { start, end }) => {
                        let written = target.write_hole_range(BlockIndex(start), end - start).await;
                        written.map(|()| (sequence, false))
                    }
                }
            };
            self.writes.spawn(write.in_current_span());
        }
    }

    fn raise_high_water(&mut self) {
        let is_over = self.is_listed() && self.window.is_empty();
        let reached = if is_over { self.source.n_blocks() } else { self.reached };
        let is_due = is_over || reached.saturating_sub(self.high_water) >= self.mark.step();
        if !is_due || reached <= self.high_water || !self.persists.is_empty() {
            return;
        }
        if !self.needs.persist {
            self.rise_to(reached);
            return;
        }
        let target = Arc::clone(&self.target);
        let persist = async move {
            target.persist().await?;
            Ok(reached)
        };
        self.persists.spawn(persist.in_current_span());
    }

    fn rise_to(&mut self, reached: u32) {
        self.high_water = reached;
        (self.mark.reached)(reached);
    }
}
