//! Backs a volume up: lists, reads many blocks at once, asks the store what it lacks, seals and sends only that,
//! and hands over each leaf whose blocks are in.
//!
//! One task owns the state; reads, batches and leaves are tasks that it owns. Memory is the byte budget plus a
//! bounded number of open leaves (34 KiB each), whatever the volume's size. A stop or an error ends the reads at
//! once, gives what is already on its way a few seconds to become durable, and leaves no task behind: the next
//! attempt reads only what is not durable.

mod batch;
mod leaves;
mod run;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::budget::ByteBudget;
use crate::buffers;
use crate::error::TransferError;
use crate::pool::WorkPool;
use crate::progress::TransferProgress;
use crate::seal::Sealer;
use crate::sink::ChunkSink;
use crate::source::{BaseLeaves, BlockSource};

/// Most ids in one question.
const MAX_BATCH: usize = 256;
/// Batches on their way at once: one is asked, two sealed, three sent.
const MAX_BATCHES: usize = 6;
/// A batch is due at this part of the budget: those on their way leave room for what is being read.
const BATCHES_IN_BUDGET: u64 = 10;
/// A batch waits no longer than this for company.
const BATCH_AGE: Duration = Duration::from_millis(10);
/// Sealed bytes in one hand-over.
const PUT_BYTES: usize = 2 << 20;
/// Leaves that are open at once: a listing with one block a leaf keeps this many reads busy.
const MAX_OPEN_LEAVES: usize = 256;
/// Leaves that are handed over at once.
const MAX_LEAVES_ON_THEIR_WAY: usize = 8;
/// What may be lost to a crash: this many sent bytes, or this long.
const FLUSH_BYTES: u64 = 256 << 20;
const FLUSH_AGE: Duration = Duration::from_secs(10);
/// How long a stopped transfer may take to make durable what is on its way.
const WIND_DOWN: Duration = Duration::from_secs(5);

/// What a backup of a volume did in this attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VolumeSummary {
    /// Blocks read from the source.
    pub n_read: u64,
    /// Of these, blocks of zeroes.
    pub n_zero: u64,
    /// Blocks of the base that are gone.
    pub n_gone: u64,
    /// Listed blocks that an earlier attempt had made durable.
    pub n_skipped: u64,
    /// Data blocks that needed no sending.
    pub n_deduplicated: u64,
    /// Chunks sent.
    pub n_chunks_sent: u64,
    /// Their sealed bytes.
    pub bytes_sent: u64,
    /// Leaves handed over.
    pub n_leaves: u64,
}

/// Backs up what `source` lists. With `base`, the listing is of changes against it, and each touched leaf is the
/// base's with the changes laid over. Returns when all is durable in `sink`.
///
/// # Errors
/// The first [`TransferError`] of any part; `Cancelled` when `stop` was. What had been handed over was flushed if
/// that took less than five seconds.
#[allow(
    clippy::too_many_arguments,
    reason = "each is a part of the pipeline; a struct would only rename them"
)]
pub async fn back_up_volume(
    source: Arc<dyn BlockSource>,
    sink: Arc<dyn ChunkSink>,
    base: Option<Arc<dyn BaseLeaves>>,
    sealer: Arc<Sealer>,
    budget: ByteBudget,
    workers: &WorkPool,
    progress: Arc<TransferProgress>,
    stop: CancellationToken,
) -> Result<VolumeSummary, TransferError> {
    let _in_use = buffers::in_use();
    progress.start(source.n_blocks());
    let durable = tokio::select! {
        () = stop.cancelled() => return Err(TransferError::cancelled()),
        durable = sink.durable_leaves() => durable?,
    };
    let parts = run::Parts { source, sink, base, sealer, budget, workers: workers.clone(), progress };
    let mut run = run::Run::new(parts, durable);
    let done = run.transfer(&stop).await;
    if done.is_err() {
        run.wind_down().await;
    }
    done.map(|()| run.summary())
}
