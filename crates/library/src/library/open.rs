//! Opening: the lock, the index, and making index and objects agree after whatever happened.
//!
//! The objects are the truth. A pack the index does not know (a crash between the two commits, or an index that
//! was lost) is taken in; a pack that is gone makes its records missing, so that backups store them again; a
//! recovery point is taken in from its object or its object is written again from the index.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};

use snapferry_types::RecoveryPointId;

use super::Library;
use super::session::Session;
use super::tree::PageCache;
use crate::backend::{Backend, BackendError, ObjectName};
use crate::codec::Malformed;
use crate::config::LibraryConfig;
use crate::error::Error;
use crate::index::{Index, KeyRow, Location, PackRow, SessionLife};
use crate::pack::{FinishedPack, RecordKey, RecordKind, pack_number, read_contents};
use crate::point::{MAX_POINT_BYTES, RecoveryPoint};

const IDENTITY: &str = "library.json";
const FORMAT: u32 = 1;

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    format: u32,
    library: String,
}

impl Library {
    /// Opens the library, making it when folder and backend are empty, and repairing what a crash left.
    ///
    /// With an empty folder and a backend that has packs, the index is made anew from them: this takes one small
    /// read for each pack.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it; [`Error::WrongLibrary`] when folder and backend are of
    /// different libraries; what the disk says.
    pub fn open(config: LibraryConfig) -> Result<Self, Error> {
        config.check()?;
        let lock = take_lock(&config.dir)?;
        Self::open_locked(config, lock)
    }

    /// Opens the library with an index made anew from packs and recovery points; the old index is kept beside it
    /// as `index.old-<milliseconds>`. Open sessions are lost: their tasks start again.
    ///
    /// # Errors
    /// As [`Library::open`].
    pub fn rebuild_index(config: LibraryConfig) -> Result<Self, Error> {
        config.check()?;
        let lock = take_lock(&config.dir)?;
        let index = config.dir.join("index");
        if index.exists() {
            let aside = config.dir.join(format!("index.old-{}", (config.clock)()));
            fs::rename(&index, &aside).map_err(|source| Error::Folder { dir: config.dir.clone(), source })?;
        }
        Self::open_locked(config, lock)
    }

    fn open_locked(config: LibraryConfig, lock: File) -> Result<Self, Error> {
        let index = Index::open(&config.dir.join("index"), config.index_cache_bytes)?;
        check_identity(&config, &index)?;
        let removed = config.backend.remove_unfinished()?;
        if removed > 0 {
            tracing::info!(removed, "removed unfinished objects of an earlier run");
        }
        let next_pack = take_in_packs(&config, &index)?;
        take_in_points(config.backend.as_ref(), &index)?;
        let mut sessions = HashMap::new();
        for row in index.open_sessions()? {
            sessions.insert(row.id, Arc::new(Session::new(row)));
        }
        index.remove_leaves(|session| sessions.contains_key(&session))?;
        index.persist()?;
        let pages = PageCache::new(config.page_cache_pages);
        Ok(Self {
            config,
            index,
            _lock: lock,
            next_pack: AtomicU64::new(next_pack),
            gate: RwLock::new(()),
            marks: RwLock::new(None),
            sessions: Mutex::new(sessions),
            open_pack: Mutex::new(None),
            pending: Mutex::new(HashMap::new()),
            finishing: Mutex::new(BTreeSet::new()),
            finished: Condvar::new(),
            flush: Mutex::default(),
            flushes_asked: AtomicU64::new(0),
            buffered: AtomicU64::new(0),
            collecting: Mutex::new(()),
            pages,
        })
    }

    /// A pack number that was never used.
    pub(super) fn new_pack_number(&self) -> Result<u64, Error> {
        let number = self.next_pack.fetch_add(1, Ordering::SeqCst);
        self.index.set_meta("next_pack", &(number + 1).to_string())?;
        Ok(number)
    }

    /// Marks every record of packs whose objects were found to be gone.
    pub(super) fn lose_packs(&self, gone: &BTreeSet<u64>) -> Result<(), Error> {
        lose_packs(&self.index, gone)
    }
}

