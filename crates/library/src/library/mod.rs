//! The library: one value that owns the index, the packs being written and the open sessions.
//!
//! Locks, in the order in which they are taken (each may be skipped, none taken backwards):
//! `flush` (one flush, seal or removal of a session at a time) → `gate` (read: answer that something is stored
//! and hold on to it; write: collection looks at who holds what, or removes) → a session's `state` → `open_pack`
//! → `pending`. Nothing waits for the backend under `gate` in write mode, or under a session's state.

mod affected;
mod diff;
mod flush;
mod gc;
mod ingest;
mod marks;
mod open;
mod opening;
mod packing;
mod points;
mod read;
mod scrub;
mod seal;
mod session;
mod stats;
mod tree;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::sync::atomic::AtomicU64;
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
};

use snapferry_types::SessionId;

pub use affected::Suspect;
pub use diff::LeafDiff;
pub use gc::{GcOptions, GcReport};
pub use ingest::PutOutcome;
pub use read::LeafBytes;
pub use scrub::{DamagedRecord, ScrubReport};
pub use session::{
    SealedLeaf, SealedLeaves, SessionInfo, SessionOpened, SessionRequest, SessionState, SessionVolume,
};
pub use stats::Stats;

use crate::config::LibraryConfig;
use crate::error::Error;
use crate::index::Index;
use crate::pack::{PackWriter, RecordKey};
use flush::FlushTurn;
use marks::Marks;
use session::Session;
use tree::PageCache;

/// A dedup store. Shared by reference between threads; dropped without [`Library::flush`] it keeps what was flushed.
pub struct Library {
    config: LibraryConfig,
    index: Index,
    /// Held, with its lock, as long as the library is open.
    _lock: File,
    next_pack: AtomicU64,
    /// See the module's documentation.
    gate: RwLock<()>,
    /// Marks of the collection that is running; set and taken under `gate` in write mode.
    marks: RwLock<Option<Arc<Marks>>>,
    sessions: Mutex<HashMap<SessionId, Arc<Session>>>,
    /// The pack that takes chunks.
    open_pack: Mutex<Option<PackWriter>>,
    /// Chunks in packs that the index does not have yet, and in which pack.
    pending: Mutex<HashMap<RecordKey, u64>>,
    /// Packs being finished.
    finishing: Mutex<BTreeSet<u64>>,
    finished: Condvar,
    flush: Mutex<FlushTurn>,
    /// Flushes asked for so far.
    flushes_asked: AtomicU64,
    /// Bytes of leaf pages that wait for a flush, over all sessions.
    buffered: AtomicU64,
    /// Taken by the one collection or scrub that may run.
    collecting: Mutex<()>,
    pages: PageCache,
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A lock whose holder panicked is taken over: every structure behind one is whole between two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Library {
    /// The right to collect or scrub.
    fn collecting(&self) -> Result<MutexGuard<'_, ()>, Error> {
        match self.collecting.try_lock() {
            Ok(running) => Ok(running),
            Err(TryLockError::Poisoned(e)) => Ok(e.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Error::Busy("a collection or scrub")),
        }
    }

    fn now(&self) -> u64 {
        (self.config.clock)()
    }

    /// Refuses new data while less than the reserve is free.
    fn check_space(&self) -> Result<(), Error> {
        let reserve_bytes = self.config.reserve_bytes;
        let here = crate::os::free_bytes(&self.config.dir)
            .map_err(|source| Error::Folder { dir: self.config.dir.clone(), source })?;
        for free_bytes in [here, self.config.backend.free_bytes()?].into_iter().flatten() {
            if free_bytes < reserve_bytes {
                return Err(Error::NoSpace { free_bytes, reserve_bytes });
            }
        }
        Ok(())
    }
}
