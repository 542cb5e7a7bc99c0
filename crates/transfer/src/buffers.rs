//! Buffers of a block's size that are used again. The allocator gives half a MiB back to the system on each free,
//! and its pages are faulted in and zeroed again on the next block: a quarter of a backup's time. Each begins at a
//! multiple of [`ALIGNMENT`], so that a device takes it without a copy.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::record::MAX_RECORD_BYTES;

/// Direct I/O wants its memory at a multiple of this many bytes; no device in use wants more.
pub const ALIGNMENT: usize = 4_096;

/// Whether direct I/O can use these bytes as they lie.
#[must_use]
pub fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().align_offset(ALIGNMENT) == 0
}

/// Buffers that wait for their next use; clones share them.
#[derive(Clone)]
pub struct BlockBuffers {
    home: Arc<Home>,
}

struct Home {
    free: Mutex<Vec<Vec<u8>>>,
    max_free: usize,
}

/// A buffer in use, of up to a sealed block's size. Dropped, also as [`Bytes`], it waits for its next use.
pub struct BlockBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    home: Arc<Home>,
}

impl std::fmt::Debug for BlockBuffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockBuffers").field("n_free", &self.home.free().len()).finish_non_exhaustive()
    }
}

impl Home {
    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockBuffers {
    /// Keeps at most `max_free` idle buffers of 517 KiB.
    #[must_use]
    pub fn new(max_free: usize) -> Self {
        Self { home: Arc::new(Home { free: Mutex::new(Vec::with_capacity(max_free)), max_free }) }
    }

    /// A buffer of `len` bytes, at most a sealed block's 524,324; what lies in it is what its last use left.
    #[must_use]
    pub fn take(&self, len: usize) -> BlockBuffer {
        let kept = self.home.free().pop();
        let bytes = kept.unwrap_or_else(|| vec![0; MAX_RECORD_BYTES + ALIGNMENT]);
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        BlockBuffer { start, len: len.min(MAX_RECORD_BYTES), bytes, home: Arc::clone(&self.home) }
    }
}

impl BlockBuffer {
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
        let mut free = self.home.free();
        if free.len() < self.home.max_free {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again_and_no_more_are_kept_than_allowed() {
        let buffers = BlockBuffers::new(1);
        let mut first = buffers.take(4);
        assert!(is_aligned(first.as_ref()));
        first.as_mut_slice().copy_from_slice(b"abcd");
        let shared = first.freeze();
        let (clone, second) = (shared.clone(), buffers.take(2));
        drop(shared);
        assert_eq!(buffers.home.free().len(), 0, "a clone still holds it");
        assert_eq!(&clone[..], b"abcd");
        drop(clone);
        drop(second);
        assert_eq!(buffers.home.free().len(), 1);
        assert_eq!(buffers.take(usize::MAX).as_ref().len(), MAX_RECORD_BYTES);
    }
}
