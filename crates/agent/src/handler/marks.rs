//! How far a restore has come, kept as the task's checkpoint: for each volume the block below which all is written,
//! the exchange of an instance's volumes, the images that were begun, and at the end what was made.
//!
//! While blocks are written one writer records it, so that volumes that are written side by side never overwrite each
//! other's marks; what is written beyond the recorded mark is written again by a next attempt. By EBS direct that is a page
//! of blocks at most, of all volumes together: [`Marks::recorded`] and [`Marks::ahead`] hold the writing back. What must
//! not be lost is saved by [`Marks::save`], which returns when it is recorded; never while blocks are written.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use snapferry_transfer::{Ahead, ErrorClass, TransferError};
use snapferry_types::{Transport, VolumeId};
use snapferry_wire::v1;
use snapferry_wire::v1::record_request::Step;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::made;
use super::restore_image::ImageMarks;
use super::restore_swap::Swap;
use crate::context::TaskContext;
use crate::stop::StopReason;

/// How often marks are recorded that rise slowly.
const MARK_PERIOD: Duration = Duration::from_millis(500);
/// Blocks, of all volumes, after which marks are recorded sooner, so that the page of blocks that may be written beyond them
/// lasts until then: at the quota of 1,000 blocks a second four times a second.
const MARK_BLOCKS: u32 = 256;
/// How often at most, whatever the rate: an update of one row by the scheduler.
const SHORTEST_PERIOD: Duration = Duration::from_millis(100);

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
    /// The block below which all is written.
    #[serde(default)]
    pub(super) block: u32,
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
    recorders: Mutex<Recorders>,
    ahead: Ahead,
}

/// Those who wait for marks to be recorded.
#[derive(Debug, Default)]
struct Recorders {
    /// By volume, the target that its marks are of, and what is recorded.
    by_volume: BTreeMap<VolumeId, (String, watch::Sender<u32>)>,
    /// Nothing is recorded any more.
    is_over: bool,
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
        Ok(Self {
            checkpoint: watch::Sender::new(checkpoint),
            recorders: Mutex::default(),
            ahead: Ahead::default(),
        })
    }

    /// The block from which a volume is to be written into a target.
    pub(super) fn resume_block(&self, volume: &VolumeId, target: &str) -> u32 {
        self.written(volume).filter(|written| written.target == target).map_or(0, |written| written.block)
    }

    /// What is recorded of the mark of a volume that is now written to a target, by [`Marks::while_keeping`]; closed when
    /// nothing can be recorded any more.
    pub(super) fn recorded(&self, volume: &VolumeId, target: &str) -> watch::Receiver<u32> {
        let (sender, receiver) = watch::channel(self.resume_block(volume, target));
        let mut recorders = self.recorders();
        if !recorders.is_over {
            recorders.by_volume.insert(volume.clone(), (target.to_owned(), sender));
        }
        receiver
    }

    /// The page of blocks that the task's volumes may write beyond what is recorded of them.
    pub(super) fn ahead(&self) -> Ahead {
        self.ahead.clone()
    }

    fn recorders(&self) -> MutexGuard<'_, Recorders> {
        self.recorders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far a volume is written, and into what.
    pub(super) fn written(&self, volume: &VolumeId) -> Option<Written> {
        self.checkpoint.borrow().written.get(volume).cloned()
    }

    /// All blocks of a volume below `block` are written to the target.
    pub(super) fn rise(&self, volume: &VolumeId, target: &str, block: u32) {
        self.checkpoint.send_modify(|checkpoint| {
            checkpoint.written.insert(volume.clone(), Written { target: target.to_owned(), block });
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
    /// Those of `work`, and of a record call that another try does not help, such as a stale fence.
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
        let keeping = async {
            let kept = self.keep(context, &done).await;
            if kept.is_err() {
                // Whoever waits for a mark learns that it does not come.
                *self.recorders() = Recorders { by_volume: BTreeMap::new(), is_over: true };
            }
            kept
        };
        let (result, kept) = tokio::join!(guarded, keeping);
        kept?;
        result
    }

    /// Records what changes until `done`, and then once more what has: a task that is stopped in an orderly way loses no mark.
    async fn keep(&self, context: &TaskContext, done: &CancellationToken) -> Result<(), TransferError> {
        let mut seen = self.checkpoint.subscribe();
        let mut is_kept = true;
        loop {
            let is_over = tokio::select! {
                () = done.cancelled() => true,
                changed = seen.changed(), if is_kept => if changed.is_err() { return Ok(()) } else { false },
                () = std::future::ready(()), if !is_kept => false,
            };
            let is_lost = context.stop.reason() == Some(StopReason::LeaseLost);
            if is_over && (is_lost || is_kept && !seen.has_changed().unwrap_or(false)) {
                return Ok(());
            }
            let checkpoint = seen.borrow_and_update().clone();
            let bytes = to_bytes(&checkpoint)?;
            match context.record(Step::Checkpoint(bytes.into())).await {
                Ok(()) => {
                    is_kept = true;
                    self.tell(&checkpoint);
                }
                Err(error) if !error.retryable() => return Err(error),
                Err(error) => {
                    is_kept = false;
                    tracing::warn!(%error, is_over, "checkpoint not kept; tried again soon unless it is over");
                }
            }
            if is_over {
                return Ok(());
            }
            tokio::select! {
                () = done.cancelled() => {}
                () = self.pause(&checkpoint) => {}
            }
        }
    }

    /// Tells the volumes' writers what is recorded.
    fn tell(&self, checkpoint: &Checkpoint) {
        for (volume, (target, recorded)) in &self.recorders().by_volume {
            if let Some(written) = checkpoint.written.get(volume).filter(|written| written.target == *target)
            {
                recorded.send_if_modified(|mark| std::mem::replace(mark, written.block) != written.block);
            }
        }
    }

    /// Waits for a while, less when much is written meanwhile.
    async fn pause(&self, recorded: &Checkpoint) {
        tokio::time::sleep(SHORTEST_PERIOD).await;
        let mut now = self.checkpoint.subscribe();
        let is_much = |now: &Checkpoint| {
            let rises = now.written.iter().map(|(volume, written)| {
                let before = recorded.written.get(volume).map_or(0, |written| written.block);
                written.block.saturating_sub(before)
            });
            rises.fold(0, u32::saturating_add) >= MARK_BLOCKS
        };
        let _much_or_late =
            tokio::time::timeout(MARK_PERIOD.saturating_sub(SHORTEST_PERIOD), now.wait_for(is_much)).await;
    }
}

fn to_bytes(checkpoint: &Checkpoint) -> Result<Vec<u8>, TransferError> {
    serde_json::to_vec(checkpoint)
        .map_err(|error| TransferError::new(ErrorClass::Internal, format!("write the checkpoint: {error}")))
}