fn take_lock(dir: &Path) -> Result<File, Error> {
    let fail = |source| Error::Folder { dir: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(fail)?;
    let file =
        File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}

fn check_identity(config: &LibraryConfig, index: &Index) -> Result<(), Error> {
    let name = ObjectName::new(IDENTITY)?;
    let in_index = index.meta("library")?;
    let in_objects = match config.backend.size(&name) {
        Ok(size) => {
            let bytes =
                config.backend.read_range(&name, 0, usize::try_from(size.min(4_096)).unwrap_or(4_096))?;
            let identity: Identity =
                serde_json::from_slice(&bytes).map_err(|e| Malformed::new("library.json", e.to_string()))?;
            if identity.format != FORMAT {
                let why = format!("format {}; this reads format {FORMAT}", identity.format);
                return Err(Malformed::new("library.json", why).into());
            }
            Some(identity.library)
        }
        Err(BackendError::NotFound { .. }) => None,
        Err(e) => return Err(e.into()),
    };
    match (in_index, in_objects) {
        (Some(index_id), Some(objects_id)) if index_id != objects_id => {
            Err(Error::WrongLibrary { dir: config.dir.clone(), index_id, objects_id })
        }
        (Some(_), Some(_)) => Ok(()),
        (None, Some(id)) => index.set_meta("library", &id),
        (Some(index_id), None) if index.packs().next().is_some() => {
            let objects_id = "no library at all (library.json is not there)".to_owned();
            Err(Error::WrongLibrary { dir: config.dir.clone(), index_id, objects_id })
        }
        (known, None) => {
            let id = match known {
                Some(id) => id,
                None => format!("{:032x}", RecoveryPointId::generate().as_u128()),
            };
            let identity = Identity { format: FORMAT, library: id.clone() };
            let bytes = serde_json::to_vec(&identity).expect("two plain fields");
            config.backend.put(&name, &bytes)?;
            index.set_meta("library", &id)
        }
    }
}

/// Makes the index agree with the packs that are there; gives the first unused pack number.
fn take_in_packs(config: &LibraryConfig, index: &Index) -> Result<u64, Error> {
    let backend = config.backend.as_ref();
    let mut known: HashMap<u64, PackRow> = index.packs().collect::<Result<_, Error>>()?;
    let mut next = index.meta("next_pack")?.and_then(|n| n.parse().ok()).unwrap_or(1_u64);
    let mut unknown = Vec::new();
    backend.list("packs/", &mut |name, size| {
        if let Some(number) = pack_number(&name) {
            next = next.max(number.saturating_add(1));
            match known.remove(&number) {
                Some(row) if !row.lost && row.size == size => {}
                Some(row) if !row.lost => {
                    tracing::error!(
                        pack = number,
                        size,
                        expected = row.size,
                        "a pack has another length; scrub the library"
                    );
                }
                _ => unknown.push((number, size)),
            }
        }
        Ok(())
    })?;
    // The newest first: a record that was stored again after damage is found in its good copy.
    unknown.sort_unstable_by(|a, b| b.cmp(a));
    for (number, size) in unknown {
        let contents = read_contents(backend, number, size)?;
        if let Some(why) = &contents.walked {
            tracing::warn!(pack = number, %why, records = contents.entries.len(), "footer of a pack is damaged, records were walked");
        }
        index.add_pack(&FinishedPack { number, class: contents.class, size, entries: contents.entries })?;
    }
    next = known.keys().max().map_or(next, |last| next.max(last + 1));
    let gone: BTreeSet<u64> =
        known.into_iter().filter(|(_, row)| !row.lost).map(|(number, _)| number).collect();
    if !gone.is_empty() {
        tracing::error!(packs = ?gone, "packs are gone; their records are missing until they are backed up again");
        lose_packs(index, &gone)?;
    }
    Ok(next)
}

/// Marks every record of packs that are gone.
fn lose_packs(index: &Index, gone: &BTreeSet<u64>) -> Result<(), Error> {
    for row in index.records.iter() {
        let (key, value) = row.into_inner().map_err(Error::index("read"))?;
        let at = Location::decode(&value)?;
        if gone.contains(&at.pack) && !at.damaged {
            index.mark_damaged(&record_of_row(&key)?, &at)?;
        }
    }
    for number in gone {
        if let Some(row) = index.pack(*number)? {
            let row = PackRow { lost: true, ..row };
            index.packs.insert(number.to_be_bytes(), row.encode()).map_err(Error::index("write"))?;
        }
    }
    Ok(())
}

/// The record that a row of `records` or `damaged` is of.
pub(super) fn record_of_row(key: &[u8]) -> Result<RecordKey, Malformed> {
    let bad = || Malformed::new("record row", "its key is not a kind and an id");
    let (kind, id) = key.split_first().ok_or_else(bad)?;
    let kind = RecordKind::from_code(*kind).ok_or_else(bad)?;
    Ok(RecordKey { kind, id: <[u8; 32]>::try_from(id).map_err(|_| bad())? })
}

/// The object of a recovery point.
pub(super) fn point_name(id: RecoveryPointId) -> Result<ObjectName, BackendError> {
    ObjectName::new(format!("points/{:032x}.point", id.as_u128()))
}

fn take_in_points(backend: &dyn Backend, index: &Index) -> Result<(), Error> {
    for row in index.deleting.iter() {
        let key = row.key().map_err(Error::index("read"))?;
        if let Ok(id) = <[u8; 16]>::try_from(&*key) {
            finish_deletion(backend, index, RecoveryPointId::from_u128(u128::from_be_bytes(id)))?;
        }
    }
    let mut found = Vec::new();
    backend.list("points/", &mut |name, size| {
        found.push((name, size));
        Ok(())
    })?;
    let mut there = BTreeSet::new();
    for (name, size) in found {
        let Some(id) = name
            .as_str()
            .strip_prefix("points/")
            .and_then(|n| n.strip_suffix(".point"))
            .and_then(|n| u128::from_str_radix(n, 16).ok())
            .map(RecoveryPointId::from_u128)
        else {
            continue;
        };
        if index.point(id)?.is_some() {
            there.insert(id);
            continue;
        }
        match read_point(backend, &name, size)? {
            Ok(point) if point.id == id => {
                commit_point(index, &point)?;
                there.insert(id);
            }
            Ok(point) => {
                tracing::error!(%name, holds = %point.id, "a recovery-point object has another's name")
            }
            Err(why) => tracing::error!(%name, %why, "a recovery-point object is damaged and left alone"),
        }
    }
    let snapshot = index.snapshot();
    for point in index.points_of(&snapshot, None) {
        let point = point?;
        if !there.contains(&point.id) {
            tracing::warn!(recovery_point = %point.id, "its object was gone and is written again");
            backend.put(&point_name(point.id)?, &point.encode())?;
        }
    }
    Ok(())
}

pub(super) fn read_point(
    backend: &dyn Backend,
    name: &ObjectName,
    size: u64,
) -> Result<Result<RecoveryPoint, Malformed>, BackendError> {
    match usize::try_from(size) {
        Ok(size) if size <= MAX_POINT_BYTES => Ok(RecoveryPoint::decode(&backend.read_range(name, 0, size)?)),
        _ => Ok(Err(Malformed::new("recovery point", format!("{size} bytes")))),
    }
}

/// Makes a recovery point known and ends its session, in one step.
pub(super) fn commit_point(index: &Index, point: &RecoveryPoint) -> Result<(), Error> {
    let session = match index.key(&point.key)? {
        Some(KeyRow::Open { session }) => Some(session),
        Some(KeyRow::Sealed { session, .. }) => session,
        Some(KeyRow::Abandoned { .. }) | None => None,
    };
    let mut batch = index.db.batch();
    batch.insert(&index.points, point.id.as_u128().to_be_bytes(), point.encode());
    let (recovery_point, fence) = (point.id, point.fence);
    index.put_key(&mut batch, &point.key, &KeyRow::Sealed { session, recovery_point, fence });
    if let Some(session) = session {
        index.put_session(&mut batch, session, &SessionLife::Sealed { recovery_point, fence });
    }
    batch.commit().map_err(Error::index("write"))?;
    index.persist()
}

/// Removes the object and the rows of a recovery point whose deletion is on record.
pub(super) fn finish_deletion(
    backend: &dyn Backend,
    index: &Index,
    id: RecoveryPointId,
) -> Result<(), Error> {
    backend.delete(&point_name(id)?)?;
    let row = id.as_u128().to_be_bytes();
    let mut batch = index.db.batch();
    if let Some(bytes) = index.points.get(row).map_err(Error::index("read"))?
        && let Ok(point) = RecoveryPoint::decode(&bytes)
        && let Some(KeyRow::Sealed { session, recovery_point, .. }) = index.key(&point.key)?
        && recovery_point == id
    {
        batch.remove(&index.keys, point.key.as_str());
        if let Some(session) = session {
            index.remove_session(&mut batch, session);
        }
    }
    batch.remove(&index.points, row);
    batch.remove(&index.deleting, row);
    batch.commit().map_err(Error::index("write"))?;
    index.persist()
}
