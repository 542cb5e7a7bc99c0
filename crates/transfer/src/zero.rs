//! Blocks of zeroes. Volumes are full of them, and their SHA-256 is known: to look whether all bytes are zero takes far
//! less time than hashing them, and for a block with data it ends at the first piece that has any.

use bytes::Bytes;
use snapferry_types::BLOCK_SIZE;

/// So much is looked at before it is asked whether it was zero; the compiler makes wide registers of it.
const PIECE: usize = 512;

/// Aligned as [`crate::buffers::ALIGNMENT`] says.
#[repr(align(4096))]
struct Aligned([u8; BLOCK_SIZE]);

static BLOCK: Aligned = Aligned([0; BLOCK_SIZE]);

/// A block of zeroes, aligned for direct I/O. All share the same bytes.
#[must_use]
pub fn zero_block() -> Bytes {
    Bytes::from_static(&BLOCK.0)
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
    use crate::buffers::is_aligned;
    use crate::open::sha256;

    #[test]
    fn one_bit_anywhere_is_seen() {
        let mut block = vec![0; BLOCK_SIZE];
        assert!(is_zero(&block) && is_zero(&[]));
        let computed = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &block);
        assert_eq!(computed.as_ref(), ZERO_BLOCK_SHA256.0);
        assert_eq!(sha256(&block), ZERO_BLOCK_SHA256);
        assert!(is_aligned(&zero_block()) && is_zero(&zero_block()));
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
