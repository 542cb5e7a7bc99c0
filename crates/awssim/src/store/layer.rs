//! A layer: the blocks that one snapshot added, in the order they came, with their hashes.
//!
//! Two files: the data (slot *n* at byte *n* × 524,288; a zero block's slot stays a hole) and the index (a record
//! of 40 bytes a slot: block index, kind, SHA-256). Slots are only ever appended, so readers need no lock on I/O.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock};

use bytes::Bytes;

use super::error::{Result, StoreError};
use super::map::{BlockMap, Entry};
use super::{BLOCK_BYTES, BLOCK_LEN, Sha256, files, read_lock, write_lock, zero};

const RECORD: usize = 40;
const KIND_DATA: u32 = 1;
const KIND_ZERO: u32 = 2;

#[derive(Clone, Copy, Debug)]
struct Slot {
    index: u32,
    kind: u32,
    sha256: Sha256,
}

/// One layer, open for reading and, while its snapshot is pending, for appending.
#[derive(Debug)]
pub(super) struct Layer {
    id: u32,
    data: File,
    index: File,
    data_path: PathBuf,
    next: AtomicU32,
    slots: RwLock<Vec<Option<Slot>>>,
}

fn paths(dir: &Path, id: u32) -> (PathBuf, PathBuf) {
    (dir.join(format!("{id:08x}.dat")), dir.join(format!("{id:08x}.idx")))
}

impl Layer {
    fn open(dir: &Path, id: u32, create: bool) -> Result<Self> {
        let (data_path, index_path) = paths(dir, id);
        let open = |path: &Path| {
            let options = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path);
            options.map_err(StoreError::io("open layer", path))
        };
        let (data, index) = (open(&data_path)?, open(&index_path)?);
        let bytes = std::fs::read(&index_path).map_err(StoreError::io("read layer index", &index_path))?;
        let slots: Vec<_> = bytes.as_chunks::<RECORD>().0.iter().map(parse_record).collect();
        let next =
            u32::try_from(slots.len()).map_err(|_| StoreError::damaged(&index_path, "too many slots"))?;
        Ok(Self { id, data, index, data_path, next: AtomicU32::new(next), slots: RwLock::new(slots) })
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Adds a block and answers where it is. A zero block takes a slot and no space.
    pub(super) fn append(&self, index: u32, data: &[u8], sha256: Sha256) -> Result<Entry> {
        let slot = self.next.fetch_add(1, Ordering::Relaxed);
        let kind = if sha256 == zero::SHA256 { KIND_ZERO } else { KIND_DATA };
        let error = || StoreError::io("write block to", &self.data_path);
        if kind == KIND_DATA {
            self.data.write_all_at(data, u64::from(slot) * BLOCK_BYTES).map_err(error())?;
        }
        let mut record = [0; RECORD];
        let fields = index.to_le_bytes().into_iter().chain(kind.to_le_bytes()).chain(sha256);
        record.iter_mut().zip(fields).for_each(|(place, byte)| *place = byte);
        let offset = u64::from(slot) * u64::try_from(RECORD).unwrap_or(0);
        self.index.write_all_at(&record, offset).map_err(error())?;
        let place = usize::try_from(slot).unwrap_or(usize::MAX);
        let mut slots = write_lock(&self.slots);
        if slots.len() <= place {
            slots.resize(place + 1, None);
        }
        if let Some(entry) = slots.get_mut(place) {
            *entry = Some(Slot { index, kind, sha256 });
        }
        Ok(Entry::new(self.id, slot))
    }

    fn slot(&self, slot: u32) -> Result<Slot> {
        let slots = read_lock(&self.slots);
        let found = slots.get(usize::try_from(slot).unwrap_or(usize::MAX)).copied().flatten();
        found.ok_or_else(|| StoreError::damaged(&self.data_path, format!("slot {slot} is not in its index")))
    }

    pub(super) fn sha256(&self, slot: u32) -> Result<Sha256> {
        Ok(self.slot(slot)?.sha256)
    }

    pub(super) fn is_zero(&self, slot: u32) -> Result<bool> {
        Ok(self.slot(slot)?.kind == KIND_ZERO)
    }

    pub(super) fn read(&self, slot: u32) -> Result<(Bytes, Sha256)> {
        let info = self.slot(slot)?;
        if info.kind == KIND_ZERO {
            return Ok((zero::block(), info.sha256));
        }
        let bytes = read_block_at(&self.data, u64::from(slot) * BLOCK_BYTES)
            .map_err(StoreError::io("read block from", &self.data_path))?;
        Ok((bytes, info.sha256))
    }

    /// Writes a data block's bytes to `target` at `offset` without passing through our memory.
    pub(super) fn copy_to(&self, slot: u32, target: &File, offset: u64) -> Result<()> {
        files::copy(&self.data, u64::from(slot) * BLOCK_BYTES, target, offset, BLOCK_LEN)
            .map_err(StoreError::io("copy block from", &self.data_path))
    }

