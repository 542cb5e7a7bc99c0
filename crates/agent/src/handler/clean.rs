//! Cleaning up after a task that failed for good or was cancelled.
//!
//! Runs twice: what is gone is gone. Dies at any step: the entries that are still open are the reaper's.

use std::sync::Arc;

use snapferry_aws::{SessionScope, ec2};
use snapferry_transfer::TransferError;
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind};
use tokio_util::sync::CancellationToken;

use crate::context::TaskContext;

/// Removes every open object of the task: instances first, then images, volumes and snapshots.
pub(super) async fn run(context: &Arc<TaskContext>, stop: &CancellationToken) -> Result<(), TransferError> {
    context.abandon_session().await;
    let mut entries = context.ledger.open_entries().await;
    if entries.is_empty() {
        return Ok(());
    }
    entries.sort_by_key(|entry| order(entry.kind));
    let mut first_error = None;
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

const fn order(kind: ObjectKind) -> u8 {
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
        ec2::remove_object(&account, entry.kind, id).await?;
    }
    context.ledger.moved(entry, LedgerState::Gone).await
}
