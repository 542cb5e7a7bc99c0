//! A restore on the wire.

use snapferry_types::image::ImageFormat;
use snapferry_types::spec::{
    AttachTo, HeldSnapshots, NewInstanceSpec, RestoreFrom, RestoreSpec, RestoreTarget, TargetEncryption,
};

use crate::convert::{ConvertError, non_empty, parse, parse_optional, required};
use crate::operation::{from_json, to_json, wish};
use crate::v1;

impl From<RestoreSpec> for v1::Restore {
    fn from(restore: RestoreSpec) -> Self {
        let (snapshots_metadata, vault_metadata) = match &restore.from {
            RestoreFrom::Library => (Vec::new(), Vec::new()),
            RestoreFrom::Snapshots(held) => {
                (to_json(&held.meta), held.vault.as_ref().map_or_else(Vec::new, to_json))
            }
        };
        let kms_key_id = match restore.encryption {
            TargetEncryption::AsBefore => String::new(),
            TargetEncryption::Key(key) => key,
        };
        Self {
            recovery_point_id: restore.recovery_point.to_string(),
            volume_ids: restore.volumes.into_iter().map(Into::into).collect(),
            extra_tags: restore.extra_tags.into_iter().map(Into::into).collect(),
            snapshots_metadata: snapshots_metadata.into(),
            vault_metadata: vault_metadata.into(),
            transport: restore.transport.as_str().to_owned(),
            kms_key_id,
            target: Some(restore.target.into()),
        }
    }
}

impl TryFrom<v1::Restore> for RestoreSpec {
    type Error = ConvertError;

    fn try_from(restore: v1::Restore) -> Result<Self, ConvertError> {
        let from = if restore.snapshots_metadata.is_empty() {
            RestoreFrom::Library
        } else {
            let vault = (!restore.vault_metadata.is_empty())
                .then(|| from_json("vault_metadata", &restore.vault_metadata));
            RestoreFrom::Snapshots(Box::new(HeldSnapshots {
                meta: from_json("snapshots_metadata", &restore.snapshots_metadata)?,
                vault: vault.transpose()?,
            }))
        };
        Ok(Self {
            recovery_point: parse("recovery_point_id", &restore.recovery_point_id)?,
            from,
            volumes: restore.volume_ids.iter().map(|id| parse("volume_ids", id)).collect::<Result<_, _>>()?,
            target: required("target", restore.target)?.try_into()?,
            extra_tags: restore.extra_tags.into_iter().map(Into::into).collect(),
            transport: wish(&restore.transport)?,
            encryption: non_empty(restore.kms_key_id)
                .map_or(TargetEncryption::AsBefore, TargetEncryption::Key),
        })
    }
}

impl From<RestoreTarget> for v1::restore::Target {
    fn from(target: RestoreTarget) -> Self {
        match target {
            RestoreTarget::Volumes { availability_zone, attach } => {
                let (instance, devices) = match attach {
                    Some(attach) => (attach.instance.into(), attach.devices),
                    None => (String::new(), Vec::new()),
                };
                let devices = devices.into_iter();
                Self::Volumes(v1::RestoreVolumes {
                    availability_zone: availability_zone.unwrap_or_default(),
                    attach_to_instance_id: instance,
                    devices: devices
                        .map(|(volume, device)| v1::AttachDevice { volume_id: volume.into(), device })
                        .collect(),
                })
            }
            RestoreTarget::Instance(new) => Self::Instance(v1::RestoreInstance {
                name: new.name.unwrap_or_default(),
                instance_type: new.instance_type.unwrap_or_default(),
                subnet_id: new.subnet_id.unwrap_or_default(),
                security_group_ids: new.security_group_ids,
                key_name: new.key_name.unwrap_or_default(),
                iam_instance_profile: new.iam_instance_profile.unwrap_or_default(),
                private_ip: new.private_ip.unwrap_or_default(),
                stopped: new.stopped,
            }),
            RestoreTarget::InPlace { keep_old_volumes, start } => {
                Self::InPlace(v1::RestoreInPlace { keep_old_volumes, start })
            }
            RestoreTarget::DiskImage { folder, format } => {
                Self::DiskImage(v1::RestoreDiskImage { folder, format: format.as_str().to_owned() })
            }
        }
    }
}

impl TryFrom<v1::restore::Target> for RestoreTarget {
    type Error = ConvertError;

    fn try_from(target: v1::restore::Target) -> Result<Self, ConvertError> {
        Ok(match target {
            v1::restore::Target::Volumes(volumes) => {
                let instance = parse_optional("attach_to_instance_id", &volumes.attach_to_instance_id)?;
                let devices = volumes
                    .devices
                    .into_iter()
                    .map(|one| Ok((parse("devices", &one.volume_id)?, one.device)))
                    .collect::<Result<_, ConvertError>>()?;
                Self::Volumes {
                    availability_zone: non_empty(volumes.availability_zone),
                    attach: instance.map(|instance| AttachTo { instance, devices }),
                }
            }
            v1::restore::Target::Instance(new) => Self::Instance(Box::new(NewInstanceSpec {
                name: non_empty(new.name),
                instance_type: non_empty(new.instance_type),
                subnet_id: non_empty(new.subnet_id),
                security_group_ids: new.security_group_ids,
                key_name: non_empty(new.key_name),
                iam_instance_profile: non_empty(new.iam_instance_profile),
                private_ip: non_empty(new.private_ip),
                stopped: new.stopped,
            })),
            v1::restore::Target::InPlace(in_place) => {
                Self::InPlace { keep_old_volumes: in_place.keep_old_volumes, start: in_place.start }
            }
            v1::restore::Target::DiskImage(image) => Self::DiskImage {
                folder: image.folder,
                format: ImageFormat::from_word(&image.format).ok_or_else(|| ConvertError::Invalid {
                    field: "format",
                    reason: format!("unknown word {:?}", image.format),
                })?,
            },
        })
    }
}
