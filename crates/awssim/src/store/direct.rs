//! The side that the EBS direct APIs use: start, put, finish, list, compare, read.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use bytes::Bytes;
use roaring::RoaringBitmap;

use super::error::{Result, StoreError};
use super::map::{BlockMap, Entry};
use super::snapshot::{Content, Meta, Pending, Progress, State};
use super::synthetic::BlockParts;
use super::{BLOCK_LEN, BlockStore, Sha256, lock, n_blocks, read_lock};

/// StartSnapshot's Timeout when none is given: 60 minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3600);

/// A block in a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Byte offset / 524,288.
    pub index: u32,
}

/// A block that differs between two snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangedBlock {
    /// Byte offset / 524,288.
    pub index: u32,
    /// The first snapshot has a block here.
    pub in_first: bool,
    /// The second snapshot has a block here.
    pub in_second: bool,
}

/// A stretch of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Ascending, without repeats.
    pub items: Vec<T>,
    /// Where the next stretch begins, when there is more.
    pub next: Option<u32>,
}

fn page<T>(mut all: impl Iterator<Item = T>, max: usize, index: impl Fn(&T) -> u32) -> Page<T> {
    let items: Vec<T> = all.by_ref().take(max).collect();
    let next = all.next().map(|item| index(&item));
    Page { items, next }
}

impl BlockStore {
    /// Starts a snapshot that is filled block by block, on top of `parent`'s blocks when there is one.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`]; for the parent [`StoreError::SnapshotNotFound`], [`StoreError::Pending`],
    /// [`StoreError::Synthetic`], [`StoreError::OutOfRange`] when it is larger; I/O.
    pub fn begin_snapshot(&self, snapshot_id: &str, parent: Option<&str>, size_bytes: u64) -> Result<()> {
        self.begin_snapshot_with_timeout(snapshot_id, parent, size_bytes, DEFAULT_TIMEOUT)
    }

    /// As [`Self::begin_snapshot`], to be given up when no block comes for `timeout`; see
    /// [`Self::expired_snapshots`].
    ///
    /// # Errors
    /// As [`Self::begin_snapshot`].
    pub fn begin_snapshot_with_timeout(
        &self,
        snapshot_id: &str,
        parent: Option<&str>,
        size_bytes: u64,
        timeout: Duration,
    ) -> Result<()> {
        let timeout_seconds = timeout.as_secs();
        self.check_new_snapshot(snapshot_id)?;
        let blocks = n_blocks(snapshot_id, size_bytes)?;
        let (map, lineage) = match parent {
            None => (BlockMap::new(blocks), format!("snapshot:{snapshot_id}")),
            Some(parent_id) => {
                let parent = self.snapshot(parent_id)?;
                let map = match parent.content() {
                    Content::Pending(_) => return Err(StoreError::Pending(parent_id.to_owned())),
                    Content::Synthetic(_) => return Err(StoreError::Synthetic(parent_id.to_owned())),
                    Content::Sealed(map) => map,
                };
                if map.n_blocks() > blocks {
                    return Err(StoreError::OutOfRange {
                        id: snapshot_id.to_owned(),
                        what: format!("{} blocks of parent {parent_id}", map.n_blocks()),
                        limit: format!("{blocks} blocks"),
                    });
                }
                (map.resized(blocks), parent.meta().lineage)
            }
        };
        let mut held = map.layers();
        self.layers.hold(&held)?;
        let layer = self.layers.create()?;
        held.push(layer.id());
        let meta = Meta {
            size_bytes,
            lineage,
            n_new_blocks: 0,
            state: State::Pending { layer: layer.id(), timeout_seconds },
        };
        let progress = Mutex::new(Progress::new(map, RoaringBitmap::new()));
        let pending = Arc::new(Pending { layer, timeout_seconds, progress });
        self.add_snapshot(snapshot_id, meta, Content::Pending(pending), held)
    }

    /// Stores a block of a pending snapshot. The caller has checked `sha256` against `data`. A repeat is fine;
    /// other content takes the place of what was there.
    ///
    /// # Errors
    /// [`StoreError::SnapshotNotFound`], [`StoreError::NotPending`], [`StoreError::OutOfRange`] (index, or length
    /// other than 524,288), [`StoreError::ConflictingUpdate`], I/O.
    pub fn put_block(&self, snapshot_id: &str, index: u32, data: &Bytes, sha256: Sha256) -> Result<()> {
        let pending = self.snapshot(snapshot_id)?.pending()?;
        let out_of_range = |what: String, limit: String| {
            Err(StoreError::OutOfRange { id: snapshot_id.to_owned(), what, limit })
        };
        if data.len() != BLOCK_LEN {
            return out_of_range(
                format!("{} bytes of block {index}", data.len()),
                format!("{BLOCK_LEN} bytes"),
            );
        }
        {
            let mut progress = lock(&pending.progress);
            if progress.closed {
                return Err(StoreError::NotPending(snapshot_id.to_owned()));
            }
            if index >= progress.map.n_blocks() {
                return out_of_range(format!("block {index}"), format!("{} blocks", progress.map.n_blocks()));
            }
            if progress.in_flight.contains_key(&index) {
                return Err(StoreError::ConflictingUpdate { id: snapshot_id.to_owned(), index });
            }
            if progress.put.contains(index) {
                self.n_repeated_puts.fetch_add(1, Ordering::Relaxed);
            }
            let present = progress.map.get(index);
            if present.layer() == pending.layer.id() && pending.layer.sha256(present.slot())? == sha256 {
                return Ok(());
            }
            progress.in_flight.insert(index, sha256);
        }
        let entry = pending.layer.append(index, data, sha256);
        let mut progress = lock(&pending.progress);
        progress.in_flight.remove(&index);
        let entry = entry?;
        if progress.closed {
            return Err(StoreError::NotPending(snapshot_id.to_owned()));
        }
        progress.map.set(index, entry);
        progress.put.insert(index);
        Ok(())
    }

