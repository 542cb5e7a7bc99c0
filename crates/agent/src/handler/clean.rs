//! Cleaning up after a task that failed for good or was cancelled.
//!
//! Runs twice: what is gone is gone. Dies at any step: the entries that are still open are the reaper's. An exchange of
//! volumes that was under way is taken back before anything is removed; while that fails, nothing is.

use std::sync::Arc;

use snapferry_aws::SessionScope;
use snapferry_aws::ec2::{self, Removal};
use snapferry_transfer::TransferError;
use snapferry_types::SnapshotId;
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind, Purpose};
use snapferry_types::spec::{Operation, RestoreFrom};
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

/// Deletes the objects of an entry, which may be another task's that was superseded, and records that they are gone. A
/// share that another task needs, too, stays: whoever needs it last takes it back.
pub(crate) async fn remove(
    context: &TaskContext,
    entry: &LedgerEntry,
    stop: &CancellationToken,
) -> Result<(), TransferError> {
    if entry.kind == ObjectKind::Share && context.ledger.is_needed_elsewhere(entry).await? {
        return Ok(());
    }
    let account = context.account_of(entry, SessionScope::CleanUp).await?;
    let mut object_ids = entry.object_ids.clone();
    if object_ids.is_empty() {
        object_ids = ec2::find_by_ledger_tag(&account, entry.kind, entry.id).await?;
    }
    let restores_instance = entry.kind == ObjectKind::Instance && entry.purpose == Purpose::RestoreResult;
    let snapshots = if restores_instance { restored_snapshots(context).await } else { Vec::new() };
    let what = Removal { kind: entry.kind, purpose: entry.purpose, snapshots: &snapshots };
    for id in &object_ids {
        if stop.is_cancelled() {
            return Err(TransferError::cancelled());
        }
        ec2::remove_object(&account, what, id, stop).await?;
    }
    context.ledger.moved(entry, LedgerState::Gone).await
}

/// The snapshots that a restore makes volumes of.
async fn restored_snapshots(context: &TaskContext) -> Vec<SnapshotId> {
    let staging = context.ledger.all_of(Purpose::RestoreStaging).await;
    let mut snapshots: Vec<SnapshotId> =
        staging.iter().flat_map(|entry| &entry.object_ids).filter_map(|id| id.parse().ok()).collect();
    if let Operation::Restore(spec) = &context.spec.operation
        && let RestoreFrom::Snapshots(held) = &spec.from
    {
        let meta = &held.meta;
        snapshots.extend(meta.volumes.iter().map(|volume| volume.snapshot_id.clone()));
        let vaults = meta.vaults.iter().flat_map(|vault| &vault.snapshots);
        snapshots.extend(vaults.map(|(_, snapshot)| snapshot.clone()));
    }
    snapshots
}