    /// Enters every slot into `map`, oldest first, so that the last write of a block stands; answers the indexes.
    pub(super) fn replay(&self, map: &mut BlockMap) -> Vec<u32> {
        let slots = read_lock(&self.slots);
        let mut indexes = Vec::new();
        for (slot, info) in slots.iter().enumerate() {
            if let (Ok(slot), Some(info)) = (u32::try_from(slot), info) {
                map.set(info.index, Entry::new(self.id, slot));
                indexes.push(info.index);
            }
        }
        indexes
    }
}

fn parse_record(record: &[u8; RECORD]) -> Option<Slot> {
    let (index, rest) = record.split_first_chunk::<4>()?;
    let (kind, sha256) = rest.split_first_chunk::<4>()?;
    let kind = u32::from_le_bytes(*kind);
    let known = kind == KIND_DATA || kind == KIND_ZERO;
    known.then_some(Slot { index: u32::from_le_bytes(*index), kind, sha256: sha256.try_into().ok()? })
}

/// Reads one whole block without first filling the buffer with zeroes.
pub(super) fn read_block_at(file: &File, offset: u64) -> io::Result<Bytes> {
    let mut buffer = Vec::with_capacity(BLOCK_LEN);
    while buffer.len() < BLOCK_LEN {
        let done = u64::try_from(buffer.len()).unwrap_or(0);
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), offset + done) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    buffer.truncate(BLOCK_LEN);
    Ok(Bytes::from(buffer))
}

/// Every layer with the number of snapshots and volumes that need it; the last to let go removes its files.
#[derive(Debug)]
pub(super) struct Layers {
    dir: PathBuf,
    next: AtomicU32,
    open: RwLock<HashMap<u32, (Arc<Layer>, usize)>>,
}

impl Layers {
    /// Opens the folder. Layers are opened by [`Layers::hold`]; what nobody holds after loading is swept.
    pub(super) fn new(dir: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir).map_err(StoreError::io("create folder", &dir))?;
        let last = ids_in(&dir)?.into_iter().max().unwrap_or(0);
        Ok(Self { dir, next: AtomicU32::new(last + 1), open: RwLock::default() })
    }

    /// A new layer, held once.
    pub(super) fn create(&self) -> Result<Arc<Layer>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let layer = Arc::new(Layer::open(&self.dir, id, true)?);
        write_lock(&self.open).insert(id, (Arc::clone(&layer), 1));
        Ok(layer)
    }

    pub(super) fn get(&self, id: u32) -> Result<Arc<Layer>> {
        let found = read_lock(&self.open).get(&id).map(|(layer, _)| Arc::clone(layer));
        found.ok_or_else(|| StoreError::damaged(&paths(&self.dir, id).0, "the layer is gone"))
    }

    pub(super) fn hold(&self, ids: &[u32]) -> Result<()> {
        let mut open = write_lock(&self.open);
        for id in ids {
            if let Some((_, held)) = open.get_mut(id) {
                *held += 1;
            } else {
                let layer = Layer::open(&self.dir, *id, false)?;
                open.insert(*id, (Arc::new(layer), 1));
            }
        }
        Ok(())
    }

    pub(super) fn release(&self, ids: &[u32]) -> Result<()> {
        let mut gone = Vec::new();
        let mut open = write_lock(&self.open);
        for id in ids {
            if let Some((_, held)) = open.get_mut(id) {
                *held -= 1;
                if *held == 0 {
                    open.remove(id);
                    gone.push(*id);
                }
            }
        }
        drop(open);
        gone.into_iter().try_for_each(|id| self.unlink(id))
    }

    /// Removes layers that nothing holds: what a killed process left half made.
    pub(super) fn sweep(&self) -> Result<()> {
        for id in ids_in(&self.dir)? {
            if !read_lock(&self.open).contains_key(&id) {
                self.unlink(id)?;
            }
        }
        Ok(())
    }

    fn unlink(&self, id: u32) -> Result<()> {
        let (data, index) = paths(&self.dir, id);
        files::remove(&data)?;
        files::remove(&index)
    }

    /// Number of layers and of block slots in them, zero blocks included.
    pub(super) fn count(&self) -> (usize, u64) {
        let open = read_lock(&self.open);
        let slots = open.values().map(|(layer, _)| u64::from(layer.next.load(Ordering::Relaxed))).sum();
        (open.len(), slots)
    }
}

fn ids_in(dir: &Path) -> Result<Vec<u32>> {
    let entries = std::fs::read_dir(dir).map_err(StoreError::io("list", dir))?;
    let mut ids: Vec<_> = entries
        .filter_map(|entry| u32::from_str_radix(entry.ok()?.path().file_stem()?.to_str()?, 16).ok())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
