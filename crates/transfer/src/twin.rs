//! The seams in memory, for tests: a volume, and a store with its sessions. They keep every promise of the seams
//! and count what is asked of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use snapferry_types::{BLOCK_SIZE, BlockIndex, ChunkId, Sha256Digest};

use crate::block::{Block, Leaf, ListedBlock};
use crate::budget::BudgetPermit;
use crate::error::{ErrorClass, TransferError};
use crate::open::sha256;
use crate::seal::{SealedLeaf, Sealer};
use crate::sink::{BlockTarget, ChunkSink, SealedChunk};
use crate::source::{BaseLeaves, BlockListing, BlockSource, ChunkSource};

/// A volume in memory: what a backup reads and a restore writes.
#[derive(Debug, Default)]
pub struct MemoryVolume {
    pub(crate) n_blocks: u32,
    in_flight: usize,
    blocks: Mutex<BTreeMap<u32, Bytes>>,
    changes: Option<BTreeMap<u32, bool>>,
    completed: Mutex<Option<(u32, Sha256Digest)>>,
    n_reads: AtomicU64,
    n_writes: AtomicU64,
    reading: AtomicUsize,
    most_reading: AtomicUsize,
}

impl MemoryVolume {
    /// A volume of holes that wants `in_flight` reads or writes at once.
    #[must_use]
    pub fn new(n_blocks: u32, in_flight: usize) -> Self {
        Self { n_blocks, in_flight, ..Self::default() }
    }

    /// Writes a block (524,288 bytes).
    pub fn put(&self, index: u32, data: impl Into<Bytes>) {
        lock(&self.blocks).insert(index, data.into());
    }

    /// The written blocks.
    #[must_use]
    pub fn blocks(&self) -> BTreeMap<u32, Bytes> {
        lock(&self.blocks).clone()
    }

    /// The same volume, listing only what differs from `base`.
    #[must_use]
    pub fn against(&self, base: &Self) -> Self {
        let (now, then) = (self.blocks(), base.blocks());
        let indexes: std::collections::BTreeSet<u32> = now.keys().chain(then.keys()).copied().collect();
        let changes = indexes
            .into_iter()
            .filter(|index| now.get(index) != then.get(index))
            .map(|index| (index, now.contains_key(&index)))
            .collect();
        Self {
            n_blocks: self.n_blocks,
            in_flight: self.in_flight,
            blocks: Mutex::new(now),
            changes: Some(changes),
            ..Self::default()
        }
    }

    /// What `complete` was told.
    #[must_use]
    pub fn completed(&self) -> Option<(u32, Sha256Digest)> {
        *lock(&self.completed)
    }

    /// Reads so far.
    #[must_use]
    pub fn n_reads(&self) -> u64 {
        self.n_reads.load(Ordering::Relaxed)
    }

    /// Writes so far.
    #[must_use]
    pub fn n_writes(&self) -> u64 {
        self.n_writes.load(Ordering::Relaxed)
    }

