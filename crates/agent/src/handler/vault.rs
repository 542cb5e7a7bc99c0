//! Where else the snapshots of a recovery point are: copies in another region, a share with the service account, or
//! copies that belong to it. The service account copies what AWS does not share from the tenant's copy under the transit key.
//!
//! Runs twice, or dies at:
//! - sharing: in the ledger with its id before it is made; sharing again changes nothing.
//! - copying on the way: see [`transit`]; a copy that the service account began to copy is not made again.
//! - copying: the copy is found by the ledger entry's tag.
//! - waiting: a copy that is complete already is taken as it is.
//! - taking the copies' shares back, and removing the copies on the way: what is open in the ledger goes with whoever is next.

use std::sync::Arc;

use snapferry_aws::ec2::{self, NewCopy};
use snapferry_aws::{Account, KeyUse, Probe, SessionScope, kms};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::aws::Tag;
use snapferry_types::catalogue::VaultMeta;
use snapferry_types::instance::InstanceConfig;
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind, Purpose};
use snapferry_types::spec::{VaultSpec, VaultTo};
use snapferry_types::{Region, SnapshotId, VolumeId};

use super::objects::{self, parse_one};
use super::preflight::{Preflight, keys_of, stand_in};
use super::snapshot::{Snapshots, TakenSnapshot};
use super::{share, transit};
use crate::context::TaskContext;

/// Copies of one task at the same time; AWS allows 20 for an account in a region, and others copy too.
const COPIES_AT_ONCE: usize = 5;
/// Our own tags on a volume, which may have been restored by us, are not its user's.
const OUR_TAGS: &str = "snapferry:";

/// Checks before anything is made that the vault is possible.
///
/// # Errors
/// [`TransferError`] with the reason and the way out.
pub(super) async fn check(
    context: &Arc<TaskContext>,
    tenant: &Account,
    vault: &VaultSpec,
    config: &InstanceConfig,
) -> Result<(), TransferError> {
    check_place(vault, tenant.region())?;
    check_key(tenant, vault, config).await?;
    match vault.to {
        VaultTo::Tenant => {}
        VaultTo::ServiceShare => share::check(tenant, config).await?,
        VaultTo::ServiceCopy if context.shared.transit_kms_key_id.is_some() => {}
        VaultTo::ServiceCopy => share::check(tenant, config).await.map_err(|error| match error.class {
            ErrorClass::Invalid => {
                let way =
                    "with a transit key (transit_kms_key_id of the agents) it is copied under that first";
                TransferError::new(error.class, format!("{}; {way}", error.message))
            }
            _ => error,
        })?,
    }
    preflight(context, tenant, vault, config).await
}

/// Asks whether copies and shares may be made, and whether the keys let it be.
async fn preflight(
    context: &Arc<TaskContext>,
    tenant: &Account,
    vault: &VaultSpec,
    config: &InstanceConfig,
) -> Result<(), TransferError> {
    let mut ask = Preflight::new(context);
    if ask.is_late() {
        return Ok(());
    }
    let owner = owner_of_copies(context, tenant, vault).await?;
    let snapshot = stand_in(tenant).await;
    let reader = match vault.to {
        VaultTo::Tenant => tenant.clone(),
        // Where the snapshots are: their keys are used there.
        VaultTo::ServiceShare | VaultTo::ServiceCopy => {
            context.service_in(tenant.region(), SessionScope::IntelliSnap).await?
        }
    };
    let mut is_copied_first = false;
    for (key, volume) in keys_of(&config.volumes) {
        // Without a transit key it was refused before.
        if vault.to == VaultTo::ServiceCopy && context.shared.transit_kms_key_id.is_some() {
            match share::check_key(tenant, &volume, key).await {
                Ok(()) => {}
                Err(error) if error.class == ErrorClass::Invalid => {
                    is_copied_first = true;
                    continue;
                }
                Err(error) => return Err(error),
            }
        }
        let way = format!(
            "let account {} use the key in its policy (kms:DescribeKey, kms:Decrypt, kms:CreateGrant, \
             kms:ReEncrypt*), or choose another vault",
            reader.account()
        );
        ask.key(&reader, (key, KeyUse::Decrypt), volume, way);
    }
    if is_copied_first {
        let accounts = (tenant, &reader);
        transit::preflight(context, &mut ask, accounts, snapshot.as_ref(), "choose another vault").await;
    }
    if let Some(key) = &vault.kms_key_id {
        let way = "choose another key for the vault, or allow it in the key's policy and the role's";
        ask.key(&owner, (key, KeyUse::GenerateDataKeyWithoutPlaintext), "the vault", way);
    }
    match (vault.to, snapshot) {
        (VaultTo::Tenant, Some(snapshot)) => {
            let source_region = tenant.region().clone();
            ask.call(&owner, Probe::CopySnapshot { source_region, snapshot });
        }
        (VaultTo::ServiceShare | VaultTo::ServiceCopy, Some(snapshot)) => {
            ask.call(tenant, Probe::ShareSnapshot { snapshot, with: owner.account().clone() });
        }
        (_, None) => {}
    }
    ask.run().await
}

