//! A granted task on the wire. Secrets are in it: it is only ever sent inside a grant, to an agent that has proved
//! who it is.

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use snapferry_types::access::{AccountAccess, AssumeRole, Credentials, SignIn};
use snapferry_types::spec::{MediaAgentRef, TaskSpec};
use snapferry_types::tenancy::TenantKeys;

use crate::convert::{ConvertError, array32, non_empty, parse, parse_optional, required};
use crate::v1;

impl From<TaskSpec> for v1::Granted {
    /// `lease_ms` is left 0 and `desired` to run, for the caller to fill.
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
            media_agent_id: spec.media_agent.as_ref().map(|one| one.id.to_string()).unwrap_or_default(),
            media_agent_endpoint: spec.media_agent.map(|one| one.endpoint).unwrap_or_default(),
            checkpoint: spec.checkpoint.into(),
            objects: spec.objects.into_iter().map(Into::into).collect(),
            superseded: spec.superseded.into_iter().map(Into::into).collect(),
            operation: Some(spec.operation.into()),
        };
        Self { fence, lease_ms: 0, spec: Some(spec), desired: v1::Desired::Run.into() }
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
            media_agent: parse_optional("media_agent_id", &spec.media_agent_id)?
                .map(|id| MediaAgentRef { id, endpoint: spec.media_agent_endpoint }),
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
