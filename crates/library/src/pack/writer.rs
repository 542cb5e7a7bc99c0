//! A pack being written.

use super::format::{
    FooterEntry, HEADER_BYTES, PackClass, RecordHeader, RecordKey, encode_footer, encode_header, pack_name,
};
use crate::backend::{Backend, BackendError, ObjectWriter};

/// A record as it stands in a pack: header and bytes.
pub(crate) fn record_bytes(key: RecordKey, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("records are limited to 512 KiB and a little");
    let mut bytes = RecordHeader { key, length, body_crc: crc32c::crc32c(body) }.encode();
    bytes.extend_from_slice(body);
    bytes
}

/// A pack that has its name and survives a power cut.
#[derive(Debug, Clone)]
pub(crate) struct FinishedPack {
    pub(crate) number: u64,
    pub(crate) class: PackClass,
    /// Length of the object in bytes.
    pub(crate) size: u64,
    pub(crate) entries: Vec<FooterEntry>,
}

/// Appends records; nothing is visible before [`PackWriter::finish`].
pub(crate) struct PackWriter {
    number: u64,
    class: PackClass,
    out: Box<dyn ObjectWriter>,
    offset: u64,
    entries: Vec<FooterEntry>,
}

impl PackWriter {
    pub(crate) fn create(
        backend: &dyn Backend,
        number: u64,
        class: PackClass,
        now_unix_ms: u64,
    ) -> Result<Self, BackendError> {
        let mut out = backend.create(&pack_name(number)?)?;
        out.write(&encode_header(number, class, now_unix_ms))?;
        Ok(Self { number, class, out, offset: HEADER_BYTES as u64, entries: Vec::new() })
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Bytes so far.
    pub(crate) fn size(&self) -> u64 {
        self.offset
    }

    /// Appends what [`record_bytes`] made of `key`.
    pub(crate) fn append(&mut self, key: RecordKey, record: &[u8]) -> Result<(), BackendError> {
        let header = RecordHeader::decode(record.get(..super::RECORD_HEADER_BYTES).unwrap_or_default());
        debug_assert!(header.as_ref().is_ok_and(|h| h.key == key), "made by record_bytes");
        let Ok(header) = header else {
            return Err(BackendError::InvalidName { name: key.to_string() });
        };
        let offset = u32::try_from(self.offset).expect("a pack ends soon after pack_bytes, below 1 GiB");
        self.out.write(record)?;
        self.entries.push(FooterEntry { key, offset, length: header.length, body_crc: header.body_crc });
        self.offset += record.len() as u64;
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<FinishedPack, BackendError> {
        let footer = encode_footer(&self.entries, self.offset);
        self.out.write(&footer)?;
        self.out.finish()?;
        Ok(FinishedPack {
            number: self.number,
            class: self.class,
            size: self.offset + footer.len() as u64,
            entries: self.entries,
        })
    }
}
