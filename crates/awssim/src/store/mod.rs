//! The block store: volumes as sparse files, snapshots that cost what changed.
//!
//! A volume is a plain raw file that a loop device can sit on. A snapshot is a map from block index to a slot in
//! a *layer*; a layer holds the blocks that one snapshot added. Layers are counted, so any snapshot of a chain can
//! go without the others noticing. Everything is on disk when a call returns (not synced: a killed process loses
//! nothing, a lost machine may), and [`BlockStore::open`] takes it up again.
//!
//! All calls are synchronous and may be made from any thread. The only locks held across I/O are those of the one
//! volume that is written or captured. The store never checks who calls: accounts and states are the world's.

mod direct;
mod error;
mod files;
mod layer;
mod map;
mod snapshot;
mod synthetic;
mod take;
#[cfg(test)]
mod tests;
mod volume;
pub mod zero;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

pub use direct::{BlockInfo, ChangedBlock, Page};
pub use error::{Result, StoreError};
pub use synthetic::{BlockParts, ChangedFrom, N_DUPLICATES, SyntheticSpec};
pub use take::SnapshotSummary;
pub use volume::sha256;

use layer::Layers;
use map::BlockMap;
use snapshot::{Content, Meta, Snapshot, State};
use synthetic::Synthetic;
use volume::Volume;

/// Bytes of a block: the only size that the EBS direct APIs know.
pub const BLOCK_BYTES: u64 = 524_288;
/// The same as a length in memory.
pub const BLOCK_LEN: usize = 524_288;

/// A SHA-256.
pub type Sha256 = [u8; 32];

/// The store. Share it in an `Arc`.
#[derive(Debug)]
pub struct BlockStore {
    volume_dir: PathBuf,
    snapshot_dir: PathBuf,
    layers: Layers,
    volumes: RwLock<HashMap<String, Arc<Volume>>>,
    snapshots: RwLock<HashMap<String, Arc<Snapshot>>>,
    secret: [u8; 16],
    n_repeated_puts: AtomicU64,
}

/// How much the store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StoreStats {
    /// Volumes.
    pub n_volumes: usize,
    /// Snapshots, pending ones included.
    pub n_snapshots: usize,
    /// Layers.
    pub n_layers: usize,
    /// Blocks written into layers, zero blocks and repeated writes included.
    pub n_stored_blocks: u64,
    /// Blocks that were put into a pending snapshot once more, since the store was opened.
    pub n_repeated_puts: u64,
}

impl BlockStore {
    /// Opens the folder, making it when it is not there, and takes up what an earlier process left.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Damaged`].
    pub fn open(dir: &Path) -> Result<Self> {
        let sub = |name: &str| {
            let path = dir.join(name);
            std::fs::create_dir_all(&path).map_err(StoreError::io("create folder", &path))?;
            Ok(path)
        };
        let (volume_dir, snapshot_dir) = (sub("volumes")?, sub("snapshots")?);
        let layers = Layers::new(sub("layers")?)?;
        let mut volumes = HashMap::new();
        for id in ids_in(&volume_dir)? {
            volumes.insert(id.clone(), Arc::new(Volume::load(&volume_dir, &id, &layers)?));
        }
        let mut snapshots = HashMap::new();
        for id in ids_in(&snapshot_dir)? {
            snapshots.insert(id.clone(), Arc::new(Snapshot::load(&snapshot_dir, &id, &layers)?));
        }
        layers.sweep()?;
        let secret = load_secret(&dir.join("token.key"))?;
        let (volumes, snapshots) = (RwLock::new(volumes), RwLock::new(snapshots));
        let n_repeated_puts = AtomicU64::new(0);
        Ok(Self { volume_dir, snapshot_dir, layers, volumes, snapshots, secret, n_repeated_puts })
    }

    /// Sixteen bytes of chance that stay the same for the life of the folder; page and block tokens are made
    /// with them, so that they outlive the process as they do at AWS.
    #[must_use]
    pub fn secret(&self) -> [u8; 16] {
        self.secret
    }

