//! Restores a volume: leaves stream in, each chunk they name is fetched, opened and checked once, and written to
//! every block that holds it. Zero blocks are written as zeroes; holes are left alone, unless the target needs them
//! (see [`TargetNeeds`](crate::sink::TargetNeeds)): then ranges of them are handed to it, up to its own end.
//!
//! One task owns the state; fetches, openings and writes are tasks that it owns. Memory is the byte budget plus
//! what names a bounded number of blocks that wait.

mod cache;
mod fetch;
mod holes;
mod run;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;

use snapferry_types::Sha256Digest;
use tokio_util::sync::CancellationToken;

use crate::budget::ByteBudget;
use crate::buffers;
use crate::error::{ErrorClass, TransferError};
use crate::high_water::HighWater;
use crate::pool::WorkPool;
use crate::progress::TransferProgress;
use crate::seal::Sealer;
use crate::sink::BlockTarget;
use crate::source::ChunkSource;

/// Most chunks in one question.
const MAX_FETCH: usize = 1_024;
/// A question waits for this many while another is on its way.
const GOOD_FETCH: usize = 256;
/// Questions on their way at once: while one ends, the next has begun.
const MAX_FETCHES: usize = 2;
/// Sealed chunks between a fetch and the workers.
const FETCHED_AHEAD: usize = 8;
/// Blocks that are under way at once, most of them repeats of a chunk that is waited for: 256 leaves.
const MAX_OPEN_BLOCKS: usize = 256 * 1_024;
/// Writes that wait, beyond which no further leaf is opened; most are zero blocks or duplicates, of no memory.
const MAX_WAITING_WRITES: usize = 4_096;
/// Most plain chunks that are kept for later leaves: 16 MiB.
const MAX_CACHED_CHUNKS: u64 = 32;

/// What a restore did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoreSummary {
    /// Written blocks of the whole volume, those of earlier attempts included.
    pub n_written: u32,
    /// SHA-256 over their SHA-256s in ascending order (the LINEAR aggregate of EBS).
    pub aggregate: Sha256Digest,
    /// Blocks that this attempt wrote.
    pub n_written_now: u64,
    /// Of these, blocks of zeroes.
    pub n_zero: u64,
    /// Chunks that this attempt fetched.
    pub n_chunks_fetched: u64,
    /// Their sealed bytes.
    pub bytes_fetched: u64,
}

/// Writes `source` to `target`, from the high-water mark of earlier attempts on, and completes it.
///
/// # Errors
/// The first [`TransferError`] of any part: `Corrupt` when a chunk does not open to what the manifest says,
/// `Invalid` when the target is smaller than the volume, `Cancelled` when `stop` was. Nothing is completed then.
#[allow(
    clippy::too_many_arguments,
    reason = "each is a part of the pipeline; a struct would only rename them"
)]
pub async fn restore_volume(
    source: Arc<dyn ChunkSource>,
    target: Arc<dyn BlockTarget>,
    sealer: Arc<Sealer>,
    budget: ByteBudget,
    workers: &WorkPool,
    mark: HighWater<'_>,
    progress: Arc<TransferProgress>,
    stop: CancellationToken,
) -> Result<RestoreSummary, TransferError> {
    let (n_source, n_target) = (source.n_blocks(), target.n_blocks());
    if n_target < n_source {
        let message = format!(
            "the target has {n_target} blocks of 512 KiB, the volume {n_source}: choose a target at least as large"
        );
        return Err(TransferError::new(ErrorClass::Invalid, message));
    }
    let _in_use = buffers::in_use();
    progress.start(n_source);
    let parts = run::Parts {
        source,
        target: Arc::clone(&target),
        sealer,
        budget,
        workers: workers.clone(),
        progress,
    };
    let mut run = run::Run::new(parts, mark);
    let done = run.transfer(&stop).await;
    run.shut_down().await;
    done?;
    let summary = run.summary();
    tokio::select! {
        () = stop.cancelled() => return Err(TransferError::cancelled()),
        completed = target.complete(summary.n_written, summary.aggregate) => completed?,
    }
    Ok(summary)
}
