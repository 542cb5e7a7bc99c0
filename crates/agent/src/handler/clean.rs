//! Cleaning up after a task that failed for good or was cancelled.
//!
//! Runs twice: what is gone is gone. Dies at any step: the entries that are still open are the reaper's.

use std::str::FromStr;
use std::sync::Arc;

use snapferry_aws::{Account, AwsError, SessionScope, ec2};
use snapferry_transfer::{ErrorClass, TransferError};
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
    let account = context.tenant(SessionScope::CleanUp).await?;
    let mut first_error = None;
    for entry in entries {
        if stop.is_cancelled() {
            return Err(TransferError::cancelled());
        }
        if let Err(error) = remove(context, &account, &entry, stop).await {
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
        ObjectKind::Volume => 2,
        ObjectKind::Snapshot => 3,
    }
}

/// Deletes the objects of an entry, which may be another task's that was superseded, and records that they are gone.
pub(super) async fn remove(
    context: &TaskContext,
    account: &Account,
    entry: &LedgerEntry,
    stop: &CancellationToken,
) -> Result<(), TransferError> {
    let mut object_ids = entry.object_ids.clone();
    if object_ids.is_empty() {
        object_ids = ec2::find_by_ledger_tag(account, entry.kind, entry.id).await?;
    }
    for id in &object_ids {
        delete(account, entry.kind, id, stop).await?;
    }
    context.ledger.moved(entry, LedgerState::Gone).await
}

/// Deletes one object; one that is gone is done.
async fn delete(
    account: &Account,
    kind: ObjectKind,
    id: &str,
    stop: &CancellationToken,
) -> Result<(), TransferError> {
    if stop.is_cancelled() {
        return Err(TransferError::cancelled());
    }
    let deleted = match kind {
        ObjectKind::Instance => ec2::terminate_instance(account, &parse(id)?).await,
        ObjectKind::Image => ec2::deregister_image(account, id).await,
        ObjectKind::Volume => ec2::delete_volume(account, &parse(id)?).await,
        ObjectKind::Snapshot => ec2::delete_snapshot(account, &parse(id)?).await,
    };
    match deleted {
        Ok(()) | Err(AwsError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn parse<T: FromStr<Err: std::fmt::Display>>(id: &str) -> Result<T, TransferError> {
    id.parse().map_err(|error: T::Err| {
        TransferError::new(ErrorClass::Internal, format!("read the ledger's object id: {error}"))
    })
}
