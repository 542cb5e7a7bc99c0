//! Letting the service account use the tenant's snapshots, and taking that back.
//!
//! Runs twice: sharing again changes nothing. Dies at any step: the share is in the ledger, with its id, before it is
//! made, and the next attempt, the clean-up or the reaper takes it back. A share that somebody else made stays. Of tasks
//! that need the same share each has it in the ledger, and the last one takes it back.

use std::collections::BTreeSet;
use std::sync::Arc;

use snapferry_aws::kms::{self, KeyManager};
use snapferry_aws::{Account, AwsError, ec2};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::instance::InstanceConfig;
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind, Purpose};
use snapferry_types::{AccountId, SnapshotId};

use super::clean;
use crate::context::TaskContext;

/// The alias of the AWS-managed key.
const AWS_MANAGED: &str = "alias/aws/ebs";

/// Checks before anything is made that snapshots of the instance could be shared: AWS never shares what the
/// AWS-managed key encrypts.
///
/// # Errors
/// [`TransferError`] of class `Invalid` that names the volume, the key and the way out.
pub(super) async fn check(tenant: &Account, config: &InstanceConfig) -> Result<(), TransferError> {
    let mut checked = BTreeSet::new();
    for volume in config.volumes.iter().filter(|volume| volume.encrypted) {
        let Some(key) = &volume.kms_key_id else { continue };
        if checked.insert(key) {
            check_key(tenant, volume.volume_id.as_str(), key).await?;
        }
    }
    Ok(())
}

/// Checks that what `key` encrypts can be shared. A key that cannot be looked at is left to the call that needs it.
///
/// # Errors
/// [`TransferError`] of class `Invalid` that names what is encrypted, the key and the way out.
pub(super) async fn check_key(tenant: &Account, what: &str, key: &str) -> Result<(), TransferError> {
    let is_aws_managed = match kms::describe_key(tenant, key).await {
        Ok(info) => info.manager == KeyManager::Aws,
        Err(AwsError::Cancelled) => return Err(TransferError::cancelled()),
        Err(error) => {
            tracing::info!(key, %error, "the key cannot be looked at; the call that shares will tell");
            key.ends_with(AWS_MANAGED)
        }
    };
    if !is_aws_managed {
        return Ok(());
    }
    let message = format!(
        "{what} is encrypted under the AWS-managed key {key}, whose snapshots AWS does not share with other accounts: read as the tenant and vault within the tenant's account, or encrypt the volume under a customer-managed key"
    );
    Err(TransferError::new(ErrorClass::Invalid, message))
}

/// Shares snapshots until [`take_back`]. What another task of ours shares, too, is shared by each of them; what somebody
/// else has shared stays as it is. A base that is gone is told when it is opened.
pub(super) async fn for_transport(
    context: &Arc<TaskContext>,
    owner: &Account,
    snapshots: &[SnapshotId],
    with: &AccountId,
) -> Result<(), TransferError> {
    for snapshot in snapshots {
        let id = ec2::share_id(snapshot, with);
        if context.ledger.existing(ObjectKind::Share, Purpose::Transport, &id).await.is_none() {
            match is_shared(owner, snapshot, with).await? {
                None => continue,
                Some(false) => {}
                Some(true) if is_somebody_elses(context, owner, snapshot, with).await? => continue,
                Some(true) => {}
            }
        }
        share(context, owner, Purpose::Transport, snapshot, with).await?;
    }
    Ok(())
}

/// Whether a share that is there was made outside Snapferry. It is looked at once more when no task of ours stands for it:
/// one may have taken it back just now.
async fn is_somebody_elses(
    context: &Arc<TaskContext>,
    owner: &Account,
    snapshot: &SnapshotId,
    with: &AccountId,
) -> Result<bool, TransferError> {
    let (id, stop) = (ec2::share_id(snapshot, with), context.stop.token());
    let (entry, by_others) = context.ledger.intend_share(owner, Purpose::Transport, &id, stop).await?;
    if by_others || is_shared(owner, snapshot, with).await? != Some(true) {
        return Ok(false);
    }
    context.ledger.moved(&entry, LedgerState::Gone).await?;
    Ok(true)
}

/// Whether an account may use a snapshot; nothing when that is gone.
async fn is_shared(
    owner: &Account,
    snapshot: &SnapshotId,
    with: &AccountId,
) -> Result<Option<bool>, TransferError> {
    match ec2::snapshot_sharing(owner, snapshot).await {
        Ok(shared) => Ok(Some(shared.contains(with))),
        Err(AwsError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Shares one snapshot, for a purpose.
pub(super) async fn share(
    context: &Arc<TaskContext>,
    owner: &Account,
    purpose: Purpose,
    snapshot: &SnapshotId,
    with: &AccountId,
) -> Result<LedgerEntry, TransferError> {
    let id = ec2::share_id(snapshot, with);
    let shared = async {
        let (entry, _) = context.ledger.intend_share(owner, purpose, &id, context.stop.token()).await?;
        match entry.state {
            LedgerState::Made | LedgerState::Kept | LedgerState::HandedOver => return Ok(entry),
            LedgerState::Intended | LedgerState::Gone => {}
        }
        let _under_way = context.making.begin()?;
        ec2::share_snapshot(owner, snapshot, with).await?;
        context.ledger.made(&entry, vec![id.clone()]).await
    };
    shared
        .await
        .map_err(|error: TransferError| error.context(format!("share {snapshot} with account {with}")))
}

/// Takes all shares of the task back that only moved blocks.
pub(super) async fn take_back(context: &Arc<TaskContext>) -> Result<(), TransferError> {
    let entries = context.ledger.open_entries().await;
    let shares: Vec<LedgerEntry> = entries
        .into_iter()
        .filter(|entry| entry.kind == ObjectKind::Share && entry.purpose == Purpose::Transport)
        .collect();
    if shares.is_empty() {
        return Ok(());
    }
    context.enter("unshare");
    for entry in shares {
        clean::remove(context, &entry, context.stop.token()).await?;
    }
    Ok(())
}
