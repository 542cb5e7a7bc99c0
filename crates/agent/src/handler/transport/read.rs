//! Reading snapshots by the chosen transport. By HotAdd a volume is made of each snapshot and read as a device; which
//! blocks are read comes from the listing of EBS direct, so that holes stay holes and an incremental reads only what
//! has changed. A snapshot under the AWS-managed key, which AWS shares with nobody, is copied under the transit key for it.
//!
//! Runs twice, or dies at: copying, sharing, attaching: each is in the ledger before it is made, and found again by the next
//! attempt; the clean-up of the task removes what is left.

use std::sync::Arc;

use snapferry_aws::Account;
use snapferry_aws::ec2::{self, NewCopy};
use snapferry_transfer::{BlockSource, DeviceSource, ErrorClass, TransferError};
use snapferry_types::block::BLOCKS_PER_GIB;
use snapferry_types::ledger::{LedgerEntry, ObjectKind, Purpose};
use snapferry_types::{SnapshotId, Transport, VolumeId};

use super::super::objects::{self, parse_one};
use super::super::{clean, share};
use super::hot_add::{self, Attached, Wanted};
use crate::context::TaskContext;

/// Blocks of one snapshot, until [`close`](Self::close).
pub(in super::super) struct Reader {
    source: Arc<dyn BlockSource>,
    attached: Option<(Account, Attached)>,
    copy: Option<Copy>,
}

/// The tenant's copy of a snapshot under the transit key.
struct Copy {
    snapshot: SnapshotId,
    entry: LedgerEntry,
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
            copy = copy_unshareable(context, owner, volume, snapshot).await?;
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
        let attached = Box::pin(node.attach(context, &service, &wanted)).await?;
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
        let with = service.account().clone();
        node.remove(context, &service, attached).await?;
        let Some(Copy { snapshot, entry }) = self.copy else { return Ok(()) };
        let share = ec2::share_id(&snapshot, &with);
        if let Some(share) = context.ledger.existing(ObjectKind::Share, Purpose::Transport, &share).await {
            clean::remove(context, &share, context.stop.token()).await?;
        }
        clean::remove(context, &entry, context.stop.token()).await
    }
}

/// Copies a snapshot that AWS does not share under the transit key; nothing where it does.
async fn copy_unshareable(
    context: &Arc<TaskContext>,
    owner: &Account,
    volume: &VolumeId,
    snapshot: &SnapshotId,
) -> Result<Option<Copy>, TransferError> {
    let states = ec2::snapshot_states(owner, std::slice::from_ref(snapshot)).await?;
    let key = states.into_iter().next().and_then(|state| state.kms_key_id.filter(|_| state.encrypted));
    let Some(key) = key else { return Ok(None) };
    let unshareable = match share::check_key(owner, volume.as_str(), &key).await {
        Ok(()) => return Ok(None),
        Err(error) if error.class == ErrorClass::Invalid => error,
        Err(error) => return Err(error),
    };
    let Some(transit) = context.shared.transit_kms_key_id.clone() else { return Err(unshareable) };
    let doing = format!("copy {snapshot} of {volume} under the transit key {transit}");
    let start = |entry: LedgerEntry| {
        let new = NewCopy {
            source_region: owner.region().clone(),
            snapshot: snapshot.clone(),
            description: format!("Snapferry copy of {snapshot} of {volume} for reading"),
            encrypted: true,
            kms_key_id: Some(transit.clone()),
            tags: context.ledger.tags(&entry),
        };
        async move { Ok(vec![ec2::copy_snapshot(owner, &new).await?.into()]) }
    };
    let label = format!("copy {volume}");
    let what = (ObjectKind::Snapshot, Purpose::Transport, label.as_str());
    let entry = objects::ensure(context, owner, what, start).await.map_err(|error| error.context(&doing))?;
    let snapshot: SnapshotId = parse_one(&entry)?;
    ec2::wait_snapshots_completed(owner, std::slice::from_ref(&snapshot), |_| (), context.stop.token())
        .await
        .map_err(|error| TransferError::from(error).context(&doing))?;
    Ok(Some(Copy { snapshot, entry }))
}
