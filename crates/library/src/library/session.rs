//! Sessions: what they are, in a request and in memory; listing, abandoning and expiring them.
//!
//! What happens twice: abandoning what is gone is done already. What dies in between: a session is one row and its
//! key another, written in one batch.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use snapferry_types::{ChunkId, Fence, PageId, RecoveryPointId, SessionId};

use super::{Library, lock};
use crate::error::Error;
use crate::index::{KeyRow, LeafRow, SessionLife, SessionRow, SessionVolumeRow};
use crate::limits::MAX_LIST;
use crate::pack::RecordKey;

/// A volume that a session uploads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionVolume {
    /// Its name, unique in the session: 1 to 256 bytes.
    pub name: String,
    /// Its length in blocks of 512 KiB.
    pub n_blocks: u32,
    /// Recovery point and volume of the same tenant whose leaves hold where this session puts none. Its volume
    /// is at most as long as this one.
    pub base: Option<(RecoveryPointId, String)>,
}

/// What a session is opened with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRequest {
    /// 1 to 128 bytes, unique for each task.
    pub key: String,
    /// The caller's right to work.
    pub fence: Fence,
    /// Whose data it is: 1 to 256 bytes.
    pub tenant: String,
    /// 1 to 128 volumes.
    pub volumes: Vec<SessionVolume>,
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOpened {
    /// Its id, for all further calls.
    pub id: SessionId,
    /// Whether the key was open already: its durable leaves are listed by [`Library::sealed_leaves`].
    pub resumed: bool,
    /// Volumes, by name, whose base is not used since it could not be (of another tenant, gone, or longer): they
    /// are to be read in full. The reason is beside the name.
    pub without_base: Vec<(String, String)>,
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionState {
    /// It is open.
    Open(SessionOpened),
    /// It was sealed before.
    AlreadySealed(RecoveryPointId),
}

/// A leaf of a session that survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedLeaf {
    /// Its place in the volume.
    pub leaf_index: u32,
    /// Its page.
    pub page: PageId,
    /// Blocks with data in it.
    pub n_data: u32,
    /// Blocks of zeroes in it.
    pub n_zero: u32,
}

/// What a session list tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// The session.
    pub id: SessionId,
    /// Its key.
    pub key: String,
    /// The newest fence seen.
    pub fence: Fence,
    /// Whose data it is.
    pub tenant: String,
    /// When it was opened, in milliseconds since 1970.
    pub opened_unix_ms: u64,
    /// When it was last opened, flushed or put to.
    pub touched_unix_ms: u64,
}

/// Iterates over the durable leaves of one volume of a session, in order. It sees those of the moment it was made.
pub struct SealedLeaves {
    rows: Box<dyn Iterator<Item = Result<(u32, LeafRow), Error>> + Send>,
}

impl Iterator for SealedLeaves {
    type Item = Result<SealedLeaf, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.rows.next()?.map(|(leaf_index, row)| SealedLeaf {
            leaf_index,
            page: row.page,
            n_data: row.n_data,
            n_zero: row.n_zero,
        }))
    }
}

/// A leaf that waits for a flush.
#[derive(Debug)]
pub(super) struct BufferedLeaf {
    pub(super) row: LeafRow,
    pub(super) bytes: Vec<u8>,
    pub(super) chunks: Vec<ChunkId>,
}

impl BufferedLeaf {
    /// Bytes it holds in memory, nearly.
    pub(super) fn weight(&self) -> u64 {
        (self.bytes.len() + self.chunks.len() * 32) as u64
    }
}

/// An open session in memory.
pub(super) struct Session {
    pub(super) id: SessionId,
    state: Mutex<Live>,
}

/// What changes about an open session.
pub(super) struct Live {
    pub(super) row: SessionRow,
    /// By volume and leaf index.
    pub(super) buffered: BTreeMap<(u16, u32), Arc<BufferedLeaf>>,
    /// Records that collection must leave alone for this session.
    pub(super) pins: HashSet<RecordKey>,
    /// Whether buffered leaves were lost since it was opened.
    pub(super) rewound: bool,
    /// Whether it is sealed, abandoned or expired.
    pub(super) closed: bool,
}

impl Session {
    pub(super) fn new(row: SessionRow) -> Self {
        let live =
            Live { row, buffered: BTreeMap::new(), pins: HashSet::new(), rewound: false, closed: false };
        Self { id: live.row.id, state: Mutex::new(live) }
    }

    pub(super) fn live(&self) -> MutexGuard<'_, Live> {
        lock(&self.state)
    }
}

impl Live {
    /// The volume's place in the session.
    pub(super) fn volume(&self, name: &str) -> Result<(u16, &SessionVolumeRow), Error> {
        (0_u16..)
            .zip(&self.row.volumes)
            .find(|(_, v)| v.name == name)
            .ok_or_else(|| Error::UnknownVolume(name.to_owned()))
    }