    /// The most reads that were under way at once.
    #[must_use]
    pub fn most_reading(&self) -> usize {
        self.most_reading.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl BlockSource for MemoryVolume {
    fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    fn wanted_reads(&self) -> usize {
        self.in_flight
    }

    fn list(&self, from_block: u32) -> BlockListing {
        let entry = |index: u32, is_written: bool| {
            Ok(ListedBlock { index: BlockIndex(index), token: is_written.then(|| format!("t{index}")) })
        };
        let listed: Vec<_> = match &self.changes {
            Some(changes) => changes.range(from_block..).map(|(i, written)| entry(*i, *written)).collect(),
            None => lock(&self.blocks).range(from_block..).map(|(i, _)| entry(*i, true)).collect(),
        };
        futures::stream::iter(listed).boxed()
    }

    async fn read(&self, block: &ListedBlock, permit: BudgetPermit) -> Result<Block, TransferError> {
        let now = self.reading.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_reading.fetch_max(now, Ordering::Relaxed);
        tokio::task::yield_now().await;
        self.reading.fetch_sub(1, Ordering::Relaxed);
        self.n_reads.fetch_add(1, Ordering::Relaxed);
        let index = block.index;
        if block.token != Some(format!("t{index}")) {
            return Err(TransferError::new(ErrorClass::Invalid, format!("block {index} has a wrong token")));
        }
        let found = lock(&self.blocks).get(&index.0).cloned();
        let data = found
            .ok_or_else(|| TransferError::new(ErrorClass::NotFound, format!("block {index} is a hole")))?;
        Ok(Block { index, sha256: sha256(&data), data, permit })
    }
}

#[async_trait]
impl BlockTarget for MemoryVolume {
    fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    fn wanted_writes(&self) -> usize {
        self.in_flight
    }

    async fn write(&self, block: &Block) -> Result<(), TransferError> {
        tokio::task::yield_now().await;
        let fits = block.index.0 < self.n_blocks && block.data.len() == BLOCK_SIZE;
        if !fits || sha256(&block.data) != block.sha256 {
            return Err(TransferError::new(ErrorClass::Invalid, format!("block {} is refused", block.index)));
        }
        self.n_writes.fetch_add(1, Ordering::Relaxed);
        self.put(block.index.0, block.data.clone());
        Ok(())
    }

    async fn complete(&self, n_written: u32, aggregate: Sha256Digest) -> Result<(), TransferError> {
        *lock(&self.completed) = Some((n_written, aggregate));
        Ok(())
    }
}

/// A store in memory, seen by one session of one volume.
#[derive(Debug)]
pub struct MemoryStore {
    n_blocks: u32,
    sealer: Arc<Sealer>,
    state: Mutex<StoreState>,
}

#[derive(Debug, Default)]
struct StoreState {
    chunks: HashMap<ChunkId, Bytes>,
    leaves: BTreeMap<u32, SealedLeaf>,
    durable_chunks: HashSet<ChunkId>,
    durable_leaves: BTreeMap<u32, SealedLeaf>,
    /// Leaves handed over in this session.
    session: std::collections::BTreeSet<u32>,
    n_asked: u64,
    n_put_twice: u64,
    n_flushes: u64,
}

impl MemoryStore {
    /// An empty store for a volume, with a session open.
    #[must_use]
    pub fn new(n_blocks: u32, sealer: Arc<Sealer>) -> Self {
        Self { n_blocks, sealer, state: Mutex::default() }
    }

    /// A new session that starts as a copy of this volume, as an incremental does; chunks are shared.
    #[must_use]
    pub fn next_session(&self) -> Self {
        let state = lock(&self.state);
        let next = StoreState {
            chunks: state.chunks.clone(),
            durable_chunks: state.durable_chunks.clone(),
            leaves: state.leaves.clone(),
            durable_leaves: state.durable_leaves.clone(),
            ..StoreState::default()
        };
        Self { n_blocks: self.n_blocks, sealer: Arc::clone(&self.sealer), state: Mutex::new(next) }
    }

    /// Power goes off and on: what was not flushed is gone.
    pub fn crash(&self) {
        let mut state = lock(&self.state);
        let StoreState { chunks, leaves, durable_chunks, durable_leaves, session, .. } = &mut *state;
        chunks.retain(|id, _| durable_chunks.contains(id));
        session.retain(|index| leaves.get(index) == durable_leaves.get(index));
        *leaves = durable_leaves.clone();
    }

    /// The leaves, plain.
    ///
    /// # Errors
    /// One does not open.
    pub fn plain_leaves(&self) -> Result<Vec<Leaf>, TransferError> {
        let leaves: Vec<SealedLeaf> = lock(&self.state).leaves.values().cloned().collect();
        leaves.iter().map(|leaf| Ok(self.sealer.open_leaf(leaf)?)).collect()
    }

    /// Chunks in the store.
    #[must_use]
    pub fn n_chunks(&self) -> usize {
        lock(&self.state).chunks.len()
    }

    /// Chunks that were handed over although the store had them.
    #[must_use]
    pub fn n_put_twice(&self) -> u64 {
        lock(&self.state).n_put_twice
    }

    /// Ids that were asked for, and flushes.
    #[must_use]
    pub fn n_asked_and_flushed(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.n_asked, state.n_flushes)
    }

    /// Leaves of this session that survive a crash.
    #[must_use]
    pub fn durable(&self) -> Vec<u32> {
        let state = lock(&self.state);
        let is_durable = |index: &&u32| state.leaves.get(*index) == state.durable_leaves.get(*index);
        state.session.iter().filter(is_durable).copied().collect()
    }

    /// Changes a byte of a stored chunk; false when there is no chunk.
    pub fn damage_a_chunk(&self) -> bool {
        let mut state = lock(&self.state);
        let Some(sealed) = state.chunks.values_mut().next() else { return false };
        let mut bytes = sealed.to_vec();
        if let Some(byte) = bytes.last_mut() {
            *byte ^= 1;
        }
        *sealed = Bytes::from(bytes);
        true
    }
}

#[async_trait]
impl ChunkSink for MemoryStore {
    async fn durable_leaves(&self) -> Result<Vec<u32>, TransferError> {
        Ok(self.durable())
    }

