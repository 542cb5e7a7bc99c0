//! Reading: pages and chunks, verified.
//!
//! A reader never fails because collection moved what it reads: when a pack is gone the place is looked up again.

use snapferry_types::{ChunkId, PageId, RecoveryPointId};

use super::Library;
use super::tree::{leaves_below_child, root_level};
use crate::backend::BackendError;
use crate::error::Error;
use crate::index::Location;
use crate::limits::{MAX_COALESCED_BYTES, MAX_GAP_BYTES, MAX_READ_CHUNKS, MAX_READ_LEAVES};
use crate::pack::{RECORD_HEADER_BYTES, RecordKey, check_record, pack_name};
use crate::page::FANOUT;

/// How often a record that keeps moving is looked up; a collection moves it once.
const MAX_MOVES: usize = 8;

/// A leaf page with its place and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafBytes {
    /// Its place in the volume.
    pub leaf_index: u32,
    /// Its name.
    pub page: PageId,
    /// Its bytes: a [`crate::page::LeafPage`].
    pub bytes: Vec<u8>,
}

impl Library {
    /// The leaf page of a volume at `leaf_index`; `None` where all is holes.
    ///
    /// # Errors
    /// [`Error::UnknownRecoveryPoint`], [`Error::UnknownVolume`], [`Error::Damaged`].
    pub fn read_leaf(
        &self,
        id: RecoveryPointId,
        volume: &str,
        leaf_index: u32,
    ) -> Result<Option<LeafBytes>, Error> {
        let found = self.read_leaves_until(id, volume, leaf_index, u64::from(leaf_index) + 1, 1)?;
        Ok(found.into_iter().next())
    }

    /// The leaf pages of a volume from leaf `from` on that are not all holes, in order; at most `max`, and at most
    /// 64. An empty answer is the end.
    ///
    /// # Errors
    /// As [`Library::read_leaf`].
    pub fn read_leaves(
        &self,
        id: RecoveryPointId,
        volume: &str,
        from: u32,
        max: usize,
    ) -> Result<Vec<LeafBytes>, Error> {
        self.read_leaves_until(id, volume, from, u64::MAX, max.clamp(1, MAX_READ_LEAVES))
    }

    fn read_leaves_until(
        &self,
        id: RecoveryPointId,
        volume: &str,
        from: u32,
        until: u64,
        max: usize,
    ) -> Result<Vec<LeafBytes>, Error> {
        let volume = self.point_volume(id, volume)?;
        let mut pages = Vec::new();
        self.leaf_pages(volume.root, root_level(volume.n_blocks), 0, from, until, &mut |index, page| {
            pages.push((index, page));
            Ok(pages.len() < max)
        })?;
        pages
            .into_iter()
            .map(|(leaf_index, page)| {
                let bytes = self.read_record(&RecordKey::leaf(page))?;
                Ok(LeafBytes { leaf_index, page, bytes })
            })
            .collect()
    }

