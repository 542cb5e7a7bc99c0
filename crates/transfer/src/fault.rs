//! Decorators that make a seam fail: the n-th call, or every call from it on, ends in an error, hangs, is late, or
//! has its bytes changed. Each counts its calls, so that a test can see that its fault happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use snapferry_types::{BlockIndex, ChunkId, Sha256Digest};

use crate::block::{Block, Leaf, ListedBlock};
use crate::budget::BudgetPermit;
use crate::error::{ErrorClass, TransferError};
use crate::sink::{BlockTarget, ChunkSink, SealedChunk, TargetNeeds};
use crate::source::{BlockListing, BlockSource, ChunkSource};

/// What happens to a call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It fails without having done anything.
    Fail(ErrorClass),
    /// It does its work and then fails, as when the answer is lost.
    FailAfter(ErrorClass),
    /// It never ends.
    Hang,
    /// It is late.
    Delay(Duration),
    /// A byte of what it carries is changed.
    Corrupt,
}

/// Which calls, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// This one.
    Nth(u64),
    /// This one and all after it.
    From(u64),
    /// Each.
    Always,
}

/// A plan for a decorated seam; clones share the count.
#[derive(Debug, Clone)]
pub struct FaultPlan {
    fault: Fault,
    when: When,
    n_calls: Arc<AtomicU64>,
    n_faults: Arc<AtomicU64>,
}

impl FaultPlan {
    /// A plan.
    #[must_use]
    pub fn new(fault: Fault, when: When) -> Self {
        Self { fault, when, n_calls: Arc::default(), n_faults: Arc::default() }
    }

    /// Calls so far.
    #[must_use]
    pub fn n_calls(&self) -> u64 {
        self.n_calls.load(Ordering::SeqCst)
    }

    /// Faults so far.
    #[must_use]
    pub fn n_faults(&self) -> u64 {
        self.n_faults.load(Ordering::SeqCst)
    }

    /// Counts a call; whether its bytes are to be changed, and what it fails with after its work.
    async fn before(&self, call: &str) -> Result<(bool, Option<TransferError>), TransferError> {
        let n = self.n_calls.fetch_add(1, Ordering::SeqCst) + 1;
        let is_hit = match self.when {
            When::Nth(at) => n == at,
            When::From(at) => n >= at,
            When::Always => true,
        };
        if !is_hit {
            return Ok((false, None));
        }
        self.n_faults.fetch_add(1, Ordering::SeqCst);
        let error =
            |class: &ErrorClass| TransferError::new(*class, format!("injected fault in {call}, call {n}"));
        match &self.fault {
            Fault::Fail(class) => Err(error(class)),
            Fault::FailAfter(class) => Ok((false, Some(error(class)))),
            Fault::Hang => futures::future::pending().await,
            Fault::Delay(time) => {
                tokio::time::sleep(*time).await;
                Ok((false, None))
            }
            Fault::Corrupt => Ok((true, None)),
        }
    }
}

/// A seam under a plan.
pub struct Faulty<S: ?Sized> {
    plan: FaultPlan,
    inner: Arc<S>,
}

impl<S: ?Sized> Faulty<S> {
    /// `inner` under `plan`.
    pub fn new(inner: Arc<S>, plan: FaultPlan) -> Self {
        Self { plan, inner }
    }
}

fn after<T>(done: T, error: Option<TransferError>) -> Result<T, TransferError> {
    error.map_or(Ok(done), Err)
}

fn changed(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    if let Some(byte) = bytes.last_mut() {
        *byte ^= 0x10;
    }
    Bytes::from(bytes)
}

#[async_trait]
impl<S: BlockSource + ?Sized> BlockSource for Faulty<S> {
    fn n_blocks(&self) -> u32 {
        self.inner.n_blocks()
    }

    fn wanted_reads(&self) -> usize {
        self.inner.wanted_reads()
    }

    fn list(&self, from_block: u32) -> BlockListing {
        self.inner.list(from_block)
    }

