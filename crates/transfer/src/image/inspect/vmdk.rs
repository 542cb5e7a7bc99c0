//! Whether a VMDK file (one that holds its own data) is what it claims.

use super::{Image, ImageInfo};
use crate::error::TransferError;
use crate::image::ImageFormat;
use crate::image::fields::{le16, le32, le64};
use crate::image::vmdk::{AT_END, COMPRESSED, DEFLATE, MAGIC, Marker, SECTOR};

pub(super) fn inspect(image: &Image<'_>, head: &[u8]) -> Result<ImageInfo, TransferError> {
    let version = le32(head, 4);
    let (flags, n_sectors) = (le32(head, 8), le64(head, 12));
    let (grain, per_table) = (le64(head, 20), u64::from(le32(head, 44)));
    let is_sane = (1..=3).contains(&version)
        && n_sectors > 0
        && n_sectors < 1 << 48
        && grain.is_power_of_two()
        && (8..=65_536).contains(&grain)
        && (1..=65_536).contains(&per_table);
    if !is_sane {
        return Err(image.corrupt(format!(
            "has a VMDK header that cannot be: version {version}, {n_sectors} sectors, grains of {grain}, tables of {per_table}"
        )));
    }
    let is_compressed = flags & COMPRESSED != 0;
    if is_compressed && le16(head, 77) != DEFLATE {
        return Err(image.invalid("is compressed in a way that is not known"));
    }
    let mut directory = le64(head, 56);
    if directory == AT_END {
        directory = from_footer(image, n_sectors)?;
    }
    let n_tables = n_sectors.div_ceil(grain).div_ceil(per_table);
    let mut last_grain = 0;
    let offset = directory.checked_mul(SECTOR).unwrap_or(u64::MAX);
    image.each_step(offset, n_tables * 4, |entries| {
        for table in
            entries.chunks_exact(4).map(|entry| u64::from(le32(entry, 0))).filter(|table| *table != 0)
        {
            image.each_step(table * SECTOR, per_table * 4, |grains| {
                let sectors = grains.chunks_exact(4).map(|entry| u64::from(le32(entry, 0)));
                last_grain = sectors.fold(last_grain, u64::max);
                Ok(())
            })?;
        }
        Ok(())
    })?;
    if last_grain > 1 {
        check_grain(image, last_grain * SECTOR, if is_compressed { None } else { Some(grain * SECTOR) })?;
    }
    let variant = if is_compressed { "streamOptimized" } else { "monolithicSparse" };
    let virtual_size = n_sectors * SECTOR;
    Ok(ImageInfo { format: ImageFormat::Vmdk, variant, virtual_size, file_len: image.len })
}

/// The last grain lies within the file, so all do.
fn check_grain(image: &Image<'_>, offset: u64, plain_len: Option<u64>) -> Result<(), TransferError> {
    let len = match plain_len {
        Some(len) => len,
        None => u64::from(le32(&image.read(offset, 12)?, 8)) + 12,
    };
    image.must_hold(offset, len, "a grain")
}

/// The directory's sector by the footer, which stands before the end-of-stream marker.
fn from_footer(image: &Image<'_>, n_sectors: u64) -> Result<u64, TransferError> {
    let end = image.read(image.len.saturating_sub(1_536), 1_536.min(image.len))?;
    let marker = end.get(..512).unwrap_or_default();
    let footer = end.get(512..1_024).unwrap_or_default();
    let is_whole = marker == Marker::Footer.sector(1)
        && footer.starts_with(&MAGIC)
        && end.get(1_024..) == Some(&Marker::EndOfStream.sector(0));
    if !is_whole {
        return Err(image.corrupt("is a stream-optimised VMDK without its footer: it is truncated"));
    }
    if le64(footer, 12) != n_sectors {
        return Err(image.corrupt("has a VMDK header and footer that contradict each other"));
    }
    Ok(le64(footer, 56))
}
