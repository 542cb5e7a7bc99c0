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

/// Idle buffers kept at most: as many blocks as an agent's memory budget has unless told otherwise, 97 MiB. With fewer,
/// what is in flight beyond them comes from the allocator each time: 100 MiB more at the peak of a backup, and a tenth
/// more of its time.
const MAX_IDLE: usize = 192;
/// What stays when a transfer ends.
const KEPT: usize = 32;

/// One for the process, as the memory budget is.
static IDLE: Idle = Idle { free: Mutex::new(Vec::new()) };

struct Idle {
    free: Mutex<Vec<Vec<u8>>>,
}

/// A buffer in use, of up to a sealed block's size. Dropped, also as [`Bytes`], it waits for its next use.
pub struct BlockBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    idle: &'static Idle,
}

/// Gives idle buffers back to the system but for a few: a transfer has ended. Others that go on take new ones once.
pub(crate) fn let_go() {
    IDLE.keep(KEPT);
}

impl Idle {
    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, n: usize) {
        let mut free = self.free();
        let rest = if free.len() > n { free.split_off(n) } else { Vec::new() };
        drop(free);
        drop(rest);
    }

    fn take(&'static self, len: usize) -> BlockBuffer {
        let kept = self.free().pop();
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
        let mut free = self.idle.free();
        if free.len() < MAX_IDLE {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again_and_no_more_are_kept_than_allowed() {
        static IDLE: Idle = Idle { free: Mutex::new(Vec::new()) };
        let mut first = IDLE.take(4);
        assert!(is_aligned(first.as_ref()));
        first.as_mut_slice().copy_from_slice(b"abcd");
        let shared = first.freeze();
        let (clone, second) = (shared.clone(), IDLE.take(2));
        drop(shared);
        assert_eq!(IDLE.free().len(), 0, "a clone still holds it");
        assert_eq!(&clone[..], b"abcd");
        drop(clone);
        drop(second);
        assert_eq!(IDLE.free().len(), 2);
        assert_eq!(IDLE.take(usize::MAX).as_ref().len(), MAX_RECORD_BYTES);
        let many: Vec<_> = (0..MAX_IDLE + 10).map(|_| IDLE.take(1)).collect();
        drop(many);
        assert_eq!(IDLE.free().len(), MAX_IDLE);
        IDLE.keep(KEPT);
        assert_eq!(IDLE.free().len(), KEPT);
    }
}
