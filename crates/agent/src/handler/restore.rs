//! Restore from a MediaAgent by EBS direct write: every volume becomes a snapshot in the tenant's account, and the
//! snapshots become volumes or an instance.
//!
//! Runs twice, or dies at:
//! - StartSnapshot: its client token makes the repeat find the same snapshot.
//! - writing: the checkpoint has, for each volume, the leaf below which all is written; the rest is written again,
//!   which is harmless.
//! - completing: a snapshot that is complete already is taken as it is.
//! - volumes, image, instance: made under client tokens or found by their ledger tag.
//! - removing the staging snapshots: what is gone is gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use snapferry_aws::ec2::{self, SnapshotPhase};
use snapferry_aws::{Account, EbsSnapshotTarget, NewSnapshot, SessionScope, start_snapshot};
use snapferry_media_agent::client::MediaClient;
use snapferry_transfer::{ErrorClass, Sealer, TransferError, restore_volume};
use snapferry_types::catalogue::{RecoveryPointMeta, VolumeMeta};
use snapferry_types::instance::VolumeConfig;
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind, Purpose};
use snapferry_types::spec::{RestoreSpec, RestoreTarget};
use snapferry_types::{SnapshotId, VolumeId};
use snapferry_wire::v1;
use snapferry_wire::v1::record_request::Step;

use super::{clean, objects, restore_instance, restore_volumes};
use crate::context::TaskContext;

/// Volumes that are written at the same time; they share the process's byte budget.
const VOLUMES_AT_ONCE: usize = 4;

/// Leaf high-water marks by volume.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Checkpoint {
    written_leaves: BTreeMap<VolumeId, u32>,
}

/// A volume whose content is in a complete snapshot of the tenant's account.
#[derive(Debug, Clone)]
pub(super) struct Staged {
    /// The volume as it was.
    pub(super) config: VolumeConfig,
    /// The snapshot we wrote.
    pub(super) snapshot: SnapshotId,
    /// Its ledger entry.
    pub(super) entry: LedgerEntry,
}

pub(super) async fn run(
    context: &Arc<TaskContext>,
    spec: &RestoreSpec,
) -> Result<Vec<v1::Made>, TransferError> {
    let account = context.tenant(SessionScope::Restore).await?;
    let media = context.media_agent().await?;
    context.enter("plan");
    let stored = media.recovery_point(spec.recovery_point, &context.spec.tenant).await?;
    let meta: RecoveryPointMeta = serde_json::from_slice(&stored.metadata).map_err(|error| {
        TransferError::new(
            ErrorClass::Corrupt,
            format!("read the metadata of {}: {error}", spec.recovery_point),
        )
    })?;
    let chosen = choose(spec, &meta)?;
    let marks = Arc::new(Mutex::new(read_checkpoint(context)?));

    context.enter("write");
    let staged: Vec<Staged> = stream::iter(chosen)
        .map(|(volume, config)| {
            let (account, media, marks) = (&account, &media, Arc::clone(&marks));
            async move { stage(context, account, media, spec, volume, config, marks).await }
        })
        .buffered(VOLUMES_AT_ONCE)
        .try_collect()
        .await?;

    let made = match &spec.target {
        RestoreTarget::Volumes { availability_zone } => {
            let zone = availability_zone.as_deref().unwrap_or(&meta.instance.availability_zone);
            restore_volumes::run(context, &account, &staged, zone, &spec.extra_tags).await?
        }
        RestoreTarget::Instance { .. } => {
            restore_instance::run(context, &account, &staged, &meta.instance, spec).await?
        }
    };

    // From here on the results are the tenant's: whatever happens to the staging snapshots, no clean-up takes them.
    context.ledger.hand_over().await?;
    context.enter("drop staging");
    for one in &staged {
        clean::remove(context, &account, &one.entry, context.stop.token()).await?;
    }
    Ok(made)
}

/// The volumes that were asked for, with their configuration.
fn choose(
    spec: &RestoreSpec,
    meta: &RecoveryPointMeta,
) -> Result<Vec<(VolumeMeta, VolumeConfig)>, TransferError> {
    let is_wanted = |id: &VolumeId| spec.volumes.is_empty() || spec.volumes.contains(id);
    for wanted in &spec.volumes {
        if !meta.volumes.iter().any(|volume| volume.volume_id == *wanted) {
            let has: Vec<&str> = meta.volumes.iter().map(|volume| volume.volume_id.as_str()).collect();
            return Err(TransferError::new(
                ErrorClass::NotFound,
                format!("{} has no volume {wanted}; it has {}", spec.recovery_point, has.join(", ")),
            ));
        }
    }
    let mut chosen = Vec::new();
    for volume in meta.volumes.iter().filter(|volume| is_wanted(&volume.volume_id)) {
        let config = meta.instance.volumes.iter().find(|config| config.volume_id == volume.volume_id);
        let config = config.ok_or_else(|| {
            TransferError::new(
                ErrorClass::Corrupt,
                format!("{} has no configuration of {}", spec.recovery_point, volume.volume_id),
            )
        })?;
        chosen.push((volume.clone(), config.clone()));
    }
    Ok(chosen)
}

