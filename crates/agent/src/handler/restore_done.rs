//! The end of a restore: what was made becomes the user's, and what only served it goes.
//!
//! What was made is in the checkpoint first: an attempt that dies at any step is followed by one that begins here, and
//! answers the same. From the hand-over on no clean-up takes the results, whatever happens to the rest. Tags are taken
//! off, and snapshots deleted, as often as needed.

use std::sync::Arc;

use snapferry_aws::{SessionScope, ec2};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::ledger::{LedgerState, Purpose, TAG_DEPLOYMENT, TAG_LEDGER, TAG_PURPOSE, TAG_TASK};
use snapferry_wire::v1;

use super::marks::Marks;
use super::{clean, transport};
use crate::context::TaskContext;

/// The tags that say whose an object is.
const OWNERSHIP_TAGS: [&str; 4] = [TAG_DEPLOYMENT, TAG_TASK, TAG_PURPOSE, TAG_LEDGER];

/// Hands over and cleans up; answers the results.
///
/// # Errors
/// [`TransferError`] of a record, or of a staging object that does not go; the results are the user's all the same.
pub(super) async fn finish(
    context: &Arc<TaskContext>,
    marks: &Marks,
    results: Vec<v1::Made>,
) -> Result<Vec<v1::Made>, TransferError> {
    context.enter("hand over");
    if marks.results().is_none() {
        marks.save_results(context, &results).await?;
    }
    context.ledger.hand_over().await?;
    untag(context).await?;
    context.enter("drop staging");
    let mut entries = context.ledger.open_entries().await;
    entries.sort_by_key(|entry| clean::order(entry.kind));
    for entry in entries {
        if matches!(entry.purpose, Purpose::RestoreStaging | Purpose::RestoreImage | Purpose::Transport) {
            // Whoever cancels now is too late; only a lost lease ends this.
            clean::remove(context, &entry, context.stop.lost()).await?;
        }
    }
    transport::clean_up(context).await?;
    Ok(results)
}

/// Takes our tags off what is the user's now: a later restore, or a policy of ours, must not take it for our own.
async fn untag(context: &Arc<TaskContext>) -> Result<(), TransferError> {
    for entry in context.ledger.all_of(Purpose::RestoreResult).await {
        if entry.state != LedgerState::HandedOver {
            continue;
        }
        let account = context.account_of(&entry, SessionScope::Restore).await?;
        for id in &entry.object_ids {
            match ec2::delete_tags(&account, id, &OWNERSHIP_TAGS).await.map_err(TransferError::from) {
                Ok(()) => {}
                // They do no harm, and the user can remove them.
                Err(error) if matches!(error.class, ErrorClass::AccessDenied | ErrorClass::Invalid) => {
                    context.note(true, format!("the snapferry: tags of {id} stay on it: {error}")).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
