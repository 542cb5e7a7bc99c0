//! Why an import does not come to a snapshot, and how its task says so.

use std::io;

use crate::store::StoreError;
use crate::world::ImageFormat;

/// An image file that is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageError {
    /// Not this format, or a kind of it that is not imported.
    #[error("Unsupported {format} File Format] {what}")]
    Unsupported { format: ImageFormat, what: String },
    /// It ends before it should.
    #[error("Truncated {format} File] {what} ends at byte {end}, the file at byte {size_bytes}")]
    Truncated { format: ImageFormat, what: String, end: u64, size_bytes: u64 },
    /// It contradicts itself.
    #[error("Damaged {format} File] {what}")]
    Damaged { format: ImageFormat, what: String },
    /// No snapshot has such a size.
    #[error("Unsupported Disk Size] the disk has {size_bytes} bytes; 1 byte to 64 TiB can be imported")]
    DiskSize { size_bytes: u64 },
    /// The object cannot be read.
    #[error("Unreadable File] {0}")]
    Read(#[source] io::Error),
}

/// An import that ends without a snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportError {
    #[error("ClientError: Disk validation failed [{0}")]
    Image(#[from] ImageError),
    /// The object went away between the call and the work.
    #[error("ClientError: The object {bucket}/{key} does not exist any more")]
    ObjectGone { bucket: String, key: String },
    /// A fault rule said so.
    #[error("{code}: {message}")]
    Refused { code: String, message: String },
    #[error("ServerError: the block store failed to {0}")]
    Store(#[from] StoreError),
    /// The call knew already: its key cannot be used.
    #[error("{0}")]
    Foretold(String),
    /// The work itself broke.
    #[error("ServerError: {0}")]
    Broken(String),
    /// CancelImportTask.
    #[error("Import cancelled by user")]
    Cancelled,
    /// The server stops; the next start takes the task up again.
    #[error("the server stops")]
    Stopping,
}
