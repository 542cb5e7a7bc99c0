//! Hashes that name things. A digest prints as hexadecimal; AWS wants base64, which the AWS crate makes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A hash that does not parse.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not 64 hexadecimal digits")]
pub struct ParseHashError(String);

macro_rules! hashes {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseHashError;

            fn from_str(text: &str) -> Result<Self, ParseHashError> {
                parse_hex(text).map(Self).ok_or_else(|| ParseHashError(text.chars().take(80).collect()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseHashError;

            fn try_from(text: String) -> Result<Self, ParseHashError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(hash: $name) -> Self {
                hash.to_string()
            }
        }

        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = std::array::TryFromSliceError;

            fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
                Ok(Self(bytes.try_into()?))
            }
        }
    )*};
}

hashes! {
    /// SHA-256 of a block's 524,288 plain bytes, as EBS answers it.
    Sha256Digest;
    /// Name of a stored block: a hash of the block's [`Sha256Digest`] keyed per tenant, so that it tells nothing
    /// about the content to who has no key.
    ChunkId;
    /// Name of a manifest page.
    PageId;
}

/// SHA-256 of 524,288 zero bytes (base64 `B4VNL+8pega6gWheZgwzLeNtXRjVRpJ9MNqtbX/aFUE=`).
pub const ZERO_BLOCK_SHA256: Sha256Digest = Sha256Digest([
    0x07, 0x85, 0x4d, 0x2f, 0xef, 0x29, 0x7a, 0x06, 0xba, 0x81, 0x68, 0x5e, 0x66, 0x0c, 0x33, 0x2d, 0xe3,
    0x6d, 0x5d, 0x18, 0xd5, 0x46, 0x92, 0x7d, 0x30, 0xda, 0xad, 0x6d, 0x7f, 0xda, 0x15, 0x41,
]);

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 {
        return None;
    }
    let mut bytes = [0_u8; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_rubbish_is_refused() {
        let text = ZERO_BLOCK_SHA256.to_string();
        assert_eq!(text.parse::<Sha256Digest>().unwrap(), ZERO_BLOCK_SHA256);
        assert!("07854d".parse::<ChunkId>().is_err());
        assert!("zz".repeat(32).parse::<PageId>().is_err());
    }
}
