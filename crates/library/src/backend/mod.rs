//! Where packs and recovery-point objects live: a flat set of named, immutable objects.
//!
//! The trait is the seam between the library and a disk or an object store. An object appears whole or not at
//! all, and is never changed; there is no rename, no append and no locking here. Calls block; they may come from
//! many threads. [`DiskBackend`] is the real one of this crate, [`MemoryBackend`] its twin in memory,
//! [`FaultBackend`] a decorator that makes either fail.

mod conformance;
mod disk;
mod fault;
mod memory;
mod name;

use std::fmt::Debug;

use thiserror::Error;

pub use conformance::check_backend;
pub use disk::DiskBackend;
pub use fault::{FaultBackend, FaultPlan};
pub use memory::MemoryBackend;
pub use name::ObjectName;

/// A named set of immutable objects.
pub trait Backend: Send + Sync + Debug {
    /// Starts an object. Nothing is visible under the name until [`ObjectWriter::finish`]; an object that is
    /// there already is replaced whole.
    ///
    /// # Errors
    /// The object cannot be started.
    fn create(&self, name: &ObjectName) -> Result<Box<dyn ObjectWriter>, BackendError>;

    /// Stores a whole object; durable when it returns.
    ///
    /// # Errors
    /// As [`Backend::create`], [`ObjectWriter::write`] and [`ObjectWriter::finish`].
    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), BackendError> {
        let mut writer = self.create(name)?;
        writer.write(bytes)?;
        writer.finish()
    }

    /// Exactly `len` bytes from `offset`; fewer there is [`BackendError::Short`].
    ///
    /// # Errors
    /// The object is not there, is shorter, or cannot be read.
    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, BackendError>;

    /// Length of the object in bytes.
    ///
    /// # Errors
    /// [`BackendError::NotFound`], or it cannot be asked.
    fn size(&self, name: &ObjectName) -> Result<u64, BackendError>;

    /// Calls `visit` with name and length of every finished object whose name starts with `prefix`, in any order.
    ///
    /// # Errors
    /// The first of its own errors or of `visit`'s.
    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(ObjectName, u64) -> Result<(), BackendError>,
    ) -> Result<(), BackendError>;

    /// Removes an object; one that is not there is removed already.
    ///
    /// # Errors
    /// It cannot be removed.
    fn delete(&self, name: &ObjectName) -> Result<(), BackendError>;

    /// Removes what a crash left of unfinished objects. Called once, at open, when no writer exists. Returns how
    /// many were removed.
    ///
    /// # Errors
    /// They cannot be found or removed.
    fn remove_unfinished(&self) -> Result<u64, BackendError>;

    /// Bytes that can still be stored, where that is known.
    ///
    /// # Errors
    /// It cannot be asked.
    fn free_bytes(&self) -> Result<Option<u64>, BackendError>;
}

/// An object being written. Dropped without [`ObjectWriter::finish`] it leaves nothing behind.
pub trait ObjectWriter: Send {
    /// Appends.
    ///
    /// # Errors
    /// The bytes cannot be stored; the writer is then of no more use.
    fn write(&mut self, bytes: &[u8]) -> Result<(), BackendError>;

    /// Makes the object visible; it survives a power cut when this returns.
    ///
    /// # Errors
    /// It cannot be made durable; it may or may not appear.
    fn finish(self: Box<Self>) -> Result<(), BackendError>;
}

/// Why a backend could not do a thing to an object.
#[derive(Debug, Error)]
pub enum BackendError {
    /// There is no such object.
    #[error("object {name} is not there")]
    NotFound {
        /// The object.
        name: String,
    },
    /// The object ends before the range that was asked.
    #[error("object {name} is too short for {len} bytes at offset {offset}")]
    Short {
        /// The object.
        name: String,
        /// Where the range starts.
        offset: u64,
        /// How long the range is.
        len: usize,
    },
    /// No room is left.
    #[error("no space left to {action} {name}; free some space or delete recovery points, then try again")]
    NoSpace {
        /// What was being done.
        action: &'static str,
        /// The object.
        name: String,
    },
    /// The name is not of the form names have.
    #[error(
        "{name:?} is not an object name: 1 to 200 of a-z, 0-9, '-', '_', '.', '/' without empty or dotted parts"
    )]
    InvalidName {
        /// What was given, cut to 64 characters.
        name: String,
    },
    /// Anything else.
    #[error("cannot {action} {name}: {source}")]
    Other {
        /// What was being done.
        action: &'static str,
        /// The object, or the path.
        name: String,
        /// Whether the same call may work later.
        retryable: bool,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl BackendError {
    /// Whether the same call may work later.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Other { retryable, .. } => *retryable,
            Self::NotFound { .. } | Self::Short { .. } | Self::InvalidName { .. } => false,
        }
    }

    /// The error of an I/O call on `name`; a full disk or quota becomes [`BackendError::NoSpace`].
    #[must_use]
    pub fn from_io(action: &'static str, name: impl ToString, source: std::io::Error) -> Self {
        use std::io::ErrorKind;
        let name = name.to_string();
        match source.kind() {
            ErrorKind::NotFound => Self::NotFound { name },
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::NoSpace { action, name },
            _ => Self::Other { action, name, retryable: true, source: Box::new(source) },
        }
    }
}
