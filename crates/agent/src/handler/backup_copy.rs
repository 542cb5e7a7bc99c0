//! Backup copy: the snapshots of an IntelliSnap recovery point are read into a library. They are never made here and
//! never deleted; configuration and point in time are the source's.
//!
//! Runs twice, or dies at:
//! - looking: nothing was made.
//! - plan, read, seal, record: see [`store`].
//! - taking shares back: they are in the ledger, and the next attempt or the reaper takes them back.

use std::sync::Arc;

use snapferry_aws::{Account, SessionScope, ec2};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::catalogue::{RecoveryPointKind, RecoveryPointMeta};
use snapferry_types::spec::{BackupCopySpec, ReadAs};
use snapferry_types::{RecoveryPointId, SnapshotId, Transport};
use snapferry_wire::v1;

use super::checkpoint::Checkpoint;
use super::store::{About, ToRead, ToStore};
use super::streaming_backup::reader;
use super::{made, share, snapshot, store};
use crate::context::TaskContext;

pub(super) async fn run(
    context: &Arc<TaskContext>,
    spec: &BackupCopySpec,
) -> Result<Vec<v1::Made>, TransferError> {
    let mut checkpoint = Checkpoint::read(context)?;
    let looker = context.tenant(SessionScope::BackupCopy).await?;
    let of_source: Vec<SnapshotId> = spec.meta.volumes.iter().map(|one| one.snapshot_id.clone()).collect();
    let what = ToRead {
        instance: &spec.meta.instance,
        read_as: spec.read_as,
        snapshots: &of_source,
        copied: &of_source,
    };
    let options = store::options(context, &looker, spec.transport, what, &checkpoint).await?;
    let shares = spec.read_as == ReadAs::Service || options.may_take(Transport::HotAdd);
    let account = if shares { context.tenant(SessionScope::Backup).await? } else { looker.clone() };
    let media = context.media_agent().await?;
    if let Some(id) = store::stored_before(context, &media, &checkpoint).await? {
        return finish(context, spec, id).await;
    }
    // HotAdd, if it is taken, copies first what AWS does not share.
    look(context, &account, spec, spec.read_as == ReadAs::Service).await?;
    let base = spec.base.clone().filter(|_| !spec.full);
    let snapshots: Vec<_> =
        spec.meta.volumes.iter().map(|one| (one.volume_id.clone(), one.snapshot_id.clone())).collect();
    let of_base = base.iter().flat_map(|base| &base.snapshots);
    let to_read: Vec<SnapshotId> =
        snapshots.iter().chain(of_base).map(|(_, snapshot)| snapshot.clone()).collect();
    let RecoveryPointMeta { account: owner, point_in_time_ms, instance, .. } = spec.meta.clone();
    let what = ToStore {
        owner: account.clone(),
        reader: match spec.read_as {
            ReadAs::Tenant => looker,
            ReadAs::Service => reader(context, &account, spec.read_as, &to_read).await?,
        },
        snapshots,
        base,
        about: About {
            account: owner,
            point_in_time_ms,
            instance,
            kind: RecoveryPointKind::Copy,
            copy_of: Some(spec.source),
        },
    };
    let id = store::store(context, &media, what, options, &mut checkpoint).await?;
    finish(context, spec, id).await
}

/// Checks that all snapshots of the source still exist, are complete and may be shared where that is wanted.
async fn look(
    context: &Arc<TaskContext>,
    account: &Account,
    spec: &BackupCopySpec,
    shares: bool,
) -> Result<(), TransferError> {
    context.enter("look");
    let source = spec.source;
    let ids: Vec<SnapshotId> = spec.meta.volumes.iter().map(|one| one.snapshot_id.clone()).collect();
    let existing = ec2::existing_snapshots(account, &ids).await?;
    let missing = spec.meta.volumes.iter().filter(|one| !existing.contains(&one.snapshot_id));
    let missing: Vec<String> =
        missing.map(|one| format!("{} of {}", one.snapshot_id, one.volume_id)).collect();
    if !missing.is_empty() {
        let message = format!(
            "recovery point {source} lost its snapshots: {} does not exist any more; they were deleted outside Snapferry: make a new IntelliSnap backup",
            missing.join(", ")
        );
        return Err(TransferError::new(ErrorClass::NotFound, message));
    }
    let states = context
        .completed(account, &ids)
        .await
        .map_err(|error| error.context(format!("read recovery point {source}")))?;
    if let Some((state, outpost)) = states.iter().find_map(|one| Some((one, one.outpost_arn.as_ref()?))) {
        let volumes = spec.meta.volumes.iter().filter(|one| one.snapshot_id == state.snapshot);
        let volumes: Vec<&str> = volumes.map(|one| one.volume_id.as_str()).collect();
        let message = snapshot::on_outpost(&format!("{} of {}", state.snapshot, volumes.join(", ")), outpost);
        return Err(TransferError::new(ErrorClass::Invalid, message));
    }
    if shares {
        for state in states.iter().filter(|state| state.encrypted) {
            if let Some(key) = &state.kms_key_id {
                share::check_key(account, state.snapshot.as_str(), key).await?;
            }
        }
    }
    Ok(())
}

async fn finish(
    context: &Arc<TaskContext>,
    spec: &BackupCopySpec,
    id: RecoveryPointId,
) -> Result<Vec<v1::Made>, TransferError> {
    share::take_back(context).await?;
    store::drop_superseded(context, None).await?;
    Ok(vec![made("recovery_point", id, spec.source)])
}
