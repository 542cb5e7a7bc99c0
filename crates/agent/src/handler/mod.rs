//! One handler a file; the operation of the granted task picks it. Each opens with what happens when it runs twice
//! or dies at each step.

mod backup_copy;
mod base;
mod checkpoint;
mod clean;
mod content;
mod delete_recovery_point;
mod intelli_snap;
mod marks;
mod objects;
mod preflight;
mod restore;
mod restore_attach;
mod restore_check;
mod restore_done;
mod restore_image;
mod restore_in_place;
mod restore_instance;
mod restore_preflight;
mod restore_source;
mod restore_swap;
mod restore_tags;
mod restore_volumes;
mod session;
mod share;
mod snapshot;
mod stage;
mod store;
mod streaming_backup;
mod transit;
mod transport;
mod vault;

use std::sync::Arc;

pub(crate) use transport::HotAddNode;

use futures::future::BoxFuture;
use snapferry_transfer::{TransferError, boxed};
use snapferry_types::spec::Operation;
use snapferry_wire::v1;
use tokio_util::sync::CancellationToken;

use crate::context::TaskContext;

/// Runs the task's operation; answers what it made.
///
/// # Errors
/// [`TransferError`]; its class decides on retry.
pub(crate) fn run(context: Arc<TaskContext>) -> BoxFuture<'static, Result<Vec<v1::Made>, TransferError>> {
    Box::pin(async move {
        match &context.spec.operation {
            Operation::StreamingBackup(spec) => boxed(|| streaming_backup::run(&context, spec)).await,
            Operation::Restore(spec) => boxed(|| restore::run(&context, spec)).await,
            Operation::IntelliSnap(spec) => boxed(|| intelli_snap::run(&context, spec)).await,
            Operation::BackupCopy(spec) => boxed(|| backup_copy::run(&context, spec)).await,
            Operation::DeleteRecoveryPoint(id) => boxed(|| delete_recovery_point::run(&context, *id)).await,
        }
    })
}

/// Lets go of what an attempt that did not succeed still holds of this node: attached volumes. One that `is_lost` has no
/// right to touch them any more.
pub(crate) async fn let_go(context: &TaskContext, is_lost: bool) {
    transport::let_go(context, is_lost).await;
}

/// Removes what the task has made and not handed over, in AWS and in the library.
///
/// # Errors
/// [`TransferError`] of the first object that could not be removed; the rest was still tried.
pub(crate) fn clean_up<'a>(
    context: &'a Arc<TaskContext>,
    stop: &'a CancellationToken,
) -> BoxFuture<'a, Result<(), TransferError>> {
    Box::pin(clean::run(context, stop))
}

/// A result for the job.
fn made(kind: &str, id: impl ToString, source: impl ToString) -> v1::Made {
    v1::Made { kind: kind.to_owned(), id: id.to_string(), source: source.to_string() }
}
