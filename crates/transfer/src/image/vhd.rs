//! The layout of a dynamic VHD, after Microsoft's "Virtual Hard Disk Image Format Specification" 1.0: a copy of the
//! footer, a header, the block allocation table (BAT), then per 2 MiB a bitmap of sectors and the data, and the
//! footer. Each 2 MiB have a place of their own; the BAT says whether it is in use, the bitmap which of its sectors.
//!
//! Readers take the size from the footer only for images of some creators, else from the geometry, which cannot
//! express most sizes: the creator is that of Hyper-V.

use std::time::{SystemTime, UNIX_EPOCH};

use snapferry_types::block::BLOCKS_PER_GIB;
use snapferry_types::{BLOCK_SIZE, BlockIndex};

use super::fields::{be32, be64, put};
use super::fixed::{Layout, Placed};
use crate::error::{ErrorClass, TransferError};

pub(super) const COOKIE: &[u8; 8] = b"conectix";
pub(super) const HEADER_COOKIE: &[u8; 8] = b"cxsparse";
pub(super) const FOOTER_LEN: usize = 512;
pub(super) const HEADER_LEN: usize = 1_024;
/// Where the checksums stand in footer and header.
pub(super) const FOOTER_SUM_AT: usize = 64;
pub(super) const HEADER_SUM_AT: usize = 36;
/// The largest disk that readers take.
pub(super) const MAX_GIB: u32 = 2_040;
pub(super) const DYNAMIC: u32 = 3;
const VERSION: u32 = 0x0001_0000;
const SECTOR: u64 = 512;
const VHD_BLOCK: u64 = 2 << 20;
const PER_VHD_BLOCK: u32 = 4;
const BAT_OFFSET: u64 = 1_536;
pub(super) const UNUSED: u32 = u32::MAX;
/// Data begins at a multiple of this, for the disk below; its bitmap stands in the sector before.
const DATA_ALIGNMENT: u64 = 4_096;
/// Seconds from 1970 to 2000, where the format's time begins.
const EPOCH: u64 = 946_684_800;

/// Where everything stands.
#[derive(Debug, Clone)]
pub(super) struct VhdLayout {
    n_blocks: u32,
    footer: Vec<u8>,
}

impl VhdLayout {
    /// For a volume of `n_blocks`, at least 1; `id` names the disk.
    ///
    /// # Errors
    /// The volume is larger than a VHD can be.
    pub(super) fn new(n_blocks: u32, id: [u8; 16]) -> Result<Self, TransferError> {
        if n_blocks > MAX_GIB * BLOCKS_PER_GIB {
            let message = format!(
                "a volume of {} GiB does not fit into a VHD, which has at most {MAX_GIB} GiB: choose raw, qcow2 or vmdk",
                n_blocks.div_ceil(BLOCKS_PER_GIB)
            );
            return Err(TransferError::new(ErrorClass::Invalid, message));
        }
        Ok(Self { n_blocks, footer: footer(u64::from(n_blocks) * BLOCK_SIZE as u64, id) })
    }

    fn n_vhd_blocks(&self) -> u32 {
        self.n_blocks.div_ceil(PER_VHD_BLOCK)
    }

    /// Where the data of a VHD block stands.
    fn vhd_data(&self, vhd_block: u32) -> u64 {
        let bat_len = (u64::from(self.n_vhd_blocks()) * 4).next_multiple_of(SECTOR);
        let first = (BAT_OFFSET + bat_len + SECTOR).next_multiple_of(DATA_ALIGNMENT);
        first + u64::from(vhd_block) * (VHD_BLOCK + DATA_ALIGNMENT)
    }

    fn header(&self) -> Vec<u8> {
        let mut header = vec![0; HEADER_LEN];
        put(&mut header, 0, HEADER_COOKIE);
        put(&mut header, 8, &u64::MAX.to_be_bytes());
        put(&mut header, 16, &BAT_OFFSET.to_be_bytes());
        put(&mut header, 24, &VERSION.to_be_bytes());
        put(&mut header, 28, &self.n_vhd_blocks().to_be_bytes());
        put(&mut header, 32, &2_097_152_u32.to_be_bytes());
        let sum = checksum(&header, HEADER_SUM_AT);
        put(&mut header, HEADER_SUM_AT, &sum.to_be_bytes());
        header
    }
}

fn footer(size: u64, id: [u8; 16]) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(EPOCH, |since| since.as_secs());
    let time = u32::try_from(now.saturating_sub(EPOCH)).unwrap_or(u32::MAX);
    let (cylinders, heads, sectors) = geometry(size / SECTOR);
    let mut footer = vec![0; FOOTER_LEN];
    put(&mut footer, 0, COOKIE);
    put(&mut footer, 8, &2_u32.to_be_bytes()); // a bit that is always set
    put(&mut footer, 12, &VERSION.to_be_bytes());
    put(&mut footer, 16, &(FOOTER_LEN as u64).to_be_bytes()); // where the header is
    put(&mut footer, 24, &time.to_be_bytes());
    put(&mut footer, 28, b"win ");
    put(&mut footer, 32, &0x000A_0000_u32.to_be_bytes());
    put(&mut footer, 36, b"Wi2k");
    put(&mut footer, 40, &size.to_be_bytes()); // as made
    put(&mut footer, 48, &size.to_be_bytes()); // as it is
    put(&mut footer, 56, &cylinders.to_be_bytes());
    put(&mut footer, 58, &[heads, sectors]);
    put(&mut footer, 60, &DYNAMIC.to_be_bytes());
    put(&mut footer, 68, &id);
    let sum = checksum(&footer, FOOTER_SUM_AT);
    put(&mut footer, FOOTER_SUM_AT, &sum.to_be_bytes());
    footer
}