    /// What the store holds now.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let (n_layers, n_stored_blocks) = self.layers.count();
        let (n_volumes, n_snapshots) = (read_lock(&self.volumes).len(), read_lock(&self.snapshots).len());
        let n_repeated_puts = self.n_repeated_puts.load(Ordering::Relaxed);
        StoreStats { n_volumes, n_snapshots, n_layers, n_stored_blocks, n_repeated_puts }
    }

    /// Where the volume's raw file is, whether or not the volume exists.
    #[must_use]
    pub fn volume_path(&self, volume_id: &str) -> PathBuf {
        volume::raw_path(&self.volume_dir, volume_id)
    }

    /// Makes an empty volume: one hole.
    ///
    /// # Errors
    /// [`StoreError::BadId`], [`StoreError::BadSpec`] (not whole blocks), [`StoreError::AlreadyExists`], I/O.
    pub fn create_volume(&self, volume_id: &str, size_bytes: u64) -> Result<()> {
        let base = BlockMap::new(n_blocks(volume_id, size_bytes)?);
        self.add_volume(volume_id, size_bytes, base, Vec::new(), |_| Ok(()))
    }

    /// Makes a volume with a snapshot's content. Holes stay holes; zero blocks stay blocks in what is listed of
    /// the volume's snapshots and take no space in the file.
    ///
    /// # Errors
    /// As [`Self::create_volume`], and [`StoreError::SnapshotNotFound`], [`StoreError::Pending`],
    /// [`StoreError::OutOfRange`] when the volume is smaller than the snapshot.
    pub fn create_volume_from_snapshot(
        &self,
        volume_id: &str,
        snapshot_id: &str,
        size_bytes: u64,
    ) -> Result<()> {
        let snapshot = self.snapshot(snapshot_id)?;
        let n_blocks = n_blocks(volume_id, size_bytes)?;
        if size_bytes < snapshot.meta().size_bytes {
            return Err(StoreError::OutOfRange {
                id: volume_id.to_owned(),
                what: format!("snapshot {snapshot_id} with {} bytes", snapshot.meta().size_bytes),
                limit: format!("{size_bytes} bytes"),
            });
        }
        match snapshot.content() {
            Content::Pending(_) => Err(StoreError::Pending(snapshot_id.to_owned())),
            Content::Sealed(map) => {
                let base = map.resized(n_blocks);
                let held = base.layers();
                self.layers.hold(&held)?;
                let made = self.add_volume(volume_id, size_bytes, base, held.clone(), |file| {
                    map.iter_from(0).try_for_each(|(index, entry)| {
                        let layer = self.layers.get(entry.layer())?;
                        if layer.is_zero(entry.slot())? {
                            return Ok(());
                        }
                        layer.copy_to(entry.slot(), file, u64::from(index) * BLOCK_BYTES)
                    })
                });
                if made.is_err() {
                    self.layers.release(&held)?;
                }
                made
            }
            Content::Synthetic(synthetic) => {
                self.create_volume(volume_id, size_bytes)?;
                for index in synthetic.indexes_from(0) {
                    if let Some(block) = synthetic.read(index) {
                        self.write_volume(volume_id, u64::from(index) * BLOCK_BYTES, &block.joined())?;
                    }
                }
                Ok(())
            }
        }
    }

    fn add_volume(
        &self,
        id: &str,
        size_bytes: u64,
        base: BlockMap,
        held: Vec<u32>,
        fill: impl FnOnce(&std::fs::File) -> Result<()>,
    ) -> Result<()> {
        files::check_id(id)?;
        if self.volume(id).is_ok() {
            return Err(StoreError::AlreadyExists(id.to_owned()));
        }
        let made = Volume::create(&self.volume_dir, id, size_bytes, base, held, fill);
        if made.is_err() {
            files::remove(&self.volume_path(id))?;
        }
        write_lock(&self.volumes).insert(id.to_owned(), Arc::new(made?));
        Ok(())
    }

    /// Removes a volume and its file. Its snapshots stay.
    ///
    /// # Errors
    /// [`StoreError::VolumeNotFound`], I/O.
    pub fn delete_volume(&self, volume_id: &str) -> Result<()> {
        let volume = write_lock(&self.volumes).remove(volume_id);
        let volume = volume.ok_or_else(|| StoreError::VolumeNotFound(volume_id.to_owned()))?;
        volume.remove(&self.volume_dir, &self.layers)
    }

    /// Writes bytes at a byte offset.
    ///
    /// # Errors
    /// [`StoreError::VolumeNotFound`], [`StoreError::OutOfRange`], I/O.
    pub fn write_volume(&self, volume_id: &str, offset: u64, data: &[u8]) -> Result<()> {
        self.volume(volume_id)?.write(offset, data)
    }

    /// Reads `len` bytes at a byte offset; holes read as zeroes.
    ///
    /// # Errors
    /// As [`Self::write_volume`].
    pub fn read_volume(&self, volume_id: &str, offset: u64, len: usize) -> Result<Bytes> {
        self.volume(volume_id)?.read(offset, len)
    }

    /// Frees a range, which then reads as zeroes; blocks without any data left become holes.
    ///
    /// # Errors
    /// As [`Self::write_volume`].
    pub fn punch_volume(&self, volume_id: &str, offset: u64, len: u64) -> Result<()> {
        self.volume(volume_id)?.punch(&self.volume_dir, &self.layers, offset, len)
    }

    /// The ranges of the file that have data, as byte offsets, ascending.
    ///
    /// # Errors
    /// [`StoreError::VolumeNotFound`], I/O.
    pub fn volume_extents(&self, volume_id: &str) -> Result<Vec<Range<u64>>> {
        self.volume(volume_id)?.extents()
    }

    /// The volume's size in bytes.
    ///
    /// # Errors
    /// [`StoreError::VolumeNotFound`].
    pub fn volume_size(&self, volume_id: &str) -> Result<u64> {
        Ok(self.volume(volume_id)?.size_bytes)
    }

    /// Says that somebody else writes to the file from now on (`true`: it is attached as a device) or no longer
    /// does. While so, every snapshot compares the whole file.
    ///
    /// # Errors
    /// [`StoreError::VolumeNotFound`].
    pub fn set_external_writer(&self, volume_id: &str, external: bool) -> Result<()> {
        self.volume(volume_id)?.set_external(external);
        Ok(())
    }

    /// Brings a volume's file to the disk.
    ///
    /// # Errors
    /// [`StoreError::VolumeNotFound`], I/O.
    pub fn sync_volume(&self, volume_id: &str) -> Result<()> {
        self.volume(volume_id)?.sync()
    }

    /// Registers a snapshot whose content is computed.
    ///
    /// # Errors
    /// [`StoreError::BadSpec`], [`StoreError::AlreadyExists`], [`StoreError::SnapshotNotFound`] for the one it
    /// follows.
    pub fn create_synthetic(&self, snapshot_id: &str, spec: &SyntheticSpec) -> Result<()> {
        let parent = match &spec.changed_from {
            None => None,
            Some(changed) => {
                let parent = self.snapshot(&changed.snapshot_id)?;
                match parent.content() {
                    Content::Synthetic(content) => Some((parent.meta().lineage, content)),
                    Content::Pending(_) | Content::Sealed(_) => {
                        return Err(StoreError::BadSpec(format!("{} is not synthetic", changed.snapshot_id)));
                    }
                }
            }
        };
        let synthetic = Synthetic::new(spec, parent.as_ref().map(|(_, content)| &**content))?;
        let meta = Meta {
            size_bytes: u64::from(synthetic.n_blocks()) * BLOCK_BYTES,
            lineage: parent.map_or_else(|| format!("synthetic:{snapshot_id}"), |(lineage, _)| lineage),
            n_new_blocks: 0,
            state: State::Synthetic(synthetic.clone()),
        };
        self.add_snapshot(snapshot_id, meta, Content::Synthetic(Arc::new(synthetic)), Vec::new())
    }

    /// Removes a snapshot, finished or pending. The others keep their content.
    ///
    /// # Errors
    /// [`StoreError::SnapshotNotFound`], I/O.
    pub fn delete_snapshot(&self, snapshot_id: &str) -> Result<()> {
        let snapshot = write_lock(&self.snapshots).remove(snapshot_id);
        let snapshot = snapshot.ok_or_else(|| StoreError::SnapshotNotFound(snapshot_id.to_owned()))?;
        snapshot.remove(&self.snapshot_dir, &self.layers)
    }

    /// Whether the snapshot's blocks are here.
    #[must_use]
    pub fn has_snapshot(&self, snapshot_id: &str) -> bool {
        read_lock(&self.snapshots).contains_key(snapshot_id)
    }

    /// The snapshot's size in bytes.
    ///
    /// # Errors
    /// [`StoreError::SnapshotNotFound`].
    pub fn snapshot_size(&self, snapshot_id: &str) -> Result<u64> {
        Ok(self.snapshot(snapshot_id)?.meta().size_bytes)
    }

    fn volume(&self, id: &str) -> Result<Arc<Volume>> {
        let found = read_lock(&self.volumes).get(id).map(Arc::clone);
        found.ok_or_else(|| StoreError::VolumeNotFound(id.to_owned()))
    }

    fn snapshot(&self, id: &str) -> Result<Arc<Snapshot>> {
        let found = read_lock(&self.snapshots).get(id).map(Arc::clone);
        found.ok_or_else(|| StoreError::SnapshotNotFound(id.to_owned()))
    }

    fn check_new_snapshot(&self, id: &str) -> Result<()> {
        files::check_id(id)?;
        if self.has_snapshot(id) { Err(StoreError::AlreadyExists(id.to_owned())) } else { Ok(()) }
    }

    fn add_snapshot(&self, id: &str, meta: Meta, content: Content, held: Vec<u32>) -> Result<()> {
        self.check_new_snapshot(id)?;
        if let Content::Sealed(map) = &content {
            map.save(&snapshot::map_path(&self.snapshot_dir, id))?;
        }
        if let Content::Pending(pending) = &content {
            lock(&pending.progress).map.save(&snapshot::map_path(&self.snapshot_dir, id))?;
        }
        let snapshot = Snapshot::new(&self.snapshot_dir, id, meta, content, held)?;
        write_lock(&self.snapshots).insert(id.to_owned(), Arc::new(snapshot));
        Ok(())
    }
}

