//! How far a restore has come, kept as the task's checkpoint: for each volume the leaf below which all is written,
//! the exchange of an instance's volumes, the images that were begun, and at the end what was made.
//!
//! While blocks are written one writer records it, at most twice a second, so that volumes that are written side by
//! side never overwrite each other's marks; a mark that is lost costs writing some blocks again. What must not be
//! lost is saved by [`Marks::save`], which returns when it is recorded; never while blocks are written.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::{Transport, VolumeId};
use snapferry_wire::v1;
use snapferry_wire::v1::record_request::Step;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::made;
use super::restore_image::ImageMarks;
use super::restore_swap::Swap;
use crate::context::TaskContext;

/// At the quota of 1,000 blocks a second a leaf takes one second.
const MARK_PERIOD: Duration = Duration::from_millis(500);

/// The checkpoint of a restore.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// By volume, how far it is written, and into what.
    #[serde(default)]
    pub(super) written: BTreeMap<VolumeId, Written>,
    /// The exchange of an instance's volumes, once it is planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) swap: Option<Swap>,
    /// Image files, once one was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) images: Option<ImageMarks>,
    /// How blocks are written, once that was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) transport: Option<Transport>,
    /// What was made, once all of it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    results: Option<Vec<ResultMark>>,
}

/// How far a target is written. It holds for that target alone: another one, however alike, begins at the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    /// The target: a snapshot, a volume, or a file on a node.
    pub(super) target: String,
    /// The leaf below which all is written.
    pub(super) leaf: u32,
}

/// A result for the job, as kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ResultMark {
    kind: String,
    id: String,
    source: String,
}

/// The marks of a running restore.
#[derive(Debug)]
pub(super) struct Marks {
    checkpoint: watch::Sender<Checkpoint>,
}

impl Marks {
    /// The marks that this attempt or an earlier one has recorded.
    ///
    /// # Errors
    /// [`TransferError`] when the checkpoint does not read.
    pub(super) fn read(context: &TaskContext) -> Result<Self, TransferError> {
        let recorded = context.checkpoint();
        let checkpoint = if recorded.is_empty() {
            Checkpoint::default()
        } else {
            serde_json::from_slice(&recorded).map_err(|error| {
                TransferError::new(ErrorClass::Internal, format!("read the task's checkpoint: {error}"))
            })?
        };
        Ok(Self { checkpoint: watch::Sender::new(checkpoint) })
    }

    /// The leaf from which a volume is to be written into a target.
    pub(super) fn resume_leaf(&self, volume: &VolumeId, target: &str) -> u32 {
        self.written(volume).filter(|written| written.target == target).map_or(0, |written| written.leaf)
    }

    /// How far a volume is written, and into what.
    pub(super) fn written(&self, volume: &VolumeId) -> Option<Written> {
        self.checkpoint.borrow().written.get(volume).cloned()
    }

    /// All leaves of a volume below `leaf` are written to the target.
    pub(super) fn rise(&self, volume: &VolumeId, target: &str, leaf: u32) {
        self.checkpoint.send_modify(|checkpoint| {
            checkpoint.written.insert(volume.clone(), Written { target: target.to_owned(), leaf });
        });
    }

    /// How an earlier attempt has chosen to write.
    pub(super) fn transport(&self) -> Option<Transport> {
        self.checkpoint.borrow().transport
    }

    /// The exchange of volumes that was planned.
    pub(super) fn swap(&self) -> Option<Swap> {
        self.checkpoint.borrow().swap.clone()
    }

    /// The image files that were begun.
    pub(super) fn images(&self) -> Option<ImageMarks> {
        self.checkpoint.borrow().images.clone()
    }

    /// What an earlier attempt made, if it came to its end.
    pub(super) fn results(&self) -> Option<Vec<v1::Made>> {
        let checkpoint = self.checkpoint.borrow();
        let results = checkpoint.results.as_ref()?;
        Some(results.iter().map(|one| made(&one.kind, &one.id, &one.source)).collect())
    }

    /// Keeps what was made: from now on only the end is left to do.
    ///
    /// # Errors
    /// [`TransferError`] of the record call.
    pub(super) async fn save_results(
        &self,
        context: &TaskContext,
        results: &[v1::Made],
    ) -> Result<(), TransferError> {
        let mark = |one: &v1::Made| ResultMark {
            kind: one.kind.clone(),
            id: one.id.clone(),
            source: one.source.clone(),
        };
        let results = results.iter().map(mark).collect();
        self.save(context, |checkpoint| checkpoint.results = Some(results)).await
    }

    /// Changes the checkpoint and records it.
    ///
    /// # Errors
    /// [`TransferError`] of the record call; the change is made here all the same, and goes along with the next record.
    pub(super) async fn save(
        &self,
        context: &TaskContext,
        change: impl FnOnce(&mut Checkpoint),
    ) -> Result<(), TransferError> {
        self.checkpoint.send_modify(change);
        let bytes = to_bytes(&self.checkpoint.borrow())?;
        context.record(Step::Checkpoint(bytes.into())).await
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
            let bytes = to_bytes(&seen.borrow_and_update())?;
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

fn to_bytes(checkpoint: &Checkpoint) -> Result<Vec<u8>, TransferError> {
    serde_json::to_vec(checkpoint)
        .map_err(|error| TransferError::new(ErrorClass::Internal, format!("write the checkpoint: {error}")))
}
