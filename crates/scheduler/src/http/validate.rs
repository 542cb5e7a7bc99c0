//! Requests that parse may still be impossible; each refusal says what would be possible.

use std::collections::HashSet;

use snapferry_api::hypervisor::{AdminSignIn, CreateHypervisor, CreateRole, RoleToAssume, TenantSignIn};
use snapferry_api::job::{CreateJob, Work};
use snapferry_api::restore::{NewInstance, Restore, RestoreTarget};
use snapferry_types::AccountId;

use super::problem::Refusal;

const MAX_INSTANCES: usize = 1_000;
const MAX_REGIONS: usize = 32;
const MAX_ROLES: usize = 4;
const MAX_TAGS: usize = 40;

pub(super) fn hypervisor(request: &CreateHypervisor) -> Result<(), Refusal> {
    let named = (1..=64).contains(&request.name.len())
        && request.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    check(named, || "name: use 1 to 64 letters, digits, '-', '_' and '.'".to_owned())?;
    check((1..=MAX_REGIONS).contains(&request.regions.len()), || {
        format!("regions: name 1 to {MAX_REGIONS} regions")
    })?;
    let distinct = request.regions.iter().collect::<HashSet<_>>().len();
    check(distinct == request.regions.len(), || "regions: one is named twice".to_owned())?;
    if let Some(url) = &request.endpoint_url {
        check(url.len() <= 500 && (url.starts_with("http://") || url.starts_with("https://")), || {
            "endpoint_url: give an http:// or https:// URL".to_owned()
        })?;
    }
    match &request.role {
        CreateRole::Admin { sign_in, roles } => {
            match sign_in {
                AdminSignIn::AccessKey { access_key_id, secret_access_key } => {
                    access_key(access_key_id, secret_access_key.is_empty())?;
                }
                AdminSignIn::Ambient => {}
            }
            check(roles.len() <= MAX_ROLES, || format!("roles: at most {MAX_ROLES}"))?;
            roles.iter().try_for_each(|RoleToAssume { role_arn, .. }| role(role_arn, None))
        }
        CreateRole::Tenant {
            sign_in: TenantSignIn::AccessKey { access_key_id, secret_access_key }, ..
        } => access_key(access_key_id, secret_access_key.is_empty()),
        CreateRole::Tenant { sign_in: TenantSignIn::AssumeRole { role_arn, external_id }, .. } => {
            check(!external_id.is_empty(), || {
                "external_id: a tenant's role must ask for one, and it must be given here".to_owned()
            })?;
            role(role_arn, Some(&request.account))
        }
    }
}

pub(super) fn job(request: &CreateJob) -> Result<(), Refusal> {
    match &request.work {
        Work::StreamingBackup(backup) => {
            check((1..=MAX_INSTANCES).contains(&backup.instances.len()), || {
                format!("instances: name 1 to {MAX_INSTANCES}")
            })?;
            let distinct = backup.instances.iter().collect::<HashSet<_>>().len();
            check(distinct == backup.instances.len(), || "instances: one is named twice".to_owned())
        }
        Work::Restore(restore) => self::restore(restore),
        Work::DeleteRecoveryPoint(_)
        | Work::IntelliSnap(_)
        | Work::BackupCopy(_)
        | Work::Replication(_)
        | Work::Conversion(_) => Ok(()),
    }
}

fn restore(restore: &Restore) -> Result<(), Refusal> {
    check(restore.tags.len() <= MAX_TAGS, || format!("tags: at most {MAX_TAGS}, AWS allows 50 in all"))?;
    for tag in &restore.tags {
        let fits = (1..=128).contains(&tag.key.chars().count()) && tag.value.chars().count() <= 256;
        check(fits && tag.is_settable() && !tag.key.starts_with("snapferry:"), || {
            format!(
                "tags: {:?} cannot be set; keys have 1 to 128 characters and do not begin with aws: or snapferry:",
                tag.key.chars().take(140).collect::<String>()
            )
        })?;
    }
    let distinct = restore.volumes.iter().collect::<HashSet<_>>().len();
    check(distinct == restore.volumes.len(), || "volumes: one is named twice".to_owned())?;
    let texts = match &restore.target {
        RestoreTarget::Volumes { availability_zone, .. } => vec![availability_zone],
        RestoreTarget::Instance(new) => {
            check(new.security_group_ids.len() <= 16, || "security_group_ids: at most 16".to_owned())?;
            let NewInstance { name, instance_type, subnet_id, key_name, .. } = &**new;
            vec![name, instance_type, subnet_id, key_name, &new.iam_instance_profile, &new.private_ip]
        }
        RestoreTarget::InPlace { .. } | RestoreTarget::DiskImage { .. } => Vec::new(),
    };
    check(texts.into_iter().flatten().all(|text| (1..=256).contains(&text.chars().count())), || {
        "target: texts have 1 to 256 characters; leave out what should be as before".to_owned()
    })
}

fn access_key(id: &str, secret_is_empty: bool) -> Result<(), Refusal> {
    let fits =
        (16..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    check(fits && !secret_is_empty, || "sign_in: give access_key_id (AKIA…) and secret_access_key".to_owned())
}

fn role(arn: &str, account: Option<&AccountId>) -> Result<(), Refusal> {
    let parts = arn.splitn(6, ':').collect::<Vec<_>>();
    let of = match parts.as_slice() {
        ["arn", partition, "iam", "", of, name]
            if partition.starts_with("aws") && name.starts_with("role/") && arn.len() <= 600 =>
        {
            of.parse::<AccountId>().ok()
        }
        _ => None,
    };
    let shown = arn.chars().take(120).collect::<String>();
    let of = of.ok_or_else(|| {
        Refusal::invalid(format!("role_arn: {shown:?} is not of the form arn:aws:iam::<account>:role/<name>"))
    })?;
    check(account.is_none_or(|account| *account == of), || {
        format!("role_arn: {shown:?} is a role of account {of}, not of the hypervisor's account")
    })
}

fn check(holds: bool, detail: impl FnOnce() -> String) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(Refusal::invalid(detail())) }
}
