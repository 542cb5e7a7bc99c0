//! The index: a fjall database that says where everything is and who is uploading.
//!
//! It is a cache of the packs and recovery-point objects, except for open sessions, which exist here only. One
//! journal serves all keyspaces, so that what was committed earlier never survives less than what was committed
//! later. Nothing here reads a pack.

mod rows;
mod sessions;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot, UserKey};
use snapferry_types::RecoveryPointId;

pub(crate) use rows::{BaseRow, KeyRow, Location, PackRow, SessionLife, SessionRow, SessionVolumeRow};
pub(crate) use sessions::LeafRow;

use crate::error::Error;
use crate::pack::{FinishedPack, RecordKey};
use crate::point::RecoveryPoint;

const JOURNAL_BYTES: u64 = 128 * 1_024 * 1_024;
const RECORDS_MEMTABLE_BYTES: u64 = 16 * 1_024 * 1_024;
const SMALL_MEMTABLE_BYTES: u64 = 4 * 1_024 * 1_024;

/// The index.
pub(crate) struct Index {
    pub(crate) db: Database,
    pub(crate) meta: Keyspace,
    /// kind and id → [`Location`].
    pub(crate) records: Keyspace,
    /// pack number, big-endian → [`PackRow`].
    pub(crate) packs: Keyspace,
    /// recovery point → its object's bytes.
    pub(crate) points: Keyspace,
    /// recovery point whose deletion has begun → nothing.
    pub(crate) deleting: Keyspace,
    /// session → [`SessionLife`] as JSON.
    pub(crate) sessions: Keyspace,
    /// session key → [`KeyRow`] as JSON.
    pub(crate) keys: Keyspace,
    /// session, volume, leaf → [`LeafRow`].
    pub(crate) leaves: Keyspace,
    /// kind and id of records known to be damaged → [`Location`] where they are.
    pub(crate) damaged: Keyspace,
    /// Taken by whoever looks at a row of `records` in order to change it.
    moves: Mutex<()>,
}

pub(crate) fn record_key(key: &RecordKey) -> [u8; 33] {
    let mut bytes = [0_u8; 33];
    let [kind, id @ ..] = &mut bytes;
    *kind = key.kind.code();
    *id = key.id;
    bytes
}

