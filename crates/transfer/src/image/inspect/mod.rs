//! Looks at an image before it is used: which format, which size, and whether the file is what its headers claim.

mod qcow2;
mod vhd;
mod vmdk;

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use super::ImageFormat;
use super::vhd::COOKIE;
use crate::error::{ErrorClass, TransferError};
use crate::file::{failed, os};

/// What an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageInfo {
    /// Its format.
    pub format: ImageFormat,
    /// Which kind of the format: `raw`, `qcow2 v2`, `qcow2 v3`, `fixed`, `dynamic`, `streamOptimized`,
    /// `monolithicSparse`.
    pub variant: &'static str,
    /// Bytes of the disk in it.
    pub virtual_size: u64,
    /// Bytes of the file, holes included.
    pub file_len: u64,
}

/// Recognises the format, checks the headers and their checksums, and that everything the tables name lies within
/// the file. A raw image has nothing to check but that it is whole sectors. Reads the tables, in steps: not for a
/// thread that runs futures.
///
/// # Errors
/// The file cannot be read; `Invalid` when it is of no format that is known or needs another file, `Corrupt` when it
/// is truncated or contradicts itself. The message names the file and what is wrong.
pub fn inspect_image(path: impl AsRef<Path>) -> Result<ImageInfo, TransferError> {
    let path = path.as_ref();
    let mut file = File::open(path).map_err(|cause| failed("open", path, &cause))?;
    let len = file.seek(SeekFrom::End(0)).map_err(|cause| failed("measure", path, &cause))?;
    let image = Image { file, path, len };
    let head = image.read(0, 512.min(len))?;
    let last = image.read(len.saturating_sub(512), 512.min(len))?;
    if head.starts_with(&super::qcow2::MAGIC) {
        qcow2::inspect(&image)
    } else if head.starts_with(&super::vmdk::MAGIC) {
        vmdk::inspect(&image, &head)
    } else if head.starts_with(COOKIE) || last.starts_with(COOKIE) {
        vhd::inspect(&image, &head, &last)
    } else if let Some(other) = other_format(&head) {
        Err(image.invalid(format!("is {other}: convert it to raw, qcow2, VHD or a one-file VMDK")))
    } else if len == 0 || !len.is_multiple_of(512) {
        let what = "has no format that is known, and is no raw image either: not a multiple of 512";
        Err(image.invalid(format!("of {len} bytes {what}")))
    } else {
        Ok(ImageInfo { format: ImageFormat::Raw, variant: "raw", virtual_size: len, file_len: len })
    }
}

/// Formats that are known not to be taken, so that they are not taken for raw.
fn other_format(head: &[u8]) -> Option<&'static str> {
    const OTHERS: [(&[u8], &str); 6] = [
        (b"vhdxfile", "a VHDX"),
        (b"# Disk DescriptorFile", "a VMDK descriptor, without its data"),
        (b"COWD", "a VMDK of ESX 2"),
        (b"<<< ", "a VDI"),
        (b"QED\0", "a QED"),
        (b"WithoutFreeSpace", "a Parallels image"),
    ];
    OTHERS.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| *name)
}

/// An open image.
struct Image<'a> {
    file: File,
    path: &'a Path,
    len: u64,
}

impl Image<'_> {
    /// Bytes that must be there.
    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, TransferError> {
        self.must_hold(offset, len, "a header or table")?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        os::read_exact_at(&self.file, &mut bytes, offset)
            .map_err(|cause| failed("read", self.path, &cause).context(format!("at byte {offset}")))?;
        Ok(bytes)
    }

    /// Reads a table in steps of 64 KiB, or less at its end.
    fn each_step(
        &self,
        offset: u64,
        len: u64,
        mut step: impl FnMut(&[u8]) -> Result<(), TransferError>,
    ) -> Result<(), TransferError> {
        self.must_hold(offset, len, "a table")?;
        let mut done = 0;
        while done < len {
            let n = (len - done).min(65_536);
            step(&self.read(offset + done, n)?)?;
            done += n;
        }
        Ok(())
    }

    /// The file has these bytes.
    fn must_hold(&self, offset: u64, len: u64, what: &str) -> Result<(), TransferError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(self.corrupt(format!(
                "has {} bytes, but {what} of {len} bytes at {offset}: it is truncated, or lies about its size",
                self.len
            ))),
        }
    }

    fn corrupt(&self, what: impl std::fmt::Display) -> TransferError {
        TransferError::new(ErrorClass::Corrupt, format!("the image {} {what}", self.path.display()))
    }

    fn invalid(&self, what: impl std::fmt::Display) -> TransferError {
        TransferError::new(ErrorClass::Invalid, format!("the image {} {what}", self.path.display()))
    }
}
