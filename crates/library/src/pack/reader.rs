//! Reading a pack: one record, or the list of all.

use super::format::{
    FooterEntry, HEADER_BYTES, PackClass, RECORD_HEADER_BYTES, RecordHeader, RecordKey, TRAILER_BYTES,
    decode_footer, decode_header, decode_trailer, pack_name,
};
use crate::backend::{Backend, BackendError};
use crate::codec::Malformed;

/// Checks a record that was read whole and gives its body's place in `bytes`.
pub(crate) fn check_record(key: RecordKey, bytes: &[u8]) -> Result<&[u8], Malformed> {
    let fail = |why: &str| Malformed::new("record", why.to_owned());
    let (head, body) = bytes.split_at_checked(RECORD_HEADER_BYTES).ok_or_else(|| fail("too short"))?;
    let header = RecordHeader::decode(head)?;
    if header.key != key {
        return Err(Malformed::new("record", format!("it holds {}", header.key)));
    }
    if usize::try_from(header.length) != Ok(body.len()) {
        return Err(fail("its length does not agree with the index"));
    }
    if crc32c::crc32c(body) != header.body_crc {
        return Err(fail("its checksum does not agree"));
    }
    Ok(body)
}

/// What a pack holds.
#[derive(Debug)]
pub(crate) struct PackContents {
    pub(crate) class: PackClass,
    pub(crate) entries: Vec<FooterEntry>,
    /// Why the footer could not be used, when the records were walked one by one instead.
    pub(crate) walked: Option<Malformed>,
}

/// Lists a pack's records by its footer; with a damaged footer, by walking the records up to the first that is
/// not readable.
pub(crate) fn read_contents(
    backend: &dyn Backend,
    number: u64,
    size: u64,
) -> Result<PackContents, BackendError> {
    match by_footer(backend, number, size)? {
        Ok((class, entries)) => Ok(PackContents { class, entries, walked: None }),
        Err(why) => {
            let entries = walk(backend, number, size)?;
            let class = entries.first().map_or(PackClass::Data, |e| e.key.kind.class());
            Ok(PackContents { class, entries, walked: Some(why) })
        }
    }
}

type Listed = Result<(PackClass, Vec<FooterEntry>), Malformed>;

fn by_footer(backend: &dyn Backend, number: u64, size: u64) -> Result<Listed, BackendError> {
    let name = pack_name(number)?;
    if size < (HEADER_BYTES + TRAILER_BYTES) as u64 {
        return Ok(Err(Malformed::new("pack", "too short for a header and a trailer")));
    }
    let header = backend.read_range(&name, 0, HEADER_BYTES)?;
    let trailer = backend.read_range(&name, size - TRAILER_BYTES as u64, TRAILER_BYTES)?;
    let class = decode_header(&header, number);
    let (offset, length, crc) = match decode_trailer(&trailer, size) {
        Ok(found) => found,
        Err(why) => return Ok(Err(why)),
    };
    let footer = backend.read_range(&name, offset, length)?;
    Ok(class.and_then(|class| Ok((class, decode_footer(&footer, crc, offset)?))))
}

fn walk(backend: &dyn Backend, number: u64, size: u64) -> Result<Vec<FooterEntry>, BackendError> {
    let name = pack_name(number)?;
    let mut offset = HEADER_BYTES as u64;
    let mut entries = Vec::new();
    while offset + RECORD_HEADER_BYTES as u64 <= size {
        let Ok(header) = RecordHeader::decode(&backend.read_range(&name, offset, RECORD_HEADER_BYTES)?)
        else {
            break;
        };
        let end = offset + RECORD_HEADER_BYTES as u64 + u64::from(header.length);
        let Ok(start) = u32::try_from(offset) else { break };
        if end > size {
            break;
        }
        entries.push(FooterEntry {
            key: header.key,
            offset: start,
            length: header.length,
            body_crc: header.body_crc,
        });
        offset = end;
    }
    Ok(entries)
}
