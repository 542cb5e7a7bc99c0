//! The recovery-point object: the record that makes an upload a recovery point.

use snapferry_types::{Fence, PageId, RecoveryPointId};

use crate::codec::{Malformed, Reader, Writer, take_crc};
use crate::limits::{
    MAX_KEY_BYTES, MAX_METADATA_BYTES, MAX_TENANT_BYTES, MAX_VOLUME_NAME_BYTES, MAX_VOLUMES,
};

const WHAT: &str = "recovery point";
const MAGIC: &[u8; 8] = b"SFPOINT1";
const VERSION: u16 = 1;

/// Longest encoded recovery point in bytes.
pub(crate) const MAX_POINT_BYTES: usize = MAX_METADATA_BYTES + 64 * 1_024;

/// A sealed upload: every block of every volume of one instance at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryPoint {
    /// Its name.
    pub id: RecoveryPointId,
    /// The key of the session that made it.
    pub key: String,
    /// The fence under which it was sealed.
    pub fence: Fence,
    /// Whose it is.
    pub tenant: String,
    /// When it was sealed, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// What the client wants to know at a restore; opaque here.
    pub metadata: Vec<u8>,
    /// Its volumes, in the order of the session's request.
    pub volumes: Vec<PointVolume>,
}

/// A volume of a recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointVolume {
    /// Its name, unique in the recovery point.
    pub name: String,
    /// Its length in blocks of 512 KiB.
    pub n_blocks: u32,
    /// Its topmost interior page.
    pub root: PageId,
    /// Blocks with data.
    pub n_data: u32,
    /// Blocks of zeroes.
    pub n_zero: u32,
}

impl RecoveryPoint {
    /// The volume of that name.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&PointVolume> {
        self.volumes.iter().find(|v| v.name == name)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(256 + self.metadata.len());
        out.bytes(MAGIC)
            .u16(VERSION)
            .u128(self.id.as_u128())
            .u64(self.fence.generation)
            .u64(self.fence.epoch);
        out.u64(self.created_unix_ms).blob(self.key.as_bytes()).blob(self.tenant.as_bytes());
        out.u16(u16::try_from(self.volumes.len()).expect("at most MAX_VOLUMES"));
        for volume in &self.volumes {
            out.blob(volume.name.as_bytes()).u32(volume.n_blocks).bytes(&volume.root.0);
            out.u32(volume.n_data).u32(volume.n_zero);
        }
        out.blob(&self.metadata);
        out.done_with_crc()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(WHAT, take_crc(WHAT, bytes)?);
        r.magic(MAGIC)?;
        let version = r.u16()?;
        if version != VERSION {
            return Err(r.fail(format!("version {version}; this reads version {VERSION}")));
        }
        let id = RecoveryPointId::from_u128(r.u128()?);
        let fence = Fence { generation: r.u64()?, epoch: r.u64()? };
        let created_unix_ms = r.u64()?;
        let key = r.text(MAX_KEY_BYTES)?;
        let tenant = r.text(MAX_TENANT_BYTES)?;
        let n_volumes = usize::from(r.u16()?);
        if n_volumes == 0 || n_volumes > MAX_VOLUMES {
            return Err(r.fail(format!("{n_volumes} volumes, 1 to {MAX_VOLUMES} are allowed")));
        }
        let mut volumes = Vec::with_capacity(n_volumes);
        for _ in 0..n_volumes {
            volumes.push(PointVolume {
                name: r.text(MAX_VOLUME_NAME_BYTES)?,
                n_blocks: r.u32()?,
                root: PageId(r.array()?),
                n_data: r.u32()?,
                n_zero: r.u32()?,
            });
        }
        let metadata = r.blob(MAX_METADATA_BYTES)?.to_vec();
        r.end()?;
        Ok(Self { id, key, fence, tenant, created_unix_ms, metadata, volumes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn points() -> impl Strategy<Value = RecoveryPoint> {
        let volume = ("[a-z]{1,20}", any::<u32>(), any::<[u8; 32]>(), any::<u32>(), any::<u32>()).prop_map(
            |(name, n_blocks, root, n_data, n_zero)| PointVolume {
                name,
                n_blocks,
                root: PageId(root),
                n_data,
                n_zero,
            },
        );
        let head = (any::<u128>(), ".{0,30}", any::<u64>(), any::<u64>(), ".{0,30}", any::<u64>());
        (head, prop::collection::vec(any::<u8>(), 0..300), prop::collection::vec(volume, 1..6)).prop_map(
            |((id, key, generation, epoch, tenant, created_unix_ms), metadata, volumes)| RecoveryPoint {
                id: RecoveryPointId::from_u128(id),
                key,
                fence: Fence { generation, epoch },
                tenant,
                created_unix_ms,
                metadata,
                volumes,
            },
        )
    }

    proptest! {
        #[test]
        fn a_point_survives_its_bytes_and_no_other_bytes_are_one(point in points(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut bytes = point.encode();
            prop_assert_eq!(RecoveryPoint::decode(&bytes).unwrap(), point);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(RecoveryPoint::decode(&bytes).is_err());
            bytes.truncate(at);
            prop_assert!(RecoveryPoint::decode(&bytes).is_err());
        }
    }
}
