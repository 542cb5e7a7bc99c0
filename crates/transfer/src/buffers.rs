//! Buffers of a block's size that are used again. The allocator gives half a MiB back to the system on each free,
//! and its pages are faulted in and zeroed again on the next block: a quarter of a backup's time. Each begins at a
//! multiple of [`ALIGNMENT`], so that a device takes it without a copy.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::record::MAX_RECORD_BYTES;

/// Direct I/O wants its memory at a multiple of this many bytes; no device in use wants more.
pub const ALIGNMENT: usize = 4_096;

/// Whether direct I/O can use these bytes as they lie.
#[must_use]
pub fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().align_offset(ALIGNMENT) == 0
}

/// Idle buffers kept while there are transfers, 32 MiB. The memory budget counts what is in use only: these come on top of
/// it (docs/performance.md has what they cost and save).
const MAX_IDLE: usize = 64;
/// What is kept while there is none.
const KEPT: usize = 32;

/// One for the process, as the memory budget is.
static IDLE: Idle = Idle::new();

struct Idle {
    store: Mutex<Store>,
}

struct Store {
    free: Vec<Vec<u8>>,
    n_transfers: usize,
}

/// A transfer is at work. With the last one all idle buffers but a few go back to the allocator.
#[derive(Debug)]
pub(crate) struct InUse {
    idle: &'static Idle,
}

/// A buffer in use, of up to a sealed block's size. Dropped, also as [`Bytes`], it waits for its next use.
pub struct BlockBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    idle: &'static Idle,
}

/// A transfer begins.
pub(crate) fn in_use() -> InUse {
    IDLE.in_use()
}

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idle").field("n_free", &self.store().free.len()).finish_non_exhaustive()
    }
}

impl Idle {
    const fn new() -> Self {
        Self { store: Mutex::new(Store { free: Vec::new(), n_transfers: 0 }) }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_use(&'static self) -> InUse {
        self.store().n_transfers += 1;
        InUse { idle: self }
    }

    fn take(&'static self, len: usize) -> BlockBuffer {
        let kept = self.store().free.pop();
        let bytes = kept.unwrap_or_else(|| vec![0; MAX_RECORD_BYTES + ALIGNMENT]);
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        BlockBuffer { start, len: len.min(MAX_RECORD_BYTES), bytes, idle: self }
    }
}

impl BlockBuffer {
    /// A buffer of `len` bytes, at most a sealed block's 524,324; what lies in it is what its last use left.
    #[must_use]
    pub fn take(len: usize) -> Self {
        IDLE.take(len)
    }

    /// The bytes, to be written.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }

    /// The bytes, to be shared.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for BlockBuffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(self.start..self.start + self.len).unwrap_or_default()
    }
}

impl Drop for BlockBuffer {
    fn drop(&mut self) {
        let mut store = self.idle.store();
        let most = if store.n_transfers > 0 { MAX_IDLE } else { KEPT };
        if store.free.len() < most {
            store.free.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut store = self.idle.store();
        store.n_transfers -= 1;
        let is_last = store.n_transfers == 0 && store.free.len() > KEPT;
        let rest = if is_last { store.free.split_off(KEPT) } else { Vec::new() };
        drop(store);
        drop(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again_and_no_more_are_kept_than_transfers_need() {
        static IDLE: Idle = Idle::new();
        let n_free = || IDLE.store().free.len();
        let mut first = IDLE.take(4);
        assert!(is_aligned(first.as_ref()));
        first.as_mut_slice().copy_from_slice(b"abcd");
        let shared = first.freeze();
        let (clone, second) = (shared.clone(), IDLE.take(2));
        drop(shared);
        assert_eq!(n_free(), 0, "a clone still holds it");
        assert_eq!(&clone[..], b"abcd");
        drop(clone);
        drop(second);
        assert_eq!(n_free(), 2);
        assert_eq!(IDLE.take(usize::MAX).as_ref().len(), MAX_RECORD_BYTES);
        let (one, other) = (IDLE.in_use(), IDLE.in_use());
        drop((0..MAX_IDLE + 10).map(|_| IDLE.take(1)).collect::<Vec<_>>());
        assert_eq!(n_free(), MAX_IDLE);
        drop(one);
        assert_eq!(n_free(), MAX_IDLE, "the other goes on");
        let late: Vec<_> = (0..MAX_IDLE).map(|_| IDLE.take(1)).collect();
        drop(other);
        drop(late);
        assert_eq!(n_free(), KEPT, "also what comes back after the end");
        let last = IDLE.in_use();
        drop((0..KEPT + 5).map(|_| IDLE.take(1)).collect::<Vec<_>>());
        assert_eq!(n_free(), KEPT + 5);
        drop(last);
        assert_eq!(n_free(), KEPT);
    }
}
