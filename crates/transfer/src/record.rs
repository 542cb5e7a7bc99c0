//! The sealed record: how a chunk, or the secret part of a leaf page, lies in the library.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | compression of the content: 0 none, 1 one zstd frame |
//! | 2 | 2 | zero |
//! | 4 | 4 | plain length in bytes, little endian: of the content before compression, at most 524,288 |
//! | 8 | 12 | nonce, random |
//! | 20 | n | content, AES-256-GCM |
//! | 20 + n | 16 | tag; bytes 0 to 7 of the record are the associated data |
//!
//! A record never grows its content by more than 36 bytes. The reader refuses an unknown version or compression, a
//! bit set in the zero bytes and a length past the limit before it decrypts anything.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use thiserror::Error;

/// Bytes before the content.
pub const HEADER_BYTES: usize = 20;
/// Bytes after the content.
pub const TAG_BYTES: usize = 16;
/// Longest plain content.
pub const MAX_PLAIN_BYTES: usize = snapferry_types::BLOCK_SIZE;
/// Longest record.
pub const MAX_RECORD_BYTES: usize = HEADER_BYTES + MAX_PLAIN_BYTES + TAG_BYTES;

const VERSION: u8 = 1;
const AAD_BYTES: usize = 8;
const NONCE_BYTES: usize = 12;

/// What is wrong with a sealed record, or with what was to become one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SealError {
    /// Shorter than its fixed parts, longer than allowed, or of a layout this does not read.
    #[error("{what} is no sealed record of version {VERSION}: {why}")]
    Malformed {
        /// The chunk or page.
        what: String,
        /// What does not fit.
        why: String,
    },
    /// The tag does not fit: other bytes, another name, or other keys.
    #[error(
        "{what} does not open with this tenant's keys: its bytes were changed, or the keys are another tenant's"
    )]
    NotAuthentic {
        /// The chunk or page.
        what: String,
    },
    /// It opened, but is not what its name or digest says.
    #[error("{what} holds other bytes than its manifest says: {why}")]
    WrongContent {
        /// The chunk or page.
        what: String,
        /// How it differs.
        why: String,
    },
    /// The caller handed over something that cannot be sealed.
    #[error("{what} cannot be sealed: {why}")]
    Unsealable {
        /// The chunk or page.
        what: String,
        /// The limit it breaks.
        why: String,
    },
    /// The cryptographic library or zstd refused; memory or its random source.
    #[error("{what}: {step} failed: {cause}")]
    Engine {
        /// The chunk or page.
        what: String,
        /// Which step.
        step: &'static str,
        /// What the library said.
        cause: String,
    },
}

impl SealError {
    /// Whether doing it again may help: only where the machine, not the bytes, was at fault.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Engine { .. })
    }
}

/// How the content is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Zstd,
}

impl Compression {
    const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Zstd => 1,
        }
    }
}

/// The parts of a record that passed the checks of its layout.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) compression: Compression,
    pub(crate) plain_len: usize,
    aad: &'a [u8],
    nonce: [u8; NONCE_BYTES],
    pub(crate) content: &'a [u8],
    tag: &'a [u8],
}

/// Length of a record with this much content.
pub(crate) const fn record_len(content_len: usize) -> usize {
    HEADER_BYTES + content_len + TAG_BYTES
}

/// Makes a record of `content` in `record`, which is [`record_len`] long; encrypts straight into it.
pub(crate) fn seal(
    what: &dyn std::fmt::Display,
    key: &[u8; 32],
    nonce: [u8; NONCE_BYTES],
    compression: Compression,
    plain_len: usize,
    content: &[u8],
    record: &mut [u8],
) -> Result<(), SealError> {
    let misfit = || SealError::Unsealable {
        what: what.to_string(),
        why: format!("{plain_len} bytes, at most {MAX_PLAIN_BYTES} are allowed"),
    };
    if plain_len > MAX_PLAIN_BYTES || content.len() > plain_len || record.len() != record_len(content.len()) {
        return Err(misfit());
    }
    let [l0, l1, l2, l3] = u32::try_from(plain_len).map_err(|_| misfit())?.to_le_bytes();
    let fixed = [VERSION, compression.code(), 0, 0, l0, l1, l2, l3];
    let (header, rest) = record.split_at_mut(HEADER_BYTES);
    let (aad, nonce_place) = header.split_at_mut(AAD_BYTES);
    aad.copy_from_slice(&fixed);
    nonce_place.copy_from_slice(&nonce);
    let (body, tag) = rest.split_at_mut(content.len());
    opened_key(what, key)?
        .seal_out_of_place_scatter(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(fixed),
            content,
            body,
            &[],
            tag,
        )
        .map_err(|cause| engine(what, "encryption", &cause))
}

/// Takes a record apart, strictly.
pub(crate) fn parse<'a>(what: &dyn std::fmt::Display, record: &'a [u8]) -> Result<Parts<'a>, SealError> {
    let malformed = |why: String| SealError::Malformed { what: what.to_string(), why };
    if record.len() > MAX_RECORD_BYTES {
        return Err(malformed(format!("{} bytes, at most {MAX_RECORD_BYTES} are allowed", record.len())));
    }
    let short = || malformed(format!("{} bytes are too few", record.len()));
    let (aad, rest) = record.split_at_checked(AAD_BYTES).ok_or_else(short)?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>().ok_or_else(short)?;
    let body_len = rest.len().checked_sub(TAG_BYTES).ok_or_else(short)?;
    let (content, tag) = rest.split_at_checked(body_len).ok_or_else(short)?;
    let &[version, compression, zero_a, zero_b, l0, l1, l2, l3] = aad else { return Err(short()) };
    if version != VERSION {
        return Err(malformed(format!("its version is {version}")));
    }
    let compression = match compression {
        0 => Compression::None,
        1 => Compression::Zstd,
        other => return Err(malformed(format!("its compression is {other}"))),
    };
    if zero_a != 0 || zero_b != 0 {
        return Err(malformed("a reserved byte is not zero".to_owned()));
    }
    let plain_len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    let fits = match compression {
        Compression::None => content.len() == plain_len,
        Compression::Zstd => content.len() < plain_len,
    };
    if plain_len > MAX_PLAIN_BYTES || !fits {
        return Err(malformed(format!(
            "a plain length of {plain_len} with {} bytes of content",
            content.len()
        )));
    }
    Ok(Parts { compression, plain_len, aad, nonce: *nonce, content, tag })
}

impl Parts<'_> {
    /// Decrypts into `out`, as long as the content. On an error `out` holds nothing to be used.
    pub(crate) fn open_into(
        &self,
        what: &dyn std::fmt::Display,
        key: &[u8; 32],
        out: &mut [u8],
    ) -> Result<(), SealError> {
        opened_key(what, key)?
            .open_separate_gather(
                Nonce::assume_unique_for_key(self.nonce),
                Aad::from(self.aad),
                self.content,
                self.tag,
                out,
            )
            .map_err(|_| SealError::NotAuthentic { what: what.to_string() })
    }
}

pub(crate) fn engine(
    what: &dyn std::fmt::Display,
    step: &'static str,
    cause: &dyn std::fmt::Display,
) -> SealError {
    SealError::Engine { what: what.to_string(), step, cause: cause.to_string() }
}

fn opened_key(what: &dyn std::fmt::Display, key: &[u8; 32]) -> Result<LessSafeKey, SealError> {
    UnboundKey::new(&AES_256_GCM, key)
        .map(LessSafeKey::new)
        .map_err(|cause| engine(what, "preparing the key", &cause))
}
