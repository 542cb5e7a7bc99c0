//! VHD, fixed and dynamic: a footer with a checksum at the end; a dynamic disk has a copy of it in front, a header, a
//! table of blocks, and before each block a bitmap of the sectors that were written. Numbers are big-endian.

use super::error::ImageError;
use super::image::by_units;
use super::source::{Fields, ImageFile, Source};

const SECTOR: u64 = 512;
const FOOTER_BYTES: u64 = 512;
const HEADER_LEN: usize = 1_024;

/// A block of the table that has nothing.
const UNUSED: u32 = u32::MAX;

/// Sizes of a block, in bytes: a sector's bitmap byte is the least; more than this nobody writes.
const BLOCK_BYTES: std::ops::RangeInclusive<u64> = 4_096..=64 << 20;

/// An opened VHD.
pub(super) struct Vhd<S> {
    file: ImageFile<S>,
    disk_bytes: u64,
    dynamic: Option<Dynamic>,
}

/// Where a dynamic disk has its blocks.
struct Dynamic {
    block_bytes: u64,
    bitmap_bytes: u64,
    /// First sectors.
    table: Vec<u32>,
    /// The block whose bitmap was read last.
    bitmap: Option<(u64, Vec<u8>)>,
}

impl<S: Source> Vhd<S> {
    pub(super) fn open(mut file: ImageFile<S>) -> Result<Self, ImageError> {
        let end = file
            .size_bytes()
            .checked_sub(FOOTER_BYTES)
            .ok_or_else(|| file.unsupported(format!("{} bytes are less than a footer", file.size_bytes())))?;
        let mut footer = [0; 512];
        file.read("the footer", end, &mut footer)?;
        let fields = Fields(&footer);
        if fields.bytes(0) != *b"conectix" {
            // A dynamic disk has a copy of its footer in front, which tells a cut file from no VHD at all.
            let mut first = [0; 8];
            file.read("the first bytes", 0, &mut first)?;
            if first == *b"conectix" {
                return Err(file.damaged("the footer at the end is missing; the file may be truncated"));
            }
            return Err(file.unsupported(
                "no footer with the cookie `conectix` stands at the end; a fixed disk may be truncated",
            ));
        }
        if !is_checksum_right(&footer, 64) {
            return Err(file.damaged("the footer's checksum is wrong"));
        }
        let disk_bytes = fields.be64(48);
        let dynamic = match fields.be32(60) {
            2 => {
                if disk_bytes != end {
                    let what = format!("the footer tells of {disk_bytes} bytes, and {end} are before it");
                    return Err(file.damaged(what));
                }
                None
            }
            3 => Some(Dynamic::open(&mut file, fields.be64(16), disk_bytes, end)?),
            4 => return Err(file.unsupported("it is a differencing disk")),
            other => return Err(file.unsupported(format!("its disk type is {other}"))),
        };
        Ok(Self { file, disk_bytes, dynamic })
    }

    pub(super) const fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    pub(super) fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<bool, ImageError> {
        let Some(dynamic) = &mut self.dynamic else {
            return self.file.read("the disk", offset, buffer).map(|()| true);
        };
        let file = &mut self.file;
        by_units(offset, buffer, dynamic.block_bytes, |block, within, buffer| {
            dynamic.read(file, block, within, buffer)
        })
    }
}

impl Dynamic {
    fn open<S: Source>(
        file: &mut ImageFile<S>,
        header_at: u64,
        disk_bytes: u64,
        end: u64,
    ) -> Result<Self, ImageError> {
        let mut header = [0; HEADER_LEN];
        file.read("the dynamic disk's header", header_at, &mut header)?;
        let fields = Fields(&header);
        if fields.bytes(0) != *b"cxsparse" {
            return Err(file.damaged("the dynamic disk's header has no cookie `cxsparse`"));
        }
        if !is_checksum_right(&header, 36) {
            return Err(file.damaged("the checksum of the dynamic disk's header is wrong"));
        }
        let (table_at, n_entries) = (fields.be64(16), u64::from(fields.be32(28)));
        let block_bytes = u64::from(fields.be32(32));
        if !BLOCK_BYTES.contains(&block_bytes) || !block_bytes.is_power_of_two() {
            return Err(file.unsupported(format!("its blocks have {block_bytes} bytes")));
        }
        let n_blocks = disk_bytes.div_ceil(block_bytes);
        if n_blocks > n_entries {
            return Err(file.damaged(format!(
                "{disk_bytes} bytes need {n_blocks} blocks of {block_bytes} bytes, and the table has {n_entries}"
            )));
        }
        // Checked before the table is given memory: the file has to be as large.
        let n_bytes = n_blocks * 4;
        file.check("the block table", table_at, n_bytes)?;
        let mut bytes = vec![0; usize::try_from(n_bytes).unwrap_or(0)];
        file.read("the block table", table_at, &mut bytes)?;
        let (words, _) = bytes.as_chunks::<4>();
        let table: Vec<u32> = words.iter().map(|word| u32::from_be_bytes(*word)).collect();
        let bitmap_bytes = (block_bytes / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
        for (block, sector) in table.iter().enumerate().filter(|(_, sector)| **sector != UNUSED) {
            let start = u64::from(*sector) * SECTOR;
            if start + bitmap_bytes + block_bytes > end {
                return Err(ImageError::Truncated {
                    format: crate::world::ImageFormat::Vhd,
                    what: format!("block {block}"),
                    end: start + bitmap_bytes + block_bytes,
                    size_bytes: end,
                });
            }
        }
        Ok(Self { block_bytes, bitmap_bytes, table, bitmap: None })
    }

    fn read<S: Source>(
        &mut self,
        file: &mut ImageFile<S>,
        block: u64,
        within: u64,
        buffer: &mut [u8],
    ) -> Result<bool, ImageError> {
        let sector = usize::try_from(block).ok().and_then(|block| self.table.get(block).copied());
        let Some(sector) = sector.filter(|sector| *sector != UNUSED) else { return Ok(false) };
        let start = u64::from(sector) * SECTOR;
        if self.bitmap.as_ref().is_none_or(|(of, _)| *of != block) {
            let mut bits = vec![0; usize::try_from(self.bitmap_bytes).unwrap_or(0)];
            file.read("a block's bitmap", start, &mut bits)?;
            self.bitmap = Some((block, bits));
        }
        let bits = self.bitmap.as_ref().map(|(_, bits)| bits.as_slice()).unwrap_or_default();
        file.read("a block", start + self.bitmap_bytes + within, buffer)?;
        // A sector that was never written reads as zeroes, whatever the file has there.
        let first = within / SECTOR;
        let mut is_any = false;
        for (number, sector) in (first..).zip(buffer.chunks_mut(512)) {
            let byte = usize::try_from(number / 8).ok().and_then(|at| bits.get(at)).copied().unwrap_or(0);
            if byte & (0x80 >> (number % 8)) == 0 {
                sector.fill(0);
            } else {
                is_any = true;
            }
        }
        Ok(is_any)
    }
}

/// The checksum is the complement of the sum of all bytes but its own four.
fn is_checksum_right(bytes: &[u8], at: usize) -> bool {
    let sum = |bytes: Option<&[u8]>| -> u32 { bytes.unwrap_or_default().iter().map(|b| u32::from(*b)).sum() };
    let found = !(sum(bytes.get(..at)) + sum(bytes.get(at + 4..)));
    found == Fields(bytes).be32(at)
}
