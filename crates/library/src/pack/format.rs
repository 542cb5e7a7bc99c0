//! The layout of a pack, as FORMAT.md writes it down.

use std::fmt;

use snapferry_types::{ChunkId, PageId};

use crate::backend::{BackendError, ObjectName};
use crate::codec::{Malformed, Reader, Writer, take_crc};
use crate::limits::{MAX_LEAF_BYTES, MAX_RECORD_BYTES};
use crate::page::MAX_INTERIOR_BYTES;

const HEADER_MAGIC: &[u8; 8] = b"SFPACK01";
const RECORD_MAGIC: &[u8; 4] = b"SFRC";
const TRAILER_MAGIC: &[u8; 8] = b"SFPKEND1";
const VERSION: u16 = 1;

pub(crate) const HEADER_BYTES: usize = 32;
pub(crate) const RECORD_HEADER_BYTES: usize = 52;
pub(crate) const FOOTER_ENTRY_BYTES: usize = 45;
pub(crate) const TRAILER_BYTES: usize = 32;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// A stored block.
    Chunk = 1,
    /// A leaf page.
    Leaf = 2,
    /// An interior page.
    Interior = 3,
}

impl RecordKind {
    pub(crate) const ALL: [Self; 3] = [Self::Chunk, Self::Leaf, Self::Interior];

    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Chunk => 1,
            Self::Leaf => 2,
            Self::Interior => 3,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    pub(crate) const fn max_bytes(self) -> usize {
        match self {
            Self::Chunk => MAX_RECORD_BYTES,
            Self::Leaf => MAX_LEAF_BYTES,
            Self::Interior => MAX_INTERIOR_BYTES,
        }
    }

    pub(crate) const fn class(self) -> PackClass {
        match self {
            Self::Chunk => PackClass::Data,
            Self::Leaf | Self::Interior => PackClass::Manifest,
        }
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chunk => "chunk",
            Self::Leaf => "leaf page",
            Self::Interior => "interior page",
        })
    }
}

/// Name of a stored record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    /// What it is.
    pub kind: RecordKind,
    /// Its 32-byte name.
    pub id: [u8; 32],
}

impl RecordKey {
    pub(crate) const fn chunk(id: ChunkId) -> Self {
        Self { kind: RecordKind::Chunk, id: id.0 }
    }

    pub(crate) const fn leaf(id: PageId) -> Self {
        Self { kind: RecordKind::Leaf, id: id.0 }
    }

    pub(crate) const fn interior(id: PageId) -> Self {
        Self { kind: RecordKind::Interior, id: id.0 }
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, ChunkId(self.id))
    }
}

/// Which records a pack holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PackClass {
    Data,
    Manifest,
}

impl PackClass {
    pub(crate) const ALL: [Self; 2] = [Self::Data, Self::Manifest];

    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Manifest => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.code() == code)
    }
}

/// The object of a pack: 4,096 packs share a folder.
pub(crate) fn pack_name(number: u64) -> Result<ObjectName, BackendError> {
    ObjectName::new(format!("packs/{:013x}/{number:016x}.pack", number >> 12))
}

/// The number of a pack object; `None` for another object.
pub(crate) fn pack_number(name: &ObjectName) -> Option<u64> {
    let number = name.as_str().strip_prefix("packs/")?.split_once('/')?.1.strip_suffix(".pack")?;
    let number = u64::from_str_radix(number, 16).ok()?;
    (pack_name(number).ok()? == *name).then_some(number)
}

pub(crate) fn encode_header(number: u64, class: PackClass, created_unix_ms: u64) -> Vec<u8> {
    let mut out = Writer::with_capacity(HEADER_BYTES);
    out.bytes(HEADER_MAGIC).u16(VERSION).u8(class.code()).u8(0).u64(number).u64(created_unix_ms);
    out.done_with_crc()
}

pub(crate) fn decode_header(bytes: &[u8], number: u64) -> Result<PackClass, Malformed> {
    let what = "pack header";
    let mut r = Reader::new(what, take_crc(what, bytes)?);
    r.magic(HEADER_MAGIC)?;
    let version = r.u16()?;
    if version != VERSION {
        return Err(r.fail(format!("version {version}; this reads version {VERSION}")));
    }
    let code = r.u8()?;
    let class = PackClass::from_code(code).ok_or_else(|| r.fail(format!("class {code}")))?;
    let reserved = r.u8()?;
    let found = r.u64()?;
    let _created_unix_ms = r.u64()?;
    if reserved != 0 || found != number {
        return Err(r.fail(format!("it says it is pack {found}")));
    }
    r.end()?;
    Ok(class)
}

