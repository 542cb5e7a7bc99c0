//! Names and seals what leaves the agent. Plain bytes never pass this module outwards, and the store behind never
//! has a key.
//!
//! Keys and names, `id_key` and `data_key` being the tenant's two 256-bit keys:
//!
//! | what | how |
//! |---|---|
//! | chunk id | BLAKE3-keyed(`id_key`, SHA-256 of the plain block, 32 bytes) |
//! | page id | BLAKE3-keyed(`id_key`, plain leaf) |
//! | chunk key | BLAKE3-keyed(chunk root, chunk id), chunk root = BLAKE3-derive-key(`snapferry 2026 v1 chunk sealing`, `data_key`) |
//! | page key | BLAKE3-keyed(page root, page id), page root = BLAKE3-derive-key(`snapferry 2026 v1 leaf page sealing`, `data_key`) |
//!
//! The plain leaf, which only its name is made of, is: the 16 bytes `snapferry-leaf-1`, the leaf index (4 bytes, little
//! endian), 256 bytes of states (2 bits a block, the first block in the lowest bits: 0 hole, 1 zero, 2 data), then
//! the SHA-256 of each data block in order. It cannot be taken for a digest, being longer.
//!
//! A chunk is a sealed record (see [`crate::record`]) of the block: one zstd frame (level 1), or the plain block
//! where that is not shorter. A leaf page shows the store its states and chunk ids; its secret part is a sealed
//! record, uncompressed, of the data blocks' SHA-256s in order, 32 bytes each.
//!
//! Nonces are random; a chunk that is sealed twice has two different records of one name, and either is good.

#[cfg(test)]
mod tests;

use std::fmt;

use blake3::Hasher;
use bytes::Bytes;
use secrecy::ExposeSecret;
use snapferry_types::tenancy::TenantKeys;
use snapferry_types::{ChunkId, LEAF_BLOCKS, PageId, Sha256Digest};
use zeroize::Zeroizing;

use crate::block::{BlockKind, BlockState, Leaf};
use crate::buffers::BlockBuffer;
use crate::record::{self, Compression, SealError, engine};
use crate::scratch::Scratch;
use crate::sink::SealedChunk;

const CHUNK_CONTEXT: &str = "snapferry 2026 v1 chunk sealing";
const PAGE_CONTEXT: &str = "snapferry 2026 v1 leaf page sealing";
/// Records from this length on lie in a buffer that is used again.
const WORTH_A_BUFFER: usize = 128 * 1_024;
const LEAF_DOMAIN: &[u8; 16] = b"snapferry-leaf-1";

/// A tenant's keys, ready for use.
pub struct Sealer {
    id_key: Zeroizing<[u8; 32]>,
    chunk_root: Zeroizing<[u8; 32]>,
    page_root: Zeroizing<[u8; 32]>,
    nonces: Nonces,
    compresses: bool,
}

/// A leaf page as the store sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedLeaf {
    /// Which leaf of the volume.
    pub index: u32,
    /// Its name.
    pub page_id: PageId,
    /// 1,024 states.
    pub states: Vec<BlockKind>,
    /// The chunks of the data entries, in order.
    pub chunk_ids: Vec<ChunkId>,
    /// The sealed SHA-256s of the data entries; at most 32,804 bytes.
    pub sealed: Bytes,
}

