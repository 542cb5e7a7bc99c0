//! Taking snapshots of volumes, and copying snapshots.

use std::sync::Arc;

use super::error::{Result, StoreError};
use super::snapshot::{Content, Meta, State};
use super::volume::{Tracking, Volume};
use super::{BlockStore, snapshot};

/// What taking a snapshot came to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SnapshotSummary {
    /// The snapshot.
    pub snapshot_id: String,
    /// Size of its volume in bytes.
    pub size_bytes: u64,
    /// Blocks it lists.
    pub n_blocks: u64,
    /// Blocks stored for it, the others being shared with older snapshots.
    pub n_new_blocks: u64,
    /// Whether the whole file was compared because somebody else had written to it.
    pub full_scan: bool,
}

impl BlockStore {
    /// Takes a snapshot of one volume.
    ///
    /// # Errors
    /// [`StoreError::VolumeNotFound`], [`StoreError::AlreadyExists`], [`StoreError::BadId`], I/O.
    pub fn snapshot_volume(&self, volume_id: &str, snapshot_id: &str) -> Result<SnapshotSummary> {
        let mut made = self.snapshot_volumes(&[(volume_id, snapshot_id)])?;
        made.pop().ok_or_else(|| StoreError::SnapshotNotFound(snapshot_id.to_owned()))
    }

    /// Takes snapshots of several volumes as of one moment: no write through the store lies between them. Either
    /// all are made or none.
    ///
    /// # Errors
    /// As [`Self::snapshot_volume`]; naming a volume twice is [`StoreError::AlreadyExists`].
    pub fn snapshot_volumes(&self, pairs: &[(&str, &str)]) -> Result<Vec<SnapshotSummary>> {
        let mut volumes = Vec::with_capacity(pairs.len());
        for (volume_id, snapshot_id) in pairs {
            self.check_new_snapshot(snapshot_id)?;
            volumes.push((self.volume(volume_id)?, *snapshot_id));
        }
        // One order for everybody, so that two callers with the same volumes cannot wait for each other.
        volumes.sort_by(|a, b| a.0.id.cmp(&b.0.id));
        for pair in volumes.windows(2) {
            if let [(a, _), (b, _)] = pair
                && a.id == b.id
            {
                return Err(StoreError::AlreadyExists(a.id.clone()));
            }
        }
        let mut guards: Vec<_> = volumes.iter().map(|(volume, _)| volume.lock()).collect();
        let mut made = Vec::with_capacity(pairs.len());
        for ((volume, snapshot_id), tracking) in volumes.iter().zip(&mut guards) {
            match self.take(volume, tracking, snapshot_id) {
                Ok(summary) => made.push(summary),
                Err(error) => {
                    for summary in &made {
                        self.delete_snapshot(&summary.snapshot_id)?;
                    }
                    return Err(error);
                }
            }
        }
        drop(guards);
        let order = |id: &str| pairs.iter().position(|(_, snapshot_id)| *snapshot_id == id);
        made.sort_by_key(|summary| order(&summary.snapshot_id));
        Ok(made)
    }

    fn take(&self, volume: &Volume, tracking: &mut Tracking, snapshot_id: &str) -> Result<SnapshotSummary> {
        let layer = self.layers.create()?;
        let taken = self.take_into(volume, tracking, snapshot_id, &layer);
        self.layers.release(&[layer.id()])?;
        taken
    }

    fn take_into(
        &self,
        volume: &Volume,
        tracking: &mut Tracking,
        snapshot_id: &str,
        layer: &super::layer::Layer,
    ) -> Result<SnapshotSummary> {
        let (map, n_new_blocks, full_scan) = volume.capture(tracking, &self.layers, layer)?;
        let size_bytes = volume.size_bytes;
        let lineage = format!("volume:{}", volume.id);
        let meta = Meta { size_bytes, lineage, n_new_blocks, state: State::Sealed };
        let held = map.layers();
        let n_blocks = u64::try_from(map.iter_from(0).count()).unwrap_or(u64::MAX);
        self.layers.hold(&held)?;
        self.add_snapshot(snapshot_id, meta, Content::Sealed(Arc::new(map.clone())), held)?;
        volume.rebase(tracking, &self.volume_dir, map, &self.layers)?;
        let snapshot_id = snapshot_id.to_owned();
        Ok(SnapshotSummary { snapshot_id, size_bytes, n_blocks, n_new_blocks, full_scan })
    }

    /// Makes a second snapshot with the same blocks, which are shared. A copy has a lineage of its own.
    ///
    /// # Errors
    /// [`StoreError::SnapshotNotFound`], [`StoreError::Pending`], [`StoreError::AlreadyExists`], I/O.
    pub fn copy_snapshot(&self, from: &str, to: &str) -> Result<SnapshotSummary> {
        self.check_new_snapshot(to)?;
        let source = self.snapshot(from)?;
        let content = source.content();
        let meta = Meta { lineage: format!("copy:{to}"), n_new_blocks: 0, ..source.meta() };
        let size_bytes = meta.size_bytes;
        let (n_blocks, held) = match &content {
            Content::Pending(_) => return Err(StoreError::Pending(from.to_owned())),
            Content::Sealed(map) => (map.iter_from(0).count(), map.layers()),
            Content::Synthetic(synthetic) => (synthetic.indexes_from(0).count(), Vec::new()),
        };
        self.layers.hold(&held)?;
        self.add_snapshot(to, meta, content, held)?;
        let n_blocks = u64::try_from(n_blocks).unwrap_or(u64::MAX);
        let snapshot_id = to.to_owned();
        Ok(SnapshotSummary { snapshot_id, size_bytes, n_blocks, n_new_blocks: 0, full_scan: false })
    }

    /// Whether two snapshots can be compared: both of one volume, or of one parent chain.
    ///
    /// # Errors
    /// [`StoreError::SnapshotNotFound`].
    pub fn related(&self, first: &str, second: &str) -> Result<bool> {
        let (first, second): (Arc<snapshot::Snapshot>, _) = (self.snapshot(first)?, self.snapshot(second)?);
        Ok(first.meta().lineage == second.meta().lineage)
    }
}
