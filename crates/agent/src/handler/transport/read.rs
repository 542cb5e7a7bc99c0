//! Reading snapshots by the chosen transport. By HotAdd a volume is made of each snapshot and read as a device; which
//! blocks are read comes from the listing of EBS direct, so that holes stay holes and an incremental reads only what
//! has changed. A snapshot under the AWS-managed key, which AWS shares with nobody, is copied under the transit key for it.
//!
//! Runs twice, or dies at: copying, sharing, attaching: each is in the ledger before it is made, and found again by the next
//! attempt; the clean-up of the task removes what is left.

use std::sync::Arc;

use snapferry_aws::Account;
use snapferry_transfer::{BlockSource, DeviceSource, ErrorClass, TransferError, boxed};
use snapferry_types::block::BLOCKS_PER_GIB;
use snapferry_types::{SnapshotId, Transport, VolumeId};

use super::super::share;
use super::super::transit::{self, TransitCopy};
use super::hot_add::{self, Attached, Wanted};
use crate::context::TaskContext;

/// Blocks of one snapshot, until [`close`](Self::close).
pub(in super::super) struct Reader {
    source: Arc<dyn BlockSource>,
    attached: Option<(Account, Attached)>,
    copy: Option<TransitCopy>,
}

impl Reader {
    /// Opens a snapshot of `owner` for reading what `listing` lists.
    ///
    /// # Errors
    /// [`TransferError`]; `Invalid` for a transport that cannot read.
    pub(in super::super) async fn open(
        context: &Arc<TaskContext>,
        transport: Transport,
        owner: &Account,
        (volume, snapshot): (&VolumeId, &SnapshotId),
        listing: Arc<dyn BlockSource>,
    ) -> Result<Self, TransferError> {
        match transport {
            Transport::EbsDirect => Ok(Self { source: listing, attached: None, copy: None }),
            Transport::HotAdd => Self::attach(context, owner, volume, snapshot, listing).await,
            Transport::Import => {
                Err(TransferError::new(ErrorClass::Invalid, "blocks cannot be read by import"))
            }
        }
    }

    async fn attach(
        context: &Arc<TaskContext>,
        owner: &Account,
        volume: &VolumeId,
        snapshot: &SnapshotId,
        listing: Arc<dyn BlockSource>,
    ) -> Result<Self, TransferError> {
        let node = context.shared.hot_add.as_ref().ok_or_else(|| {
            TransferError::new(
                ErrorClass::Invalid,
                "this node cannot attach volumes ([agent.hot_add] is not set)",
            )
        })?;
        let service = hot_add::service(context).await?;
        let mut copy = None;
        if service.account() != owner.account() {
            copy = transit::copy_unshareable(context, owner, volume, snapshot).await?;
            let shared = copy.as_ref().map_or(snapshot, |copy| &copy.snapshot);
            share::for_transport(context, owner, std::slice::from_ref(shared), service.account()).await?;
        }
        let n_blocks = listing.n_blocks();
        let label = format!("read {volume}");
        let wanted = Wanted {
            label: &label,
            snapshot: Some(copy.as_ref().map_or(snapshot, |copy| &copy.snapshot)),
            size_gib: n_blocks.div_ceil(BLOCKS_PER_GIB),
            kms_key_id: None,
        };
        let attached = boxed(|| node.attach(context, &service, &wanted)).await?;
        let source = DeviceSource::open(&attached.device, n_blocks, Some(listing))?;
        Ok(Self { source: Arc::new(source), attached: Some((service, attached)), copy })
    }

    /// The blocks.
    pub(in super::super) fn source(&self) -> Arc<dyn BlockSource> {
        Arc::clone(&self.source)
    }

    /// Lets go of what only this reading needed.
    ///
    /// # Errors
    /// [`TransferError`]; the ledger has what is left.
    pub(in super::super) async fn close(self, context: &Arc<TaskContext>) -> Result<(), TransferError> {
        drop(self.source);
        let (Some((service, attached)), Some(node)) = (self.attached, context.shared.hot_add.as_ref()) else {
            return Ok(());
        };
        node.remove(context, &service, attached).await?;
        match self.copy {
            Some(copy) => copy.remove(context, &service).await,
            None => Ok(()),
        }
    }
}
