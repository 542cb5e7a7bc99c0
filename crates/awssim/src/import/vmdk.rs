//! VMDK, stream-optimised: grains in zlib, each with a marker before it, found through a grain directory and its
//! tables. The directory is named by the header, or, in a file that was written as a stream, by a second header at the
//! end, the footer. Numbers are little-endian; places are sectors.

use flate2::{Decompress, FlushDecompress, Status};

use super::error::ImageError;
use super::image::by_units;
use super::source::{Fields, ImageFile, Source};

const SECTOR: u64 = 512;
const MAGIC: [u8; 4] = *b"KDMV";

/// The header's directory when it is at the end of the file.
const AT_END: u64 = u64::MAX;

/// Entries of a grain table, always.
const TABLE_ENTRIES: u64 = 512;
const TABLE_LEN: usize = 2_048;

/// Sizes of a grain in sectors.
const GRAIN_SECTORS: std::ops::RangeInclusive<u64> = 8..=2_048;

/// Longest descriptor that is read, in sectors.
const MOST_DESCRIPTOR_SECTORS: u64 = 2_048;

const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;

/// Kinds of markers that are no grain.
const MARKER_FOOTER: u32 = 3;

/// A grain's marker: its first sector, and the bytes of zlib that follow.
const MARKER_LEN: usize = 12;

/// An opened VMDK.
pub(super) struct Vmdk<S> {
    file: ImageFile<S>,
    capacity: u64,
    grain_bytes: u64,
    directory_at: u64,
    /// The table that was read last, by its number.
    table: Option<(u64, Box<[u8]>)>,
    /// The grain that was read last, by its number.
    grain: Option<(u64, Vec<u8>)>,
}

/// What a header says.
struct Header {
    capacity: u64,
    grain_sectors: u64,
    descriptor: (u64, u64),
    directory: u64,
}

impl<S: Source> Vmdk<S> {
    pub(super) fn open(mut file: ImageFile<S>) -> Result<Self, ImageError> {
        if file.size_bytes() < SECTOR {
            return Err(file.unsupported(format!("{} bytes are less than a header", file.size_bytes())));
        }
        let header = Header::read(&mut file, 0)?;
        check_descriptor(&mut file, &header)?;
        let directory =
            if header.directory == AT_END { read_footer(&mut file, &header)? } else { header.directory };
        let n_grains = header.capacity.div_ceil(header.grain_sectors);
        let n_tables = n_grains.div_ceil(TABLE_ENTRIES);
        let directory_at = directory.saturating_mul(SECTOR);
        file.check("the grain directory", directory_at, n_tables.saturating_mul(4))?;
        Ok(Self {
            capacity: header.capacity,
            grain_bytes: header.grain_sectors * SECTOR,
            directory_at,
            table: None,
            grain: None,
            file,
        })
    }

    pub(super) const fn disk_bytes(&self) -> u64 {
        self.capacity.saturating_mul(SECTOR)
    }

    pub(super) fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<bool, ImageError> {
        by_units(offset, buffer, self.grain_bytes, |number, within, buffer| {
            let Some(sector) = self.find(number)? else { return Ok(false) };
            if self.grain.as_ref().is_none_or(|(read, _)| *read != number) {
                self.grain = Some((number, self.read_grain(number, sector)?));
            }
            let bytes = self.grain.as_ref().map(|(_, bytes)| bytes.as_slice()).unwrap_or_default();
            let from = usize::try_from(within).unwrap_or(usize::MAX);
            let have = bytes.get(from..).and_then(|bytes| bytes.get(..buffer.len()));
            let have = have.ok_or_else(|| self.file.damaged(format!("grain {number} is too short")))?;
            buffer.copy_from_slice(have);
            Ok(true)
        })
    }

    /// The sector of a grain's marker; nothing for a grain that was not written.
    fn find(&mut self, number: u64) -> Result<Option<u64>, ImageError> {
        let table = number / TABLE_ENTRIES;
        if self.table.as_ref().is_none_or(|(read, _)| *read != table) {
            let mut entry = [0; 4];
            self.file.read("the grain directory", self.directory_at + table * 4, &mut entry)?;
            let sector = u64::from(u32::from_le_bytes(entry));
            let mut bytes = vec![0; TABLE_LEN].into_boxed_slice();
            if sector != 0 {
                self.file.read(&format!("grain table {table}"), sector * SECTOR, &mut bytes)?;
            }
            self.table = Some((table, bytes));
        }
        let at = usize::try_from(number % TABLE_ENTRIES * 4).unwrap_or(usize::MAX);
        let sector = self.table.as_ref().map_or(0, |(_, bytes)| Fields(bytes).le32(at));
        // 1 stands for a grain of zeroes.
        Ok((sector > 1).then_some(u64::from(sector)))
    }

