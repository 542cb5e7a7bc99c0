//! S3 as it is written down: buckets, objects, and uploads in parts. The bytes are files of [`crate::s3`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{State, World};

/// A bucket: a name that is unique in the world, owned by one account, in one region.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bucket {
    pub(crate) account: String,
    pub(crate) region: String,
    pub(crate) created_ms: u64,
    pub(crate) objects: BTreeMap<String, Object>,
}

/// An object: its pieces in order are its bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Object {
    pub(crate) pieces: Vec<Piece>,
    /// Without quotes.
    pub(crate) etag: String,
    pub(crate) modified_ms: u64,
    /// Headers that are given back with the object, such as `content-type` and `x-amz-meta-…`.
    pub(crate) headers: BTreeMap<String, String>,
}

impl Object {
    pub(crate) fn size_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.size_bytes).sum()
    }
}

/// A file of bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Piece {
    pub(crate) file: String,
    pub(crate) size_bytes: u64,
}

/// An upload in parts that is neither completed nor aborted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Upload {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) account: String,
    pub(crate) started_ms: u64,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) parts: BTreeMap<u32, Part>,
}

/// A part that has arrived.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) piece: Piece,
    /// Without quotes.
    pub(crate) etag: String,
    pub(crate) modified_ms: u64,
}

/// A bucket that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateBucketError {
    /// Names have 3 to 63 lower-case letters, digits, dots and hyphens, and start and end with a letter or digit.
    #[error("create bucket `{0}`: a name has 3 to 63 characters of a-z, 0-9, `.` and `-`")]
    BadName(String),
    /// The same account has it.
    #[error("create bucket `{0}`: the account has it already")]
    Owned(String),
    /// Another account has it.
    #[error("create bucket `{0}`: another account has it")]
    Taken(String),
}

impl World {
    /// Makes an empty bucket of an account in a region.
    ///
    /// # Errors
    /// [`CreateBucketError`].
    pub fn create_bucket(&self, account: &str, region: &str, name: &str) -> Result<(), CreateBucketError> {
        if !is_bucket_name(name) {
            return Err(CreateBucketError::BadName(name.to_owned()));
        }
        let created_ms = self.now_ms();
        self.change(|state| {
            match state.buckets.get(name) {
                Some(bucket) if bucket.account == account => {
                    return Err(CreateBucketError::Owned(name.to_owned()));
                }
                Some(_) => return Err(CreateBucketError::Taken(name.to_owned())),
                None => {}
            }
            state.add_account(account);
            let bucket = Bucket {
                account: account.to_owned(),
                region: region.to_owned(),
                created_ms,
                objects: BTreeMap::new(),
            };
            state.buckets.insert(name.to_owned(), bucket);
            Ok(())
        })
    }
}

impl State {
    /// Every file that an object or a part of an upload points at.
    pub(crate) fn object_files(&self) -> impl Iterator<Item = &str> {
        let objects = self.buckets.values().flat_map(|bucket| bucket.objects.values());
        let pieces = objects.flat_map(|object| &object.pieces);
        let parts = self.uploads.values().flat_map(|upload| upload.parts.values());
        pieces.chain(parts.map(|part| &part.piece)).map(|piece| piece.file.as_str())
    }
}

fn is_bucket_name(name: &str) -> bool {
    let is_alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_good = |c: u8| is_alphanumeric(c) || c == b'-' || c == b'.';
    (3..=63).contains(&name.len())
        && name.bytes().all(is_good)
        && name.bytes().next().is_some_and(is_alphanumeric)
        && name.bytes().last().is_some_and(is_alphanumeric)
}
