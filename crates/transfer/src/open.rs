//! Opens what [`crate::seal`] sealed. What comes out was authenticated and has the digest that the manifest says;
//! wrong bytes never come out.

use aws_lc_rs::digest;
use bytes::Bytes;
use snapferry_types::{BLOCK_SIZE, ChunkId, Sha256Digest, ZERO_BLOCK_SHA256};

use crate::block::{BlockKind, BlockState, Leaf};
use crate::buffers::BlockBuffer;
use crate::record::{self, Compression, SealError};
use crate::scratch::Scratch;
use crate::seal::{Named, SealedLeaf, Sealer};
use crate::zero::is_zero;

/// SHA-256 of bytes; that of a block of zeroes is known and not computed.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Sha256Digest {
    if bytes.len() == BLOCK_SIZE && is_zero(bytes) {
        return ZERO_BLOCK_SHA256;
    }
    let digest = digest::digest(&digest::SHA256, bytes);
    Sha256Digest::try_from(digest.as_ref()).expect("a SHA-256 has 32 bytes")
}

impl Sealer {
    /// The plain bytes of a chunk: at most 524,288, whose SHA-256 is `expected`.
    ///
    /// # Errors
    /// The record is malformed, was changed, is of another tenant or chunk, or holds other bytes.
    pub fn open_chunk(
        &self,
        id: ChunkId,
        sealed: &[u8],
        expected: Sha256Digest,
        scratch: &mut Scratch,
    ) -> Result<Bytes, SealError> {
        let what = Named::Chunk(id);
        let parts = record::parse(&what, sealed)?;
        let key = self.chunk_key(id);
        let plain = match parts.compression {
            Compression::None => {
                let mut plain = BlockBuffer::take(parts.plain_len);
                parts.open_into(&what, &key, plain.as_mut_slice())?;
                plain
            }
            Compression::Zstd => scratch
                .decompress(parts.plain_len, parts.content.len(), |frame| {
                    parts.open_into(&what, &key, frame)
                })?
                .map_err(|cause| SealError::WrongContent { what: what.to_string(), why: cause })?,
        };
        let found = sha256(plain.as_ref());
        if found != expected {
            let why = format!("its SHA-256 is {found}, not {expected}");
            return Err(SealError::WrongContent { what: what.to_string(), why });
        }
        Ok(plain.freeze())
    }

    /// The plain leaf of a page, checked against the page's name and its chunk ids.
    ///
    /// # Errors
    /// The page is malformed, was changed, or is of another tenant.
    pub fn open_leaf(&self, page: &SealedLeaf) -> Result<Leaf, SealError> {
        let what = Named::Page(page.page_id);
        let wrong = |why: String| SealError::WrongContent { what: what.to_string(), why };
        let parts = record::parse(&what, &page.sealed)?;
        if parts.compression != Compression::None {
            let why = "its secret part is compressed".to_owned();
            return Err(SealError::Malformed { what: what.to_string(), why });
        }
        let mut digests = vec![0_u8; parts.content.len()];
        parts.open_into(&what, &self.page_key(page.page_id), &mut digests)?;
        let (digests, rest) = digests.as_chunks::<32>();
        let n_data = page.states.iter().filter(|kind| **kind == BlockKind::Data).count();
        if !rest.is_empty() || digests.len() != n_data || page.chunk_ids.len() != n_data {
            let (found, ids) = (digests.len(), page.chunk_ids.len());
            return Err(wrong(format!("{n_data} data entries, {found} digests and {ids} chunk ids")));
        }
        let mut secrets = digests.iter().zip(&page.chunk_ids);
        let mut entries = Vec::with_capacity(page.states.len());
        for kind in &page.states {
            entries.push(match kind {
                BlockKind::Hole => BlockState::Hole,
                BlockKind::Zero => BlockState::Zero,
                BlockKind::Data => {
                    let (digest, id) =
                        secrets.next().ok_or_else(|| wrong("a digest is absent".to_owned()))?;
                    let digest = Sha256Digest(*digest);
                    if self.chunk_id(&digest) != *id {
                        return Err(wrong(format!("chunk id {id} is not that of block digest {digest}")));
                    }
                    BlockState::Data(digest)
                }
            });
        }
        let leaf = Leaf { index: page.index, entries };
        if self.page_id(&leaf)? != page.page_id {
            return Err(wrong(format!("its content as leaf {} has another name", page.index)));
        }
        Ok(leaf)
    }
}
