//! The owner of a running restore: one loop, one state.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use snapferry_types::{BLOCK_SIZE, BlockIndex, ChunkId, LEAF_BLOCKS, Sha256Digest};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::cache::{CachedBudget, PlainChunk};
use super::fetch::{Fetched, fetch};
use super::holes::HoleFinder;
use super::write::{ToWrite, Write, Written};
use super::{
    FETCHED_AHEAD, GOOD_FETCH, MAX_FETCH, MAX_FETCHES, MAX_OPEN_BLOCKS, MAX_WAITING_WRITES, RestoreSummary,
};
use crate::aggregate::Aggregate;
use crate::block::{BlockState, Leaf};
use crate::budget::{BudgetPermit, ByteBudget};
use crate::error::{ErrorClass, TransferError};
use crate::high_water::{HighWater, Window};
use crate::pool::WorkPool;
use crate::progress::TransferProgress;
use crate::seal::Sealer;
use crate::sink::BlockTarget;
use crate::source::ChunkSource;
use crate::tasks::{joined, next};
use crate::zero::zero_block;

/// What a restore works with.
pub(super) struct Parts {
    pub(super) source: Arc<dyn ChunkSource>,
    pub(super) target: Arc<dyn BlockTarget>,
    pub(super) sealer: Arc<Sealer>,
    pub(super) budget: ByteBudget,
    pub(super) workers: WorkPool,
    pub(super) progress: Arc<TransferProgress>,
}

type Tasks<T> = JoinSet<Result<T, TransferError>>;

/// A chunk that was asked for, or waits to be.
struct Wanted {
    sha256: Sha256Digest,
    blocks: Vec<BlockIndex>,
}

/// A block of a leaf that came.
struct Listed {
    index: BlockIndex,
    state: BlockState,
    sha256: Sha256Digest,
}

/// A restore under way.
pub(super) struct Run<'a> {
    parts: Parts,
    budget: Arc<CachedBudget>,
    mark: HighWater<'a>,
    window: Window,
    leaves: Option<BoxStream<'static, Result<Leaf, TransferError>>>,
    /// A leaf that came and waits for room, or for the holes before it.
    ahead: Option<Leaf>,
    holes: HoleFinder,
    last_leaf: Option<u32>,
    aggregate: Aggregate,
    /// The rest of the last leaf, which the window holds back.
    listed: VecDeque<Listed>,
    /// Blocks, and first blocks of ranges of holes, that are to be written and are not yet.
    open: BTreeSet<u32>,
    wanted: HashMap<ChunkId, Wanted>,
    to_fetch: VecDeque<ChunkId>,
    fetches: Tasks<()>,
    fetched_in: mpsc::Sender<Fetched>,
    fetched: mpsc::Receiver<Fetched>,
    openings: Tasks<(ChunkId, PlainChunk)>,
    to_write: VecDeque<ToWrite>,
    writes: Tasks<Written>,
    /// At most one, of the high-water mark it will allow.
    persists: Tasks<u32>,
    high_water: u32,
    n_written_now: u64,
    n_zero: u64,
    n_chunks_fetched: u64,
    bytes_fetched: u64,
}

impl<'a> Run<'a> {
    pub(super) fn new(parts: Parts, mark: HighWater<'a>) -> Self {
        let (fetched_in, fetched) = mpsc::channel(FETCHED_AHEAD);
        let (n_blocks, from_leaf) = (parts.target.n_blocks(), mark.from_block / LEAF_BLOCKS);
        Self {
            budget: Arc::new(CachedBudget::new(parts.budget.clone())),
            window: mark.window(),
            leaves: Some(Arc::clone(&parts.source).leaves(0)),
            ahead: None,
            holes: HoleFinder::new(parts.target.needs().holes, n_blocks, from_leaf),
            last_leaf: None,
            aggregate: Aggregate::new(),
            listed: VecDeque::new(),
            open: BTreeSet::new(),
            wanted: HashMap::new(),
            to_fetch: VecDeque::new(),
            fetches: JoinSet::new(),
            fetched_in,
            fetched,
            openings: JoinSet::new(),
            to_write: VecDeque::new(),
            writes: JoinSet::new(),
            persists: JoinSet::new(),
            high_water: mark.from_block,
            n_written_now: 0,
            n_zero: 0,
            n_chunks_fetched: 0,
            bytes_fetched: 0,
            parts,
            mark,
        }
    }

