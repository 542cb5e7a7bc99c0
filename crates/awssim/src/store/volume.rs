//! One volume: a plain sparse file, the map of its last snapshot, and which blocks were written since.
//!
//! The file may be written by anybody (as a loop device, by a tool). The store sees that by the file's mark (see
//! [`super::files::Mark`]) and then compares the whole file against the base instead of trusting its own notes.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::error::{Result, StoreError};
use super::files::{self, Mark};
use super::layer::{Layer, Layers, read_block_at};
use super::map::{BlockMap, Entry};
use super::{BLOCK_BYTES, Sha256, lock};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Meta {
    size_bytes: u64,
}

/// What the store knows of a volume's content.
#[derive(Debug)]
pub(super) struct Tracking {
    /// The content at the last snapshot, or at creation.
    pub(super) base: Arc<BlockMap>,
    dirty: RoaringBitmap,
    /// Somebody else may be writing now, so every snapshot compares the whole file.
    external: bool,
    /// Somebody else wrote since the base.
    touched: bool,
    /// Layers held by the base.
    held: Vec<u32>,
}

/// A volume in the store.
#[derive(Debug)]
pub(super) struct Volume {
    pub(super) id: String,
    pub(super) size_bytes: u64,
    pub(super) path: PathBuf,
    file: File,
    tracking: Mutex<Tracking>,
}

pub(super) fn raw_path(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.raw"))
}

fn meta_path(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.json"))
}

fn map_path(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.map"))
}

impl Volume {
    /// Makes the sparse file. `base` is the content that `fill` gives the file; the caller holds its layers.
    pub(super) fn create(
        dir: &Path,
        id: &str,
        size_bytes: u64,
        base: BlockMap,
        held: Vec<u32>,
        fill: impl FnOnce(&File) -> Result<()>,
    ) -> Result<Self> {
        let path = raw_path(dir, id);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(StoreError::io("create volume", &path))?;
        file.set_len(size_bytes).map_err(StoreError::io("size volume", &path))?;
        fill(&file)?;
        base.save(&map_path(dir, id))?;
        let text = serde_json::to_vec(&Meta { size_bytes })
            .map_err(|e| StoreError::damaged(&path, e.to_string()))?;
        Mark::Clean.write(&file).map_err(StoreError::io("mark volume", &path))?;
        files::replace(&meta_path(dir, id), &text)?;
        Ok(Self::with(id, size_bytes, path, file, base, held, false))
    }

    fn with(
        id: &str,
        size_bytes: u64,
        path: PathBuf,
        file: File,
        base: BlockMap,
        held: Vec<u32>,
        touched: bool,
    ) -> Self {
        let base = Arc::new(base);
        let tracking = Tracking { base, dirty: RoaringBitmap::new(), external: false, touched, held };
        Self { id: id.to_owned(), size_bytes, path, file, tracking: Mutex::new(tracking) }
    }

    /// Opens a volume that an earlier process left. Which blocks that one wrote died with it, so unless the
    /// file is marked clean the next snapshot compares all of it.
    pub(super) fn load(dir: &Path, id: &str, layers: &Layers) -> Result<Self> {
        let (path, meta) = (raw_path(dir, id), meta_path(dir, id));
        let text = std::fs::read(&meta).map_err(StoreError::io("read volume", &meta))?;
        let Meta { size_bytes } =
            serde_json::from_slice(&text).map_err(|e| StoreError::damaged(&meta, e.to_string()))?;
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(StoreError::io("open volume", &path))?;
        let base = BlockMap::load(&map_path(dir, id))?;
        let held = base.layers();
        layers.hold(&held)?;
        let touched = Mark::read(&file).map_err(StoreError::io("look at volume", &path))? != Mark::Clean;
        Ok(Self::with(id, size_bytes, path, file, base, held, touched))
    }

    pub(super) fn remove(&self, dir: &Path, layers: &Layers) -> Result<()> {
        files::remove(&meta_path(dir, &self.id))?;
        files::remove(&map_path(dir, &self.id))?;
        files::remove(&self.path)?;
        layers.release(&std::mem::take(&mut lock(&self.tracking).held))
    }

    fn io(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> StoreError {
        StoreError::io(what, &self.path)
    }

    fn check(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size_bytes => Ok(()),
            _ => Err(StoreError::OutOfRange {
                id: self.id.clone(),
                what: format!("{len} bytes at byte {offset}"),
                limit: format!("{} bytes", self.size_bytes),
            }),
        }
    }