    /// Visits the leaves of a subtree in `from..until`, in order, until the visitor answers false. Gives whether
    /// it never did.
    pub(super) fn leaf_pages(
        &self,
        page: PageId,
        level: u8,
        first: u32,
        from: u32,
        until: u64,
        visit: &mut dyn FnMut(u32, PageId) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        let step = leaves_below_child(level);
        let page = self.interior(page, level)?;
        let skip = usize::try_from(from.saturating_sub(first) / step).unwrap_or(FANOUT);
        for (slot, child) in page.children.iter().enumerate().skip(skip) {
            let start = first.saturating_add(u32::try_from(slot).unwrap_or(u32::MAX).saturating_mul(step));
            if u64::from(start) >= until {
                break;
            }
            let Some(child) = child else { continue };
            let go_on = if level == 1 {
                visit(start, child.page)?
            } else {
                self.leaf_pages(child.page, level - 1, start, from, until, visit)?
            };
            if !go_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The stored record of a chunk, as it was put.
    ///
    /// # Errors
    /// [`Error::NotStored`]; [`Error::Damaged`] when what is stored is not what was put: the chunk then counts as
    /// missing, and the next backup that has it stores it again.
    pub fn read_chunk(&self, id: ChunkId) -> Result<Vec<u8>, Error> {
        self.read_record(&RecordKey::chunk(id))
    }

    /// The stored records of up to 128 chunks, in the order of `ids`, read in the order in which they lie on the
    /// backend, neighbours together. One that fails does not keep the others.
    ///
    /// # Errors
    /// More ids than that; each chunk has its own result otherwise, as in [`Library::read_chunk`].
    pub fn read_chunks(&self, ids: &[ChunkId]) -> Result<Vec<Result<Vec<u8>, Error>>, Error> {
        if ids.len() > MAX_READ_CHUNKS {
            return Err(Error::invalid(
                "the list of chunks",
                format!("{} ids, at most {MAX_READ_CHUNKS}", ids.len()),
            ));
        }
        let mut answers: Vec<Option<Result<Vec<u8>, Error>>> = ids.iter().map(|_| None).collect();
        let mut places = Vec::with_capacity(ids.len());
        for (number, id) in ids.iter().enumerate() {
            if let Some(at) = self.index.locate(&RecordKey::chunk(*id))? {
                places.push((at.pack, at.offset, number, *id, at));
            }
        }
        places.sort_unstable_by_key(|(pack, offset, ..)| (*pack, *offset));
        let mut rest = places.as_slice();
        while let Some((first, _)) = rest.split_first() {
            let start = u64::from(first.1);
            let mut end = end_of(&first.4);
            let mut n = 1;
            for next in rest.iter().skip(1) {
                let (from, to) = (u64::from(next.1), end_of(&next.4));
                if next.0 != first.0 || from > end + MAX_GAP_BYTES || to > start + MAX_COALESCED_BYTES {
                    break;
                }
                end = end.max(to);
                n += 1;
            }
            let (group, after) = rest.split_at(n);
            rest = after;
            self.read_group(first.0, start, end, group, &mut answers);
        }
        let read = |(id, answer): (&ChunkId, Option<_>)| match answer {
            Some(answer) => answer,
            // Moved, damaged or not stored: the way of a single chunk finds out.
            None => self.read_chunk(*id),
        };
        Ok(ids.iter().zip(answers).map(read).collect())
    }

    /// Fills in the answers of neighbours that verify; leaves the others open.
    fn read_group(
        &self,
        pack: u64,
        start: u64,
        end: u64,
        group: &[(u64, u32, usize, ChunkId, Location)],
        answers: &mut [Option<Result<Vec<u8>, Error>>],
    ) {
        let Ok(len) = usize::try_from(end - start) else { return };
        let bytes = pack_name(pack).and_then(|name| self.config.backend.read_range(&name, start, len));
        let Ok(bytes) = bytes else { return };
        for (_, offset, number, id, at) in group {
            let from = usize::try_from(u64::from(*offset) - start).unwrap_or(usize::MAX);
            let to = usize::try_from(end_of(at) - start).unwrap_or(usize::MAX);
            if let Some(record) = bytes.get(from..to)
                && let Ok(body) = check_record(RecordKey::chunk(*id), record)
                && let Some(answer) = answers.get_mut(*number)
            {
                *answer = Some(Ok(body.to_vec()));
            }
        }
    }

    /// The body of a record, verified.
    pub(super) fn read_record(&self, key: &RecordKey) -> Result<Vec<u8>, Error> {
        let mut at = self.index.locate(key)?.ok_or(Error::NotStored(*key))?;
        for _ in 0..MAX_MOVES {
            // A mismatch is read once more before it is believed.
            let why = match self.read_at(key, &at)? {
                Ok(body) => return Ok(body),
                Err(_) => match self.read_at(key, &at)? {
                    Ok(body) => return Ok(body),
                    Err(why) => why,
                },
            };
            let now = self.index.locate(key)?.ok_or(Error::NotStored(*key))?;
            if now.same_place(&at) {
                tracing::error!(%key, pack = at.pack, offset = at.offset, %why, "a stored record is damaged");
                self.index.mark_damaged(key, &now)?;
                return Err(Error::Damaged { key: *key, pack: at.pack, offset: at.offset, why });
            }
            at = now;
        }
        Err(Error::Busy("a collection that keeps moving what is read"))
    }

    /// The body at a place, or why it is not there.
    pub(super) fn read_at(&self, key: &RecordKey, at: &Location) -> Result<Result<Vec<u8>, String>, Error> {
        let name = pack_name(at.pack)?;
        let len = RECORD_HEADER_BYTES.saturating_add(usize::try_from(at.length).unwrap_or(usize::MAX));
        match self.config.backend.read_range(&name, u64::from(at.offset), len) {
            Ok(mut bytes) => Ok(match check_record(*key, &bytes) {
                Ok(_) => {
                    bytes.drain(..RECORD_HEADER_BYTES);
                    Ok(bytes)
                }
                Err(e) => Err(e.to_string()),
            }),
            Err(e @ (BackendError::NotFound { .. } | BackendError::Short { .. })) => Ok(Err(e.to_string())),
            Err(e) => Err(e.into()),
        }
    }
}

fn end_of(at: &Location) -> u64 {
    u64::from(at.offset) + RECORD_HEADER_BYTES as u64 + u64::from(at.length)
}
