//! Putting: which chunks are missing, the chunks, the leaf pages.
//!
//! What happens twice: all three are idempotent. What dies in between: nothing of it is promised before a flush.

use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use snapferry_types::{ChunkId, Fence, LEAF_BLOCKS, PageId, SessionId};

use super::session::BufferedLeaf;
use super::{Library, read};
use crate::error::Error;
use crate::index::LeafRow;
use crate::limits::{MAX_ASK, MAX_RECORD_BYTES};
use crate::pack::{RecordKey, record_bytes};
use crate::page::LeafPage;

/// What became of a chunk that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// It was stored.
    Stored,
    /// It was there.
    AlreadyThere,
}

impl Library {
    /// For each chunk whether it is missing. Those that are not are kept from collection until a leaf of the
    /// session refers to them or the session ends.
    ///
    /// # Errors
    /// [`Error::UnknownSession`], [`Error::StaleFence`], [`Error::Rewound`]; more than 8,192 ids, or more kept
    /// than `max_pins`.
    pub fn missing_chunks(
        &self,
        session: SessionId,
        fence: Fence,
        ids: &[ChunkId],
    ) -> Result<Vec<bool>, Error> {
        if ids.len() > MAX_ASK {
            return Err(Error::invalid(
                "the list of chunks",
                format!("{} ids, at most {MAX_ASK}", ids.len()),
            ));
        }
        let session = self.session(session)?;
        let _gate = read(&self.gate);
        let mut live = session.live();
        live.check_put(fence, self.now())?;
        let mut missing = Vec::with_capacity(ids.len());
        for id in ids {
            let key = RecordKey::chunk(*id);
            let present = self.is_present(&key)?;
            if present {
                live.pin(key, self.config.max_pins)?;
                self.hold(&key)?;
            }
            missing.push(!present);
        }
        Ok(missing)
    }

    /// Stores a chunk. It survives a power cut after the next flush.
    ///
    /// # Errors
    /// As [`Library::missing_chunks`]; a record that is empty or over 513 KiB; [`Error::NoSpace`].
    pub fn put_chunk(
        &self,
        session: SessionId,
        fence: Fence,
        id: ChunkId,
        record: &[u8],
    ) -> Result<PutOutcome, Error> {
        if record.is_empty() || record.len() > MAX_RECORD_BYTES {
            let why = format!("{} bytes, 1 to {MAX_RECORD_BYTES} are allowed", record.len());
            return Err(Error::invalid("the chunk's record", why));
        }
        let key = RecordKey::chunk(id);
        let session = self.session(session)?;
        {
            let _gate = read(&self.gate);
            let mut live = session.live();
            live.check_put(fence, self.now())?;
            live.pin(key, self.config.max_pins)?;
            self.hold(&key)?;
            if self.is_present(&key)? {
                return Ok(PutOutcome::AlreadyThere);
            }
        }
        let appended = self.append_chunk(key, &record_bytes(key, record))?;
        Ok(if appended { PutOutcome::Stored } else { PutOutcome::AlreadyThere })
    }

    /// Puts a leaf page of a volume; a second one for the same place replaces the first. It survives a power cut
    /// after the next flush, which is made here when many leaves wait for one.
    ///
    /// # Errors
    /// [`Error::MissingChunks`] when a chunk it refers to is not stored; [`Error::InvalidLeaf`]; as
    /// [`Library::missing_chunks`].
    pub fn put_leaf(
        &self,
        session: SessionId,
        fence: Fence,
        volume: &str,
        leaf_index: u32,
        page: PageId,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let refuse = |why: String| Error::InvalidLeaf { volume: volume.to_owned(), leaf_index, why };
        let leaf = LeafPage::decode(bytes).map_err(|e| refuse(e.to_string()))?;
        if leaf.leaf_index != leaf_index {
            return Err(refuse(format!("it says it is leaf {}", leaf.leaf_index)));
        }
        self.check_equal(page, &leaf).map_err(refuse)?;
        let entry = self.session(session)?;
        {
            let _gate = read(&self.gate);
            let mut live = entry.live();
            live.check_put(fence, self.now())?;
            let (number, row) = live.volume(volume)?;
            check_place(&leaf, row.n_blocks).map_err(refuse)?;
            let mut missing = Vec::new();
            for id in &leaf.chunk_ids {
                if !self.is_present(&RecordKey::chunk(*id))? {
                    missing.push(*id);
                }
            }
            if !missing.is_empty() {
                return Err(Error::MissingChunks { ids: missing });
            }
            for id in &leaf.chunk_ids {
                let key = RecordKey::chunk(*id);
                self.hold(&key)?;
                live.pins.remove(&key);
            }
            self.hold(&RecordKey::leaf(page))?;
            let row = LeafRow { page, n_data: leaf.n_data(), n_zero: leaf.n_zero() };
            let waiting = Arc::new(BufferedLeaf { row, bytes: bytes.to_vec(), chunks: leaf.chunk_ids });
            self.buffered.fetch_add(waiting.weight(), Ordering::SeqCst);
            match live.buffered.entry((number, leaf_index)) {
                Entry::Vacant(place) => {
                    place.insert(waiting);
                }
                Entry::Occupied(mut place) => {
                    let before = place.insert(waiting);
                    self.buffered.fetch_sub(before.weight(), Ordering::SeqCst);
                }
            }
        }
        let limit = u64::try_from(self.config.buffered_leaf_bytes).unwrap_or(u64::MAX);
        if self.buffered.load(Ordering::SeqCst) >= limit {
            self.flush(session, fence)?;
        }
        Ok(())
    }

    /// A page that is stored already must say the same; one that does not read is stored again.
    fn check_equal(&self, page: PageId, leaf: &LeafPage) -> Result<(), String> {
        let Ok(bytes) = self.read_record(&RecordKey::leaf(page)) else { return Ok(()) };
        match LeafPage::decode(&bytes) {
            Ok(stored)
                if (stored.leaf_index, &stored.states, &stored.chunk_ids)
                    != (leaf.leaf_index, &leaf.states, &leaf.chunk_ids) =>
            {
                Err(format!("page {page} is stored with other entries"))
            }
            _ => Ok(()),
        }
    }

    /// Keeps a stored record from the collection that is running, if one is. Under the gate.
    pub(super) fn hold(&self, key: &RecordKey) -> Result<(), Error> {
        if let Some(marks) = read(&self.marks).as_ref()
            && let Some(at) = self.index.locate(key)?
        {
            marks.add(&at);
        }
        Ok(())
    }
}

fn check_place(leaf: &LeafPage, n_blocks: u32) -> Result<(), String> {
    let first = u64::from(leaf.leaf_index) * u64::from(LEAF_BLOCKS);
    let want = u64::from(n_blocks).saturating_sub(first).min(u64::from(LEAF_BLOCKS));
    if want == 0 {
        return Err(format!("the volume ends at block {n_blocks}"));
    }
    if leaf.states.len() as u64 != want {
        return Err(format!("it has {} entries, the volume has {want} blocks there", leaf.states.len()));
    }
    Ok(())
}