    /// Refuses a caller that was superseded, or that did not open the session.
    pub(super) fn check(&self, fence: Fence) -> Result<(), Error> {
        if self.closed {
            return Err(Error::UnknownSession(self.row.id));
        }
        match fence.cmp(&self.row.fence) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => Err(Error::StaleFence { held: self.row.fence, offered: fence }),
            std::cmp::Ordering::Greater => {
                let why = "it is newer than the session's: open the session with it first".to_owned();
                Err(Error::invalid("the fence", why))
            }
        }
    }

    /// As [`Live::check`], and refuses one that must open again first.
    pub(super) fn check_put(&mut self, fence: Fence, now_unix_ms: u64) -> Result<(), Error> {
        self.check(fence)?;
        if self.rewound {
            return Err(Error::Rewound(self.row.id));
        }
        self.row.touched_unix_ms = now_unix_ms;
        Ok(())
    }

    pub(super) fn pin(&mut self, key: RecordKey, limit: usize) -> Result<(), Error> {
        if !self.pins.contains(&key) && self.pins.len() >= limit {
            return Err(Error::TooMany { what: "chunks of a session that are in no leaf yet", limit });
        }
        self.pins.insert(key);
        Ok(())
    }
}

impl Library {
    /// The durable leaves of a session's volume from leaf `from` on.
    ///
    /// # Errors
    /// [`Error::UnknownSession`], [`Error::UnknownVolume`]; later ones are items of the iterator.
    pub fn sealed_leaves(&self, session: SessionId, volume: &str, from: u32) -> Result<SealedLeaves, Error> {
        let (number, _) = self.session(session)?.live().volume(volume).map(|(n, v)| (n, v.n_blocks))?;
        let snapshot = self.index.snapshot();
        Ok(SealedLeaves { rows: Box::new(self.index.leaves(&snapshot, session, number, from)) })
    }

    /// Ends a session; what only it refers to becomes garbage. One that is gone already is fine; its key can be
    /// opened again by a fence that is not older.
    ///
    /// # Errors
    /// [`Error::StaleFence`]; a sealed session is [`Error::InvalidRequest`].
    pub fn abandon(&self, session: SessionId, fence: Fence) -> Result<(), Error> {
        let _turn = lock(&self.flush);
        match self.index.session(session)? {
            None => return Ok(()),
            Some(SessionLife::Sealed { recovery_point, .. }) => {
                return Err(Error::invalid(
                    "abandoning",
                    format!("session {session} is sealed as {recovery_point}"),
                ));
            }
            Some(SessionLife::Open(_)) => {}
        }
        let entry = self.session(session)?;
        entry.live().check(fence)?;
        self.end_session(&entry)
    }

    /// Open sessions in the order of their ids, after `after`, at most 1,024.
    #[must_use]
    pub fn sessions(&self, after: Option<SessionId>) -> Vec<SessionInfo> {
        let mut entries: Vec<_> = lock(&self.sessions).values().map(Arc::clone).collect();
        entries.retain(|entry| after.is_none_or(|after| entry.id > after));
        entries.sort_unstable_by_key(|entry| entry.id);
        entries.iter().take(MAX_LIST).map(|entry| info(&entry.live())).collect()
    }

    /// Ends every session that nothing was done with for `idle_ms` milliseconds, and forgets keys abandoned as
    /// long ago. Gives the sessions that were ended.
    ///
    /// # Errors
    /// What the index says; sessions ended before stay ended.
    pub fn expire_sessions(&self, idle_ms: u64) -> Result<Vec<SessionInfo>, Error> {
        let before = self.now().saturating_sub(idle_ms);
        let _turn = lock(&self.flush);
        let entries: Vec<_> = lock(&self.sessions).values().map(Arc::clone).collect();
        let mut ended = Vec::new();
        for entry in entries {
            let told = info(&entry.live());
            if told.touched_unix_ms < before {
                self.end_session(&entry)?;
                ended.push(told);
            }
        }
        let mut batch = self.index.db.batch();
        for row in self.index.keys() {
            if let (key, KeyRow::Abandoned { at_unix_ms, .. }) = row?
                && at_unix_ms < before
            {
                batch.remove(&self.index.keys, key);
            }
        }
        batch.commit().map_err(Error::index("write"))?;
        Ok(ended)
    }

    /// Ends an open session. The caller has the flush turn.
    fn end_session(&self, entry: &Session) -> Result<(), Error> {
        let mut live = entry.live();
        let (key, fence) = (live.row.key.clone(), live.row.fence);
        let mut batch = self.index.db.batch();
        self.index.remove_session(&mut batch, entry.id);
        self.index.put_key(&mut batch, &key, &KeyRow::Abandoned { fence, at_unix_ms: self.now() });
        batch.commit().map_err(Error::index("write"))?;
        self.index.persist()?;
        self.close(&mut live);
        drop(live);
        self.index.remove_leaves_of(entry.id)
    }

    /// Lets go of all that a session holds in memory.
    pub(super) fn close(&self, live: &mut Live) {
        live.closed = true;
        live.pins.clear();
        self.drop_buffered(live);
        lock(&self.sessions).remove(&live.row.id);
    }

    pub(super) fn drop_buffered(&self, live: &mut Live) {
        for (_, leaf) in std::mem::take(&mut live.buffered) {
            self.buffered.fetch_sub(leaf.weight(), std::sync::atomic::Ordering::SeqCst);
        }
    }

    pub(super) fn session(&self, id: SessionId) -> Result<Arc<Session>, Error> {
        lock(&self.sessions).get(&id).cloned().ok_or(Error::UnknownSession(id))
    }
}

fn info(live: &Live) -> SessionInfo {
    let row = &live.row;
    SessionInfo {
        id: row.id,
        key: row.key.clone(),
        fence: row.fence,
        tenant: row.tenant.clone(),
        opened_unix_ms: row.opened_unix_ms,
        touched_unix_ms: row.touched_unix_ms,
    }
}