    fn change(&self, offset: u64, len: u64, act: impl FnOnce(&File) -> std::io::Result<()>) -> Result<()> {
        self.check(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let mut tracking = self.lock();
        let mark = Mark::read(&self.file).map_err(self.io("look at volume"))?;
        tracking.touched |= mark == Mark::Foreign;
        tracking.dirty.insert_range(block_of(offset)..=block_of(offset + len - 1));
        act(&self.file).map_err(self.io("write to volume"))?;
        Mark::Tracked.write(&self.file).map_err(self.io("mark volume"))
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.change(offset, len, |file| file.write_all_at(data, offset))
    }

    pub(super) fn punch(&self, dir: &Path, layers: &Layers, offset: u64, len: u64) -> Result<()> {
        self.forget_zeroes(dir, layers, offset, len)?;
        self.change(offset, len, |file| files::punch(file, offset, len))
    }

    /// Makes zero blocks of the base in this range holes of the base. The file shows both as a hole, so after a
    /// restart nothing else would tell that this one was punched.
    fn forget_zeroes(&self, dir: &Path, layers: &Layers, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)?;
        let mut tracking = self.lock();
        let mut zeroes = Vec::new();
        for (index, entry) in tracking.base.iter_from(block_of(offset)) {
            if u64::from(index) * BLOCK_BYTES >= offset + len {
                break;
            }
            if layers.get(entry.layer())?.is_zero(entry.slot())? {
                zeroes.push(index);
            }
        }
        if zeroes.is_empty() {
            return Ok(());
        }
        let base = Arc::make_mut(&mut tracking.base);
        zeroes.into_iter().for_each(|index| base.set(index, Entry::HOLE));
        base.save(&map_path(dir, &self.id))
    }

    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.check(offset, u64::try_from(len).unwrap_or(u64::MAX))?;
        let mut buffer = BytesMut::zeroed(len);
        self.file.read_exact_at(&mut buffer, offset).map_err(self.io("read from volume"))?;
        Ok(buffer.freeze())
    }

    pub(super) fn extents(&self) -> Result<Vec<Range<u64>>> {
        let mut extents = Vec::new();
        let mut from = 0;
        while let Some(extent) = files::next_extent(&self.file, from, self.size_bytes)
            .map_err(self.io("look for data in volume"))?
        {
            from = extent.end;
            extents.push(extent);
        }
        Ok(extents)
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(self.io("sync volume"))
    }

    pub(super) fn set_external(&self, external: bool) {
        let mut tracking = self.lock();
        tracking.touched |= tracking.external || external;
        tracking.external = external;
    }

    /// Stops writes through the store until the guard goes.
    pub(super) fn lock(&self) -> MutexGuard<'_, Tracking> {
        lock(&self.tracking)
    }

    /// Stores what differs from the base and answers the new map and whether the whole file was compared.
    pub(super) fn capture(
        &self,
        tracking: &Tracking,
        layers: &Layers,
        layer: &Layer,
    ) -> Result<(BlockMap, u64, bool)> {
        let mark = Mark::read(&self.file).map_err(self.io("look at volume"))?;
        let full = tracking.touched || tracking.external || mark == Mark::Foreign;
        let mut map = BlockMap::clone(&tracking.base);
        let mut n_new = 0;
        let indexes: Box<dyn Iterator<Item = u32>> =
            if full { Box::new(0..map.n_blocks()) } else { Box::new(tracking.dirty.iter()) };
        let mut data = 0..0;
        let mut data_known_from = u64::MAX;
        for index in indexes {
            let start = u64::from(index) * BLOCK_BYTES;
            let end = start + BLOCK_BYTES;
            // One look ahead serves every block up to the end of the extent it finds.
            if data_known_from > start || data.end <= start {
                let next = files::next_extent(&self.file, start, self.size_bytes);
                data = next.map_err(self.io("look for data in volume"))?.unwrap_or(u64::MAX - 1..u64::MAX);
                data_known_from = start;
            }
            let (before, written) = (map.get(index), data.start < end);
            if !written {
                // A zero block of the base is kept as a hole of the file; only a known punch makes it a hole.
                let kept = !before.is_hole()
                    && !tracking.dirty.contains(index)
                    && layers.get(before.layer())?.is_zero(before.slot())?;
                if !kept {
                    map.set(index, Entry::HOLE);
                }
                continue;
            }
            let block = read_block_at(&self.file, start).map_err(self.io("read from volume"))?;
            let sha256 = sha256(&block);
            let same = !before.is_hole() && layers.get(before.layer())?.sha256(before.slot())? == sha256;
            if !same {
                map.set(index, layer.append(index, &block, sha256)?);
                n_new += 1;
            }
        }
        Ok((map, n_new, full))
    }

    /// Makes `map` the base, once its snapshot is safe.
    pub(super) fn rebase(
        &self,
        tracking: &mut Tracking,
        dir: &Path,
        map: BlockMap,
        layers: &Layers,
    ) -> Result<()> {
        let held = map.layers();
        layers.hold(&held)?;
        map.save(&map_path(dir, &self.id))?;
        if !tracking.external {
            Mark::Clean.write(&self.file).map_err(self.io("mark volume"))?;
        }
        tracking.base = Arc::new(map);
        tracking.dirty.clear();
        tracking.touched = false;
        layers.release(&std::mem::replace(&mut tracking.held, held))
    }
}

fn block_of(byte: u64) -> u32 {
    u32::try_from(byte / BLOCK_BYTES).unwrap_or(u32::MAX)
}

/// SHA-256 of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Sha256 {
    let mut out = [0; 32];
    out.iter_mut().zip(digest::digest(&digest::SHA256, bytes).as_ref()).for_each(|(to, from)| *to = *from);
    out
}