    /// How many different blocks were put, and the LINEAR aggregate over them: SHA-256 of their SHA-256s in
    /// ascending order of index.
    ///
    /// # Errors
    /// [`StoreError::SnapshotNotFound`], [`StoreError::NotPending`].
    pub fn put_summary(&self, snapshot_id: &str) -> Result<(u64, Sha256)> {
        let pending = self.snapshot(snapshot_id)?.pending()?;
        let progress = lock(&pending.progress);
        let mut hash = digest::Context::new(&digest::SHA256);
        for index in &progress.put {
            hash.update(&pending.layer.sha256(progress.map.get(index).slot())?);
        }
        let mut aggregate = [0; 32];
        aggregate.iter_mut().zip(hash.finish().as_ref()).for_each(|(to, from)| *to = *from);
        Ok((progress.put.len(), aggregate))
    }

    /// Remembers when the last block of a pending snapshot came, by the caller's clock.
    ///
    /// # Errors
    /// [`StoreError::SnapshotNotFound`], [`StoreError::NotPending`].
    pub fn note_put(&self, snapshot_id: &str, at: SystemTime) -> Result<()> {
        let pending = self.snapshot(snapshot_id)?.pending()?;
        lock(&pending.progress).last_block = at;
        Ok(())
    }

    /// When the last block of a pending snapshot came, or when it was started or taken up if none has.
    ///
    /// # Errors
    /// [`StoreError::SnapshotNotFound`], [`StoreError::NotPending`].
    pub fn last_put(&self, snapshot_id: &str) -> Result<SystemTime> {
        let pending = self.snapshot(snapshot_id)?.pending()?;
        let last_block = lock(&pending.progress).last_block;
        Ok(last_block)
    }

    /// The pending snapshots for which no block came within their timeout. The store does nothing about them.
    #[must_use]
    pub fn expired_snapshots(&self, now: SystemTime) -> Vec<String> {
        let snapshots: Vec<_> = read_lock(&self.snapshots).values().map(Arc::clone).collect();
        let expired = snapshots.iter().filter(|snapshot| {
            let Ok(pending) = snapshot.pending() else { return false };
            let last_block = lock(&pending.progress).last_block;
            let waited = now.duration_since(last_block).unwrap_or_default();
            waited > Duration::from_secs(pending.timeout_seconds)
        });
        expired.map(|snapshot| snapshot.id.clone()).collect()
    }

    /// Finishes a pending snapshot: from now on it can be read and no longer be written.
    ///
    /// # Errors
    /// [`StoreError::SnapshotNotFound`], [`StoreError::NotPending`], [`StoreError::ConflictingUpdate`] while a
    /// block is being written, I/O.
    pub fn finish_snapshot(&self, snapshot_id: &str) -> Result<()> {
        let snapshot = self.snapshot(snapshot_id)?;
        let pending = snapshot.pending()?;
        let (map, n_new) = {
            let mut progress = lock(&pending.progress);
            if progress.closed {
                return Err(StoreError::NotPending(snapshot_id.to_owned()));
            }
            if let Some(index) = progress.in_flight.keys().next() {
                return Err(StoreError::ConflictingUpdate { id: snapshot_id.to_owned(), index: *index });
            }
            progress.closed = true;
            (progress.map.clone(), progress.put.len())
        };
        let sealed = snapshot.seal(&self.snapshot_dir, map, n_new, &self.layers);
        if sealed.is_err() {
            lock(&pending.progress).closed = false;
        }
        sealed
    }

    /// Number of blocks that the snapshot lists (of a pending one: so far).
    ///
    /// # Errors
    /// [`StoreError::SnapshotNotFound`].
    pub fn block_count(&self, snapshot_id: &str) -> Result<u64> {
        let count = match self.snapshot(snapshot_id)?.content() {
            Content::Pending(pending) => lock(&pending.progress).map.iter_from(0).count(),
            Content::Sealed(map) => map.iter_from(0).count(),
            Content::Synthetic(synthetic) => synthetic.indexes_from(0).count(),
        };
        Ok(u64::try_from(count).unwrap_or(u64::MAX))
    }

