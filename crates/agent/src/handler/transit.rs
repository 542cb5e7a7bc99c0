//! The tenant's copies, under the transit key, of snapshots under the AWS-managed key, which AWS shares with nobody. The copies
//! can be shared with the service account.
//!
//! Runs twice: the copy is found by its ledger entry. Dies at any step: the entry is there before the copy, and the next
//! attempt, the clean-up of the task or the reaper removes it.

use snapferry_aws::ec2::{self, NewCopy};
use snapferry_aws::{Account, KeyUse, Probe};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::ledger::{LedgerEntry, ObjectKind, Purpose};
use snapferry_types::{SnapshotId, VolumeId};

use super::objects::{self, parse_one};
use super::preflight::{Preflight, stand_in};
use super::{clean, share};
use crate::context::TaskContext;

/// A copy that can be shared.
#[derive(Debug)]
pub(super) struct TransitCopy {
    /// The copy.
    pub(super) snapshot: SnapshotId,
    entry: LedgerEntry,
}

impl TransitCopy {
    /// Takes the copy's share with `service` back, and removes the copy.
    ///
    /// # Errors
    /// [`TransferError`]; the ledger has what is left.
    pub(super) async fn remove(self, context: &TaskContext, service: &Account) -> Result<(), TransferError> {
        let share = ec2::share_id(&self.snapshot, service.account());
        if let Some(share) = context.ledger.existing(ObjectKind::Share, Purpose::Transport, &share).await {
            clean::remove(context, &share, context.stop.token()).await?;
        }
        clean::remove(context, &self.entry, context.stop.token()).await
    }
}

/// Copies a snapshot that AWS does not share under the transit key, and waits for the copy; nothing where AWS shares it.
///
/// # Errors
/// [`TransferError`] of class `Invalid` that names the key when the node has no transit key.
pub(super) async fn copy_unshareable(
    context: &TaskContext,
    owner: &Account,
    volume: &VolumeId,
    snapshot: &SnapshotId,
) -> Result<Option<TransitCopy>, TransferError> {
    let states = ec2::snapshot_states(owner, std::slice::from_ref(snapshot)).await?;
    let key = states.into_iter().next().and_then(|state| state.kms_key_id.filter(|_| state.encrypted));
    let Some(key) = key else { return Ok(None) };
    let unshareable = match share::check_key(owner, volume.as_str(), &key).await {
        Ok(()) => return Ok(None),
        Err(error) if error.class == ErrorClass::Invalid => error,
        Err(error) => return Err(error),
    };
    let Some(transit) = context.shared.transit_kms_key_id.clone() else { return Err(unshareable) };
    let doing = format!("copy {snapshot} of {volume} under the transit key {transit}");
    let start = |entry: LedgerEntry| {
        let new = NewCopy {
            source_region: owner.region().clone(),
            snapshot: snapshot.clone(),
            description: format!("Snapferry copy of {snapshot} of {volume} to be shared"),
            encrypted: true,
            kms_key_id: Some(transit.clone()),
            tags: context.ledger.tags(&entry),
        };
        async move { Ok(vec![ec2::copy_snapshot(owner, &new).await?.into()]) }
    };
    let label = format!("copy {volume}");
    let what = (ObjectKind::Snapshot, Purpose::Transport, label.as_str());
    let entry = objects::ensure(context, owner, what, start).await.map_err(|error| error.context(&doing))?;
    let snapshot: SnapshotId = parse_one(&entry)?;
    context.completed(owner, std::slice::from_ref(&snapshot)).await.map_err(|error| error.context(&doing))?;
    Ok(Some(TransitCopy { snapshot, entry }))
}

/// Removes the copies that any attempt of the task made; their shares have been taken back.
///
/// # Errors
/// [`TransferError`] of the first that stays; the ledger has it.
pub(super) async fn remove_all(context: &TaskContext) -> Result<(), TransferError> {
    for entry in context.ledger.open_entries().await {
        if entry.kind == ObjectKind::Snapshot && entry.purpose == Purpose::Transport {
            clean::remove(context, &entry, context.stop.token()).await?;
        }
    }
    Ok(())
}

/// Asks whether the tenant may copy `snapshot` (one that stands for it, when it is not there yet) under the transit key, and
/// the service account read that. `otherwise` ends the way out.
pub(super) async fn preflight(
    context: &TaskContext,
    ask: &mut Preflight<'_>,
    (tenant, service): (&Account, &Account),
    snapshot: Option<&SnapshotId>,
    otherwise: &str,
) {
    let snapshot = match snapshot {
        Some(snapshot) => Some(snapshot.clone()),
        None => stand_in(tenant).await,
    };
    if let Some(snapshot) = snapshot {
        ask.call(tenant, Probe::CopySnapshot { source_region: tenant.region().clone(), snapshot });
    }
    let Some(key) = &context.shared.transit_kms_key_id else { return };
    let of = "the transit key (transit_kms_key_id)";
    let way = format!(
        "let account {} use it in its policy (kms:DescribeKey, kms:GenerateDataKeyWithoutPlaintext, kms:CreateGrant, \
         kms:ReEncrypt*), or {otherwise}",
        tenant.account()
    );
    ask.key(tenant, (key, KeyUse::GenerateDataKeyWithoutPlaintext), of, way);
    ask.key(service, (key, KeyUse::Decrypt), of, format!("let the service account use it, or {otherwise}"));
}
