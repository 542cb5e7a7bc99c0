//! A write: a block, or a range of holes where the target needs them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use snapferry_types::{BlockIndex, Sha256Digest, ZERO_BLOCK_SHA256};

use super::holes::first_of;
use crate::block::Block;
use crate::budget::BudgetPermit;
use crate::error::TransferError;
use crate::sink::BlockTarget;

/// A block with its bytes, and the memory that they take.
pub(super) struct Write {
    pub(super) index: BlockIndex,
    pub(super) data: Bytes,
    pub(super) sha256: Sha256Digest,
    pub(super) permit: Option<Arc<BudgetPermit>>,
}

/// What waits to be written.
pub(super) enum ToWrite {
    Block(Write),
    Holes(Range<u32>),
}

/// What was written; of holes the first.
pub(super) enum Written {
    Block(BlockIndex),
    Holes(BlockIndex),
}

impl ToWrite {
    pub(super) fn is_zero(&self) -> bool {
        matches!(self, Self::Block(write) if write.sha256 == ZERO_BLOCK_SHA256)
    }

    pub(super) async fn write(self, target: Arc<dyn BlockTarget>) -> Result<Written, TransferError> {
        match self {
            Self::Holes(range) => {
                let first = first_of(&range);
                target.write_hole_range(first, range.end - range.start).await?;
                Ok(Written::Holes(first))
            }
            Self::Block(Write { index, data, sha256, permit }) => {
                target.write(&Block { index, data, sha256, permit: BudgetPermit::free() }).await?;
                drop(permit);
                Ok(Written::Block(index))
            }
        }
    }
}
