//! The snapshots that a backup reads: one CreateSnapshots call over all volumes of the instance, crash-consistent.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use snapferry_aws::Account;
use snapferry_aws::ec2::{self, Exclude};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::instance::{InstanceConfig, VolumeConfig};
use snapferry_types::ledger::{LedgerEntry, ObjectKind, Purpose};
use snapferry_types::{InstanceId, SnapshotId, VolumeId};
use snapferry_wire::v1::record_request::Step;

use super::objects;
use crate::context::TaskContext;

/// What the first attempt saw: the configuration belongs to the moment of the snapshots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Seen {
    /// When the snapshots were asked for, milliseconds since 1970 UTC.
    pub(super) point_in_time_ms: u64,
    /// The instance then.
    pub(super) config: InstanceConfig,
}

/// Snapshots of a task, complete.
pub(super) struct Snapshots {
    pub(super) seen: Seen,
    pub(super) entry: LedgerEntry,
    /// In the order of the instance's volumes.
    pub(super) of_volumes: Vec<(VolumeId, SnapshotId)>,
}

/// Describes the instance and takes its snapshots, or finds those of an earlier attempt.
pub(super) async fn take(
    context: &Arc<TaskContext>,
    account: &Account,
    instance: &InstanceId,
) -> Result<Snapshots, TransferError> {
    context.enter("discover");
    let seen = see(context, account, instance).await?;
    context.enter("snapshot");
    let create = |entry: LedgerEntry| async move {
        let tags = context.ledger.tags(&entry);
        let made = ec2::create_snapshots(account, instance, &Exclude::default(), &tags).await?;
        Ok(made.into_iter().map(|(_, snapshot)| snapshot.into()).collect())
    };
    let what = (ObjectKind::Snapshot, Purpose::BackupSource, instance.as_str());
    let entry = objects::ensure(context, account, what, create).await?;
    let ids = parse_ids(&entry)?;
    let states = ec2::wait_snapshots_completed(account, &ids, |_| (), context.stop.token()).await?;
    let mut of_volumes: Vec<(VolumeId, SnapshotId)> =
        states.into_iter().filter_map(|state| Some((state.volume?, state.snapshot))).collect();
    let missing = |one: &&VolumeConfig| of_volumes.iter().all(|(volume, _)| *volume != one.volume_id);
    if let Some(missing) = seen.config.volumes.iter().find(missing) {
        let message = format!(
            "there is no snapshot of {}, which {instance} had when it was described: it was detached since, or its snapshot was deleted; start the backup again",
            missing.volume_id
        );
        return Err(TransferError::new(ErrorClass::Invalid, message));
    }
    let position = |volume: &VolumeId| seen.config.volumes.iter().position(|one| one.volume_id == *volume);
    of_volumes.sort_by_key(|(volume, _)| position(volume));
    Ok(Snapshots { seen, entry, of_volumes })
}

async fn see(
    context: &Arc<TaskContext>,
    account: &Account,
    instance: &InstanceId,
) -> Result<Seen, TransferError> {
    if !context.spec.checkpoint.is_empty() {
        return serde_json::from_slice(&context.spec.checkpoint).map_err(|error| {
            TransferError::new(ErrorClass::Internal, format!("read the task's checkpoint: {error}"))
        });
    }
    let described = ec2::describe_instance(account, instance).await?;
    for note in described.notes {
        context.note(true, note).await?;
    }
    let config = described.config;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seen = Seen { point_in_time_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX), config };
    let checkpoint = serde_json::to_vec(&seen).map_err(|error| {
        TransferError::new(ErrorClass::Internal, format!("write the task's checkpoint: {error}"))
    })?;
    context.record(Step::Checkpoint(checkpoint.into())).await?;
    Ok(seen)
}

fn parse_ids(entry: &LedgerEntry) -> Result<Vec<SnapshotId>, TransferError> {
    let parsed = entry.object_ids.iter().map(|id| id.parse()).collect::<Result<_, _>>();
    parsed.map_err(|error: snapferry_types::aws::ParseAwsNameError| {
        TransferError::new(ErrorClass::Internal, format!("read ledger entry {}: {error}", entry.id))
    })
}