    fn read_grain(&mut self, number: u64, sector: u64) -> Result<Vec<u8>, ImageError> {
        let at = sector.saturating_mul(SECTOR);
        let what = format!("grain {number}");
        let mut marker = [0; MARKER_LEN];
        self.file.read(&what, at, &mut marker)?;
        let (lba, length) = (Fields(&marker).le64(0), u64::from(Fields(&marker).le32(8)));
        let wanted = number * (self.grain_bytes / SECTOR);
        if lba != wanted {
            return Err(self.file.damaged(format!("{what} starts at sector {lba}, not {wanted}")));
        }
        if length == 0 || length > self.grain_bytes * 2 + SECTOR {
            return Err(self.file.damaged(format!("{what} has {length} bytes of zlib")));
        }
        let mut packed = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file.read(&what, at + 12, &mut packed)?;
        let mut bytes = vec![0; usize::try_from(self.grain_bytes).unwrap_or(0)];
        let mut inflate = Decompress::new(true);
        let status = inflate.decompress(&packed, &mut bytes, FlushDecompress::Finish);
        let status = status.map_err(|error| self.file.damaged(format!("{what} is no zlib: {error}")))?;
        if status != Status::StreamEnd {
            return Err(self.file.damaged(format!(
                "{what} does not end after {} bytes of zlib and {} bytes of data",
                inflate.total_in(),
                inflate.total_out()
            )));
        }
        // The last grain may end with the disk.
        bytes.truncate(usize::try_from(inflate.total_out()).unwrap_or(0));
        Ok(bytes)
    }
}

impl Header {
    fn read<S: Source>(file: &mut ImageFile<S>, at: u64) -> Result<Self, ImageError> {
        let mut bytes = [0; 512];
        file.read("the header", at, &mut bytes)?;
        let fields = Fields(&bytes);
        if fields.bytes(0) != MAGIC {
            return Err(file.unsupported("the magic number `KDMV` is missing"));
        }
        let (version, flags) = (fields.le32(4), fields.le32(8));
        if !(1..=3).contains(&version) {
            return Err(file.unsupported(format!("its version is {version}")));
        }
        let compression = u16::from_le_bytes(fields.bytes(77));
        if flags & FLAG_COMPRESSED == 0 || flags & FLAG_MARKERS == 0 || compression != 1 {
            return Err(file.unsupported("it is not stream-optimised"));
        }
        // Line ends of four kinds, which a transfer as text would change.
        if fields.bytes(73) != *b"\n \r\n" {
            return Err(file.damaged("the header was changed by a transfer as text"));
        }
        let grain_sectors = fields.le64(20);
        if !GRAIN_SECTORS.contains(&grain_sectors) || !grain_sectors.is_power_of_two() {
            return Err(file.unsupported(format!("its grains have {grain_sectors} sectors")));
        }
        if u64::from(fields.le32(44)) != TABLE_ENTRIES {
            return Err(file.unsupported(format!("its grain tables have {} entries", fields.le32(44))));
        }
        Ok(Self {
            capacity: fields.le64(12),
            grain_sectors,
            descriptor: (fields.le64(28), fields.le64(36)),
            directory: fields.le64(56),
        })
    }
}

/// The text inside: it has to tell of the same kind and size as the header.
fn check_descriptor<S: Source>(file: &mut ImageFile<S>, header: &Header) -> Result<(), ImageError> {
    let (sector, n_sectors) = header.descriptor;
    if sector == 0 || n_sectors == 0 || n_sectors > MOST_DESCRIPTOR_SECTORS {
        return Err(file.unsupported("there is no descriptor inside"));
    }
    let mut bytes = vec![0; usize::try_from(n_sectors * SECTOR).unwrap_or(0)];
    file.read("the descriptor", sector.saturating_mul(SECTOR), &mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = || text.trim_end_matches('\0').lines().map(str::trim);
    let kind = lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        name.trim().eq_ignore_ascii_case("createType").then(|| value.trim().trim_matches('"').to_owned())
    });
    if !kind.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case("streamOptimized")) {
        return Err(file.unsupported(format!("its createType is {kind:?}, not streamOptimized")));
    }
    let extents: Vec<Option<u64>> = lines()
        .filter(|line| line.starts_with("RW ") || line.starts_with("RDONLY "))
        .map(|line| line.split_whitespace().nth(1).and_then(|sectors| sectors.parse().ok()))
        .collect();
    match extents.as_slice() {
        [Some(sectors)] if *sectors == header.capacity => Ok(()),
        [Some(sectors)] => Err(file.damaged(format!(
            "the header tells of {} sectors, the descriptor of {sectors}",
            header.capacity
        ))),
        other => Err(file.unsupported(format!("its descriptor names {} extents, not one", other.len()))),
    }
}

/// The grain directory's sector by the second header, which is before the last sector, the end-of-stream marker.
fn read_footer<S: Source>(file: &mut ImageFile<S>, header: &Header) -> Result<u64, ImageError> {
    let size_bytes = file.size_bytes();
    let cut = format!(
        "no footer and end-of-stream marker stand at the end; the file may be truncated at {size_bytes} bytes"
    );
    if !size_bytes.is_multiple_of(SECTOR) || size_bytes < 4 * SECTOR {
        return Err(file.damaged(cut));
    }
    let mut tail = [0; 1_536];
    let start = size_bytes - 3 * SECTOR;
    file.read("the footer", start, &mut tail)?;
    let fields = Fields(&tail);
    let is_footer_marked = fields.le32(12) == MARKER_FOOTER;
    let is_ended = tail.get(1_024..).is_some_and(|last| last.iter().all(|byte| *byte == 0));
    if !is_footer_marked || !is_ended || fields.bytes(512) != MAGIC {
        return Err(file.damaged(cut));
    }
    let footer = Header::read(file, start + SECTOR)?;
    if (footer.capacity, footer.grain_sectors) != (header.capacity, header.grain_sectors) {
        return Err(file.damaged(format!(
            "the header tells of {} sectors, the footer of {}",
            header.capacity, footer.capacity
        )));
    }
    if footer.directory == AT_END {
        return Err(file.damaged("the footer does not tell where the grain directory is"));
    }
    Ok(footer.directory)
}
