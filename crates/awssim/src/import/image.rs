//! An opened image of any format, as the disk that it holds: its size, and its bytes block by block in order.

use super::error::ImageError;
use super::source::{ImageFile, Source};
use super::vhd::Vhd;
use super::vmdk::Vmdk;
use crate::world::ImageFormat;

/// Largest disk: an EBS volume's largest size, 64 TiB.
const MOST_DISK_BYTES: u64 = 64 << 40;

/// The disk in an image file.
pub(super) enum Image<S> {
    /// The file is the disk.
    Raw(ImageFile<S>),
    Vhd(Vhd<S>),
    Vmdk(Vmdk<S>),
}

impl<S: Source> Image<S> {
    /// Reads the image's heads and checks them against each other and the file.
    pub(super) fn open(source: S, format: ImageFormat) -> Result<Self, ImageError> {
        let file = ImageFile::new(source, format);
        let image = match format {
            ImageFormat::Raw => Self::Raw(file),
            ImageFormat::Vhd => Self::Vhd(Vhd::open(file)?),
            ImageFormat::Vmdk => Self::Vmdk(Vmdk::open(file)?),
        };
        let size_bytes = image.disk_bytes();
        if size_bytes == 0 || size_bytes > MOST_DISK_BYTES {
            return Err(ImageError::DiskSize { size_bytes });
        }
        Ok(image)
    }

    /// Bytes of the disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        match self {
            Self::Raw(file) => file.size_bytes(),
            Self::Vhd(vhd) => vhd.disk_bytes(),
            Self::Vmdk(vmdk) => vmdk.disk_bytes(),
        }
    }

    /// Fills the buffer, which comes as zeroes, with the disk's bytes from `offset` on; the range is within the disk.
    /// `false`: the image has nothing there.
    pub(super) fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<bool, ImageError> {
        match self {
            Self::Raw(file) => file.read("the disk", offset, buffer).map(|()| true),
            Self::Vhd(vhd) => vhd.read(offset, buffer),
            Self::Vmdk(vmdk) => vmdk.read(offset, buffer),
        }
    }
}

/// Runs `each` over the part of every unit (a grain, a block) that a buffer at `offset` touches: the unit's number,
/// where in the unit, and the buffer's part.
pub(super) fn by_units(
    offset: u64,
    buffer: &mut [u8],
    unit_bytes: u64,
    mut each: impl FnMut(u64, u64, &mut [u8]) -> Result<bool, ImageError>,
) -> Result<bool, ImageError> {
    let (mut offset, mut rest, mut is_any) = (offset, buffer, false);
    while !rest.is_empty() {
        let within = offset % unit_bytes;
        let here = usize::try_from(unit_bytes - within).unwrap_or(usize::MAX).min(rest.len());
        let (now, later) = rest.split_at_mut(here);
        is_any |= each(offset / unit_bytes, within, now)?;
        offset += u64::try_from(here).unwrap_or(0);
        rest = later;
    }
    Ok(is_any)
}
