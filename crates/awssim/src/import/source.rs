//! Where an image's bytes come from, and reading them without believing what the image says of itself.

use std::io;

use super::error::ImageError;
use crate::s3::ObjectReader;
use crate::world::ImageFormat;

/// Bytes that can be read at any place.
pub(super) trait Source {
    /// How many there are.
    fn size_bytes(&self) -> u64;

    /// Fills the buffer from `offset` on.
    fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl Source for ObjectReader {
    fn size_bytes(&self) -> u64 {
        self.size_bytes()
    }

    fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(offset, buffer)
    }
}

/// An image file.
#[derive(Debug)]
pub(super) struct ImageFile<S> {
    source: S,
    format: ImageFormat,
}

impl<S: Source> ImageFile<S> {
    pub(super) fn new(source: S, format: ImageFormat) -> Self {
        Self { source, format }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.source.size_bytes()
    }

    /// Fills the buffer from `offset` on; `what` names it when it is not there.
    pub(super) fn read(&mut self, what: &str, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let length = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        self.check(what, offset, length)?;
        self.source.read_exact_at(offset, buffer).map_err(ImageError::Read)
    }

    /// Demands that the file has these bytes.
    pub(super) fn check(&self, what: &str, offset: u64, length: u64) -> Result<(), ImageError> {
        let size_bytes = self.size_bytes();
        if offset.checked_add(length).is_some_and(|end| end <= size_bytes) {
            return Ok(());
        }
        Err(ImageError::Truncated {
            format: self.format,
            what: what.to_owned(),
            end: offset.saturating_add(length),
            size_bytes,
        })
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> ImageError {
        ImageError::Damaged { format: self.format, what: what.into() }
    }

    pub(super) fn unsupported(&self, what: impl Into<String>) -> ImageError {
        ImageError::Unsupported { format: self.format, what: what.into() }
    }
}

/// Bytes of a structure that was read whole, by their place.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
    }

    pub(super) fn le32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    pub(super) fn le64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }

    pub(super) fn be32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bytes(at))
    }

    pub(super) fn be64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.bytes(at))
    }
}

#[cfg(test)]
impl Source for Vec<u8> {
    fn size_bytes(&self) -> u64 {
        u64::try_from(self.len()).unwrap()
    }

    fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&self[at..at + buffer.len()]);
        Ok(())
    }
}
