//! What the leaves leave out, for targets on which old data lies: the holes of a leaf, and whole leaves of holes,
//! which no store sends. Counts which leaf comes next, so that ranges come once and in order.

use std::ops::Range;

use snapferry_types::block::leaves_in;
use snapferry_types::{BlockIndex, LEAF_BLOCKS};

use crate::block::{BlockState, Leaf};
use crate::sink::MAX_HOLE_BLOCKS;

/// Most leaves of holes in one range.
const MAX_HOLE_LEAVES: u32 = MAX_HOLE_BLOCKS / LEAF_BLOCKS;

/// Where a restore is among the leaves of its target.
#[derive(Debug)]
pub(super) struct HoleFinder {
    is_wanted: bool,
    n_blocks: u32,
    next_leaf: u32,
}

impl HoleFinder {
    /// Leaves before `from_leaf` are done. Where holes are not wanted, none is found.
    pub(super) fn new(is_wanted: bool, n_blocks: u32, from_leaf: u32) -> Self {
        Self { is_wanted, n_blocks, next_leaf: from_leaf }
    }

    /// The leaf that comes next: all before it were handed out.
    pub(super) fn next_leaf(&self) -> u32 {
        self.next_leaf
    }

    /// The leaf after the target's last.
    pub(super) fn end_leaf(&self) -> u32 {
        leaves_in(self.n_blocks)
    }

    /// Whether nothing is left once no further leaf comes.
    pub(super) fn is_done(&self) -> bool {
        !self.is_wanted || self.next_leaf >= self.end_leaf()
    }

    /// The next blocks of leaves before `end_leaf`, of which the store has none.
    pub(super) fn next_gap(&mut self, end_leaf: u32) -> Option<Range<u32>> {
        let end_leaf = end_leaf.min(self.end_leaf());
        if !self.is_wanted || self.next_leaf >= end_leaf {
            return None;
        }
        let first = self.next_leaf;
        self.next_leaf = first.saturating_add(MAX_HOLE_LEAVES).min(end_leaf);
        let block = |leaf: u32| leaf.saturating_mul(LEAF_BLOCKS).min(self.n_blocks);
        Some(block(first)..block(self.next_leaf))
    }

    /// The holes of a leaf that is new, as ranges of blocks.
    pub(super) fn in_leaf(&mut self, leaf: &Leaf) -> Vec<Range<u32>> {
        if leaf.index < self.next_leaf {
            return Vec::new();
        }
        self.next_leaf = leaf.index.saturating_add(1);
        let mut runs: Vec<Range<u32>> = Vec::new();
        if !self.is_wanted {
            return runs;
        }
        for (slot, entry) in (0_u32..).zip(&leaf.entries) {
            let index = leaf.index.saturating_mul(LEAF_BLOCKS).saturating_add(slot);
            if *entry != BlockState::Hole || index >= self.n_blocks {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end == index => run.end += 1,
                _ => runs.push(index..index + 1),
            }
        }
        runs
    }
}

/// The first block of a range.
pub(super) fn first_of(range: &Range<u32>) -> BlockIndex {
    BlockIndex(range.start)
}