    pub(super) fn summary(&self) -> RestoreSummary {
        let (n_written, aggregate) = self.aggregate.clone().finish();
        RestoreSummary {
            n_written,
            aggregate,
            n_written_now: self.n_written_now,
            n_zero: self.n_zero,
            n_chunks_fetched: self.n_chunks_fetched,
            bytes_fetched: self.bytes_fetched,
        }
    }

    /// Runs until every block is written.
    pub(super) async fn transfer(&mut self, stop: &CancellationToken) -> Result<(), TransferError> {
        loop {
            self.window.advance();
            self.take_leaf()?;
            self.start_fetches();
            self.start_writes();
            self.raise_high_water();
            if self.is_done() {
                return Ok(());
            }
            let wants_leaf = self.wants_leaf();
            let wants_fetched = self.to_write.len() < 2 * self.wanted_writes()
                && self.openings.len() < 4 * self.parts.workers.n_workers();
            let is_held = self.is_held();
            let leaves = &mut self.leaves;
            tokio::select! {
                () = stop.cancelled() => return Err(TransferError::cancelled()),
                Some(written) = self.writes.join_next() => {
                    let written = joined(written)?;
                    self.on_written(&written);
                }
                Some(reached) = self.persists.join_next() => self.rise_to(joined(reached)?),
                moved = self.window.moved(), if is_held => moved?,
                Some(opened) = self.openings.join_next() => {
                    let (id, chunk) = joined(opened)?;
                    self.on_opened(id, &chunk);
                }
                Some(done) = self.fetches.join_next() => joined(done)?,
                Some((chunk, permit)) = self.fetched.recv(), if wants_fetched => {
                    self.on_fetched(chunk.id, chunk.sealed, permit)?;
                }
                leaf = next(leaves), if wants_leaf => match leaf {
                    Some(leaf) => self.ahead = Some(leaf?),
                    None => self.leaves = None,
                },
            }
        }
    }

    /// Ends all that still runs.
    pub(super) async fn shut_down(&mut self) {
        self.leaves = None;
        self.fetches.shutdown().await;
        self.openings.shutdown().await;
        self.writes.shutdown().await;
        self.persists.shutdown().await;
        self.fetched.close();
        while self.fetched.recv().await.is_some() {}
        self.to_write.clear();
        self.window.close();
        self.budget.clear();
        self.parts.workers.idle().await;
    }

    fn wanted_writes(&self) -> usize {
        self.parts.target.wanted_writes().max(1)
    }

    fn wants_leaf(&self) -> bool {
        self.leaves.is_some() && self.ahead.is_none() && self.has_room()
    }

    fn has_room(&self) -> bool {
        self.to_fetch.len() < MAX_FETCH
            && self.to_write.len() < MAX_WAITING_WRITES
            && self.open.len() < MAX_OPEN_BLOCKS
    }

    /// Blocks wait until more of the mark is recorded.
    fn is_held(&self) -> bool {
        !self.listed.is_empty()
    }

    /// No further leaf and no further hole comes.
    fn is_listed(&self) -> bool {
        self.leaves.is_none() && self.ahead.is_none() && self.listed.is_empty() && self.holes.is_done()
    }

    fn is_done(&self) -> bool {
        self.is_listed()
            && self.open.is_empty()
            && self.wanted.is_empty()
            && self.fetches.is_empty()
            && self.writes.is_empty()
            && self.persists.is_empty()
    }

