//! What can go wrong in the block store, named so that a caller can turn it into the error AWS would answer.

use std::io;
use std::path::{Path, PathBuf};

/// An error of [`super::BlockStore`].
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The id cannot be a file name: ids are 1 to 64 characters of `A-Z a-z 0-9 - _`.
    #[error("use id `{0}`: ids have 1 to 64 characters of A-Z, a-z, 0-9, `-` and `_`")]
    BadId(String),
    /// No such volume.
    #[error("find volume `{0}`: create it first")]
    VolumeNotFound(String),
    /// No such snapshot.
    #[error("find snapshot `{0}`: take or start it first")]
    SnapshotNotFound(String),
    /// The id is taken.
    #[error("create `{0}`: it exists already; delete it first or choose another id")]
    AlreadyExists(String),
    /// A range or index reaches past the end.
    #[error("reach {what} of `{id}`: it has {limit}")]
    OutOfRange {
        /// The volume or snapshot.
        id: String,
        /// What was asked for, with its unit.
        what: String,
        /// Where it ends, with its unit.
        limit: String,
    },
    /// The snapshot is still being written, and the call needs a finished one.
    #[error("read snapshot `{0}`: it is pending; complete it first")]
    Pending(String),
    /// The snapshot is finished, and the call needs one that is being written.
    #[error("write to snapshot `{0}`: it is not pending; start a new one")]
    NotPending(String),
    /// Another write of the same block with other content is in flight.
    #[error("write block {index} of snapshot `{id}`: another write of it is in flight; repeat this one")]
    ConflictingUpdate {
        /// The snapshot.
        id: String,
        /// The block.
        index: u32,
    },
    /// The two snapshots have no common lineage.
    #[error("compare snapshots `{first}` and `{second}`: they are not of one volume or parent chain")]
    Unrelated {
        /// The first snapshot.
        first: String,
        /// The second snapshot.
        second: String,
    },
    /// The snapshot's content is computed and cannot serve as what was asked for.
    #[error(
        "use synthetic snapshot `{0}` as a parent: its blocks are computed, not stored; use a stored one"
    )]
    Synthetic(String),
    /// A synthetic snapshot's description makes no sense.
    #[error("describe a synthetic snapshot: {0}")]
    BadSpec(String),
    /// A file of the store does not hold what it must.
    #[error("load {path}: {detail}; delete the store's folder and start afresh", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The disk said no.
    #[error("{what} {path}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// Whether the same call can succeed when repeated later without anything else being done.
    #[must_use]
    pub fn retryable(&self) -> bool {
        matches!(self, Self::ConflictingUpdate { .. } | Self::Io { .. })
    }

    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { what, path, source }
    }

    pub(super) fn damaged(path: &Path, detail: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_path_buf(), detail: detail.into() }
    }
}

/// The store's result.
pub type Result<T> = std::result::Result<T, StoreError>;