impl Index {
    pub(crate) fn open(folder: &Path, cache_bytes: u64) -> Result<Self, Error> {
        let fail = Error::index("open");
        let db = Database::builder(folder)
            .cache_size(cache_bytes)
            .worker_threads(1)
            .max_journaling_size(JOURNAL_BYTES)
            .open()
            .map_err(fail)?;
        let keyspace = |name: &str, memtable: u64| {
            db.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(memtable))
                .map_err(Error::index("open"))
        };
        Ok(Self {
            meta: keyspace("meta", SMALL_MEMTABLE_BYTES)?,
            records: keyspace("records", RECORDS_MEMTABLE_BYTES)?,
            packs: keyspace("packs", SMALL_MEMTABLE_BYTES)?,
            points: keyspace("points", SMALL_MEMTABLE_BYTES)?,
            deleting: keyspace("deleting", SMALL_MEMTABLE_BYTES)?,
            sessions: keyspace("sessions", SMALL_MEMTABLE_BYTES)?,
            keys: keyspace("keys", SMALL_MEMTABLE_BYTES)?,
            leaves: keyspace("leaves", SMALL_MEMTABLE_BYTES)?,
            damaged: keyspace("damaged", SMALL_MEMTABLE_BYTES)?,
            moves: Mutex::new(()),
            db,
        })
    }

    /// The right to change rows of `records`.
    pub(crate) fn moves(&self) -> MutexGuard<'_, ()> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes everything committed so far survive a power cut.
    pub(crate) fn persist(&self) -> Result<(), Error> {
        self.db.persist(PersistMode::SyncAll).map_err(Error::index("sync"))
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.db.snapshot()
    }

    pub(crate) fn meta(&self, name: &str) -> Result<Option<String>, Error> {
        let value = self.meta.get(name).map_err(Error::index("read"))?;
        Ok(value.map(|v| String::from_utf8_lossy(&v).into_owned()))
    }

    pub(crate) fn set_meta(&self, name: &str, value: &str) -> Result<(), Error> {
        self.meta.insert(name, value).map_err(Error::index("write"))
    }

    pub(crate) fn locate(&self, key: &RecordKey) -> Result<Option<Location>, Error> {
        match self.records.get(record_key(key)).map_err(Error::index("read"))? {
            Some(value) => Ok(Some(Location::decode(&value)?)),
            None => Ok(None),
        }
    }

    /// Where the record is, when it is and is not known to be damaged.
    pub(crate) fn locate_good(&self, key: &RecordKey) -> Result<Option<Location>, Error> {
        Ok(self.locate(key)?.filter(|at| !at.damaged))
    }

    /// Records a finished pack. A record that has a good place already keeps it; the new copy is then garbage.
    pub(crate) fn add_pack(&self, pack: &FinishedPack) -> Result<(), Error> {
        let _moves = self.moves();
        let mut batch = self.db.batch();
        batch.insert(&self.packs, pack.number.to_be_bytes(), PackRow::of(pack).encode());
        for (ordinal, entry) in (0_u32..).zip(&pack.entries) {
            let key = record_key(&entry.key);
            match self.locate(&entry.key)? {
                Some(at) if !at.damaged => continue,
                Some(_) => batch.remove(&self.damaged, key),
                None => {}
            }
            let at = Location {
                pack: pack.number,
                offset: entry.offset,
                length: entry.length,
                ordinal,
                damaged: false,
            };
            batch.insert(&self.records, key, at.encode());
        }
        batch.commit().map_err(Error::index("write"))
    }

    pub(crate) fn packs(&self) -> impl Iterator<Item = Result<(u64, PackRow), Error>> + use<> {
        self.packs.iter().map(|row| {
            let (key, value) = row.into_inner().map_err(Error::index("read"))?;
            Ok((rows::big_endian_u64(&key)?, PackRow::decode(&value)?))
        })
    }

    pub(crate) fn pack(&self, number: u64) -> Result<Option<PackRow>, Error> {
        match self.packs.get(number.to_be_bytes()).map_err(Error::index("read"))? {
            Some(value) => Ok(Some(PackRow::decode(&value)?)),
            None => Ok(None),
        }
    }

    /// Notes that the record at `at` does not read, unless it has moved since.
    pub(crate) fn mark_damaged(&self, key: &RecordKey, at: &Location) -> Result<(), Error> {
        let _moves = self.moves();
        let bad = Location { damaged: true, ..*at };
        if self.locate(key)? != Some(*at) {
            return Ok(());
        }
        let mut batch = self.db.batch();
        batch.insert(&self.records, record_key(key), bad.encode());
        batch.insert(&self.damaged, record_key(key), bad.encode());
        batch.commit().map_err(Error::index("write"))
    }

    /// Notes that the record reads after all.
    pub(crate) fn clear_damaged(&self, key: &RecordKey, at: &Location) -> Result<(), Error> {
        let _moves = self.moves();
        if self.locate(key)? != Some(*at) {
            return Ok(());
        }
        let mut batch = self.db.batch();
        batch.insert(&self.records, record_key(key), Location { damaged: false, ..*at }.encode());
        batch.remove(&self.damaged, record_key(key));
        batch.commit().map_err(Error::index("write"))
    }

    pub(crate) fn any_damaged(&self) -> Result<bool, Error> {
        Ok(!self.damaged.is_empty().map_err(Error::index("read"))?)
    }

    pub(crate) fn point(&self, id: RecoveryPointId) -> Result<Option<RecoveryPoint>, Error> {
        let key = id.as_u128().to_be_bytes();
        if self.deleting.contains_key(key).map_err(Error::index("read"))? {
            return Ok(None);
        }
        match self.points.get(key).map_err(Error::index("read"))? {
            Some(bytes) => Ok(Some(RecoveryPoint::decode(&bytes)?)),
            None => Ok(None),
        }
    }

    /// Recovery points of a snapshot in the order of their ids, after `after`.
    pub(crate) fn points_of(
        &self,
        snapshot: &Snapshot,
        after: Option<RecoveryPointId>,
    ) -> impl Iterator<Item = Result<RecoveryPoint, Error>> + use<> {
        let start = match after {
            Some(id) => std::ops::Bound::Excluded(id.as_u128().to_be_bytes()),
            None => std::ops::Bound::Unbounded,
        };
        // Of the same moment: a point whose deletion began since is still one of the snapshot.
        let deleting: Result<HashSet<UserKey>, Error> =
            snapshot.iter(&self.deleting).map(|row| row.key().map_err(Error::index("read"))).collect();
        let (deleting, failed) = match deleting {
            Ok(deleting) => (deleting, None),
            Err(e) => (HashSet::new(), Some(Err(e))),
        };
        let rows = snapshot.range::<[u8; 16], _>(&self.points, (start, std::ops::Bound::Unbounded));
        failed.into_iter().chain(rows.filter_map(move |row| {
            let read = || {
                let (key, value) = row.into_inner().map_err(Error::index("read"))?;
                if deleting.contains(&key) { Ok(None) } else { Ok(Some(RecoveryPoint::decode(&value)?)) }
            };
            read().transpose()
        }))
    }
}
