//! A block on its way, and the manifest's view of a thousand of them.

use bytes::Bytes;
use snapferry_types::{BlockIndex, Sha256Digest};

use crate::budget::BudgetPermit;

/// A block that was read and checked: `sha256` is the SHA-256 of `data`, computed once and never again.
#[derive(Debug)]
pub struct Block {
    /// Where in the volume.
    pub index: BlockIndex,
    /// 524,288 plain bytes.
    pub data: Bytes,
    /// Their SHA-256.
    pub sha256: Sha256Digest,
    /// The memory the block counts for; given back when the block is dropped.
    pub permit: BudgetPermit,
}

/// An entry of a listing: a block that may be read, or, against a base, one that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedBlock {
    /// Where in the volume.
    pub index: BlockIndex,
    /// What reads the block (an EBS block token); `None` when the block is in the base and gone from this snapshot.
    pub token: Option<String>,
}

/// What a manifest knows of a block. A hole was never written; a zero block was, with zeroes: on encrypted volumes
/// a missing block reads back as noise, so the two are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BlockState {
    /// Never written.
    #[default]
    Hole,
    /// Written, all zeroes.
    Zero,
    /// Written; the SHA-256 of the plain bytes.
    Data(Sha256Digest),
}

/// A [`BlockState`] without its digest: what the store may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum BlockKind {
    /// Never written.
    #[default]
    Hole = 0,
    /// Written, all zeroes.
    Zero = 1,
    /// Written with anything else.
    Data = 2,
}

impl BlockKind {
    /// The two bits that stand for it in a leaf's name.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Hole => 0,
            Self::Zero => 1,
            Self::Data => 2,
        }
    }
}

impl BlockState {
    /// The state without its digest.
    #[must_use]
    pub const fn kind(self) -> BlockKind {
        match self {
            Self::Hole => BlockKind::Hole,
            Self::Zero => BlockKind::Zero,
            Self::Data(_) => BlockKind::Data,
        }
    }

    /// The SHA-256 that a written block has; none for a hole.
    #[must_use]
    pub const fn written_sha256(self) -> Option<Sha256Digest> {
        match self {
            Self::Hole => None,
            Self::Zero => Some(snapferry_types::ZERO_BLOCK_SHA256),
            Self::Data(sha256) => Some(sha256),
        }
    }
}

/// 1,024 consecutive entries of a volume's manifest; the last leaf's tail beyond the volume is holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Which: covers blocks `index * 1,024` and following.
    pub index: u32,
    /// Exactly 1,024 entries.
    pub entries: Vec<BlockState>,
}

impl Leaf {
    /// A leaf of holes.
    #[must_use]
    pub fn empty(index: u32) -> Self {
        Self { index, entries: vec![BlockState::Hole; snapferry_types::LEAF_BLOCKS as usize] }
    }

    /// Whether every entry is a hole; such a leaf is not stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.iter().all(|entry| *entry == BlockState::Hole)
    }
}
