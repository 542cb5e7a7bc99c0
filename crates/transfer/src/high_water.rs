//! The high-water mark of a restore or a copy: all blocks before it are written. A next attempt begins at what of it was
//! recorded and writes what comes after once more, so where somebody says what is recorded, a page of blocks at most
//! goes beyond that, of all that is written side by side: a crash costs no more than that again.

use std::collections::VecDeque;
use std::sync::Arc;

use snapferry_types::LEAF_BLOCKS;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::error::{ErrorClass, TransferError};

/// Blocks by which a recorded mark rises at least, so that its recorder is not told of every single one.
const STEP: u32 = 64;

/// Where a mark begins, and where it goes.
pub struct HighWater<'a> {
    pub(crate) from_block: u32,
    pub(crate) reached: &'a mut (dyn FnMut(u32) + Send),
    recorded: Option<(watch::Receiver<u32>, Ahead)>,
}

/// The page of blocks that may be written beyond what is recorded, for all that shares it; clones are the same page. Each
/// may have a step less one block that is written and not told yet, so no more than 16 may share it. One that is written
/// to its end gives its places back, recorded or not.
#[derive(Debug, Clone)]
pub struct Ahead(Arc<Semaphore>);

impl Default for Ahead {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LEAF_BLOCKS as usize)))
    }
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

    /// Holds writes back: never more than the page `ahead` beyond what `recorded` says was recorded of the mark, which is
    /// told in small steps. Whoever records must do so soon, without waiting for a further mark.
    #[must_use]
    pub fn recorded(mut self, recorded: watch::Receiver<u32>, ahead: Ahead) -> Self {
        self.recorded = Some((recorded, ahead));
        self
    }

    /// Blocks by which the mark rises at least.
    pub(crate) fn step(&self) -> u32 {
        if self.recorded.is_some() { STEP } else { LEAF_BLOCKS }
    }

    /// The blocks that may be written now.
    pub(crate) fn window(&self) -> Window {
        Window { recorded: self.recorded.clone(), next: None, ahead: VecDeque::new() }
    }
}

/// The blocks that were let through and lie beyond the recorded mark.
#[derive(Debug)]
pub(crate) struct Window {
    recorded: Option<(watch::Receiver<u32>, Ahead)>,
    /// The place of the block that comes next.
    next: Option<OwnedSemaphorePermit>,
    /// Ascending, with the places that they take.
    ahead: VecDeque<(u32, OwnedSemaphorePermit)>,
}

impl Window {
    /// Whether no further block may be let through. Where one may, its place is taken for it.
    pub(crate) fn is_full(&mut self) -> bool {
        let Some((_, Ahead(places))) = &self.recorded else { return false };
        if self.next.is_none() {
            self.next = Arc::clone(places).try_acquire_owned().ok();
        }
        self.next.is_none()
    }

    /// Lets a block through, which comes after all before it. The window is not full.
    pub(crate) fn enter(&mut self, index: u32) {
        self.ahead.extend(self.next.take().map(|place| (index, place)));
    }

    /// Makes room for what was recorded since.
    pub(crate) fn advance(&mut self) {
        let Some((recorded, _)) = &mut self.recorded else { return };
        let mark = *recorded.borrow_and_update();
        while self.ahead.front().is_some_and(|(index, _)| *index < mark) {
            self.ahead.pop_front();
        }
    }

    /// Gives all places back: everything is written, or nothing more will be.
    pub(crate) fn close(&mut self) {
        self.next = None;
        self.ahead.clear();
    }

    /// Returns when there may be room: more was recorded of this mark or of one that shares the page. Dropping the future
    /// loses nothing.
    pub(crate) async fn moved(&mut self) -> Result<(), TransferError> {
        let Some((recorded, Ahead(places))) = &mut self.recorded else { return std::future::pending().await };
        let over = || {
            TransferError::new(ErrorClass::Internal, "nobody records any more how far the blocks are written")
        };
        tokio::select! {
            changed = recorded.changed() => changed.map_err(|_| over()),
            place = Arc::clone(places).acquire_owned() => {
                self.next = Some(place.map_err(|_| over())?);
                Ok(())
            }
        }
    }
}
