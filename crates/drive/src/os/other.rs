//! Systems that have no such drives: both calls fail, so that what uses them is compiled and tested everywhere.

use std::io;
use std::path::Path;

/// On Windows, the bytes of a drive's STORAGE_DEVICE_DESCRIPTOR.
///
/// # Errors
/// Always [`io::ErrorKind::Unsupported`] here.
pub fn descriptor(_drive: &Path) -> io::Result<Vec<u8>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// On Windows, the length of a drive in bytes.
///
/// # Errors
/// Always [`io::ErrorKind::Unsupported`] here.
pub fn length(_drive: &Path) -> io::Result<u64> {
    Err(io::ErrorKind::Unsupported.into())
}