/// Blocks of a volume; sizes are whole blocks, at most 65,536 GiB.
fn n_blocks(id: &str, size_bytes: u64) -> Result<u32> {
    let whole = size_bytes > 0 && size_bytes.is_multiple_of(BLOCK_BYTES);
    let count = u32::try_from(size_bytes / BLOCK_BYTES).ok().filter(|n| whole && *n <= 65_536 * 2048);
    count.ok_or_else(|| {
        StoreError::BadSpec(format!(
            "`{id}` with {size_bytes} bytes: a size is 1 to 65536 GiB in whole blocks of {BLOCK_BYTES} bytes"
        ))
    })
}

fn ids_in(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).map_err(StoreError::io("list", dir))?;
    let mut ids = Vec::new();
    for entry in entries {
        let path = entry.map_err(StoreError::io("list", dir))?.path();
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_owned();
        if path.extension().is_some_and(|e| e == "json") {
            ids.push(stem);
        } else if !path.with_extension("json").exists() {
            // Left by a process that was killed before it could register what it made.
            files::remove(&path)?;
        }
    }
    Ok(ids)
}

fn load_secret(path: &Path) -> Result<[u8; 16]> {
    if let Ok(bytes) = std::fs::read(path) {
        return bytes.try_into().map_err(|_| StoreError::damaged(path, "it does not have 16 bytes"));
    }
    let secret: [u8; 16] = rand::random();
    files::replace(path, &secret)?;
    Ok(secret)
}

// A panic under one of these locks can leave no half-made value behind, so a poisoned lock is as good as another.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_lock<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write_lock<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
