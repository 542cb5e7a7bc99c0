//! Sealing: flush, build the trees, write the recovery point.
//!
//! What happens twice: the recovery point's id is chosen when the session is opened, so a repeated seal writes the
//! same object, or finds the session sealed. What dies in between: before the object is there, pages nobody refers
//! to; after it, the object is taken in at open and ends the session.

use std::sync::Arc;

use snapferry_types::{Fence, RecoveryPointId, SessionId};

use super::flush::ManifestPack;
use super::open::{commit_point, point_name};
use super::session::Session;
use super::tree::{Base, root_level};
use super::{Library, lock, read};
use crate::error::Error;
use crate::index::{SessionLife, SessionVolumeRow};
use crate::limits::MAX_METADATA_BYTES;
use crate::pack::RecordKey;
use crate::page::{Child, InteriorPage};
use crate::point::{PointVolume, RecoveryPoint};

impl Library {
    /// Makes a recovery point of the session and ends it. Durable when it returns. `metadata` (at most 4 MiB) is
    /// given back at reading as it is.
    ///
    /// # Errors
    /// As [`Library::flush`]; [`Error::Damaged`] when a page of a base that must be changed does not read: open a
    /// session without a base then.
    pub fn seal(
        &self,
        session: SessionId,
        fence: Fence,
        metadata: Vec<u8>,
    ) -> Result<RecoveryPointId, Error> {
        if metadata.len() > MAX_METADATA_BYTES {
            let why = format!("{} bytes, at most {MAX_METADATA_BYTES}", metadata.len());
            return Err(Error::invalid("the metadata", why));
        }
        let _turn = lock(&self.flush);
        if let Some(SessionLife::Sealed { recovery_point, fence: held }) = self.index.session(session)? {
            if fence < held {
                return Err(Error::StaleFence { held, offered: fence });
            }
            return Ok(recovery_point);
        }
        let entry = self.session(session)?;
        entry.live().check_put(fence, self.now())?;
        self.flush_all()?;
        let row = {
            let mut live = entry.live();
            live.check_put(fence, self.now())?;
            live.row.clone()
        };
        let mut volumes = Vec::with_capacity(row.volumes.len());
        let mut pages = ManifestPack::new(self);
        for (number, volume) in (0_u16..).zip(&row.volumes) {
            volumes.push(self.build_volume(&entry, number, volume, &mut pages)?);
        }
        pages.finish()?;
        self.index.persist()?;
        let point = RecoveryPoint {
            id: row.recovery_point,
            key: row.key,
            fence,
            tenant: row.tenant,
            created_unix_ms: self.now(),
            metadata,
            volumes,
        };
        self.config.backend.put(&point_name(point.id)?, &point.encode())?;
        // Under the gate, so that collection sees the session until it sees the recovery point.
        let gate = read(&self.gate);
        let mut live = entry.live();
        commit_point(&self.index, &point)?;
        self.close(&mut live);
        drop(live);
        drop(gate);
        self.index.remove_leaves_of(session)?;
        Ok(point.id)
    }

    fn build_volume(
        &self,
        entry: &Arc<Session>,
        number: u16,
        volume: &SessionVolumeRow,
        pages: &mut ManifestPack<'_>,
    ) -> Result<PointVolume, Error> {
        let level = root_level(volume.n_blocks);
        let base = volume.base.as_ref().map(|base| Base {
            level: root_level(base.n_blocks),
            child: Child { page: base.root, n_data: base.n_data, n_zero: base.n_zero },
        });
        let mut store = |id, bytes: Vec<u8>| {
            let key = RecordKey::interior(id);
            {
                // Held until the recovery point refers to it.
                let _gate = read(&self.gate);
                entry.live().pins.insert(key);
                self.hold(&key)?;
            }
            pages.put(key, &bytes)
        };
        let snapshot = self.index.snapshot();
        let mut leaves = self.index.leaves(&snapshot, entry.id, number, 0).peekable();
        let root = match self.build(level, 0, base, &mut leaves, &mut store)? {
            Some(root) => root,
            None => {
                let (page, bytes) = InteriorPage::empty(level).encode()?;
                store(page, bytes)?;
                Child { page, n_data: 0, n_zero: 0 }
            }
        };
        Ok(PointVolume {
            name: volume.name.clone(),
            n_blocks: volume.n_blocks,
            root: root.page,
            n_data: root.n_data,
            n_zero: root.n_zero,
        })
    }
}