    async fn read(&self, block: &ListedBlock, permit: BudgetPermit) -> Result<Block, TransferError> {
        let (corrupt, error) = self.plan.before("read").await?;
        if corrupt {
            // A source checks what it reads: changed bytes come out of it as an error.
            let message = format!("block {} did not match its checksum twice", block.index);
            return Err(TransferError::new(ErrorClass::Corrupt, message));
        }
        after(self.inner.read(block, permit).await?, error)
    }
}

#[async_trait]
impl<S: ChunkSink + ?Sized> ChunkSink for Faulty<S> {
    async fn durable_leaves(&self) -> Result<Vec<u32>, TransferError> {
        let (_, error) = self.plan.before("durable_leaves").await?;
        after(self.inner.durable_leaves().await?, error)
    }

    async fn missing(&self, ids: &[ChunkId]) -> Result<Vec<bool>, TransferError> {
        let (_, error) = self.plan.before("missing").await?;
        after(self.inner.missing(ids).await?, error)
    }

    async fn put_chunks(&self, mut chunks: Vec<SealedChunk>) -> Result<(), TransferError> {
        let (corrupt, error) = self.plan.before("put_chunks").await?;
        if corrupt && let Some(chunk) = chunks.first_mut() {
            chunk.sealed = changed(&chunk.sealed);
        }
        self.inner.put_chunks(chunks).await?;
        after((), error)
    }

    async fn put_leaf(&self, leaf: &Leaf) -> Result<(), TransferError> {
        let (_, error) = self.plan.before("put_leaf").await?;
        self.inner.put_leaf(leaf).await?;
        after((), error)
    }

    async fn flush(&self) -> Result<(), TransferError> {
        let (_, error) = self.plan.before("flush").await?;
        self.inner.flush().await?;
        after((), error)
    }
}

#[async_trait]
impl<S: BlockTarget + ?Sized> BlockTarget for Faulty<S> {
    fn n_blocks(&self) -> u32 {
        self.inner.n_blocks()
    }

    fn wanted_writes(&self) -> usize {
        self.inner.wanted_writes()
    }

    fn needs(&self) -> TargetNeeds {
        self.inner.needs()
    }

    async fn write(&self, block: &Block) -> Result<(), TransferError> {
        let (corrupt, error) = self.plan.before("write").await?;
        if corrupt {
            let data = changed(&block.data);
            let (index, sha256) = (block.index, block.sha256);
            self.inner.write(&Block { index, data, sha256, permit: BudgetPermit::free() }).await?;
        } else {
            self.inner.write(block).await?;
        }
        after((), error)
    }

    async fn write_hole_range(&self, first: BlockIndex, n_blocks: u32) -> Result<(), TransferError> {
        let (_, error) = self.plan.before("write_hole_range").await?;
        self.inner.write_hole_range(first, n_blocks).await?;
        after((), error)
    }

    async fn persist(&self) -> Result<(), TransferError> {
        let (_, error) = self.plan.before("persist").await?;
        self.inner.persist().await?;
        after((), error)
    }

    async fn complete(&self, n_written: u32, aggregate: Sha256Digest) -> Result<(), TransferError> {
        let (_, error) = self.plan.before("complete").await?;
        self.inner.complete(n_written, aggregate).await?;
        after((), error)
    }
}

impl<S: ChunkSource + ?Sized + 'static> ChunkSource for Faulty<S> {
    fn n_blocks(&self) -> u32 {
        self.inner.n_blocks()
    }

    fn leaves(self: Arc<Self>, from_leaf: u32) -> BoxStream<'static, Result<Leaf, TransferError>> {
        Arc::clone(&self.inner).leaves(from_leaf)
    }

    /// The plan counts the chunks, not the calls.
    fn chunks(self: Arc<Self>, ids: Vec<ChunkId>) -> BoxStream<'static, Result<SealedChunk, TransferError>> {
        let plan = self.plan.clone();
        Arc::clone(&self.inner)
            .chunks(ids)
            .then(move |chunk| {
                let plan = plan.clone();
                async move {
                    let mut chunk = chunk?;
                    let (corrupt, error) = plan.before("chunks").await?;
                    if corrupt {
                        chunk.sealed = changed(&chunk.sealed);
                    }
                    after(chunk, error)
                }
            })
            .boxed()
    }
}
