//! Cleaning up after a task that failed for good or was cancelled.
//!
//! Runs twice: what is gone is gone. Dies at any step: the entries that are still open are the reaper's. An exchange of
//! volumes that was under way is taken back before anything is removed; while that fails, nothing is.

use std::sync::Arc;

use snapferry_aws::{Account, SessionScope, ec2};
use snapferry_transfer::TransferError;
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind, Purpose};
use snapferry_types::spec::{Operation, RestoreFrom};
use snapferry_types::{SnapshotId, VolumeId};
use tokio_util::sync::CancellationToken;

use super::{restore_image, restore_in_place, transport};
use crate::context::TaskContext;

/// Removes every open object of the task: instances first, then images, volumes and snapshots.
pub(super) async fn run(context: &Arc<TaskContext>, stop: &CancellationToken) -> Result<(), TransferError> {
    context.abandon_session().await;
    let mut first_error = None;
    if let Operation::Restore(_) = &context.spec.operation {
        restore_in_place::clean_up(context, stop).await?;
        for cleaned in [restore_image::clean_up(context).await, transport::clean_up(context).await] {
            first_error = first_error.or(cleaned.err());
        }
    }
    let mut entries = context.ledger.open_entries().await;
    entries.sort_by_key(|entry| order(entry.kind));
    for entry in entries {
        if stop.is_cancelled() {
            return Err(TransferError::cancelled());
        }
        if let Err(error) = remove(context, &entry, stop).await {
            tracing::warn!(entry = %entry.id, kind = entry.kind.as_str(), %error, "not removed");
            first_error.get_or_insert(error);
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// What holds others goes first.
pub(super) const fn order(kind: ObjectKind) -> u8 {
    match kind {
        ObjectKind::Instance => 0,
        ObjectKind::Image => 1,
        ObjectKind::ImportTask => 2,
        ObjectKind::Volume => 3,
        ObjectKind::Share => 4,
        ObjectKind::Snapshot => 5,
        ObjectKind::S3Object => 6,
    }
}

/// Deletes the objects of an entry, which may be another task's that was superseded, and records that they are gone.
pub(crate) async fn remove(
    context: &TaskContext,
    entry: &LedgerEntry,
    stop: &CancellationToken,
) -> Result<(), TransferError> {
    let account = context.account_of(entry, SessionScope::CleanUp).await?;
    let mut object_ids = entry.object_ids.clone();
    if object_ids.is_empty() {
        object_ids = ec2::find_by_ledger_tag(&account, entry.kind, entry.id).await?;
    }
    for id in &object_ids {
        if stop.is_cancelled() {
            return Err(TransferError::cancelled());
        }
        let_go(context, &account, entry, id, stop).await?;
        ec2::remove_object(&account, entry.kind, id).await?;
    }
    context.ledger.moved(entry, LedgerState::Gone).await
}

/// The snapshots that a restore makes volumes of.
async fn restored_snapshots(context: &TaskContext) -> Vec<SnapshotId> {
    let staging = context.ledger.all_of(Purpose::RestoreStaging).await;
    let mut snapshots: Vec<SnapshotId> =
        staging.iter().flat_map(|entry| &entry.object_ids).filter_map(|id| id.parse().ok()).collect();
    if let Operation::Restore(spec) = &context.spec.operation
        && let RestoreFrom::Snapshots(meta) = &spec.from
    {
        snapshots.extend(meta.volumes.iter().map(|volume| volume.snapshot_id.clone()));
        let vaults = meta.vaults.iter().flat_map(|vault| &vault.snapshots);
        snapshots.extend(vaults.map(|(_, snapshot)| snapshot.clone()));
    }
    snapshots
}

/// Makes an object removable: a volume is taken off the instance it is attached to, and the volumes of an instance are
/// made to go with it.
async fn let_go(
    context: &TaskContext,
    account: &Account,
    entry: &LedgerEntry,
    id: &str,
    stop: &CancellationToken,
) -> Result<(), TransferError> {
    match entry.kind {
        ObjectKind::Volume => {
            let Ok(volume) = id.parse::<VolumeId>() else { return Ok(()) };
            if ec2::volume_state(account, &volume).await.is_ok_and(|state| state == "in-use") {
                // Nothing of a volume that only moved blocks needs to be saved.
                let by_force = entry.purpose == Purpose::Transport;
                ec2::detach_volume(account, &volume, by_force).await?;
                ec2::wait_volume_detached(account, &volume, stop).await?;
            }
            Ok(())
        }
        ObjectKind::Instance if entry.purpose == Purpose::RestoreResult => {
            let Ok(instance) = id.parse() else { return Ok(()) };
            // One that is gone, or has no volumes, needs nothing.
            let Ok(described) = ec2::describe_instance(account, &instance).await else { return Ok(()) };
            // Only volumes of the restored snapshots: what somebody has attached since is not ours to delete.
            let snapshots = restored_snapshots(context).await;
            let is_ours = |volume: &VolumeId| {
                let of = described.volumes.iter().find(|one| one.id == *volume);
                of.and_then(|one| one.snapshot.as_ref()).is_some_and(|of| snapshots.contains(of))
            };
            let stays = described.config.volumes.iter();
            let stays = stays.filter(|one| !one.delete_on_termination && is_ours(&one.volume_id));
            let devices: Vec<(String, bool)> = stays.map(|one| (one.device_name.clone(), true)).collect();
            ec2::modify_delete_on_termination(account, &instance, &devices).await?;
            Ok(())
        }
        ObjectKind::Instance
        | ObjectKind::Snapshot
        | ObjectKind::Image
        | ObjectKind::Share
        | ObjectKind::ImportTask
        | ObjectKind::S3Object => Ok(()),
    }
}
