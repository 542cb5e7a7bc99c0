//! The high-water mark of a restore or a copy: all blocks before it are written. A next attempt begins at what of it was
//! recorded and writes what comes after once more, so where somebody says what is recorded, a page of blocks at most
//! goes beyond that, in their order: a crash costs no more than that again.

use std::collections::VecDeque;

use snapferry_types::LEAF_BLOCKS;
use tokio::sync::watch;

use crate::error::{ErrorClass, TransferError};

/// Blocks by which a recorded mark rises at least, so that its recorder is not told of every single one.
const STEP: u32 = 64;

/// Where a mark begins, and where it goes.
pub struct HighWater<'a> {
    pub(crate) from_block: u32,
    pub(crate) reached: &'a mut (dyn FnMut(u32) + Send),
    recorded: Option<watch::Receiver<u32>>,
}

impl std::fmt::Debug for HighWater<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HighWater").field("from_block", &self.from_block).finish_non_exhaustive()
    }
}

impl<'a> HighWater<'a> {
    /// Earlier attempts wrote all before `from_block`: what the aggregate needs of those blocks, a restore has in its leaves and a
    /// copy reads again. `reached` is told
    /// the mark whenever it has risen by a page, and at the end: all blocks below it are written, and persisted where
    /// the target needs that.
    pub fn new(from_block: u32, reached: &'a mut (dyn FnMut(u32) + Send)) -> Self {
        Self { from_block, reached, recorded: None }
    }

    /// Holds writes back: never more than a page of blocks beyond what `recorded` says was recorded of the mark, which is told in
    /// small steps. Whoever records must do so soon, without waiting for a further mark.
    #[must_use]
    pub fn recorded(mut self, recorded: watch::Receiver<u32>) -> Self {
        self.recorded = Some(recorded);
        self
    }

    /// Blocks by which the mark rises at least.
    pub(crate) fn step(&self) -> u32 {
        if self.recorded.is_some() { STEP } else { LEAF_BLOCKS }
    }

    /// The page of blocks that may be written now.
    pub(crate) fn window(&self) -> Window {
        Window { recorded: self.recorded.clone(), ahead: VecDeque::new() }
    }
}

/// The blocks that were let through and lie beyond the recorded mark.
#[derive(Debug)]
pub(crate) struct Window {
    recorded: Option<watch::Receiver<u32>>,
    /// Ascending.
    ahead: VecDeque<u32>,
}

impl Window {
    pub(crate) fn is_full(&self) -> bool {
        self.ahead.len() >= LEAF_BLOCKS as usize
    }

    /// Lets a block through, which comes after all before it.
    pub(crate) fn enter(&mut self, index: u32) {
        if self.recorded.is_some() {
            self.ahead.push_back(index);
        }
    }

    /// Makes room for what was recorded since.
    pub(crate) fn advance(&mut self) {
        let Some(recorded) = &mut self.recorded else { return };
        let mark = *recorded.borrow_and_update();
        while self.ahead.front().is_some_and(|index| *index < mark) {
            self.ahead.pop_front();
        }
    }

    /// Returns when more was recorded; dropping the future loses nothing.
    pub(crate) async fn moved(&mut self) -> Result<(), TransferError> {
        match &mut self.recorded {
            Some(recorded) => recorded.changed().await.map_err(|_| {
                TransferError::new(
                    ErrorClass::Internal,
                    "nobody records any more how far the blocks are written",
                )
            }),
            None => std::future::pending().await,
        }
    }
}
