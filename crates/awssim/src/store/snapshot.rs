//! One snapshot: what it says about itself, and where its blocks are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::SystemTime;

use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::error::{Result, StoreError};
use super::layer::{Layer, Layers};
use super::map::BlockMap;
use super::synthetic::Synthetic;
use super::{Sha256, files, lock, read_lock, write_lock};

/// What is kept of a snapshot beside its blocks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) size_bytes: u64,
    /// Two snapshots can be compared when this is equal: the source volume, or the first of a parent chain.
    pub(super) lineage: String,
    /// Blocks stored for this snapshot alone when it was made.
    pub(super) n_new_blocks: u64,
    pub(super) state: State,
}

/// How far a snapshot is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum State {
    /// Being written, into this layer; given up when no block comes for so many seconds.
    Pending { layer: u32, timeout_seconds: u64 },
    /// Finished.
    Sealed,
    /// Computed.
    Synthetic(Synthetic),
}

/// A snapshot being written.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) layer: Arc<Layer>,
    pub(super) timeout_seconds: u64,
    pub(super) progress: Mutex<Progress>,
}

/// What has arrived of a snapshot being written.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) map: BlockMap,
    pub(super) put: RoaringBitmap,
    pub(super) in_flight: HashMap<u32, Sha256>,
    pub(super) last_block: SystemTime,
    /// Set when the snapshot is finished or deleted, so that a write that was on its way changes nothing.
    pub(super) closed: bool,
}

/// Where the blocks are.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Pending(Arc<Pending>),
    Sealed(Arc<BlockMap>),
    Synthetic(Arc<Synthetic>),
}

/// A snapshot in the store.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) id: String,
    inner: RwLock<(Meta, Content)>,
    /// Layers held, each once.
    held: Mutex<Vec<u32>>,
}

pub(super) fn meta_path(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.json"))
}

pub(super) fn map_path(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.map"))
}

impl Snapshot {
    /// Registers a snapshot; `held` are the layers that the caller has taken hold of for it.
    pub(super) fn new(dir: &Path, id: &str, meta: Meta, content: Content, held: Vec<u32>) -> Result<Self> {
        let snapshot =
            Self { id: id.to_owned(), inner: RwLock::new((meta.clone(), content)), held: Mutex::new(held) };
        Self::save(dir, id, &meta)?;
        Ok(snapshot)
    }

    fn save(dir: &Path, id: &str, meta: &Meta) -> Result<()> {
        let path = meta_path(dir, id);
        let text = serde_json::to_vec(meta).map_err(|e| StoreError::damaged(&path, e.to_string()))?;
        files::replace(&path, &text)
    }

    /// Loads a snapshot from its files and takes hold of its layers.
    pub(super) fn load(dir: &Path, id: &str, layers: &Layers) -> Result<Self> {
        let path = meta_path(dir, id);
        let text = std::fs::read(&path).map_err(StoreError::io("read snapshot", &path))?;
        let meta: Meta =
            serde_json::from_slice(&text).map_err(|e| StoreError::damaged(&path, e.to_string()))?;
        let (content, held) = match &meta.state {
            State::Synthetic(synthetic) => (Content::Synthetic(Arc::new(synthetic.clone())), Vec::new()),
            State::Sealed => {
                let map = BlockMap::load(&map_path(dir, id))?;
                let held = map.layers();
                layers.hold(&held)?;
                (Content::Sealed(Arc::new(map)), held)
            }
            State::Pending { layer, timeout_seconds } => {
                let mut map = BlockMap::load(&map_path(dir, id))?;
                let mut held = map.layers();
                held.push(*layer);
                layers.hold(&held)?;
                let layer = layers.get(*layer)?;
                let put = layer.replay(&mut map).into_iter().collect();
                let pending = Pending {
                    layer,
                    timeout_seconds: *timeout_seconds,
                    progress: Mutex::new(Progress::new(map, put)),
                };
                (Content::Pending(Arc::new(pending)), held)
            }
        };
        Ok(Self { id: id.to_owned(), inner: RwLock::new((meta, content)), held: Mutex::new(held) })
    }

    pub(super) fn meta(&self) -> Meta {
        read_lock(&self.inner).0.clone()
    }

    pub(super) fn content(&self) -> Content {
        read_lock(&self.inner).1.clone()
    }

    pub(super) fn pending(&self) -> Result<Arc<Pending>> {
        match &read_lock(&self.inner).1 {
            Content::Pending(pending) => Ok(Arc::clone(pending)),
            Content::Sealed(_) | Content::Synthetic(_) => Err(StoreError::NotPending(self.id.clone())),
        }
    }

    /// Turns a pending snapshot into a finished one whose blocks are `map`.
    ///
    /// The map is in place before the state says so: a crash in between leaves a pending snapshot with all its
    /// blocks, because replaying its layer over the finished map gives the same map.
    pub(super) fn seal(&self, dir: &Path, map: BlockMap, n_new_blocks: u64, layers: &Layers) -> Result<()> {
        map.save(&map_path(dir, &self.id))?;
        let needed = map.layers();
        layers.hold(&needed)?;
        let meta = Meta { state: State::Sealed, n_new_blocks, ..self.meta() };
        Self::save(dir, &self.id, &meta)?;
        *write_lock(&self.inner) = (meta, Content::Sealed(Arc::new(map)));
        let before = std::mem::replace(&mut *lock(&self.held), needed);
        layers.release(&before)
    }

    /// Removes the snapshot's files and lets go of its layers.
    pub(super) fn remove(&self, dir: &Path, layers: &Layers) -> Result<()> {
        if let Content::Pending(pending) = self.content() {
            lock(&pending.progress).closed = true;
        }
        files::remove(&meta_path(dir, &self.id))?;
        files::remove(&map_path(dir, &self.id))?;
        layers.release(&std::mem::take(&mut *lock(&self.held)))
    }
}

impl Progress {
    pub(super) fn new(map: BlockMap, put: RoaringBitmap) -> Self {
        let last_block = SystemTime::now();
        Self { map, put, in_flight: HashMap::new(), last_block, closed: false }
    }
}