/// What stands before the bytes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) key: RecordKey,
    /// Bytes that follow.
    pub(crate) length: u32,
    /// CRC-32C of them.
    pub(crate) body_crc: u32,
}

impl RecordHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(RECORD_HEADER_BYTES);
        out.bytes(RECORD_MAGIC).u8(self.key.kind.code()).u8(0).u16(0).u32(self.length).u32(self.body_crc);
        out.bytes(&self.key.id);
        out.done_with_crc()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let what = "record header";
        let mut r = Reader::new(what, take_crc(what, bytes)?);
        r.magic(RECORD_MAGIC)?;
        let code = r.u8()?;
        let kind = RecordKind::from_code(code).ok_or_else(|| r.fail(format!("kind {code}")))?;
        if (r.u8()?, r.u16()?) != (0, 0) {
            return Err(r.fail("reserved bytes are not zero"));
        }
        let (length, body_crc) = (r.u32()?, r.u32()?);
        if usize::try_from(length).is_ok_and(|n| n > kind.max_bytes()) {
            return Err(r.fail(format!("{length} bytes are over the limit of a {kind}")));
        }
        let id = r.array()?;
        r.end()?;
        Ok(Self { key: RecordKey { kind, id }, length, body_crc })
    }
}

/// A record in the index at the end of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FooterEntry {
    pub(crate) key: RecordKey,
    /// Where its header starts in the pack.
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) body_crc: u32,
}

pub(crate) fn encode_footer(entries: &[FooterEntry], footer_offset: u64) -> Vec<u8> {
    let mut out = Writer::with_capacity(entries.len() * FOOTER_ENTRY_BYTES);
    for entry in entries {
        out.u8(entry.key.kind.code()).bytes(&entry.key.id);
        out.u32(entry.offset).u32(entry.length).u32(entry.body_crc);
    }
    let mut bytes = out.done();
    let crc = crc32c::crc32c(&bytes);
    let mut trailer = Writer::with_capacity(TRAILER_BYTES);
    let n = u32::try_from(entries.len()).expect("a pack below 1 GiB has fewer records");
    trailer.bytes(TRAILER_MAGIC).u16(VERSION).u16(0).u32(n).u64(footer_offset).u32(crc);
    bytes.extend_from_slice(&trailer.done_with_crc());
    bytes
}

/// Where the footer is: its offset, length and checksum, from the trailer of a pack of `size` bytes.
pub(crate) fn decode_trailer(bytes: &[u8], size: u64) -> Result<(u64, usize, u32), Malformed> {
    let what = "pack trailer";
    let mut r = Reader::new(what, take_crc(what, bytes)?);
    r.magic(TRAILER_MAGIC)?;
    if (r.u16()?, r.u16()?) != (VERSION, 0) {
        return Err(r.fail("a version this does not read"));
    }
    let n = r.u32()?;
    let offset = r.u64()?;
    let crc = r.u32()?;
    let length = u64::from(n) * FOOTER_ENTRY_BYTES as u64;
    if offset.checked_add(length).and_then(|end| end.checked_add(TRAILER_BYTES as u64)) != Some(size) {
        return Err(r.fail("its counts do not agree with the pack's length"));
    }
    let length = usize::try_from(length).map_err(|_| r.fail("too long"))?;
    r.end()?;
    Ok((offset, length, crc))
}

pub(crate) fn decode_footer(
    bytes: &[u8],
    crc: u32,
    footer_offset: u64,
) -> Result<Vec<FooterEntry>, Malformed> {
    let mut r = Reader::new("pack footer", bytes);
    if crc32c::crc32c(bytes) != crc {
        return Err(r.fail("its checksum does not agree"));
    }
    let n = bytes.len() / FOOTER_ENTRY_BYTES;
    let mut entries = Vec::with_capacity(n);
    for _ in 0..n {
        let code = r.u8()?;
        let kind = RecordKind::from_code(code).ok_or_else(|| r.fail(format!("kind {code}")))?;
        let entry = FooterEntry {
            key: RecordKey { kind, id: r.array()? },
            offset: r.u32()?,
            length: r.u32()?,
            body_crc: r.u32()?,
        };
        let end = u64::from(entry.offset) + u64::from(entry.length) + RECORD_HEADER_BYTES as u64;
        if end > footer_offset || usize::try_from(entry.length).is_ok_and(|n| n > kind.max_bytes()) {
            return Err(r.fail("an entry points outside the records"));
        }
        entries.push(entry);
    }
    r.end()?;
    Ok(entries)
}