/// One's complement of the sum of all bytes but the checksum's own four.
pub(super) fn checksum(bytes: &[u8], sum_at: usize) -> u32 {
    let own = sum_at..sum_at + 4;
    let summed = bytes.iter().enumerate().filter(|(at, _)| !own.contains(at));
    !summed.fold(0_u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)))
}

/// Cylinders, heads and sectors, after the specification's appendix; what they cannot express is cut off.
fn geometry(n_sectors: u64) -> (u16, u8, u8) {
    let n_sectors = n_sectors.min(65_535 * 16 * 255);
    let (heads, sectors): (u64, u64) = if n_sectors >= 65_535 * 16 * 63 {
        (16, 255)
    } else {
        let heads = (n_sectors / 17).div_ceil(1_024).max(4);
        if heads <= 16 && n_sectors / 17 < heads * 1_024 {
            (heads, 17)
        } else if n_sectors / 31 < 16 * 1_024 {
            (16, 31)
        } else {
            (16, 63)
        }
    };
    let cylinders = n_sectors / sectors / heads;
    let byte = |n: u64| u8::try_from(n).unwrap_or(u8::MAX);
    (u16::try_from(cylinders).unwrap_or(u16::MAX), byte(heads), byte(sectors))
}

impl Layout for VhdLayout {
    fn file_len(&self) -> u64 {
        self.vhd_data(self.n_vhd_blocks().saturating_sub(1)) + VHD_BLOCK + FOOTER_LEN as u64
    }

    fn head(&self) -> Vec<u8> {
        self.footer.clone()
    }

    /// The disk's name and time differ from attempt to attempt.
    fn is_head(&self, found: &[u8]) -> bool {
        found.starts_with(COOKIE)
            && be32(found, FOOTER_SUM_AT) == checksum(found, FOOTER_SUM_AT)
            && be32(found, 28) == be32(&self.footer, 28)
            && be32(found, 60) == DYNAMIC
            && be64(found, 48) == be64(&self.footer, 48)
    }

    fn tables(&self) -> Vec<Placed> {
        let bat_len = usize::try_from(self.n_vhd_blocks()).unwrap_or(0) * 4;
        vec![
            (FOOTER_LEN as u64, self.header()),
            (BAT_OFFSET, vec![0xFF; bat_len.next_multiple_of(FOOTER_LEN)]),
            (self.file_len() - FOOTER_LEN as u64, self.footer.clone()),
        ]
    }

    fn data_offset(&self, index: BlockIndex) -> u64 {
        let (vhd_block, part) = (index.0 / PER_VHD_BLOCK, index.0 % PER_VHD_BLOCK);
        self.vhd_data(vhd_block) + u64::from(part) * BLOCK_SIZE as u64
    }

    fn marks(&self, index: BlockIndex) -> Vec<Placed> {
        let (vhd_block, part) = (index.0 / PER_VHD_BLOCK, index.0 % PER_VHD_BLOCK);
        let bitmap = self.vhd_data(vhd_block) - SECTOR;
        // 2,040 GiB end below sector 2^32.
        let sector = u32::try_from(bitmap / SECTOR).unwrap_or(UNUSED);
        vec![
            (bitmap + u64::from(part) * 128, vec![0xFF; 128]),
            (BAT_OFFSET + u64::from(vhd_block) * 4, sector.to_be_bytes().to_vec()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn more_than_2040_gib_is_refused() {
        assert!(VhdLayout::new(2_040 * 2_048, [0; 16]).is_ok());
        let error = VhdLayout::new(2_040 * 2_048 + 1, [0; 16]).unwrap_err();
        assert!(error.message.contains("2041 GiB") && error.message.contains("2040 GiB"), "{error}");
    }

    proptest! {
        #[test]
        fn no_two_places_overlap_and_sectors_have_32_bits(n_blocks in 1_u32..=2_040 * 2_048, at in any::<u32>()) {
            let layout = VhdLayout::new(n_blocks, [0; 16]).unwrap();
            let index = BlockIndex(at % n_blocks);
            let end = layout.file_len() - 512;
            prop_assert!(end / 512 < u64::from(u32::MAX));
            let (data, marks) = (layout.data_offset(index), layout.marks(index));
            prop_assert_eq!(data % 4_096, 0);
            prop_assert!(data + BLOCK_SIZE as u64 <= end);
            let bat_end = BAT_OFFSET + u64::from(layout.n_vhd_blocks()) * 4;
            prop_assert!(marks[0].0 >= bat_end && marks[0].0 + 128 <= data);
            prop_assert!(marks[1].0 + 4 <= bat_end);
            let sector = u64::from(u32::from_be_bytes(marks[1].1.clone().try_into().unwrap()));
            prop_assert_eq!((sector + 1) * 512 + u64::from(index.0 % 4) * BLOCK_SIZE as u64, data);
            if index.0 > 0 {
                prop_assert!(layout.data_offset(BlockIndex(index.0 - 1)) + BLOCK_SIZE as u64 <= data);
            }
        }
    }
}