/// Copies or shares the snapshots; answers where they are when all of it is complete.
pub(super) async fn fill(
    context: &Arc<TaskContext>,
    tenant: &Account,
    vault: &VaultSpec,
    snapshots: &Snapshots,
) -> Result<VaultMeta, TransferError> {
    match vault.to {
        VaultTo::Tenant => copy_all(context, tenant, vault, &snapshots.taken, &snapshots.seen.config).await,
        VaultTo::ServiceShare => share_all(context, tenant, snapshots).await,
        VaultTo::ServiceCopy => {
            let service = owner_of_copies(context, tenant, vault).await?;
            let sources = share_for_copies(context, tenant, &service, &snapshots.taken).await?;
            let filled = copy_all(context, tenant, vault, &sources, &snapshots.seen.config).await?;
            share::take_back(context).await?;
            transit::remove_all(context).await?;
            Ok(filled)
        }
    }
}

fn check_place(vault: &VaultSpec, here: &Region) -> Result<(), TransferError> {
    let elsewhere = vault.region.as_ref().is_some_and(|region| region != here);
    let refused = match vault.to {
        VaultTo::ServiceShare if elsewhere => {
            "a share is in the snapshots' own region: choose a copy for another one"
        }
        VaultTo::ServiceShare if vault.kms_key_id.is_some() => {
            "a share has the snapshots' own key: choose a copy for another one"
        }
        VaultTo::Tenant if !elsewhere && vault.kms_key_id.is_none() => {
            "a copy in the same account, region and key protects from nothing: name another region or another key"
        }
        VaultTo::Tenant | VaultTo::ServiceShare | VaultTo::ServiceCopy => return Ok(()),
    };
    Err(TransferError::new(ErrorClass::Invalid, format!("the vault is refused: {refused}")))
}

/// Copies in the volumes' own account and region are to have another key than the volumes.
async fn check_key(
    tenant: &Account,
    vault: &VaultSpec,
    config: &InstanceConfig,
) -> Result<(), TransferError> {
    let elsewhere = vault.region.as_ref().is_some_and(|region| region != tenant.region());
    let Some(key) = vault.kms_key_id.as_ref().filter(|_| vault.to == VaultTo::Tenant && !elsewhere) else {
        return Ok(());
    };
    // A key that cannot be looked at is for the preflight to tell.
    let Ok(wanted) = kms::describe_key(tenant, key).await else { return Ok(()) };
    match keys_of(&config.volumes).get_key_value(wanted.arn.as_str()) {
        None => Ok(()),
        Some((key, volumes)) => {
            let message = format!(
                "the vault is refused: {volumes} has the key {key} already, and a copy under it in the same account and \
                 region protects from nothing: name another region or another key"
            );
            Err(TransferError::new(ErrorClass::Invalid, message))
        }
    }
}

/// The account that owns the copies, in the region of the copies.
async fn owner_of_copies(
    context: &Arc<TaskContext>,
    tenant: &Account,
    vault: &VaultSpec,
) -> Result<Account, TransferError> {
    let region = vault.region.as_ref().unwrap_or_else(|| tenant.region());
    match vault.to {
        VaultTo::Tenant => context.tenant_in(region, SessionScope::IntelliSnap).await,
        VaultTo::ServiceShare | VaultTo::ServiceCopy => {
            context.service_in(region, SessionScope::IntelliSnap).await
        }
    }
}

async fn share_all(
    context: &Arc<TaskContext>,
    tenant: &Account,
    snapshots: &Snapshots,
) -> Result<VaultMeta, TransferError> {
    context.enter("share");
    let service = context.service_in(tenant.region(), SessionScope::IntelliSnap).await?;
    for one in &snapshots.taken {
        share::share(context, tenant, Purpose::Vault, &one.snapshot, service.account()).await?;
    }
    Ok(VaultMeta {
        account: service.account().clone(),
        region: tenant.region().clone(),
        kms_key_id: snapshots.taken.iter().find_map(|one| one.kms_key_id.clone()),
        snapshots: snapshots.taken.iter().map(|one| (one.volume.clone(), one.snapshot.clone())).collect(),
    })
}

/// Shares what the service account copies: the snapshots, or the tenant's copies of them where AWS does not share them. Answers
/// what each is to be copied from; only those whose copies were not started yet are shared.
async fn share_for_copies(
    context: &Arc<TaskContext>,
    tenant: &Account,
    service: &Account,
    taken: &[TakenSnapshot],
) -> Result<Vec<TakenSnapshot>, TransferError> {
    context.enter("share");
    let shared = taken.iter().cloned().map(|mut one| async move {
        let label = one.volume.as_str();
        let started = context.ledger.existing(ObjectKind::Snapshot, Purpose::Vault, label).await;
        if started.is_some_and(|entry| entry.state != LedgerState::Intended) {
            return Ok(one);
        }
        let copy = transit::copy_unshareable(context, tenant, &one.volume, &one.snapshot).await?;
        if let Some(copy) = copy {
            one.snapshot = copy.snapshot;
        }
        let source = std::slice::from_ref(&one.snapshot);
        share::for_transport(context, tenant, source, service.account()).await?;
        Ok(one)
    });
    context.making.all(COPIES_AT_ONCE, shared).await
}

