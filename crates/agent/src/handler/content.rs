//! The blocks of one volume, wherever they are, and the writing of them to a target, whatever it is.

use std::sync::Arc;

use snapferry_aws::{Account, EbsSnapshotSource};
use snapferry_media_agent::client::MediaClient;
use snapferry_transfer::{
    BlockTarget, ErrorClass, HighWater, Sealer, TransferError, TransferProgress, restore_volume, resume_copy,
};
use snapferry_types::catalogue::VolumeMeta;
use snapferry_types::{RecoveryPointId, SnapshotId};

use crate::context::TaskContext;

/// Where the blocks of a volume are.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// In a library, in this recovery point.
    Library(MediaClient, RecoveryPointId),
    /// In a snapshot that this account reads where it is.
    Snapshot(Account, SnapshotId),
}

impl Content {
    /// Writes the blocks to a target, from where its mark is, and completes it.
    ///
    /// # Errors
    /// [`TransferError`] of either end.
    pub(super) async fn write(
        &self,
        context: &TaskContext,
        volume: &VolumeMeta,
        target: Arc<dyn BlockTarget>,
        mark: HighWater<'_>,
        progress: Arc<TransferProgress>,
    ) -> Result<(), TransferError> {
        let budget = context.shared.budget.clone();
        let stop = context.stop.token().clone();
        match self {
            Self::Library(media, recovery_point) => {
                let sealer = Arc::new(Sealer::new(&context.spec.keys));
                let source = media.volume_source(
                    *recovery_point,
                    &context.spec.tenant,
                    volume.volume_id.as_str(),
                    volume.n_blocks,
                    Arc::clone(&sealer),
                );
                let workers = &context.shared.workers;
                restore_volume(Arc::new(source), target, sealer, budget, workers, mark, progress, stop)
                    .await?;
            }
            Self::Snapshot(reader, snapshot) => {
                let source = EbsSnapshotSource::open(reader, snapshot).await;
                let source = source.map_err(|error| look_again(error.into()))?;
                resume_copy(Arc::new(source), target, budget, mark, progress, stop)
                    .await
                    .map_err(look_again)?;
            }
        }
        Ok(())
    }
}

/// What is gone in the middle was there when it was looked for: the next attempt looks anew, and finds another copy or says
/// that there is none.
pub(super) fn look_again(error: TransferError) -> TransferError {
    if error.class != ErrorClass::NotFound {
        return error;
    }
    TransferError::new(
        ErrorClass::Unavailable,
        format!("{}; the next attempt looks for it anew", error.message),
    )
}
