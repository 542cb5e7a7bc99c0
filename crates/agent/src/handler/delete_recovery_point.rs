//! Removes a recovery point from its library where it is in one, and the snapshots that are kept for it.
//!
//! Runs twice: the library answers that it is gone, a deleted snapshot is gone. Dies between: the catalogue still
//! has it, and the next attempt does the rest.

use std::sync::Arc;

use snapferry_transfer::TransferError;
use snapferry_types::RecoveryPointId;
use snapferry_wire::v1;
use snapferry_wire::v1::record_request::Step;

use super::{clean, made};
use crate::context::TaskContext;

pub(super) async fn run(
    context: &Arc<TaskContext>,
    id: RecoveryPointId,
) -> Result<Vec<v1::Made>, TransferError> {
    context.enter("delete");
    if context.spec.media_agent.is_some() {
        let media = context.media_agent().await?;
        if !media.delete_recovery_point(id, &context.spec.tenant).await? {
            context.note(false, format!("the library had no {id} any more")).await?;
        }
    }
    for entry in &context.spec.superseded {
        clean::remove(context, entry, context.stop.token()).await?;
    }
    context.record(Step::RecoveryPointDeleted(id.to_string())).await?;
    Ok(vec![made("recovery_point", id, "")])
}