    /// Opens what came, the holes before it first, as far as there is room.
    fn take_leaf(&mut self) -> Result<(), TransferError> {
        self.take_listed();
        while self.has_room() && self.listed.is_empty() {
            let end_leaf = match &self.ahead {
                Some(leaf) => leaf.index,
                None if self.leaves.is_none() => self.holes.end_leaf(),
                None => return Ok(()),
            };
            if let Some(gap) = self.holes.next_gap(end_leaf) {
                self.want_holes(gap);
                continue;
            }
            let Some(leaf) = self.ahead.take() else { return Ok(()) };
            self.on_leaf(&leaf)?;
            self.take_listed();
        }
        Ok(())
    }

    /// Opens the blocks of the last leaf, as far as the window lets them through.
    fn take_listed(&mut self) {
        while !self.listed.is_empty() && !self.window.is_full() {
            let Some(Listed { index, state, sha256 }) = self.listed.pop_front() else { return };
            self.window.enter(index.0);
            self.open.insert(index.0);
            self.want(index, state, sha256);
        }
    }

    fn want_holes(&mut self, range: Range<u32>) {
        self.open.insert(range.start);
        self.to_write.push_back(ToWrite::Holes(range));
    }

    fn on_leaf(&mut self, leaf: &Leaf) -> Result<(), TransferError> {
        let n_blocks = self.parts.source.n_blocks();
        if self.last_leaf.is_some_and(|last| last >= leaf.index) || leaf.entries.len() != LEAF_BLOCKS as usize
        {
            let message = format!("the store sent leaf {} out of order or of a wrong size", leaf.index);
            return Err(TransferError::new(ErrorClass::Internal, message));
        }
        self.last_leaf = Some(leaf.index);
        let first_block = leaf.index.checked_mul(LEAF_BLOCKS);
        for (slot, entry) in (0_u32..).zip(&leaf.entries) {
            let Some(sha256) = entry.written_sha256() else { continue };
            let index =
                first_block.and_then(|first| first.checked_add(slot)).filter(|index| *index < n_blocks);
            let Some(index) = index.map(BlockIndex) else {
                let message = format!("leaf {} has a block past the volume's {n_blocks} blocks", leaf.index);
                return Err(TransferError::new(ErrorClass::Corrupt, message));
            };
            self.aggregate.add(&sha256);
            if index.0 >= self.mark.from_block {
                self.listed.push_back(Listed { index, state: *entry, sha256 });
            }
        }
        for run in self.holes.in_leaf(leaf) {
            self.want_holes(run);
        }
        self.parts.progress.reach(u64::from(leaf.index) * u64::from(LEAF_BLOCKS));
        Ok(())
    }

    fn want(&mut self, index: BlockIndex, state: BlockState, sha256: Sha256Digest) {
        if state == BlockState::Zero {
            let data = zero_block();
            self.to_write.push_back(ToWrite::Block(Write { index, data, sha256, permit: None }));
            return;
        }
        let id = self.parts.sealer.chunk_id(&sha256);
        match self.wanted.entry(id) {
            Entry::Occupied(mut wanted) => {
                wanted.get_mut().blocks.push(index);
                self.parts.progress.add_deduplicated(1);
            }
            Entry::Vacant(place) => match self.budget.get(&id) {
                Some(PlainChunk { data, permit }) => {
                    self.to_write.push_back(ToWrite::Block(Write {
                        index,
                        data,
                        sha256,
                        permit: Some(permit),
                    }));
                    self.parts.progress.add_deduplicated(1);
                }
                None => {
                    place.insert(Wanted { sha256, blocks: vec![index] });
                    self.to_fetch.push_back(id);
                }
            },
        }
    }

