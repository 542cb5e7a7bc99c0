//! Streaming backup: snapshot all volumes of the instance, read their blocks, store them, keep the snapshots as the
//! base of the next incremental and delete the base before.
//!
//! Runs twice, or dies at:
//! - describe: nothing was made.
//! - snapshots: found again by the ledger entry's tag; the configuration seen then is in the checkpoint.
//! - plan, read, seal, record: see [`store`]. From the record on the snapshots are the instance's base.
//! - taking shares back: they are in the ledger, and the next attempt or the reaper takes them back.
//! - deleting the old base: what is gone is gone; what is left is in the ledger as kept, and the next backup's to
//!   delete.

use std::sync::Arc;

use snapferry_aws::{Account, SessionScope};
use snapferry_transfer::TransferError;
use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::ledger::{ObjectKind, Purpose};
use snapferry_types::spec::{ReadAs, StreamingBackupSpec};
use snapferry_types::{RecoveryPointId, SnapshotId};
use snapferry_wire::v1;

use super::checkpoint::Checkpoint;
use super::store::{About, ToRead, ToStore};
use super::{made, share, snapshot, store};
use crate::context::TaskContext;

pub(super) async fn run(
    context: &Arc<TaskContext>,
    spec: &StreamingBackupSpec,
) -> Result<Vec<v1::Made>, TransferError> {
    let account = context.tenant(SessionScope::Backup).await?;
    let mut checkpoint = Checkpoint::read(context)?;
    let media = context.media_agent().await?;
    if let Some(id) = store::stored_before(context, &media, &checkpoint).await? {
        return finish(context, spec, id).await;
    }
    let seen = snapshot::see(context, &account, &spec.instance, &mut checkpoint).await?;
    let base = spec.base.clone().filter(|_| !spec.full);
    let of_base: Vec<SnapshotId> =
        base.iter().flat_map(|base| &base.snapshots).map(|(_, snapshot)| snapshot.clone()).collect();
    if spec.read_as == ReadAs::Service {
        share::check(&account, &seen.config).await?;
    }
    let what = ToRead { instance: &seen.config, read_as: spec.read_as, snapshots: &of_base, copied: &[] };
    let options = store::options(context, &account, spec.transport, what, &checkpoint).await?;
    snapshot::preflight(context, &account, &spec.instance).await?;
    let snapshots = snapshot::take(context, &account, Purpose::BackupSource, seen, &mut checkpoint).await?;
    let of_volumes: Vec<_> =
        snapshots.taken.iter().map(|one| (one.volume.clone(), one.snapshot.clone())).collect();
    let taken = of_volumes.iter().map(|(_, snapshot)| snapshot.clone());
    let to_read: Vec<SnapshotId> = taken.chain(of_base).collect();
    let what = ToStore {
        owner: account.clone(),
        reader: reader(context, &account, spec.read_as, &to_read).await?,
        snapshots: of_volumes,
        base,
        about: About {
            account: context.spec.tenant_access.account.clone(),
            point_in_time_ms: snapshots.seen.point_in_time_ms,
            instance: snapshots.seen.config,
            kind: RecoveryPointKind::Streamed,
            copy_of: None,
        },
    };
    let id = store::store(context, &media, what, options, &mut checkpoint).await?;
    finish(context, spec, id).await
}

/// The account whose credentials read the blocks of these snapshots, and of their bases.
pub(super) async fn reader(
    context: &Arc<TaskContext>,
    tenant: &Account,
    read_as: ReadAs,
    snapshots: &[SnapshotId],
) -> Result<Account, TransferError> {
    match read_as {
        ReadAs::Tenant => Ok(tenant.clone()),
        ReadAs::Service => {
            let service = context.service(SessionScope::Backup).await?;
            context.enter("share");
            share::for_transport(context, tenant, snapshots, service.account()).await?;
            Ok(service)
        }
    }
}

async fn finish(
    context: &Arc<TaskContext>,
    spec: &StreamingBackupSpec,
    id: RecoveryPointId,
) -> Result<Vec<v1::Made>, TransferError> {
    share::take_back(context).await?;
    let own = context.ledger.existing(ObjectKind::Snapshot, Purpose::BackupSource, spec.instance.as_str());
    store::drop_superseded(context, own.await.map(|entry| entry.id)).await?;
    Ok(vec![made("recovery_point", id, &spec.instance)])
}
