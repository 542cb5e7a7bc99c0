//! The parts of a stream-optimised VMDK, after VMware's "Virtual Disk Format 5.0": sectors of 512 bytes, a header
//! and a descriptor, then compressed grains of 64 KiB, each behind a marker, the tables that name them, a footer that
//! says where the tables are, and the end-of-stream marker.

use super::fields::put;

pub(super) const MAGIC: [u8; 4] = *b"KDMV";
pub(super) const SECTOR: u64 = 512;
/// Sectors in a grain.
pub(super) const GRAIN_SECTORS: u64 = 128;
pub(super) const GRAIN: usize = 65_536;
/// Grains in a grain table.
pub(super) const PER_TABLE: u64 = 512;
/// Sectors before the first grain.
pub(super) const OVERHEAD: u64 = 128;
const DESCRIPTOR_SECTORS: u64 = 20;
/// In a header: the tables' place is in the footer.
pub(super) const AT_END: u64 = u64::MAX;
/// Valid newline test, compressed grains, markers.
pub(super) const FLAGS: u32 = 0x0003_0001;
pub(super) const COMPRESSED: u32 = 1 << 16;
pub(super) const DEFLATE: u16 = 1;

/// What a marker of metadata announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Marker {
    EndOfStream = 0,
    GrainTable = 1,
    GrainDirectory = 2,
    Footer = 3,
}

impl Marker {
    const fn code(self) -> u32 {
        match self {
            Self::EndOfStream => 0,
            Self::GrainTable => 1,
            Self::GrainDirectory => 2,
            Self::Footer => 3,
        }
    }

    /// The marker's sector; `n_sectors` follow it.
    pub(super) fn sector(self, n_sectors: u64) -> Vec<u8> {
        let mut sector = vec![0; 512];
        put(&mut sector, 0, &n_sectors.to_le_bytes());
        put(&mut sector, 12, &self.code().to_le_bytes());
        sector
    }
}

/// The header, which is also the footer: `directory` is the sector of the grain directory.
pub(super) fn header(n_sectors: u64, directory: u64) -> Vec<u8> {
    let mut header = vec![0; 512];
    put(&mut header, 0, &MAGIC);
    put(&mut header, 4, &3_u32.to_le_bytes()); // version
    put(&mut header, 8, &FLAGS.to_le_bytes());
    put(&mut header, 12, &n_sectors.to_le_bytes());
    put(&mut header, 20, &GRAIN_SECTORS.to_le_bytes());
    put(&mut header, 28, &1_u64.to_le_bytes()); // the descriptor's sector
    put(&mut header, 36, &DESCRIPTOR_SECTORS.to_le_bytes());
    put(&mut header, 44, &512_u32.to_le_bytes()); // entries of a grain table
    put(&mut header, 56, &directory.to_le_bytes());
    put(&mut header, 64, &OVERHEAD.to_le_bytes());
    put(&mut header, 73, b"\n \r\n");
    put(&mut header, 77, &DEFLATE.to_le_bytes());
    header
}

/// The text that describes the disk, as long as its place. `id` is the content's.
pub(super) fn descriptor(n_sectors: u64, name: &str, id: u32) -> Vec<u8> {
    let cylinders = (n_sectors / (255 * 63)).clamp(1, 65_535);
    // The name says nothing: there is one file. What the text's syntax needs is left out of it.
    let name: String = name.chars().filter(|c| !c.is_control() && *c != '"').take(200).collect();
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID={id:08x}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRW {n_sectors} SPARSE \"{name}\"\n\n\
         # The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"7\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"255\"\n\
         ddb.geometry.sectors = \"63\"\nddb.adapterType = \"lsilogic\"\n"
    );
    let mut bytes = text.into_bytes();
    bytes.resize(usize::try_from((OVERHEAD - 1) * SECTOR).unwrap_or(0), 0);
    bytes
}