    /// Up to `max` blocks from `from_index` on.
    ///
    /// # Errors
    /// [`StoreError::SnapshotNotFound`], [`StoreError::Pending`].
    pub fn list_blocks(&self, snapshot_id: &str, from_index: u32, max: usize) -> Result<Page<BlockInfo>> {
        let info = |index| BlockInfo { index };
        match self.snapshot(snapshot_id)?.content() {
            Content::Pending(_) => Err(StoreError::Pending(snapshot_id.to_owned())),
            Content::Sealed(map) => {
                Ok(page(map.iter_from(from_index).map(|(index, _)| info(index)), max, |b| b.index))
            }
            Content::Synthetic(synthetic) => {
                Ok(page(synthetic.indexes_from(from_index).map(info), max, |b| b.index))
            }
        }
    }

    /// Up to `max` blocks from `from_index` on whose content differs between the two snapshots, or that only one
    /// of them has.
    ///
    /// # Errors
    /// [`StoreError::SnapshotNotFound`], [`StoreError::Pending`], [`StoreError::Unrelated`], I/O.
    pub fn changed_blocks(
        &self,
        first_id: &str,
        second_id: &str,
        from_index: u32,
        max: usize,
    ) -> Result<Page<ChangedBlock>> {
        let (first, second) = (self.snapshot(first_id)?, self.snapshot(second_id)?);
        if first.meta().lineage != second.meta().lineage {
            let (first, second) = (first_id.to_owned(), second_id.to_owned());
            return Err(StoreError::Unrelated { first, second });
        }
        match (first.content(), second.content()) {
            (Content::Pending(_), _) => Err(StoreError::Pending(first_id.to_owned())),
            (_, Content::Pending(_)) => Err(StoreError::Pending(second_id.to_owned())),
            (Content::Synthetic(a), Content::Synthetic(b)) => {
                Ok(page(a.diff_from(&b, from_index), max, |c| c.index))
            }
            (Content::Sealed(a), Content::Sealed(b)) => {
                let mut failed = None;
                let changes = a.diff_from(&b, from_index).filter_map(|(index, x, y)| {
                    match self.equal(x, y) {
                        Ok(true) => return None,
                        Ok(false) => {}
                        Err(error) => failed = Some(error),
                    }
                    Some(ChangedBlock { index, in_first: !x.is_hole(), in_second: !y.is_hole() })
                });
                let page = page(changes, max, |c| c.index);
                failed.map_or(Ok(page), Err)
            }
            _ => Err(StoreError::Unrelated { first: first_id.to_owned(), second: second_id.to_owned() }),
        }
    }

    fn equal(&self, a: Entry, b: Entry) -> Result<bool> {
        if a.is_hole() || b.is_hole() {
            return Ok(a == b);
        }
        let sha256 = |entry: Entry| self.layers.get(entry.layer())?.sha256(entry.slot());
        Ok(sha256(a)? == sha256(b)?)
    }

    /// A block's bytes and SHA-256 as stored; nothing when the snapshot has no block there.
    ///
    /// # Errors
    /// [`StoreError::SnapshotNotFound`], [`StoreError::Pending`], I/O.
    pub fn read_block(&self, snapshot_id: &str, index: u32) -> Result<Option<(Bytes, Sha256)>> {
        let parts = self.read_block_parts(snapshot_id, index)?;
        Ok(parts.map(|parts| (parts.clone().joined(), parts.sha256)))
    }

    /// As [`Self::read_block`], in the pieces that cost no copy.
    ///
    /// # Errors
    /// As [`Self::read_block`].
    pub fn read_block_parts(&self, snapshot_id: &str, index: u32) -> Result<Option<BlockParts>> {
        match self.snapshot(snapshot_id)?.content() {
            Content::Pending(_) => Err(StoreError::Pending(snapshot_id.to_owned())),
            Content::Synthetic(synthetic) => Ok(synthetic.read(index)),
            Content::Sealed(map) => {
                let entry = map.get(index);
                if entry.is_hole() {
                    return Ok(None);
                }
                let (body, sha256) = self.layers.get(entry.layer())?.read(entry.slot())?;
                Ok(Some(BlockParts { body, tail: Bytes::new(), sha256 }))
            }
        }
    }

    /// Whether the snapshot has a block there.
    ///
    /// # Errors
    /// As [`Self::read_block`].
    pub fn has_block(&self, snapshot_id: &str, index: u32) -> Result<bool> {
        match self.snapshot(snapshot_id)?.content() {
            Content::Pending(_) => Err(StoreError::Pending(snapshot_id.to_owned())),
            Content::Synthetic(synthetic) => Ok(synthetic.has(index)),
            Content::Sealed(map) => Ok(!map.get(index).is_hole()),
        }
    }
}
