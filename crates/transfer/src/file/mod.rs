//! A raw disk image, or a block device, as source and target. The bytes of the image are the bytes of the volume;
//! what the file system knows to be a hole is a hole. A device has no holes.

pub(crate) mod os;
mod source;
mod target;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use crate::error::{ErrorClass, TransferError};

pub use source::FileSource;
pub use target::FileTarget;

/// Reads or writes at once: enough to keep a disk busy.
const IN_FLIGHT: usize = 16;

pub(crate) fn failed(doing: &str, path: &Path, cause: &io::Error) -> TransferError {
    let class = match cause.kind() {
        io::ErrorKind::NotFound => ErrorClass::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorClass::AccessDenied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorClass::StorageFull,
        io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory => ErrorClass::Invalid,
        _ => ErrorClass::Unavailable,
    };
    TransferError::new(class, format!("{doing} {}: {cause}", path.display()))
}

/// Runs a disk call on a blocking thread; the number at once is bounded by who calls.
pub(crate) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, TransferError> + Send + 'static,
) -> Result<T, TransferError> {
    let died = |cause| TransferError::new(ErrorClass::Internal, format!("a disk call died: {cause}"));
    tokio::task::spawn_blocking(call).await.map_err(died)?
}
