//! The leaves that a backup is filling. A leaf is complete when the listing has passed it and each of its listed
//! blocks is in the store.

use std::collections::BTreeMap;

use snapferry_types::{BlockIndex, LEAF_BLOCKS};

use crate::block::{BlockState, Leaf};

/// A leaf being filled: what the listing named, and of what it is not yet known that the store has it.
#[derive(Debug)]
pub(super) struct OpenLeaf {
    index: u32,
    changes: Vec<Option<BlockState>>,
    n_pending: u32,
    listed: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct OpenLeaves {
    open: BTreeMap<u32, OpenLeaf>,
    complete: Vec<u32>,
}

impl OpenLeaf {
    pub(super) const fn index(&self) -> u32 {
        self.index
    }

    /// The leaf, its changes laid over `base`.
    pub(super) fn over(self, mut base: Leaf) -> Leaf {
        base.index = self.index;
        base.entries.resize(LEAF_BLOCKS as usize, BlockState::Hole);
        for (entry, change) in base.entries.iter_mut().zip(self.changes) {
            if let Some(change) = change {
                *entry = change;
            }
        }
        base
    }
}

impl OpenLeaves {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The listing names a block: leaves before its own are listed out.
    pub(super) fn list(&mut self, index: BlockIndex) {
        self.listed_before(index.leaf());
        let leaf = self.open.entry(index.leaf()).or_insert_with_key(|index| OpenLeaf {
            index: *index,
            changes: vec![None; LEAF_BLOCKS as usize],
            n_pending: 0,
            listed: false,
        });
        leaf.n_pending = leaf.n_pending.saturating_add(1);
    }

    /// The listing has ended.
    pub(super) fn listed_out(&mut self) {
        self.listed_before(u32::MAX);
    }

    /// What a listed block is, known before it is in the store.
    pub(super) fn set(&mut self, index: BlockIndex, state: BlockState) {
        let slot = usize::try_from(index.slot()).unwrap_or(usize::MAX);
        let change = self.open.get_mut(&index.leaf()).and_then(|leaf| leaf.changes.get_mut(slot));
        if let Some(change) = change {
            *change = Some(state);
        }
    }

    /// A listed block needs nothing more.
    pub(super) fn settle(&mut self, index: BlockIndex) {
        if let Some(leaf) = self.open.get_mut(&index.leaf()) {
            leaf.n_pending = leaf.n_pending.saturating_sub(1);
            if leaf.listed && leaf.n_pending == 0 {
                self.complete.push(leaf.index);
            }
        }
    }

    /// A complete leaf; it is no longer open.
    pub(super) fn take_complete(&mut self) -> Option<OpenLeaf> {
        self.complete.pop().and_then(|index| self.open.remove(&index))
    }

    fn listed_before(&mut self, leaf_index: u32) {
        // Only the last open leaf can still be being listed.
        for (index, leaf) in self.open.range_mut(..leaf_index).rev() {
            if leaf.listed {
                break;
            }
            leaf.listed = true;
            if leaf.n_pending == 0 {
                self.complete.push(*index);
            }
        }
    }
}
