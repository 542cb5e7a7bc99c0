//! A granted task on the wire. Secrets are in it: it is only ever sent inside a grant, to an agent that has proved
//! who it is.

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use snapferry_types::access::{AccountAccess, AssumeRole, Credentials, SignIn};
use snapferry_types::catalogue::BaseRef;
use snapferry_types::spec::{
    MediaAgentRef, Operation, ReadAs, RestoreSpec, RestoreTarget, StreamingBackupSpec, TaskSpec,
};
use snapferry_types::tenancy::TenantKeys;

use crate::convert::{ConvertError, array32, non_empty, parse, parse_optional, required};
use crate::v1;

impl From<TaskSpec> for v1::Granted {
    /// `lease_ms` is left 0 for the caller to fill.
    fn from(spec: TaskSpec) -> Self {
        let fence = Some(spec.fence.into());
        let spec = v1::TaskSpec {
            task_id: spec.task.to_string(),
            job_id: spec.job.to_string(),
            attempt: spec.attempt,
            deployment: spec.deployment,
            tenant: spec.tenant,
            id_key: Bytes::copy_from_slice(spec.keys.id_key.expose_secret()),
            data_key: Bytes::copy_from_slice(spec.keys.data_key.expose_secret()),
            tenant_access: Some(spec.tenant_access.into()),
            service_access: spec.service_access.map(Into::into),
            media_agent_id: spec.media_agent.id.to_string(),
            media_agent_endpoint: spec.media_agent.endpoint,
            checkpoint: spec.checkpoint.into(),
            objects: spec.objects.into_iter().map(Into::into).collect(),
            superseded: spec.superseded.into_iter().map(Into::into).collect(),
            operation: Some(spec.operation.into()),
        };
        Self { fence, lease_ms: 0, spec: Some(spec) }
    }
}

impl TryFrom<v1::Granted> for TaskSpec {
    type Error = ConvertError;

    fn try_from(granted: v1::Granted) -> Result<Self, ConvertError> {
        let spec = required("spec", granted.spec)?;
        Ok(Self {
            task: parse("task_id", &spec.task_id)?,
            job: parse("job_id", &spec.job_id)?,
            fence: required("fence", granted.fence)?.into(),
            attempt: spec.attempt,
            deployment: spec.deployment,
            tenant: spec.tenant,
            keys: TenantKeys::new(array32("id_key", &spec.id_key)?, array32("data_key", &spec.data_key)?),
            tenant_access: required("tenant_access", spec.tenant_access)?.try_into()?,
            service_access: spec.service_access.map(TryInto::try_into).transpose()?,
            media_agent: MediaAgentRef {
                id: parse("media_agent_id", &spec.media_agent_id)?,
                endpoint: spec.media_agent_endpoint,
            },
            operation: required("operation", spec.operation)?.try_into()?,
            checkpoint: spec.checkpoint.into(),
            objects: spec.objects.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            superseded: spec.superseded.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<AccountAccess> for v1::AccountAccess {
    fn from(access: AccountAccess) -> Self {
        let access_key = match access.sign_in {
            SignIn::AccessKey(key) => Some(v1::AccessKey {
                access_key_id: key.access_key_id,
                secret_access_key: key.secret_access_key.expose_secret().to_owned(),
            }),
            SignIn::Ambient => None,
        };
        Self {
            account: access.account.into(),
            region: access.region.into(),
            access_key,
            roles: access.roles.into_iter().map(Into::into).collect(),
            endpoint_url: access.endpoint_url.unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::AccountAccess> for AccountAccess {
    type Error = ConvertError;

    fn try_from(access: v1::AccountAccess) -> Result<Self, ConvertError> {
        let sign_in = access.access_key.map_or(SignIn::Ambient, |key| {
            SignIn::AccessKey(Credentials {
                access_key_id: key.access_key_id,
                secret_access_key: key.secret_access_key.into(),
            })
        });
        Ok(Self {
            account: parse("account", &access.account)?,
            region: parse("region", &access.region)?,
            sign_in,
            roles: access.roles.into_iter().map(Into::into).collect(),
            endpoint_url: non_empty(access.endpoint_url),
        })
    }
}

impl From<AssumeRole> for v1::AssumeRole {
    fn from(role: AssumeRole) -> Self {
        let external_id = role.external_id.map(|id| id.expose_secret().to_owned()).unwrap_or_default();
        Self { role_arn: role.role_arn, external_id }
    }
}

impl From<v1::AssumeRole> for AssumeRole {
    fn from(role: v1::AssumeRole) -> Self {
        Self { role_arn: role.role_arn, external_id: non_empty(role.external_id).map(SecretString::from) }
    }
}

impl From<Operation> for v1::task_spec::Operation {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::StreamingBackup(backup) => Self::StreamingBackup(v1::StreamingBackup {
                instance_id: backup.instance.into(),
                base: backup.base.map(Into::into),
                full: backup.full,
                read_as_service: backup.read_as == ReadAs::Service,
            }),
            Operation::Restore(restore) => Self::Restore(v1::Restore {
                recovery_point_id: restore.recovery_point.to_string(),
                volume_ids: restore.volumes.into_iter().map(Into::into).collect(),
                extra_tags: restore.extra_tags.into_iter().map(Into::into).collect(),
                target: Some(restore.target.into()),
            }),
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
                read_as: if backup.read_as_service { ReadAs::Service } else { ReadAs::Tenant },
            }),
            Wire::Restore(restore) => Self::Restore(RestoreSpec {
                recovery_point: parse("recovery_point_id", &restore.recovery_point_id)?,
                volumes: restore
                    .volume_ids
                    .iter()
                    .map(|id| parse("volume_ids", id))
                    .collect::<Result<_, _>>()?,
                target: required("target", restore.target)?.into(),
                extra_tags: restore.extra_tags.into_iter().map(Into::into).collect(),
            }),
            Wire::DeleteRecoveryPoint(delete) => {
                Self::DeleteRecoveryPoint(parse("recovery_point_id", &delete.recovery_point_id)?)
            }
        })
    }
}

impl From<RestoreTarget> for v1::restore::Target {
    fn from(target: RestoreTarget) -> Self {
        match target {
            RestoreTarget::Volumes { availability_zone } => {
                Self::Volumes(v1::RestoreVolumes { availability_zone: availability_zone.unwrap_or_default() })
            }
            RestoreTarget::Instance { name, instance_type, subnet_id, security_group_ids, key_name } => {
                Self::Instance(v1::RestoreInstance {
                    name: name.unwrap_or_default(),
                    instance_type: instance_type.unwrap_or_default(),
                    subnet_id: subnet_id.unwrap_or_default(),
                    security_group_ids,
                    key_name: key_name.unwrap_or_default(),
                })
            }
        }
    }
}

impl From<v1::restore::Target> for RestoreTarget {
    fn from(target: v1::restore::Target) -> Self {
        match target {
            v1::restore::Target::Volumes(volumes) => {
                Self::Volumes { availability_zone: non_empty(volumes.availability_zone) }
            }
            v1::restore::Target::Instance(instance) => Self::Instance {
                name: non_empty(instance.name),
                instance_type: non_empty(instance.instance_type),
                subnet_id: non_empty(instance.subnet_id),
                security_group_ids: instance.security_group_ids,
                key_name: non_empty(instance.key_name),
            },
        }
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
