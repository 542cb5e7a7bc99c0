//! Why the library could not do a thing: each error names the thing, the cause and the way out.

use std::path::PathBuf;

use snapferry_types::{ChunkId, Fence, RecoveryPointId, SessionId};
use thiserror::Error;

use crate::backend::BackendError;
use crate::codec::Malformed;
use crate::pack::RecordKey;

/// Why the library could not do a thing.
#[derive(Debug, Error)]
pub enum Error {
    /// The objects cannot be read or written.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The index cannot be read or written.
    #[error(
        "cannot {action} the index: {source}; if this stays after a restart, rebuild the index from the packs"
    )]
    Index {
        /// What was being done.
        action: &'static str,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process has the library.
    #[error(
        "library {dir} is open in another process: stop that MediaAgent, or give this one its own folder"
    )]
    Locked {
        /// Folder of the library.
        dir: PathBuf,
    },
    /// The folder cannot be used.
    #[error("cannot use library folder {dir}: {source}")]
    Folder {
        /// Folder of the library.
        dir: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A setting is out of range.
    #[error("setting {setting} of the library is out of range: {why}")]
    Config {
        /// The setting.
        setting: &'static str,
        /// What it may be.
        why: String,
    },
    /// Index and objects are of different libraries.
    #[error(
        "the index in {dir} is of library {index_id}, the objects are of library {objects_id}: check folder and bucket; to read the objects, give an empty index folder"
    )]
    WrongLibrary {
        /// Folder of the library.
        dir: PathBuf,
        /// Id in the index.
        index_id: String,
        /// Id in the objects.
        objects_id: String,
    },
    /// Less space is free than the library keeps in reserve.
    #[error(
        "only {free_bytes} bytes are free and {reserve_bytes} are kept in reserve: free some space or delete recovery points and collect garbage, then try again"
    )]
    NoSpace {
        /// Free bytes, of objects or of the index.
        free_bytes: u64,
        /// What is kept free.
        reserve_bytes: u64,
    },
    /// Stored bytes of the index do not read.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// A leaf page that was offered is not one, or not of its place.
    #[error("leaf {leaf_index} of volume {volume} is refused: {why}")]
    InvalidLeaf {
        /// The volume.
        volume: String,
        /// Its place.
        leaf_index: u32,
        /// What is wrong.
        why: String,
    },
    /// A request is outside its limits.
    #[error("{what} is refused: {why}")]
    InvalidRequest {
        /// The part of the request.
        what: &'static str,
        /// What it may be.
        why: String,
    },
    /// Something that is counted has reached its limit.
    #[error("{what} has reached its limit of {limit}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// No such session: never opened, expired, or abandoned.
    #[error("there is no session {0}: open one by the task's key")]
    UnknownSession(SessionId),
    /// A newer owner has the session.
    #[error("the fence {}.{} is stale: {}.{} holds the session; stop this attempt", offered.generation, offered.epoch, held.generation, held.epoch)]
    StaleFence {
        /// The newest fence seen.
        held: Fence,
        /// The caller's.
        offered: Fence,
    },
    /// The session of that key is of other volumes.
    #[error("session key {key:?} is in use for something else ({why}): a key is for one task")]
    SessionMismatch {
        /// The key.
        key: String,
        /// What differs.
        why: String,
    },
    /// Leaves that were not yet flushed are lost, because their chunks could not be stored.
    #[error("session {0} lost what was not flushed: open it again and go on from its sealed leaves")]
    Rewound(SessionId),
    /// The session has no such volume.
    #[error("there is no volume {0:?} here")]
    UnknownVolume(String),
    /// A leaf refers to chunks that are not stored.
    #[error("{} chunks of the leaf are not stored, the first is {}: put them and then the leaf again", ids.len(), ids.first().map(ToString::to_string).unwrap_or_default())]
    MissingChunks {
        /// The chunks, at most 1,024.
        ids: Vec<ChunkId>,
    },
    /// No such recovery point.
    #[error("there is no recovery point {0} in this library")]
    UnknownRecoveryPoint(RecoveryPointId),
    /// Nothing is stored under that name.
    #[error("{0} is not in this library")]
    NotStored(RecordKey),
    /// What is stored is not what was stored. Never answered with bytes.
    #[error(
        "{key} is damaged in pack {pack} at offset {offset}: {why}; ask which recovery points are affected; a new full backup of them stores it again"
    )]
    Damaged {
        /// What was read.
        key: RecordKey,
        /// The pack's number.
        pack: u64,
        /// Where its header starts in the pack.
        offset: u32,
        /// What is wrong.
        why: String,
    },
    /// Garbage cannot be told from what is used, because a page does not read.
    #[error(
        "garbage cannot be collected while {key} of {owner} does not read ({why}): delete or back up again what is affected, or collect with damaged pages ignored"
    )]
    CannotMark {
        /// The page.
        key: RecordKey,
        /// Who refers to it.
        owner: String,
        /// The cause.
        why: String,
    },
    /// Another collection or scrub is running.
    #[error("{0} is already running")]
    Busy(&'static str),
    /// The caller asked to stop.
    #[error("stopped on request")]
    Cancelled,
}

impl Error {
    /// Whether the same call may work later, without anything else being repaired first.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Backend(cause) => cause.retryable(),
            Self::Index { .. }
            | Self::NoSpace { .. }
            | Self::Rewound(_)
            | Self::Busy(_)
            | Self::MissingChunks { .. } => true,
            Self::TooMany { .. } => true,
            Self::Locked { .. }
            | Self::Folder { .. }
            | Self::Config { .. }
            | Self::WrongLibrary { .. }
            | Self::Malformed(_)
            | Self::InvalidLeaf { .. }
            | Self::InvalidRequest { .. }
            | Self::UnknownSession(_)
            | Self::StaleFence { .. }
            | Self::SessionMismatch { .. }
            | Self::UnknownVolume(_)
            | Self::UnknownRecoveryPoint(_)
            | Self::NotStored(_)
            | Self::Damaged { .. }
            | Self::CannotMark { .. }
            | Self::Cancelled => false,
        }
    }

    /// Whether the cause is a full disk.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::Backend(BackendError::NoSpace { .. }))
    }

    pub(crate) fn index(action: &'static str) -> impl FnOnce(fjall::Error) -> Self {
        move |source| match source {
            fjall::Error::Io(e) if e.kind() == std::io::ErrorKind::StorageFull => {
                Self::Backend(BackendError::NoSpace { action, name: "the index".to_owned() })
            }
            source => Self::Index { action, source: Box::new(source) },
        }
    }

    pub(crate) fn invalid(what: &'static str, why: impl Into<String>) -> Self {
        Self::InvalidRequest { what, why: why.into() }
    }
}
