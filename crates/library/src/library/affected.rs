//! Which recovery points a damage touches, and which leaves of one are to be read again.

use std::collections::HashSet;

use snapferry_types::{PageId, RecoveryPointId};

use super::Library;
use super::marks::Marks;
use super::tree::root_level;
use crate::error::Error;
use crate::index::Location;
use crate::limits::MAX_LIST;
use crate::pack::RecordKey;
use crate::page::LeafPage;

/// What is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suspect {
    /// These records.
    Records(Vec<RecordKey>),
    /// Whatever lies in this pack.
    Pack(u64),
}

/// What a walk over all manifests knows so far: two bits a stored record.
struct Search {
    records: HashSet<RecordKey>,
    pack: Option<u64>,
    seen: Marks,
    touched: Marks,
}

impl Search {
    fn hits(&self, key: &RecordKey, at: Option<&Location>) -> bool {
        self.records.contains(key) || at.is_some_and(|at| self.pack == Some(at.pack))
    }
}

impl Library {
    /// The recovery points that refer to what is damaged, in the order of their ids. A page that does not read
    /// counts as touched.
    ///
    /// # Errors
    /// What index and backend say.
    pub fn affected_by(&self, suspect: &Suspect) -> Result<Vec<RecoveryPointId>, Error> {
        let rows = self.index.packs().collect::<Result<Vec<_>, Error>>()?;
        let (records, pack) = match suspect {
            Suspect::Records(keys) => (keys.iter().copied().collect(), None),
            Suspect::Pack(number) => (HashSet::new(), Some(*number)),
        };
        let search = Search {
            records,
            pack,
            seen: Marks::new(rows.iter().copied()),
            touched: Marks::new(rows.iter().copied()),
        };
        let mut affected = Vec::new();
        let snapshot = self.index.snapshot();
        for point in self.index.points_of(&snapshot, None) {
            let point = point?;
            let mut touched = false;
            for volume in &point.volumes {
                touched = touched || self.touches(&search, volume.root, root_level(volume.n_blocks))?;
            }
            if touched {
                affected.push(point.id);
            }
        }
        Ok(affected)
    }

    /// Whether a subtree is touched; level 0 is a leaf.
    fn touches(&self, search: &Search, page: PageId, level: u8) -> Result<bool, Error> {
        let key = if level == 0 { RecordKey::leaf(page) } else { RecordKey::interior(page) };
        let Some(at) = self.index.locate(&key)? else { return Ok(true) };
        if search.hits(&key, Some(&at)) {
            return Ok(true);
        }
        if !search.seen.add(&at) {
            return Ok(search.touched.contains(at.pack, at.ordinal));
        }
        let touched = match if level == 0 {
            self.leaf_touches(search, page)
        } else {
            self.below_touches(search, page, level)
        } {
            Err(Error::Damaged { .. } | Error::NotStored(_) | Error::Malformed(_)) => true,
            other => other?,
        };
        if touched {
            search.touched.add(&at);
        }
        Ok(touched)
    }

    fn below_touches(&self, search: &Search, page: PageId, level: u8) -> Result<bool, Error> {
        for child in self.interior_uncached(page, level)?.children.iter().flatten() {
            if self.touches(search, child.page, level - 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn leaf_touches(&self, search: &Search, page: PageId) -> Result<bool, Error> {
        for id in LeafPage::decode(&self.read_record(&RecordKey::leaf(page))?)?.chunk_ids {
            let key = RecordKey::chunk(id);
            let at = if search.pack.is_some() { self.index.locate(&key)? } else { None };
            if search.hits(&key, at.as_ref()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Leaves of a volume from `from` on that are known to be damaged, or refer to a chunk that is, in order; at
    /// most `max`, and at most 1,024. An empty answer is the end. An incremental backup on this recovery point
    /// reads these in full and so heals them. Costs nothing while nothing is damaged.
    ///
    /// # Errors
    /// [`Error::Damaged`] for an interior page: then only a full backup heals.
    pub fn damaged_leaves(
        &self,
        id: RecoveryPointId,
        volume: &str,
        from: u32,
        max: usize,
    ) -> Result<Vec<u32>, Error> {
        let volume = self.point_volume(id, volume)?;
        let mut damaged = Vec::new();
        if !self.index.any_damaged()? {
            return Ok(damaged);
        }
        let max = max.clamp(1, MAX_LIST);
        self.leaf_pages(
            volume.root,
            root_level(volume.n_blocks),
            0,
            from,
            u64::MAX,
            &mut |leaf_index, page| {
                if self.is_leaf_damaged(page)? {
                    damaged.push(leaf_index);
                }
                Ok(damaged.len() < max)
            },
        )?;
        Ok(damaged)
    }

    fn is_leaf_damaged(&self, page: PageId) -> Result<bool, Error> {
        let bytes = match self.read_record(&RecordKey::leaf(page)) {
            Err(Error::Damaged { .. } | Error::NotStored(_)) => return Ok(true),
            other => other?,
        };
        for id in LeafPage::decode(&bytes)?.chunk_ids {
            if self.index.locate_good(&RecordKey::chunk(id))?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
