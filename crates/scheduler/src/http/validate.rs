//! Requests that parse may still be impossible; each refusal says what would be possible.

use std::collections::HashSet;

use snapferry_api::hypervisor::{AdminSignIn, CreateHypervisor, CreateRole, RoleToAssume, TenantSignIn};
use snapferry_api::job::{CreateJob, Work};
use snapferry_api::protect::Retention;
use snapferry_api::restore::{NewInstance, Restore, RestoreTarget};
use snapferry_types::{AccountId, TransportWish};

use super::problem::Refusal;

const MAX_NAMED: usize = 1_000;
const MAX_DAYS: u32 = 36_500;
const MAX_LAST: u32 = 10_000;
const MAX_FOLDER: usize = 200;
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
            named(&backup.instances, "instances")?;
            reading(backup.transport)?;
            retention(backup.retention)
        }
        Work::IntelliSnap(snap) => {
            named(&snap.instances, "instances")?;
            let key = snap.vault.as_ref().and_then(|vault| vault.kms_key_id.as_ref());
            kms_key(key)?;
            retention(snap.retention)
        }
        Work::BackupCopy(copy) => {
            if !copy.recovery_points.is_empty() {
                named(&copy.recovery_points, "recovery_points")?;
            }
            reading(copy.transport)?;
            retention(copy.retention)
        }
        Work::Restore(restore) => self::restore(restore),
        Work::DeleteRecoveryPoint(_) => Ok(()),
        Work::Replication(replication) => named(&replication.machines, "machines"),
        Work::Conversion(conversion) => named(&conversion.machines, "machines"),
    }
}

/// 1 to 1,000 different things.
fn named<T: Eq + std::hash::Hash>(things: &[T], what: &str) -> Result<(), Refusal> {
    check((1..=MAX_NAMED).contains(&things.len()), || format!("{what}: name 1 to {MAX_NAMED}"))?;
    let distinct = things.iter().collect::<HashSet<_>>().len();
    check(distinct == things.len(), || format!("{what}: one is named twice"))
}

fn reading(transport: TransportWish) -> Result<(), Refusal> {
    check(transport != TransportWish::Import, || {
        "transport: import only writes; blocks are read over ebs_direct or hot_add".to_owned()
    })
}

fn retention(retention: Option<Retention>) -> Result<(), Refusal> {
    let Some(Retention { days, last }) = retention else { return Ok(()) };
    check(days.is_some() || last.is_some(), || {
        "retention: give days, last or both; leave it out to keep what is made until it is deleted".to_owned()
    })?;
    check(days.is_none_or(|days| (1..=MAX_DAYS).contains(&days)), || {
        format!("retention: days are 1 to {MAX_DAYS}")
    })?;
    check(last.is_none_or(|last| (1..=MAX_LAST).contains(&last)), || {
        format!("retention: last is 1 to {MAX_LAST}")
    })
}

fn kms_key(key: Option<&String>) -> Result<(), Refusal> {
    check(key.is_none_or(|key| (1..=2_048).contains(&key.len())), || {
        "kms_key_id: give a key id, an alias or an ARN".to_owned()
    })
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
    kms_key(restore.kms_key_id.as_ref())?;
    let texts = match &restore.target {
        RestoreTarget::Volumes { availability_zone, attach: Some(attach) } => {
            let devices = attach.devices.iter();
            let volumes = devices.clone().map(|one| &one.volume).collect::<HashSet<_>>().len();
            let names = devices.map(|one| &one.device).collect::<HashSet<_>>().len();
            let n_devices = attach.devices.len();
            check(volumes == n_devices && names == n_devices, || {
                "attach.devices: a volume or a device is named twice".to_owned()
            })?;
            check(attach.devices.iter().all(|one| (1..=64).contains(&one.device.len())), || {
                "attach.devices: device names have 1 to 64 characters, such as /dev/sdf".to_owned()
            })?;
            vec![availability_zone]
        }
        RestoreTarget::DiskImage { folder, .. } => {
            let plain = |name: &str| {
                !name.is_empty()
                    && !name.starts_with('.')
                    && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            };
            return check(folder.len() <= MAX_FOLDER && folder.split('/').all(plain), || {
                format!(
                    "folder: give a path below the access node's image folder, at most {MAX_FOLDER} letters, digits, \
                     '-', '_', '.' and '/', where no name begins with '.'"
                )
            });
        }
        RestoreTarget::Volumes { availability_zone, attach: None } => vec![availability_zone],
        RestoreTarget::Instance(new) => {
            check(new.security_group_ids.len() <= 16, || "security_group_ids: at most 16".to_owned())?;
            let NewInstance { name, instance_type, subnet_id, key_name, .. } = &**new;
            vec![name, instance_type, subnet_id, key_name, &new.iam_instance_profile, &new.private_ip]
        }
        RestoreTarget::InPlace { .. } => Vec::new(),
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