    fn on_fetched(&mut self, id: ChunkId, sealed: Bytes, permit: BudgetPermit) -> Result<(), TransferError> {
        let Some(Wanted { sha256, blocks }) = self.wanted.get(&id) else {
            let message = format!("chunk {id} came although nothing waits for it");
            return Err(TransferError::new(ErrorClass::Internal, message));
        };
        self.n_chunks_fetched += 1;
        self.bytes_fetched += sealed.len() as u64;
        self.parts.progress.add_chunks(1);
        self.parts.progress.add_sent(sealed.len() as u64);
        let (sha256, first) = (*sha256, blocks.first().copied().unwrap_or_default());
        let (sealer, workers) = (Arc::clone(&self.parts.sealer), self.parts.workers.clone());
        let open = async move {
            let opened = workers
                .run(move |scratch| {
                    let data = sealer.open_chunk(id, &sealed, sha256, scratch)?;
                    Ok::<_, TransferError>(PlainChunk { data, permit: Arc::new(permit) })
                })
                .await?;
            let chunk = opened.map_err(|error| error.context(format!("restoring block {first}")))?;
            if chunk.data.len() != BLOCK_SIZE {
                let message = format!("chunk {id} has {} plain bytes, not {BLOCK_SIZE}", chunk.data.len());
                return Err(TransferError::new(ErrorClass::Corrupt, message));
            }
            Ok((id, chunk))
        };
        self.openings.spawn(open.in_current_span());
        Ok(())
    }

    fn on_opened(&mut self, id: ChunkId, chunk: &PlainChunk) {
        let Some(Wanted { sha256, blocks }) = self.wanted.remove(&id) else { return };
        for index in blocks {
            let PlainChunk { data, permit } = chunk.clone();
            self.to_write.push_back(ToWrite::Block(Write { index, data, sha256, permit: Some(permit) }));
        }
        self.budget.keep(id, chunk);
    }

    fn on_written(&mut self, written: &Written) {
        let index = match written {
            Written::Block(index) => {
                self.n_written_now += 1;
                self.parts.progress.add_done(1);
                self.parts.progress.add_written(BLOCK_SIZE as u64);
                index
            }
            Written::Holes(first) => first,
        };
        self.open.remove(&index.0);
    }

    fn start_fetches(&mut self) {
        while !self.to_fetch.is_empty() && self.fetches.len() < MAX_FETCHES {
            let is_due = self.fetches.is_empty()
                || self.to_fetch.len() >= GOOD_FETCH
                || self.is_held()
                || !self.wants_leaf();
            if !is_due {
                return;
            }
            let ids = self.to_fetch.drain(..self.to_fetch.len().min(MAX_FETCH)).collect();
            let (source, budget) = (Arc::clone(&self.parts.source), Arc::clone(&self.budget));
            self.fetches.spawn(fetch(source, ids, budget, self.fetched_in.clone()).in_current_span());
        }
    }

    fn start_writes(&mut self) {
        while self.writes.len() < self.wanted_writes() {
            let Some(next) = self.to_write.pop_front() else { return };
            if next.is_zero() {
                self.n_zero += 1;
                self.parts.progress.add_zero(1);
            }
            let target = Arc::clone(&self.parts.target);
            self.writes.spawn(next.write(target).in_current_span());
        }
    }

    fn raise_high_water(&mut self) {
        let is_over = self.is_listed() && self.open.is_empty();
        let next = match self.listed.front() {
            Some(held) => held.index.0,
            None if is_over => self.parts.source.n_blocks(),
            None => self.holes.next_leaf().saturating_mul(LEAF_BLOCKS),
        };
        let reached = self.open.first().map_or(next, |open| next.min(*open));
        let is_due = is_over || reached.saturating_sub(self.high_water) >= self.mark.step();
        if !is_due || reached <= self.high_water || !self.persists.is_empty() {
            return;
        }
        if !self.parts.target.needs().persist {
            self.rise_to(reached);
            return;
        }
        let target = Arc::clone(&self.parts.target);
        let persist = async move {
            target.persist().await?;
            Ok(reached)
        };
        self.persists.spawn(persist.in_current_span());
    }

    fn rise_to(&mut self, reached: u32) {
        let n_leaves = (reached / LEAF_BLOCKS).saturating_sub(self.high_water / LEAF_BLOCKS);
        self.parts.progress.add_leaves(u64::from(n_leaves));
        self.parts.progress.reach(u64::from(reached));
        self.high_water = reached;
        (self.mark.reached)(reached);
    }
}