    async fn missing(&self, ids: &[ChunkId]) -> Result<Vec<bool>, TransferError> {
        tokio::task::yield_now().await;
        if ids.len() > 4_096 {
            return Err(TransferError::new(ErrorClass::Invalid, "more than 4,096 ids"));
        }
        let mut state = lock(&self.state);
        state.n_asked += ids.len() as u64;
        Ok(ids.iter().map(|id| !state.chunks.contains_key(id)).collect())
    }

    async fn put_chunks(&self, chunks: Vec<SealedChunk>) -> Result<(), TransferError> {
        tokio::task::yield_now().await;
        let mut state = lock(&self.state);
        for chunk in chunks {
            if state.chunks.insert(chunk.id, Bytes::copy_from_slice(&chunk.sealed)).is_some() {
                state.n_put_twice += 1;
            }
        }
        Ok(())
    }

    async fn put_leaf(&self, leaf: &Leaf) -> Result<(), TransferError> {
        let sealed = self.sealer.seal_leaf(leaf)?;
        tokio::task::yield_now().await;
        let mut state = lock(&self.state);
        if let Some(id) = sealed.chunk_ids.iter().find(|id| !state.chunks.contains_key(id)) {
            let message = format!("leaf {} names chunk {id}, which the store lacks", leaf.index);
            return Err(TransferError::new(ErrorClass::Invalid, message));
        }
        state.session.insert(leaf.index);
        if leaf.is_empty() {
            state.leaves.remove(&leaf.index);
        } else {
            state.leaves.insert(leaf.index, sealed);
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), TransferError> {
        tokio::task::yield_now().await;
        let mut state = lock(&self.state);
        state.n_flushes += 1;
        state.durable_chunks = state.chunks.keys().copied().collect();
        state.durable_leaves = state.leaves.clone();
        Ok(())
    }
}

#[async_trait]
impl BaseLeaves for MemoryStore {
    async fn base_leaf(&self, leaf_index: u32) -> Result<Leaf, TransferError> {
        let found = lock(&self.state).leaves.get(&leaf_index).cloned();
        match found {
            Some(leaf) => Ok(self.sealer.open_leaf(&leaf)?),
            None => Ok(Leaf::empty(leaf_index)),
        }
    }
}

impl ChunkSource for MemoryStore {
    fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    fn leaves(self: Arc<Self>, from_leaf: u32) -> BoxStream<'static, Result<Leaf, TransferError>> {
        let found: Vec<SealedLeaf> =
            lock(&self.state).leaves.range(from_leaf..).map(|(_, l)| l.clone()).collect();
        futures::stream::iter(found).map(move |leaf| Ok(self.sealer.open_leaf(&leaf)?)).boxed()
    }

    fn chunks(
        self: Arc<Self>,
        mut ids: Vec<ChunkId>,
    ) -> BoxStream<'static, Result<SealedChunk, TransferError>> {
        // Another order than asked for, as a store may.
        ids.sort_unstable();
        let read = move |id: ChunkId| {
            let found = lock(&self.state).chunks.get(&id).cloned();
            found.map(|sealed| SealedChunk { id, sealed }).ok_or_else(|| {
                TransferError::new(ErrorClass::NotFound, format!("chunk {id} is not in the store"))
            })
        };
        futures::stream::iter(ids).map(read).boxed()
    }
}

/// SHA-256 over the digests of all written blocks, computed the plain way.
#[must_use]
pub fn linear_aggregate(volume: &MemoryVolume) -> (u32, Sha256Digest) {
    let mut digests = Vec::new();
    for data in volume.blocks().values() {
        digests.extend_from_slice(&sha256(data).0);
    }
    (u32::try_from(digests.len() / 32).unwrap_or(u32::MAX), sha256(&digests))
}

/// A block whose bytes follow from `seed`: half of it compresses well.
#[must_use]
pub fn seeded_block(seed: u64) -> Bytes {
    let mut data = vec![0_u8; BLOCK_SIZE];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    if let Some(noise) = data.get_mut(..BLOCK_SIZE / 2) {
        hasher.finalize_xof().fill(noise);
    }
    Bytes::from(data)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
