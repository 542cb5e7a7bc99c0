//! Whether a VHD file is what it claims.

use super::{Image, ImageInfo};
use crate::error::TransferError;
use crate::image::ImageFormat;
use crate::image::fields::{be32, be64};
use crate::image::vhd::{
    COOKIE, DYNAMIC, FOOTER_SUM_AT, HEADER_COOKIE, HEADER_LEN, HEADER_SUM_AT, MAX_GIB, UNUSED, checksum,
};

const FIXED: u32 = 2;

pub(super) fn inspect(image: &Image<'_>, head: &[u8], last: &[u8]) -> Result<ImageInfo, TransferError> {
    if !last.starts_with(COOKIE) {
        return Err(image.corrupt("is a VHD without the footer at its end: it is truncated"));
    }
    if be32(last, FOOTER_SUM_AT) != checksum(last, FOOTER_SUM_AT) {
        return Err(image.corrupt("has a VHD footer whose checksum is wrong"));
    }
    let (size, kind) = (be64(last, 48), be32(last, 60));
    if size == 0 || !size.is_multiple_of(512) || size > u64::from(MAX_GIB) << 30 {
        return Err(image.corrupt(format!("claims {size} bytes, which a VHD cannot have")));
    }
    let variant = match kind {
        FIXED if image.len == size + 512 => "fixed",
        FIXED => {
            let what = format!("claims {size} bytes, but its file has {} and a footer of 512", image.len);
            return Err(image.corrupt(what));
        }
        DYNAMIC => {
            check_dynamic(image, head, last, size)?;
            "dynamic"
        }
        4 => return Err(image.invalid("is a differencing VHD and needs its parent: merge them first")),
        other => return Err(image.corrupt(format!("says it is a VHD of kind {other}, which there is not"))),
    };
    Ok(ImageInfo { format: ImageFormat::Vhd, variant, virtual_size: size, file_len: image.len })
}

fn check_dynamic(image: &Image<'_>, head: &[u8], last: &[u8], size: u64) -> Result<(), TransferError> {
    if !head.starts_with(COOKIE) || be32(head, FOOTER_SUM_AT) != checksum(head, FOOTER_SUM_AT) {
        return Err(image.corrupt("lacks the VHD footer's copy at its start, or its checksum is wrong"));
    }
    if be64(head, 48) != size {
        return Err(
            image.corrupt(format!("claims {size} bytes at its end and {} at its start", be64(head, 48)))
        );
    }
    let header = image.read(be64(last, 16), HEADER_LEN as u64)?;
    if !header.starts_with(HEADER_COOKIE) || be32(&header, HEADER_SUM_AT) != checksum(&header, HEADER_SUM_AT)
    {
        return Err(image.corrupt("has a VHD header that is none, or whose checksum is wrong"));
    }
    let (n_entries, block) = (u64::from(be32(&header, 28)), u64::from(be32(&header, 32)));
    if block < 512 || !block.is_power_of_two() || n_entries.saturating_mul(block) < size {
        let what = format!("claims {size} bytes, but has {n_entries} blocks of {block}");
        return Err(image.corrupt(what));
    }
    let bitmap = (block / 512).div_ceil(8).next_multiple_of(512);
    image.each_step(be64(&header, 16), n_entries * 4, |bat| {
        for sector in bat.chunks_exact(4).map(|entry| be32(entry, 0)).filter(|sector| *sector != UNUSED) {
            image.must_hold(u64::from(sector) * 512, bitmap + block + 512, "a block and the footer")?;
        }
        Ok(())
    })
}
