//! Writing a volume's content by HotAdd or Import: it becomes a snapshot of the service account, which the tenant's
//! account copies, so that everything after it is as with EBS direct: a staging snapshot of the tenant's own, under
//! the key that the volume shall have.
//!
//! Runs twice, or dies at:
//! - writing: the volume or image file is found again on this node and gone on with from its mark; elsewhere it is
//!   begun anew.
//! - the service account's snapshot: found by its ledger tag, or by the import task of the entry's client token.
//! - sharing, copying: a share is repeatable, a copy is found by its ledger tag.
//! - dropping what is left of it: what is gone is gone.

use std::sync::Arc;

use snapferry_aws::ec2::{self, NewCopy};
use snapferry_aws::{Account, SessionScope};
use snapferry_transfer::{BlockTarget, DeviceTarget, ErrorClass, HighWater, Overwrite, TransferError, boxed};
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind, Purpose};
use snapferry_types::{SnapshotId, Transport};

use super::super::marks::Marks;
use super::super::objects::{self, parse_one};
use super::super::stage::{Staged, ToStage};
use super::super::{clean, share};
use super::hot_add::{self, Wanted};
use super::import;
use crate::context::TaskContext;

/// Stages one volume by a transport other than EBS direct.
///
/// # Errors
/// [`TransferError`] that names the volume.
pub(in super::super) async fn stage(
    context: &Arc<TaskContext>,
    transport: Transport,
    tenant: &Account,
    what: ToStage,
    marks: &Marks,
) -> Result<Staged, TransferError> {
    let name = what.volume.volume_id.to_string();
    let staged = (ObjectKind::Snapshot, Purpose::RestoreStaging, name.as_str());
    if let Some(entry) = context.ledger.existing(staged.0, staged.1, staged.2).await
        && entry.state == LedgerState::Made
    {
        // An earlier attempt came as far as the tenant's copy.
        let snapshot: SnapshotId = parse_one(&entry)?;
        wait(context, tenant, &snapshot).await?;
        return Ok(Staged { config: what.config, snapshot, is_rekeyed: false });
    }
    let (service, ours) = match transport {
        Transport::HotAdd => boxed(|| by_hot_add(context, &what, marks)).await?,
        Transport::Import => boxed(|| import::run(context, &what, marks)).await?,
        Transport::EbsDirect => {
            return Err(TransferError::new(ErrorClass::Internal, "ebs_direct needs no service account"));
        }
    };
    let source: SnapshotId = parse_one(&ours)?;
    wait(context, &service, &source).await.map_err(|error| error.context(format!("write {name}")))?;
    let share = share::share(context, &service, Purpose::Transport, &source, tenant.account()).await?;
    let key = match &what.config.kms_key_id {
        Some(key) if what.config.encrypted => format!("under key {key}"),
        _ if what.config.encrypted => "under the account's default key".to_owned(),
        _ => "in plain".to_owned(),
    };
    let doing = format!("copy {source} of {name} into account {} {key}", tenant.account());
    let copy = |entry: LedgerEntry| {
        let new = NewCopy {
            source_region: service.region().clone(),
            snapshot: source.clone(),
            description: format!("Snapferry restore of {name} from {}", what.recovery_point),
            encrypted: what.config.encrypted,
            kms_key_id: what.config.kms_key_id.clone(),
            tags: context.ledger.tags(&entry),
        };
        async move { Ok(vec![ec2::copy_snapshot(tenant, &new).await?.into()]) }
    };
    let entry =
        objects::ensure(context, tenant, staged, copy).await.map_err(|error| error.context(&doing))?;
    let snapshot: SnapshotId = parse_one(&entry)?;
    wait(context, tenant, &snapshot).await.map_err(|error| error.context(&doing))?;
    for left in [&share, &ours] {
        clean::remove(context, left, context.stop.token()).await?;
    }
    Ok(Staged { config: what.config, snapshot, is_rekeyed: false })
}

/// Writes a blank volume on this node and takes its snapshot.
async fn by_hot_add(
    context: &Arc<TaskContext>,
    what: &ToStage,
    marks: &Marks,
) -> Result<(Account, LedgerEntry), TransferError> {
    let node = context.shared.hot_add.as_ref().ok_or_else(|| {
        TransferError::new(
            ErrorClass::Invalid,
            "this node cannot attach volumes ([agent.hot_add] is not set)",
        )
    })?;
    let service = hot_add::service(context).await?;
    let volume_id = &what.volume.volume_id;
    let label = format!("write {volume_id}");
    let snapshot = (ObjectKind::Snapshot, Purpose::Transport, label.as_str());
    if let Some(entry) = context.ledger.existing(snapshot.0, snapshot.1, snapshot.2).await
        && entry.state == LedgerState::Made
    {
        return Ok((service, entry));
    }
    let wanted = Wanted {
        label: &label,
        snapshot: None,
        size_gib: what.config.size_gib,
        kms_key_id: context.shared.transit_kms_key_id.clone().filter(|_| what.config.encrypted),
    };
    let attached = boxed(|| node.attach(context, &service, &wanted)).await?;
    // Of an encrypted volume nobody says what a block reads as that was never written.
    let overwrite = if what.config.encrypted { Overwrite::Used } else { Overwrite::Blank };
    let target = DeviceTarget::open(&attached.device, what.volume.n_blocks, overwrite)?;
    write_to(context, what, Arc::new(target), attached.volume.as_str(), marks)
        .await
        .map_err(|error| error.context(format!("write {volume_id} to {}", attached.device.display())))?;
    // A snapshot of what is detached has all that was written.
    node.detach(context, &service, &attached.volume).await?;
    let source = attached.volume.clone();
    let take = |entry: LedgerEntry| {
        let (service, source, tags) = (&service, &source, context.ledger.tags(&entry));
        let description = format!("Snapferry restore of {volume_id}");
        async move { Ok(vec![ec2::create_snapshot(service, source, &description, &tags).await?.into()]) }
    };
    let entry = objects::ensure(context, &service, snapshot, take).await?;
    wait(context, &service, &parse_one(&entry)?).await?;
    node.remove(context, &service, attached).await?;
    Ok((service, entry))
}

/// Moves the volume's blocks into a target, from where its mark is.
///
/// # Errors
/// [`TransferError`] of either end.
pub(super) async fn write_to(
    context: &Arc<TaskContext>,
    what: &ToStage,
    target: Arc<dyn BlockTarget>,
    target_name: &str,
    marks: &Marks,
) -> Result<(), TransferError> {
    let volume = &what.volume.volume_id;
    let mut rise = |block| marks.rise(volume, target_name, block);
    let mark = HighWater::new(marks.resume_block(volume, target_name), &mut rise);
    what.content.write(context, &what.volume, target, mark, context.new_transfer()).await
}

async fn wait(context: &TaskContext, account: &Account, snapshot: &SnapshotId) -> Result<(), TransferError> {
    context.completed(account, std::slice::from_ref(snapshot)).await?;
    Ok(())
}

/// The session of the service account that imports.
///
/// # Errors
/// [`TransferError`].
pub(super) async fn importer(context: &TaskContext) -> Result<Account, TransferError> {
    context.service(SessionScope::Import).await
}
