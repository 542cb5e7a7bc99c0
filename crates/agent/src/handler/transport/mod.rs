//! How blocks are moved: by EBS direct from any machine, by HotAdd of a volume to this node, or, writing only, by
//! Import of a disk image. [`Options`] has what is possible, and permitted ([`route`]), before anything is made, and chooses
//! once it is known how much there is to move; [`read`] and [`write`] do it.
//!
//! What HotAdd and Import make in the service account is in the ledger with the purpose `transport`; it goes as soon
//! as its blocks are moved, and else with the clean-up or the reaper. Everything they put there at rest of an
//! encrypted volume is encrypted, or the wish is refused.

mod choose;
mod estimate;
mod hot_add;
mod import;
mod places;
pub(super) mod read;
mod route;
pub(super) mod write;

pub(super) use choose::{Options, Work};
pub(crate) use hot_add::HotAddNode;
pub(super) use import::clean_up;

use std::time::Duration;

use snapferry_transfer::{ErrorClass, TransferError};

use crate::context::TaskContext;

/// How long the end of an attempt waits for the node's system to let go of a volume.
const LET_GO_TIMEOUT: Duration = Duration::from_secs(120);

/// Lets go of the volumes that an attempt still has attached to this node. One that `is_lost` only frees its places:
/// another attempt may have the volumes by now.
pub(super) async fn let_go(context: &TaskContext, is_lost: bool) {
    let Some(node) = &context.shared.hot_add else { return };
    if is_lost {
        return node.give_up(context);
    }
    let lost = context.stop.lost();
    let let_go = tokio::time::timeout(LET_GO_TIMEOUT, node.let_go(context, lost));
    let too_slow =
        |_| Err(TransferError::new(ErrorClass::Unavailable, "the node does not let go of a volume"));
    if let Err(error) = let_go.await.unwrap_or_else(too_slow) {
        tracing::warn!(task = %context.spec.task, %error, "a volume stays attached");
    }
    node.give_up(context);
}