/// Writes one volume into a snapshot and completes it.
async fn stage(
    context: &Arc<TaskContext>,
    account: &Account,
    media: &MediaClient,
    spec: &RestoreSpec,
    volume: VolumeMeta,
    config: VolumeConfig,
    marks: Arc<Mutex<Checkpoint>>,
) -> Result<Staged, TransferError> {
    let name = volume.volume_id.to_string();
    let start = |entry: LedgerEntry| {
        let request = NewSnapshot {
            size_gib: config.size_gib,
            client_token: entry.id.to_string(),
            description: format!("Snapferry restore of {name} from {}", spec.recovery_point),
            tags: context.ledger.tags(&entry),
            encrypted: config.encrypted,
            kms_key_id: config.kms_key_id.clone(),
        };
        async move { Ok(vec![start_snapshot(account, &request).await?.into()]) }
    };
    let what = (ObjectKind::Snapshot, Purpose::RestoreStaging, name.as_str());
    let entry = objects::ensure(context, account, what, start).await?;
    let snapshot: SnapshotId = parse_one(&entry)?;
    if entry.state == LedgerState::Made && is_completed(account, &snapshot).await? {
        return Ok(Staged { config, snapshot, entry });
    }
    let resume_from_leaf = {
        let marks = marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.written_leaves.get(&volume.volume_id).copied().unwrap_or(0)
    };
    let sealer = Arc::new(Sealer::new(&context.spec.keys));
    let source = media.volume_source(
        spec.recovery_point,
        &context.spec.tenant,
        &name,
        volume.n_blocks,
        Arc::clone(&sealer),
    );
    let target = EbsSnapshotTarget::new(account, &snapshot, config.size_gib);
    let (high_water, seen) = tokio::sync::watch::channel(resume_from_leaf);
    let keep_marks = keep_marks(context, &volume.volume_id, seen, marks);
    let write = async {
        let mut tell = |leaf| high_water.send_modify(|mark| *mark = leaf);
        let result = restore_volume(
            Arc::new(source),
            Arc::new(target),
            sealer,
            context.shared.budget.clone(),
            &context.shared.workers,
            resume_from_leaf,
            &mut tell,
            context.new_transfer(),
            context.stop.token().clone(),
        )
        .await;
        drop(high_water);
        result
    };
    let (written, kept) = tokio::join!(write, keep_marks);
    written.map_err(|error| error.context(format!("write {name} into {snapshot}")))?;
    kept?;
    ec2::wait_snapshots_completed(account, &[snapshot.clone()], |_| (), context.stop.token()).await?;
    Ok(Staged { config, snapshot, entry })
}

/// Records the high-water mark when it has moved, at most once in [`MARK_PERIOD`], until the writer is done.
async fn keep_marks(
    context: &Arc<TaskContext>,
    volume: &VolumeId,
    mut seen: tokio::sync::watch::Receiver<u32>,
    marks: Arc<Mutex<Checkpoint>>,
) -> Result<(), TransferError> {
    /// At the quota of 1,000 blocks a second a leaf takes one second.
    const MARK_PERIOD: std::time::Duration = std::time::Duration::from_millis(500);
    let mut result = Ok(());
    while seen.changed().await.is_ok() {
        let leaf = *seen.borrow_and_update();
        let checkpoint = {
            let mut marks = marks.lock().unwrap_or_else(PoisonError::into_inner);
            marks.written_leaves.insert(volume.clone(), leaf);
            serde_json::to_vec(&*marks)
        };
        result = match checkpoint {
            Ok(bytes) => context.record(Step::Checkpoint(bytes.into())).await,
            Err(error) => {
                Err(TransferError::new(ErrorClass::Internal, format!("write the checkpoint: {error}")))
            }
        };
        if let Err(error) = &result {
            tracing::warn!(%volume, %error, "checkpoint not kept; a next attempt writes more again");
        }
        tokio::time::sleep(MARK_PERIOD).await;
    }
    match result {
        Err(error) if error.class == ErrorClass::StaleFence => Err(error),
        _ => Ok(()),
    }
}

fn read_checkpoint(context: &TaskContext) -> Result<Checkpoint, TransferError> {
    if context.spec.checkpoint.is_empty() {
        return Ok(Checkpoint::default());
    }
    serde_json::from_slice(&context.spec.checkpoint).map_err(|error| {
        TransferError::new(ErrorClass::Internal, format!("read the task's checkpoint: {error}"))
    })
}

/// The one id of an entry that stands for one object.
pub(super) fn parse_one<T>(entry: &LedgerEntry) -> Result<T, TransferError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let Some(id) = entry.object_ids.first() else {
        return Err(TransferError::new(
            ErrorClass::Internal,
            format!("ledger entry {} names no object", entry.id),
        ));
    };
    id.parse().map_err(|error: T::Err| {
        TransferError::new(ErrorClass::Internal, format!("read ledger entry {}: {error}", entry.id))
    })
}

async fn is_completed(account: &Account, snapshot: &SnapshotId) -> Result<bool, TransferError> {
    let states = ec2::snapshot_states(account, std::slice::from_ref(snapshot)).await?;
    Ok(states.iter().all(|state| state.phase == SnapshotPhase::Completed))
}
