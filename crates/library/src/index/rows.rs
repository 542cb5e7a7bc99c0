//! Rows of the index.

use serde::{Deserialize, Serialize};
use snapferry_types::{Fence, PageId, RecoveryPointId, SessionId};

use crate::codec::{Malformed, Reader, Writer};
use crate::pack::{FinishedPack, PackClass};

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) pack: u64,
    /// Where its header starts.
    pub(crate) offset: u32,
    /// Length of its body.
    pub(crate) length: u32,
    /// Which record of the pack it is, from 0.
    pub(crate) ordinal: u32,
    /// Whether it is known not to read.
    pub(crate) damaged: bool,
}

impl Location {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(21);
        out.u64(self.pack).u32(self.offset).u32(self.length).u32(self.ordinal).u8(u8::from(self.damaged));
        out.done()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new("record row", bytes);
        let (pack, offset, length, ordinal) = (r.u64()?, r.u32()?, r.u32()?, r.u32()?);
        let flags = r.u8()?;
        if flags > 1 {
            return Err(r.fail(format!("flags {flags}")));
        }
        r.end()?;
        Ok(Self { pack, offset, length, ordinal, damaged: flags == 1 })
    }

    /// Whether both are the same place, damaged or not.
    pub(crate) fn same_place(&self, other: &Self) -> bool {
        (self.pack, self.offset) == (other.pack, other.offset)
    }
}

/// A pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackRow {
    pub(crate) class: PackClass,
    pub(crate) size: u64,
    pub(crate) n_records: u32,
    /// Whether its object was found to be gone.
    pub(crate) lost: bool,
}

impl PackRow {
    pub(crate) fn of(pack: &FinishedPack) -> Self {
        let n_records = u32::try_from(pack.entries.len()).unwrap_or(u32::MAX);
        Self { class: pack.class, size: pack.size, n_records, lost: false }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(14);
        out.u8(self.class.code()).u64(self.size).u32(self.n_records).u8(u8::from(self.lost));
        out.done()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new("pack row", bytes);
        let code = r.u8()?;
        let class = PackClass::from_code(code).ok_or_else(|| r.fail(format!("class {code}")))?;
        let (size, n_records, flags) = (r.u64()?, r.u32()?, r.u8()?);
        if flags > 1 {
            return Err(r.fail(format!("flags {flags}")));
        }
        r.end()?;
        Ok(Self { class, size, n_records, lost: flags == 1 })
    }
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionRow {
    pub(crate) id: SessionId,
    pub(crate) key: String,
    /// The id its recovery point will have.
    pub(crate) recovery_point: RecoveryPointId,
    pub(crate) fence: Fence,
    pub(crate) tenant: String,
    pub(crate) volumes: Vec<SessionVolumeRow>,
    pub(crate) opened_unix_ms: u64,
    pub(crate) touched_unix_ms: u64,
}

/// A volume of an open session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionVolumeRow {
    pub(crate) name: String,
    pub(crate) n_blocks: u32,
    pub(crate) base: Option<BaseRow>,
}

/// What a volume starts from: pages of another recovery point, which the session keeps from collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BaseRow {
    pub(crate) recovery_point: RecoveryPointId,
    pub(crate) volume: String,
    pub(crate) n_blocks: u32,
    pub(crate) root: PageId,
    pub(crate) n_data: u32,
    pub(crate) n_zero: u32,
}

/// What is known of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum SessionLife {
    Open(SessionRow),
    Sealed { recovery_point: RecoveryPointId, fence: Fence },
}

/// What is known of a session key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum KeyRow {
    Open {
        session: SessionId,
    },
    Sealed {
        session: Option<SessionId>,
        recovery_point: RecoveryPointId,
        fence: Fence,
    },
    /// Kept for a while, so that an attempt that was fenced off cannot open the key again.
    Abandoned {
        fence: Fence,
        at_unix_ms: u64,
    },
}

pub(crate) fn big_endian_u64(bytes: &[u8]) -> Result<u64, Malformed> {
    let array =
        <[u8; 8]>::try_from(bytes).map_err(|_| Malformed::new("pack row", "its key is not 8 bytes"))?;
    Ok(u64::from_be_bytes(array))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_survive_their_bytes(pack in any::<u64>(), offset in any::<u32>(), length in any::<u32>(), ordinal in any::<u32>(), flag in any::<bool>()) {
            let at = Location { pack, offset, length, ordinal, damaged: flag };
            prop_assert_eq!(Location::decode(&at.encode()).unwrap(), at);
            let row = PackRow { class: PackClass::Manifest, size: pack, n_records: ordinal, lost: flag };
            prop_assert_eq!(PackRow::decode(&row.encode()).unwrap(), row);
        }

        #[test]
        fn no_bytes_make_them_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Location::decode(&bytes);
            let _ = PackRow::decode(&bytes);
        }
    }
}
