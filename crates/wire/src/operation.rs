//! The operation of a granted task on the wire.

use serde::Serialize;
use serde::de::DeserializeOwned;
use snapferry_types::catalogue::BaseRef;
use snapferry_types::spec::{
    BackupCopySpec, IntelliSnapSpec, Operation, ReadAs, StreamingBackupSpec, VaultSpec, VaultTo,
};
use snapferry_types::transport::TransportWish;

use crate::convert::{ConvertError, non_empty, parse, parse_optional, required};
use crate::v1;

impl From<Operation> for v1::task_spec::Operation {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::StreamingBackup(backup) => Self::StreamingBackup(v1::StreamingBackup {
                instance_id: backup.instance.into(),
                base: backup.base.map(Into::into),
                full: backup.full,
                read_as_service: backup.read_as == ReadAs::Service,
                transport: backup.transport.as_str().to_owned(),
            }),
            Operation::IntelliSnap(snap) => Self::IntelliSnap(v1::IntelliSnap {
                instance_id: snap.instance.into(),
                vault: snap.vault.map(Into::into),
            }),
            Operation::BackupCopy(copy) => Self::BackupCopy(v1::BackupCopy {
                source_recovery_point_id: copy.source.to_string(),
                metadata: to_json(&copy.meta).into(),
                base: copy.base.map(Into::into),
                full: copy.full,
                read_as_service: copy.read_as == ReadAs::Service,
                transport: copy.transport.as_str().to_owned(),
            }),
            Operation::Restore(restore) => Self::Restore((*restore).into()),
            Operation::DeleteRecoveryPoint(id) => {
                Self::DeleteRecoveryPoint(v1::DeleteRecoveryPoint { recovery_point_id: id.to_string() })
            }
        }
    }
}

impl TryFrom<v1::task_spec::Operation> for Operation {
    type Error = ConvertError;

    fn try_from(operation: v1::task_spec::Operation) -> Result<Self, ConvertError> {
        use v1::task_spec::Operation as Wire;
        Ok(match operation {
            Wire::StreamingBackup(backup) => Self::StreamingBackup(StreamingBackupSpec {
                instance: parse("instance_id", &backup.instance_id)?,
                base: backup.base.map(TryInto::try_into).transpose()?,
                full: backup.full,
                read_as: read_as(backup.read_as_service),
                transport: wish(&backup.transport)?,
            }),
            Wire::IntelliSnap(snap) => Self::IntelliSnap(IntelliSnapSpec {
                instance: parse("instance_id", &snap.instance_id)?,
                vault: snap.vault.map(TryInto::try_into).transpose()?,
            }),
            Wire::BackupCopy(copy) => Self::BackupCopy(Box::new(BackupCopySpec {
                source: parse("source_recovery_point_id", &copy.source_recovery_point_id)?,
                meta: from_json("metadata", &copy.metadata)?,
                base: copy.base.map(TryInto::try_into).transpose()?,
                full: copy.full,
                read_as: read_as(copy.read_as_service),
                transport: wish(&copy.transport)?,
            })),
            Wire::Restore(restore) => Self::Restore(Box::new(restore.try_into()?)),
            Wire::DeleteRecoveryPoint(delete) => {
                Self::DeleteRecoveryPoint(parse("recovery_point_id", &delete.recovery_point_id)?)
            }
        })
    }
}

impl From<VaultSpec> for v1::Vault {
    fn from(vault: VaultSpec) -> Self {
        let to = match vault.to {
            VaultTo::Tenant => v1::VaultTo::Tenant,
            VaultTo::ServiceShare => v1::VaultTo::ServiceShare,
            VaultTo::ServiceCopy => v1::VaultTo::ServiceCopy,
        };
        Self {
            region: vault.region.map(Into::into).unwrap_or_default(),
            to: to.into(),
            kms_key_id: vault.kms_key_id.unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::Vault> for VaultSpec {
    type Error = ConvertError;

    fn try_from(vault: v1::Vault) -> Result<Self, ConvertError> {
        let to = match vault.to() {
            v1::VaultTo::Tenant => VaultTo::Tenant,
            v1::VaultTo::ServiceShare => VaultTo::ServiceShare,
            v1::VaultTo::ServiceCopy => VaultTo::ServiceCopy,
            v1::VaultTo::Unspecified => return Err(ConvertError::Missing("vault.to")),
        };
        let region = parse_optional("vault.region", &vault.region)?;
        Ok(Self { region, to, kms_key_id: non_empty(vault.kms_key_id) })
    }
}

impl From<BaseRef> for v1::Base {
    fn from(base: BaseRef) -> Self {
        let snapshots = base
            .snapshots
            .into_iter()
            .map(|(volume, snapshot)| v1::BaseSnapshot {
                volume_id: volume.into(),
                snapshot_id: snapshot.into(),
            })
            .collect();
        Self { recovery_point_id: base.recovery_point.to_string(), snapshots }
    }
}

impl TryFrom<v1::Base> for BaseRef {
    type Error = ConvertError;

    fn try_from(base: v1::Base) -> Result<Self, ConvertError> {
        let snapshots = base
            .snapshots
            .iter()
            .map(|one| Ok((parse("volume_id", &one.volume_id)?, parse("snapshot_id", &one.snapshot_id)?)))
            .collect::<Result<_, ConvertError>>()?;
        Ok(Self {
            recovery_point: required(
                "base.recovery_point_id",
                parse_optional("recovery_point_id", &base.recovery_point_id)?,
            )?,
            snapshots,
        })
    }
}

const fn read_as(service: bool) -> ReadAs {
    if service { ReadAs::Service } else { ReadAs::Tenant }
}

/// The wish of a word; an older scheduler sends none.
pub(crate) fn wish(word: &str) -> Result<TransportWish, ConvertError> {
    if word.is_empty() {
        return Ok(TransportWish::default());
    }
    TransportWish::from_word(word)
        .ok_or_else(|| ConvertError::Invalid { field: "transport", reason: format!("unknown word {word:?}") })
}

/// What of the catalogue goes along as JSON, as the library has it.
pub(crate) fn to_json<T: Serialize>(part: &T) -> Vec<u8> {
    serde_json::to_vec(part).expect("the catalogue's types have only text keys")
}

pub(crate) fn from_json<T: DeserializeOwned>(field: &'static str, json: &[u8]) -> Result<T, ConvertError> {
    serde_json::from_slice(json).map_err(|error| ConvertError::Invalid { field, reason: error.to_string() })
}
