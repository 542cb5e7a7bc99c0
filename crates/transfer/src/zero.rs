//! Blocks of zeroes. Volumes are full of them, and their SHA-256 is known: to look whether all bytes are zero takes a
//! fifteenth of the time that hashing them does, and for a block with data it ends at the first piece that has any.

use std::sync::LazyLock;

use bytes::Bytes;
use snapferry_types::BLOCK_SIZE;

/// So much is looked at before it is asked whether it was zero; the compiler makes wide registers of it.
const PIECE: usize = 512;

static BLOCK: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; BLOCK_SIZE]));

/// A block of zeroes. All share the same bytes.
#[must_use]
pub fn zero_block() -> Bytes {
    BLOCK.clone()
}

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(PIECE).all(|piece| piece.iter().fold(0, |seen, byte| seen | byte) == 0)
}

#[cfg(test)]
mod tests {
    use snapferry_types::ZERO_BLOCK_SHA256;

    use super::*;
    use crate::open::sha256;

    #[test]
    fn one_bit_anywhere_is_seen() {
        let mut block = vec![0; BLOCK_SIZE];
        assert!(is_zero(&block) && is_zero(&[]));
        assert_eq!(sha256(&block), ZERO_BLOCK_SHA256);
        for place in [0, 1, PIECE - 1, PIECE, BLOCK_SIZE / 2 + 7, BLOCK_SIZE - 1] {
            block[place] = 1;
            assert!(!is_zero(&block), "{place}");
            assert_ne!(sha256(&block), ZERO_BLOCK_SHA256, "{place}");
            block[place] = 0;
        }
        block.pop();
        assert!(is_zero(&block));
        assert_ne!(sha256(&block), ZERO_BLOCK_SHA256, "a shorter one has another digest");
    }
}
