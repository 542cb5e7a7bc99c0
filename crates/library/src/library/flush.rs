//! The durable point: pack → index → pages → the sessions' leaf tables, for all sessions at once.
//!
//! Many callers share one flush: whoever has the turn flushes for all who asked before it began. What dies in
//! between: a finished pack that the index does not know is taken in at open; a page nobody refers to is garbage.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use snapferry_types::{Fence, SessionId};

use super::session::{BufferedLeaf, Session};
use super::{Library, lock};
use crate::error::Error;
use crate::index::SessionLife;
use crate::pack::{PackClass, PackWriter, RecordKey, record_bytes};

/// Who has the turn to flush.
#[derive(Debug, Default)]
pub(super) struct FlushTurn {
    /// Flushes up to this number have been made.
    done: u64,
}

type Waiting = Vec<((u16, u32), Arc<BufferedLeaf>)>;

impl Library {
    /// Makes all chunks and leaves that the session has put so far survive a power cut.
    ///
    /// # Errors
    /// [`Error::Rewound`] when leaves had to be dropped because their chunks could not be stored: open the session
    /// again and go on from its sealed leaves. [`Error::NoSpace`] and other retryable errors keep the session.
    pub fn flush(&self, session: SessionId, fence: Fence) -> Result<(), Error> {
        let entry = self.session(session)?;
        entry.live().check_put(fence, self.now())?;
        let number = self.flushes_asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut turn = lock(&self.flush);
        if turn.done < number {
            let covers = self.flushes_asked.load(Ordering::SeqCst);
            self.flush_all()?;
            turn.done = covers;
        }
        drop(turn);
        entry.live().check_put(fence, self.now())
    }

    /// Flushes every session. The caller has the turn.
    pub(super) fn flush_all(&self) -> Result<(), Error> {
        // Taken before the packs are finished: every chunk of these leaves is in a pack already.
        let mut waiting = Vec::new();
        for entry in lock(&self.sessions).values().map(Arc::clone).collect::<Vec<_>>() {
            let leaves: Waiting =
                entry.live().buffered.iter().map(|(at, leaf)| (*at, Arc::clone(leaf))).collect();
            if !leaves.is_empty() {
                waiting.push((entry, leaves));
            }
        }
        let finished = self.finish_open_pack();
        for (entry, leaves) in &waiting {
            self.rewind_if_lost(entry, leaves)?;
        }
        finished?;
        self.index.persist()?;
        let mut pages = ManifestPack::new(self);
        for (_, leaf) in waiting.iter().flat_map(|(_, leaves)| leaves) {
            pages.put(RecordKey::leaf(leaf.row.page), &leaf.bytes)?;
        }
        pages.finish()?;
        for (entry, leaves) in waiting {
            self.commit_leaves(&entry, &leaves)?;
        }
        self.index.persist()
    }

    /// Drops the waiting leaves of a session when one of their chunks did not make it into the index.
    fn rewind_if_lost(&self, entry: &Session, leaves: &Waiting) -> Result<(), Error> {
        for chunk in leaves.iter().flat_map(|(_, leaf)| &leaf.chunks) {
            if self.index.locate_good(&RecordKey::chunk(*chunk))?.is_none() {
                let mut live = entry.live();
                tracing::warn!(session = %entry.id, %chunk, "a session lost what was not flushed");
                live.rewound = true;
                self.drop_buffered(&mut live);
                break;
            }
        }
        Ok(())
    }

    /// Writes the leaves that still wait into the session's table.
    fn commit_leaves(&self, entry: &Session, leaves: &Waiting) -> Result<(), Error> {
        let mut live = entry.live();
        let still: Vec<_> = leaves
            .iter()
            .filter(|(at, leaf)| live.buffered.get(at).is_some_and(|now| Arc::ptr_eq(now, leaf)))
            .collect();
        if live.closed || still.is_empty() {
            return Ok(());
        }
        let mut batch = self.index.db.batch();
        for ((volume, leaf_index), leaf) in &still {
            self.index.put_leaf(&mut batch, entry.id, *volume, *leaf_index, &leaf.row);
        }
        self.index.put_session(&mut batch, entry.id, &SessionLife::Open(live.row.clone()));
        batch.commit().map_err(Error::index("write"))?;
        for (at, leaf) in still {
            live.buffered.remove(at);
            self.buffered.fetch_sub(leaf.weight(), Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Pages on their way into packs. Used with the flush turn only.
pub(super) struct ManifestPack<'a> {
    library: &'a Library,
    writer: Option<PackWriter>,
    written: std::collections::HashSet<RecordKey>,
}

impl<'a> ManifestPack<'a> {
    pub(super) fn new(library: &'a Library) -> Self {
        Self { library, writer: None, written: std::collections::HashSet::new() }
    }

    /// Writes a page unless it is stored.
    pub(super) fn put(&mut self, key: RecordKey, bytes: &[u8]) -> Result<(), Error> {
        if self.written.contains(&key) || self.library.index.locate_good(&key)?.is_some() {
            return Ok(());
        }
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.library.start_pack(PackClass::Manifest)?,
        };
        writer.append(key, &record_bytes(key, bytes))?;
        self.written.insert(key);
        let full = writer.size() >= self.library.config.pack_bytes;
        self.writer = Some(writer);
        if full { self.finish() } else { Ok(()) }
    }

    /// Makes what was put durable and known to the index.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.written.clear();
        match self.writer.take() {
            Some(writer) => self.library.index.add_pack(&writer.finish()?),
            None => Ok(()),
        }
    }
}
