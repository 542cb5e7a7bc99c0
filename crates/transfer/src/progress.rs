//! What a running transfer counts, for progress bars, metrics and job records.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one transfer; they only grow.
#[derive(Debug, Default)]
pub struct TransferProgress {
    volume_blocks: AtomicU64,
    position: AtomicU64,
    blocks_done: AtomicU64,
    blocks_zero: AtomicU64,
    blocks_gone: AtomicU64,
    blocks_skipped: AtomicU64,
    blocks_deduplicated: AtomicU64,
    chunks_sent: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    bytes_sent: AtomicU64,
    leaves_done: AtomicU64,
}

/// The counters at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProgressSnapshot {
    /// Size of the volume in blocks, holes included; 0 before the transfer starts.
    pub volume_blocks: u64,
    /// How far the listing or the leaves have come, in blocks from the volume's start: the bar of the whole.
    pub position: u64,
    /// Blocks that were read and taken care of, or written.
    pub blocks_done: u64,
    /// Of these, blocks of zeroes.
    pub blocks_zero: u64,
    /// Blocks that were in the base and are gone.
    pub blocks_gone: u64,
    /// Blocks that an earlier attempt had done.
    pub blocks_skipped: u64,
    /// Data blocks that were not sent, or not fetched, because the same bytes were there.
    pub blocks_deduplicated: u64,
    /// Chunks that were sent to the store, or fetched from it.
    pub chunks_sent: u64,
    /// Plain bytes read from the source.
    pub bytes_read: u64,
    /// Plain bytes written to the target.
    pub bytes_written: u64,
    /// Sealed bytes that went to the store (a backup) or came from it (a restore).
    pub bytes_sent: u64,
    /// Leaves handed over, or wholly written.
    pub leaves_done: u64,
}

macro_rules! counters {
    ($($add:ident $field:ident;)*) => {
        impl TransferProgress {
            $(pub(crate) fn $add(&self, n: u64) {
                self.$field.fetch_add(n, Ordering::Relaxed);
            })*

            /// The counters now.
            #[must_use]
            pub fn snapshot(&self) -> ProgressSnapshot {
                ProgressSnapshot {
                    volume_blocks: self.volume_blocks.load(Ordering::Relaxed),
                    position: self.position.load(Ordering::Relaxed),
                    $($field: self.$field.load(Ordering::Relaxed),)*
                }
            }
        }
    };
}

counters! {
    add_done blocks_done;
    add_zero blocks_zero;
    add_gone blocks_gone;
    add_skipped blocks_skipped;
    add_deduplicated blocks_deduplicated;
    add_chunks chunks_sent;
    add_read bytes_read;
    add_written bytes_written;
    add_sent bytes_sent;
    add_leaves leaves_done;
}

impl TransferProgress {
    /// Counters at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn start(&self, n_blocks: u32) {
        self.volume_blocks.store(u64::from(n_blocks), Ordering::Relaxed);
    }

    pub(crate) fn reach(&self, block: u64) {
        self.position.fetch_max(block, Ordering::Relaxed);
    }
}
