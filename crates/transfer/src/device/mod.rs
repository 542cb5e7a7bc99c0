//! A block device that is attached to this machine, as source and target: HotAdd. Direct I/O keeps the page cache
//! out of the way; where it is not to be had (a file on some file systems) the same calls go through it.
//!
//! A device knows no holes. A source is told by a listing what to read; a target on which old data may lie asks for
//! the source's holes and overwrites them, so that nothing of the old shows through.

mod source;
mod target;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::Path;

use snapferry_types::BLOCK_SIZE;

use crate::error::{ErrorClass, TransferError};
use crate::file::{failed, os};

pub use source::DeviceSource;
pub use target::{DeviceTarget, Overwrite};

/// Opens a device, or a file that stands for one, of at least `n_blocks`.
fn open(path: &Path, n_blocks: u32, is_written: bool) -> Result<File, TransferError> {
    let (file, is_direct) =
        os::open_direct(path, is_written).map_err(|cause| failed("open", path, &cause))?;
    if !is_direct {
        tracing::info!(device = %path.display(), "no direct I/O here, the page cache is used");
    }
    let len = os::length(&file, path).map_err(|cause| failed("measure", path, &cause))?;
    let wanted = u64::from(n_blocks) * BLOCK_SIZE as u64;
    if len < wanted {
        let message = format!(
            "{} has {len} bytes, the volume {wanted} ({n_blocks} blocks of 512 KiB): is it the right device?",
            path.display()
        );
        return Err(TransferError::new(ErrorClass::Invalid, message));
    }
    Ok(file)
}
