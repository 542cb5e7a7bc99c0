//! What differs between two volumes: a walk over the pages that are not equal.

use snapferry_types::{PageId, RecoveryPointId};

use super::Library;
use super::tree::{leaves_below_child, root_level};
use crate::error::Error;
use crate::limits::MAX_LIST;
use crate::page::FANOUT;

/// A leaf that differs; a side that is `None` is all holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafDiff {
    /// Its place.
    pub leaf_index: u32,
    /// Its page in the first volume.
    pub a: Option<PageId>,
    /// Its page in the second volume.
    pub b: Option<PageId>,
}

/// A subtree of one side: its topmost page and its level, 0 for a leaf.
type Side = Option<(PageId, u8)>;

struct Walk {
    from: u32,
    max: usize,
    found: Vec<LeafDiff>,
}

impl Library {
    /// Leaves from `from` on that differ between two volumes, in order; at most `max`, and at most 1,024. An empty
    /// answer is the end. Reads only interior pages that are not equal.
    ///
    /// # Errors
    /// [`Error::UnknownRecoveryPoint`], [`Error::UnknownVolume`], [`Error::Damaged`].
    pub fn diff_leaves(
        &self,
        a: (RecoveryPointId, &str),
        b: (RecoveryPointId, &str),
        from: u32,
        max: usize,
    ) -> Result<Vec<LeafDiff>, Error> {
        let (a, b) = (self.point_volume(a.0, a.1)?, self.point_volume(b.0, b.1)?);
        let (level_a, level_b) = (root_level(a.n_blocks), root_level(b.n_blocks));
        let mut walk = Walk { from, max: max.clamp(1, MAX_LIST), found: Vec::new() };
        let level = level_a.max(level_b);
        self.diff(&mut walk, level, 0, Some((a.root, level_a)), Some((b.root, level_b)))?;
        Ok(walk.found)
    }

    fn diff(&self, walk: &mut Walk, level: u8, first: u32, a: Side, b: Side) -> Result<(), Error> {
        let span = u64::from(leaves_below_child(level.saturating_add(1)));
        if a == b || walk.found.len() >= walk.max || u64::from(first) + span <= u64::from(walk.from) {
            return Ok(());
        }
        if level == 0 {
            walk.found.push(LeafDiff { leaf_index: first, a: a.map(|s| s.0), b: b.map(|s| s.0) });
            return Ok(());
        }
        let (a, b) = (self.children(level, a)?, self.children(level, b)?);
        let step = leaves_below_child(level);
        for (slot, (a, b)) in (0_u32..).zip(a.into_iter().zip(b)) {
            self.diff(walk, level - 1, first.saturating_add(slot.saturating_mul(step)), a, b)?;
        }
        Ok(())
    }

    /// The children of a side at `level`; a lower tree is the first child of what it would be there.
    fn children(&self, level: u8, side: Side) -> Result<Vec<Side>, Error> {
        let mut children = match side {
            None => Vec::new(),
            Some((_, lower)) if lower < level => vec![side],
            Some((page, _)) => {
                let page = self.interior(page, level)?;
                page.children.iter().map(|c| c.map(|c| (c.page, level - 1))).collect()
            }
        };
        children.resize(FANOUT, None);
        Ok(children)
    }
}
