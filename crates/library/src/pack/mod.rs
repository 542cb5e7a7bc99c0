//! Packs: the container of everything bulky. A pack is a header, records one after another, an index of them
//! and a trailer; it is written once and never changed. Data packs hold chunks, manifest packs hold pages.
//!
//! This module knows the bytes and nothing else: not where packs lie, not which record is referred to.

mod format;
mod reader;
mod writer;

pub(crate) use format::{FooterEntry, PackClass, RECORD_HEADER_BYTES, pack_name, pack_number};
pub use format::{RecordKey, RecordKind};
pub(crate) use reader::{check_record, read_contents};
pub(crate) use writer::{FinishedPack, PackWriter, record_bytes};

#[cfg(test)]
mod tests;
