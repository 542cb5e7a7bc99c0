//! Leaf pages: the outer layout, of which the sealed part stays opaque to the library.

use snapferry_types::{ChunkId, LEAF_BLOCKS};

use crate::codec::{Malformed, Reader, Writer};
use crate::limits::MAX_LEAF_BYTES;

const WHAT: &str = "leaf page";
const MAGIC: &[u8; 4] = b"SFLF";
const VERSION: u16 = 1;

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum EntryState {
    /// Never written: a restore leaves it unwritten.
    #[default]
    Hole = 0,
    /// Written with zeroes: a restore writes zeroes.
    Zero = 1,
    /// Written with anything else: a chunk holds it.
    Data = 2,
}

impl EntryState {
    fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Hole),
            1 => Some(Self::Zero),
            2 => Some(Self::Data),
            _ => None,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Hole => 0,
            Self::Zero => 1,
            Self::Data => 2,
        }
    }
}

/// Up to 1,024 consecutive blocks of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeafPage {
    /// Which leaf of the volume: its first block is `leaf_index` × 1,024.
    pub leaf_index: u32,
    /// A state for each block, 1 to 1,024; fewer than 1,024 only in the volume's last leaf.
    pub states: Vec<EntryState>,
    /// The chunks of the [`EntryState::Data`] entries, in the order of their blocks.
    pub chunk_ids: Vec<ChunkId>,
    /// What the client sealed (the SHA-256 of each data entry); opaque here, at most what keeps the encoded page
    /// within 128 KiB.
    pub sealed: Vec<u8>,
}

impl LeafPage {
    /// Number of data entries.
    #[must_use]
    pub fn n_data(&self) -> u32 {
        self.count(EntryState::Data)
    }

    /// Number of zero entries.
    #[must_use]
    pub fn n_zero(&self) -> u32 {
        self.count(EntryState::Zero)
    }

    fn count(&self, state: EntryState) -> u32 {
        u32::try_from(self.states.iter().filter(|s| **s == state).count()).unwrap_or(u32::MAX)
    }

    /// State of the entry at `slot`; a hole past the end, as where a volume has grown since.
    #[must_use]
    pub fn state(&self, slot: usize) -> EntryState {
        self.states.get(slot).copied().unwrap_or_default()
    }

    /// Slot (position in the page), state and chunk of every entry, in order.
    pub fn entries(&self) -> impl Iterator<Item = (usize, EntryState, Option<ChunkId>)> + '_ {
        let mut chunks = self.chunk_ids.iter().copied();
        self.states.iter().enumerate().map(move |(slot, state)| {
            let chunk = if *state == EntryState::Data { chunks.next() } else { None };
            (slot, *state, chunk)
        })
    }

    /// The page's bytes.
    ///
    /// # Errors
    /// Counts or sizes are outside their limits, or states and chunks do not fit each other.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        let fail = |why: String| Malformed::new(WHAT, why);
        let n = u16::try_from(self.states.len()).unwrap_or(u16::MAX);
        if n == 0 || u32::from(n) > LEAF_BLOCKS {
            return Err(fail(format!("{} entries, 1 to {LEAF_BLOCKS} are allowed", self.states.len())));
        }
        let n_data = self.n_data();
        if usize::try_from(n_data) != Ok(self.chunk_ids.len()) {
            return Err(fail(format!("{n_data} data entries but {} chunk ids", self.chunk_ids.len())));
        }
        let mut out =
            Writer::with_capacity(64 + self.states.len() / 4 + self.chunk_ids.len() * 32 + self.sealed.len());
        out.bytes(MAGIC).u16(VERSION).u16(n).u32(self.leaf_index).u32(n_data);
        for four in self.states.chunks(4) {
            let byte =
                four.iter().enumerate().fold(0_u8, |byte, (i, state)| byte | (state.code() << (2 * i)));
            out.u8(byte);
        }
        for chunk in &self.chunk_ids {
            out.bytes(&chunk.0);
        }
        if self.sealed.len() > MAX_LEAF_BYTES {
            return Err(fail(format!("a sealed part of {} bytes", self.sealed.len())));
        }
        out.blob(&self.sealed);
        let bytes = out.done();
        if bytes.len() > MAX_LEAF_BYTES {
            return Err(fail(format!("{} bytes, at most {MAX_LEAF_BYTES} are allowed", bytes.len())));
        }
        Ok(bytes)
    }

    /// Reads a page strictly: unused bits are zero, counts agree, nothing is left over.
    ///
    /// # Errors
    /// The bytes are no leaf page of a version this reads.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_LEAF_BYTES {
            return Err(Malformed::new(
                WHAT,
                format!("{} bytes, at most {MAX_LEAF_BYTES} are allowed", bytes.len()),
            ));
        }
        let mut r = Reader::new(WHAT, bytes);
        r.magic(MAGIC)?;
        let version = r.u16()?;
        if version != VERSION {
            return Err(r.fail(format!("version {version}; this reads version {VERSION}")));
        }
        let n = r.u16()?;
        if n == 0 || u32::from(n) > LEAF_BLOCKS {
            return Err(r.fail(format!("{n} entries, 1 to {LEAF_BLOCKS} are allowed")));
        }
        let n = usize::from(n);
        let leaf_index = r.u32()?;
        let n_data = usize::try_from(r.u32()?).unwrap_or(usize::MAX);
        let packed = r.bytes(n.div_ceil(4))?;
        let mut states = Vec::with_capacity(n);
        for (i, code) in packed.iter().flat_map(|byte| (0..4).map(move |i| (byte >> (2 * i)) & 3)).enumerate()
        {
            if i < n {
                states.push(
                    EntryState::from_code(code)
                        .ok_or_else(|| r.fail(format!("entry {i} has state {code}")))?,
                );
            } else if code != 0 {
                return Err(r.fail("unused state bits are not zero"));
            }
        }
        if states.iter().filter(|s| **s == EntryState::Data).count() != n_data {
            return Err(r.fail("the count of data entries does not agree with the states"));
        }
        let mut chunk_ids = Vec::with_capacity(n_data);
        for _ in 0..n_data {
            chunk_ids.push(ChunkId(r.array()?));
        }
        let sealed = r.blob(MAX_LEAF_BYTES)?.to_vec();
        r.end()?;
        Ok(Self { leaf_index, states, chunk_ids, sealed })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pages() -> impl Strategy<Value = LeafPage> {
        (any::<u32>(), prop::collection::vec(0_u8..3, 1..=1_024), prop::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(leaf_index, codes, sealed)| {
                let states: Vec<_> = codes.into_iter().filter_map(EntryState::from_code).collect();
                let chunk_ids = (0..states.iter().filter(|s| **s == EntryState::Data).count())
                    .map(|i| ChunkId(*blake3::hash(&i.to_le_bytes()).as_bytes()))
                    .collect();
                LeafPage { leaf_index, states, chunk_ids, sealed }
            })
    }

    proptest! {
        #[test]
        fn a_page_survives_its_bytes(page in pages()) {
            let bytes = page.encode().unwrap();
            prop_assert_eq!(LeafPage::decode(&bytes).unwrap(), page);
            prop_assert!(LeafPage::decode(&bytes[..bytes.len() - 1]).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic_and_what_is_accepted_is_canonical(bytes in prop::collection::vec(any::<u8>(), 0..300), page in pages(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let _ = LeafPage::decode(&bytes);
            let mut bytes = page.encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(read) = LeafPage::decode(&bytes) {
                prop_assert_eq!(read.encode().unwrap(), bytes);
            }
        }
    }
}