async fn copy_all(
    context: &Arc<TaskContext>,
    tenant: &Account,
    vault: &VaultSpec,
    taken: &[TakenSnapshot],
    config: &InstanceConfig,
) -> Result<VaultMeta, TransferError> {
    context.enter("copy");
    let owner = owner_of_copies(context, tenant, vault).await?;
    let copies = taken.iter().cloned().map(|one| {
        let tags = tags_of(config, &one.volume);
        let from = tenant.region();
        let owner = &owner;
        async move { copy(context, owner, from, vault, &one, tags).await }
    });
    let copies = context.making.all(COPIES_AT_ONCE, copies).await?;
    Ok(VaultMeta {
        account: owner.account().clone(),
        region: owner.region().clone(),
        kms_key_id: copies.iter().find_map(|(_, _, key)| key.clone()),
        snapshots: copies.into_iter().map(|(volume, snapshot, _)| (volume, snapshot)).collect(),
    })
}

/// Copies one snapshot and waits for it: AWS says only in the copy's state that a key cannot be used.
async fn copy(
    context: &Arc<TaskContext>,
    owner: &Account,
    from: &Region,
    vault: &VaultSpec,
    one: &TakenSnapshot,
    tags: Vec<Tag>,
) -> Result<(VolumeId, SnapshotId, Option<String>), TransferError> {
    let TakenSnapshot { volume, snapshot, kms_key_id, .. } = one;
    let key = match (&vault.kms_key_id, kms_key_id) {
        (Some(key), _) => format!("key {key}"),
        (None, Some(_)) => "the account's default key".to_owned(),
        (None, None) => "no key".to_owned(),
    };
    let doing = format!(
        "copy {snapshot} of {volume} into {} of account {} under {key}",
        owner.region(),
        owner.account()
    );
    let start = |entry: LedgerEntry| {
        let mut all = context.ledger.tags(&entry);
        all.extend(tags);
        let new = NewCopy {
            source_region: from.clone(),
            snapshot: snapshot.clone(),
            description: format!("snapferry vault copy of {snapshot} of {volume}"),
            encrypted: kms_key_id.is_some() || vault.kms_key_id.is_some(),
            kms_key_id: vault.kms_key_id.clone(),
            tags: all,
        };
        async move { Ok(vec![ec2::copy_snapshot(owner, &new).await?.to_string()]) }
    };
    let what = (ObjectKind::Snapshot, Purpose::Vault, volume.as_str());
    let entry = objects::ensure(context, owner, what, start).await.map_err(|error| error.context(&doing))?;
    let copied: SnapshotId = parse_one(&entry)?;
    let states = context
        .completed(owner, std::slice::from_ref(&copied))
        .await
        .map_err(|error| error.context(&doing))?;
    let key = states.into_iter().next().and_then(|state| state.kms_key_id.filter(|_| state.encrypted));
    Ok((volume.clone(), copied, key))
}

/// The tags that the volume's user gave it; AWS does not copy them.
fn tags_of(config: &InstanceConfig, volume: &VolumeId) -> Vec<Tag> {
    let found = config.volumes.iter().find(|one| one.volume_id == *volume);
    let tags = found.map(|one| one.tags.as_slice()).unwrap_or_default();
    tags.iter().filter(|tag| tag.is_settable() && !tag.key.starts_with(OUR_TAGS)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_that_makes_no_sense_is_refused_with_the_reason() {
        let here: Region = "eu-central-1".parse().unwrap();
        let check = |to, region: Option<&str>, key: Option<&str>| {
            let vault = VaultSpec {
                region: region.map(|region| region.parse().unwrap()),
                to,
                kms_key_id: key.map(ToOwned::to_owned),
            };
            check_place(&vault, &here).map_err(|error| error.message)
        };
        assert_eq!(check(VaultTo::Tenant, Some("eu-west-1"), None), Ok(()));
        assert_eq!(check(VaultTo::Tenant, None, Some("alias/other")), Ok(()));
        assert!(check(VaultTo::Tenant, Some("eu-central-1"), None).unwrap_err().contains("another region"));
        assert_eq!(check(VaultTo::ServiceShare, Some("eu-central-1"), None), Ok(()));
        assert!(check(VaultTo::ServiceShare, Some("eu-west-1"), None).unwrap_err().contains("own region"));
        assert!(check(VaultTo::ServiceShare, None, Some("alias/other")).unwrap_err().contains("own key"));
        assert_eq!(check(VaultTo::ServiceCopy, None, None), Ok(()));
        assert_eq!(check(VaultTo::ServiceCopy, Some("eu-west-1"), Some("alias/other")), Ok(()));
    }
}