enum Nonces {
    Random,
    #[cfg(test)]
    Fixed([u8; 12]),
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl Sealer {
    /// A sealer of a tenant; its copies of the keys are wiped when it is dropped.
    #[must_use]
    pub fn new(keys: &TenantKeys) -> Self {
        let data_key = keys.data_key.expose_secret();
        Self {
            id_key: Zeroizing::new(*keys.id_key.expose_secret()),
            chunk_root: Zeroizing::new(blake3::derive_key(CHUNK_CONTEXT, data_key)),
            page_root: Zeroizing::new(blake3::derive_key(PAGE_CONTEXT, data_key)),
            nonces: Nonces::Random,
            compresses: true,
        }
    }

    /// Whether chunks are compressed where that makes them shorter; they are, unless this says otherwise. What was sealed
    /// either way is opened, and has the same name.
    #[must_use]
    pub const fn compressing(mut self, compresses: bool) -> Self {
        self.compresses = compresses;
        self
    }

    #[cfg(test)]
    pub(crate) fn with_nonce(keys: &TenantKeys, nonce: [u8; 12]) -> Self {
        Self { nonces: Nonces::Fixed(nonce), ..Self::new(keys) }
    }

    /// The name of the chunk that holds a block with this SHA-256.
    #[must_use]
    pub fn chunk_id(&self, sha256: &Sha256Digest) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.id_key, &sha256.0).as_bytes())
    }

    /// The name of a leaf.
    ///
    /// # Errors
    /// The leaf has not 1,024 entries.
    pub fn page_id(&self, leaf: &Leaf) -> Result<PageId, SealError> {
        let states = packed_states(leaf)?;
        let mut hasher = Hasher::new_keyed(&self.id_key);
        hasher.update(LEAF_DOMAIN);
        hasher.update(&leaf.index.to_le_bytes());
        hasher.update(&states);
        for entry in &leaf.entries {
            if let BlockState::Data(sha256) = entry {
                hasher.update(&sha256.0);
            }
        }
        Ok(PageId(*hasher.finalize().as_bytes()))
    }

    /// Compresses a block where that makes it shorter (unless told not to), and seals it.
    ///
    /// # Errors
    /// It is longer than 524,288 bytes, or an engine failed.
    pub fn seal_chunk(
        &self,
        id: ChunkId,
        plain: &[u8],
        scratch: &mut Scratch,
    ) -> Result<SealedChunk, SealError> {
        let what = Named::Chunk(id);
        let (key, nonce) = (self.chunk_key(id), self.nonce(&what)?);
        let compressed = if self.compresses { scratch.compress(plain) } else { None };
        let (compression, content) = match compressed {
            Some(shorter) => (Compression::Zstd, shorter),
            None => (Compression::None, plain),
        };
        let len = record::record_len(content.len());
        let fill =
            |record: &mut [u8]| record::seal(&what, &key, nonce, compression, plain.len(), content, record);
        // A short record does not hold a whole block's buffer.
        let sealed = if len < WORTH_A_BUFFER {
            let mut record = vec![0; len];
            fill(&mut record)?;
            Bytes::from(record)
        } else {
            let mut record = BlockBuffer::take(len);
            fill(record.as_mut_slice())?;
            record.freeze()
        };
        Ok(SealedChunk { id, sealed })
    }

    /// Seals a leaf.
    ///
    /// # Errors
    /// The leaf has not 1,024 entries, or an engine failed.
    pub fn seal_leaf(&self, leaf: &Leaf) -> Result<SealedLeaf, SealError> {
        let page_id = self.page_id(leaf)?;
        let what = Named::Page(page_id);
        let mut chunk_ids = Vec::new();
        let mut digests = Vec::new();
        for entry in &leaf.entries {
            if let BlockState::Data(sha256) = entry {
                chunk_ids.push(self.chunk_id(sha256));
                digests.extend_from_slice(&sha256.0);
            }
        }
        let key = self.page_key(page_id);
        let nonce = self.nonce(&what)?;
        let mut sealed = vec![0; record::record_len(digests.len())];
        record::seal(&what, &key, nonce, Compression::None, digests.len(), &digests, &mut sealed)?;
        let states = leaf.entries.iter().map(|entry| entry.kind()).collect();
        Ok(SealedLeaf { index: leaf.index, page_id, states, chunk_ids, sealed: Bytes::from(sealed) })
    }

    pub(crate) fn chunk_key(&self, id: ChunkId) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(*blake3::keyed_hash(&self.chunk_root, &id.0).as_bytes())
    }

    pub(crate) fn page_key(&self, id: PageId) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(*blake3::keyed_hash(&self.page_root, &id.0).as_bytes())
    }

    fn nonce(&self, what: &Named) -> Result<[u8; 12], SealError> {
        match self.nonces {
            Nonces::Random => {
                let mut nonce = [0_u8; 12];
                aws_lc_rs::rand::fill(&mut nonce).map_err(|cause| engine(what, "drawing a nonce", &cause))?;
                Ok(nonce)
            }
            #[cfg(test)]
            Nonces::Fixed(nonce) => Ok(nonce),
        }
    }
}

/// How errors name what was being sealed or opened.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Named {
    Chunk(ChunkId),
    Page(PageId),
    Leaf(u32),
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chunk(id) => write!(f, "chunk {id}"),
            Self::Page(id) => write!(f, "page {id}"),
            Self::Leaf(index) => write!(f, "leaf {index}"),
        }
    }
}

fn packed_states(leaf: &Leaf) -> Result<[u8; LEAF_BLOCKS as usize / 4], SealError> {
    let mut packed = [0_u8; LEAF_BLOCKS as usize / 4];
    if leaf.entries.len() != LEAF_BLOCKS as usize {
        return Err(SealError::Unsealable {
            what: Named::Leaf(leaf.index).to_string(),
            why: format!("it has {} entries, {LEAF_BLOCKS} are needed", leaf.entries.len()),
        });
    }
    for (place, four) in packed.iter_mut().zip(leaf.entries.chunks(4)) {
        *place = four.iter().rev().fold(0, |bits, entry| (bits << 2) | entry.kind().code());
    }
    Ok(packed)
}
