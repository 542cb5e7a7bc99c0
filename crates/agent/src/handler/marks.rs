//! How far a restore has come, kept as the task's checkpoint: for each volume the leaf below which all is written.
//!
//! One writer records it, at most twice a second, so that volumes that are written side by side never overwrite each
//! other's marks. A mark that is lost costs writing some blocks again.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::VolumeId;
use snapferry_wire::v1::record_request::Step;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::context::TaskContext;

/// At the quota of 1,000 blocks a second a leaf takes one second.
const MARK_PERIOD: Duration = Duration::from_millis(500);

/// The checkpoint of a restore.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// By volume, the leaf below which all is written.
    #[serde(default)]
    written_leaves: BTreeMap<VolumeId, u32>,
}

/// The marks of a running restore.
#[derive(Debug)]
pub(super) struct Marks {
    checkpoint: watch::Sender<Checkpoint>,
}

impl Marks {
    /// The marks that an earlier attempt left.
    ///
    /// # Errors
    /// [`TransferError`] when the checkpoint does not read.
    pub(super) fn read(context: &TaskContext) -> Result<Self, TransferError> {
        let checkpoint = if context.spec.checkpoint.is_empty() {
            Checkpoint::default()
        } else {
            serde_json::from_slice(&context.spec.checkpoint).map_err(|error| {
                TransferError::new(ErrorClass::Internal, format!("read the task's checkpoint: {error}"))
            })?
        };
        Ok(Self { checkpoint: watch::Sender::new(checkpoint) })
    }

    /// The leaf from which a volume is to be written.
    pub(super) fn resume_leaf(&self, volume: &VolumeId) -> u32 {
        self.checkpoint.borrow().written_leaves.get(volume).copied().unwrap_or(0)
    }

    /// All leaves of a volume below `leaf` are written.
    pub(super) fn rise(&self, volume: &VolumeId, leaf: u32) {
        self.checkpoint.send_modify(|checkpoint| {
            checkpoint.written_leaves.insert(volume.clone(), leaf);
        });
    }

    /// Does `work` and records the marks meanwhile.
    ///
    /// # Errors
    /// Those of `work`, and a stale fence.
    pub(super) async fn while_keeping<T>(
        &self,
        context: &TaskContext,
        work: impl Future<Output = Result<T, TransferError>>,
    ) -> Result<T, TransferError> {
        let done = CancellationToken::new();
        let guarded = async {
            let result = work.await;
            done.cancel();
            result
        };
        let (result, kept) = tokio::join!(guarded, self.keep(context, &done));
        let value = result?;
        kept?;
        Ok(value)
    }

    async fn keep(&self, context: &TaskContext, done: &CancellationToken) -> Result<(), TransferError> {
        let mut seen = self.checkpoint.subscribe();
        loop {
            tokio::select! {
                () = done.cancelled() => return Ok(()),
                changed = seen.changed() => if changed.is_err() { return Ok(()) },
            }
            let json = serde_json::to_vec(&*seen.borrow_and_update());
            let bytes = json.map_err(|error| {
                TransferError::new(ErrorClass::Internal, format!("write the checkpoint: {error}"))
            })?;
            match context.record(Step::Checkpoint(bytes.into())).await {
                Ok(()) => {}
                Err(error) if error.class == ErrorClass::StaleFence => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "checkpoint not kept; a next attempt writes more again");
                }
            }
            tokio::select! {
                () = done.cancelled() => return Ok(()),
                () = tokio::time::sleep(MARK_PERIOD) => {}
            }
        }
    }
}
