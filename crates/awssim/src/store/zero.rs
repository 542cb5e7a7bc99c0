//! The zero block: 524,288 zero bytes, one copy for the whole process.

use std::sync::LazyLock;

use bytes::Bytes;

use super::{BLOCK_LEN, Sha256};

static BLOCK: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; BLOCK_LEN]));

/// SHA-256 of 524,288 zero bytes; in base64 `B4VNL+8pega6gWheZgwzLeNtXRjVRpJ9MNqtbX/aFUE=`.
pub const SHA256: Sha256 = [
    0x07, 0x85, 0x4d, 0x2f, 0xef, 0x29, 0x7a, 0x06, 0xba, 0x81, 0x68, 0x5e, 0x66, 0x0c, 0x33, 0x2d, 0xe3,
    0x6d, 0x5d, 0x18, 0xd5, 0x46, 0x92, 0x7d, 0x30, 0xda, 0xad, 0x6d, 0x7f, 0xda, 0x15, 0x41,
];

/// The block, shared.
#[must_use]
pub fn block() -> Bytes {
    BLOCK.clone()
}
