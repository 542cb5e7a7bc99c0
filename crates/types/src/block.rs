//! The block: 512 KiB of a volume, and the arithmetic around it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes in a block; the only size the EBS direct APIs have.
pub const BLOCK_SIZE: usize = 524_288;

/// Blocks that one leaf page of a manifest covers (512 MiB of a volume).
pub const LEAF_BLOCKS: u32 = 1_024;

/// Blocks in a GiB.
pub const BLOCKS_PER_GIB: u32 = 2_048;

/// Position of a block in its volume: byte offset / 524,288. 65,536 GiB, the largest snapshot, has 2^27 blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockIndex(pub u32);

impl BlockIndex {
    /// Offset of the block's first byte in the volume.
    #[must_use]
    pub fn byte_offset(self) -> u64 {
        u64::from(self.0) * BLOCK_SIZE as u64
    }

    /// The leaf page that covers the block.
    #[must_use]
    pub const fn leaf(self) -> u32 {
        self.0 / LEAF_BLOCKS
    }

    /// The block's position in its leaf page, below [`LEAF_BLOCKS`].
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.0 % LEAF_BLOCKS
    }
}

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number of bytes; prints as people read it (`1.5 GiB`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

impl fmt::Display for ByteCount {
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1_024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64;
        let mut unit = "B";
        for next in UNITS {
            if value < 1_024.0 {
                break;
            }
            value /= 1_024.0;
            unit = next;
        }
        if value < 10.0 { write!(f, "{value:.2} {unit}") } else { write!(f, "{value:.1} {unit}") }
    }
}

/// Number of blocks in a volume of `size_gib` GiB.
#[must_use]
pub const fn blocks_in_gib(size_gib: u32) -> u32 {
    size_gib.saturating_mul(BLOCKS_PER_GIB)
}

/// Number of leaf pages that cover `n_blocks` blocks.
#[must_use]
pub const fn leaves_in(n_blocks: u32) -> u32 {
    n_blocks.div_ceil(LEAF_BLOCKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_say_them() {
        let text = |n| ByteCount(n).to_string();
        assert_eq!(text(1_023), "1023 B");
        assert_eq!(text(1_536), "1.50 KiB");
        assert_eq!(text(8 << 30), "8.00 GiB");
        assert_eq!(text(64 << 30), "64.0 GiB");
    }

    #[test]
    fn the_last_block_of_the_largest_snapshot_has_an_index() {
        assert_eq!(BlockIndex(blocks_in_gib(65_536) - 1).byte_offset() + BLOCK_SIZE as u64, 65_536 << 30);
    }
}
