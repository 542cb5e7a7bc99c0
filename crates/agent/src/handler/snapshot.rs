//! The snapshots of a backup: one CreateSnapshots call over all volumes of the instance, crash-consistent.
//!
//! Dies after describing: the checkpoint has what was seen. Dies after the call: the snapshots are found by the
//! ledger entry's tag. A volume that was attached between the two is in the snapshots: the instance is described
//! again, and what fits the snapshots replaces the checkpoint.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use snapferry_aws::ec2::{self, Exclude};
use snapferry_aws::{Account, Probe};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::block::blocks_in_gib;
use snapferry_types::instance::{InstanceConfig, VolumeConfig};
use snapferry_types::ledger::{LedgerEntry, ObjectKind, Purpose};
use snapferry_types::{InstanceId, SnapshotId, VolumeId};

use super::checkpoint::{Checkpoint, Seen};
use super::objects;
use super::preflight::Preflight;
use crate::context::TaskContext;

/// A complete snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TakenSnapshot {
    pub(super) volume: VolumeId,
    pub(super) snapshot: SnapshotId,
    /// Size in blocks of 512 KiB.
    pub(super) n_blocks: u32,
    /// Its key's ARN, where it is encrypted.
    pub(super) kms_key_id: Option<String>,
}

/// Snapshots of a task, complete.
#[derive(Debug)]
pub(super) struct Snapshots {
    pub(super) seen: Seen,
    /// In the order of the instance's volumes; each of them has one.
    pub(super) taken: Vec<TakenSnapshot>,
}

/// Describes the instance, or answers what an earlier attempt saw.
pub(super) async fn see(
    context: &Arc<TaskContext>,
    account: &Account,
    instance: &InstanceId,
    checkpoint: &mut Checkpoint,
) -> Result<Seen, TransferError> {
    context.enter("discover");
    if let Some(seen) = &checkpoint.seen {
        return Ok(seen.clone());
    }
    let described = ec2::describe_instance(account, instance).await?;
    if let Some(failed) = described.volumes.iter().find(|volume| volume.state == "error") {
        let message = format!(
            "{} of {instance} is in state error, and AWS takes no snapshots of it: detach it, or put another in its \
             place, and start the backup again",
            failed.id
        );
        return Err(TransferError::new(ErrorClass::Invalid, message));
    }
    if let Some(outpost) = &described.config.outpost_arn {
        let names: Vec<&str> =
            described.config.volumes.iter().map(|volume| volume.volume_id.as_str()).collect();
        let what = format!("{instance} with {}", names.join(", "));
        return Err(TransferError::new(ErrorClass::Invalid, on_outpost(&what, outpost)));
    }
    for note in described.notes {
        context.note(true, note).await?;
    }
    if let Some(note) = instance_store(account, &described.config).await {
        context.note(true, note).await?;
    }
    let root = &described.config.root_device_name;
    if !described.config.volumes.iter().any(|volume| volume.device_name == *root) {
        let text = format!(
            "{instance} has no EBS volume at its root {root}: volumes can be restored from this backup, an instance \
             cannot"
        );
        context.note(true, text).await?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let point_in_time_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let seen = Seen { point_in_time_ms, config: described.config };
    checkpoint.seen = Some(seen.clone());
    checkpoint.keep(context).await?;
    Ok(seen)
}

/// Why nothing is done with what is on an Outpost.
pub(super) fn on_outpost(what: &str, outpost: &str) -> String {
    format!(
        "{what} is on the Outpost {outpost}, whose local snapshots cannot be read from the region: move the instance \
         into the region, or back it up with AWS's own means on the Outpost; nothing was made"
    )
}

/// What is said of disks of the machine that the instance runs on; nothing where it has none, or nobody may look.
async fn instance_store(account: &Account, config: &InstanceConfig) -> Option<String> {
    let kind = ec2::describe_instance_type(account, &config.instance_type).await;
    let kind =
        kind.inspect_err(|error| tracing::debug!(%error, "the instance type is not looked at")).ok()?;
    if !kind.has_instance_store {
        return None;
    }
    let devices = match &config.image_id {
        Some(image) => ec2::instance_store_devices(account, image).await.unwrap_or_default(),
        None => Vec::new(),
    };
    let devices = if devices.is_empty() {
        "as /dev/nvme… or ephemeral disks".to_owned()
    } else {
        format!("at {}", devices.join(", "))
    };
    Some(format!(
        "the instance store of {} ({} GB, {devices}) is not backed up: it is no EBS volume, and no snapshot holds it",
        kind.instance_type, kind.instance_store_gb
    ))
}

/// Asks whether the snapshots may be taken.
///
/// # Errors
/// [`TransferError`] that names the missing permission.
pub(super) async fn preflight(
    context: &Arc<TaskContext>,
    account: &Account,
    instance: &InstanceId,
) -> Result<(), TransferError> {
    let mut ask = Preflight::new(context);
    ask.call(account, Probe::CreateSnapshots(instance.clone()));
    ask.run().await
}

/// Takes the snapshots of what was seen, or finds those of an earlier attempt, and waits until they are complete.
pub(super) async fn take(
    context: &Arc<TaskContext>,
    account: &Account,
    purpose: Purpose,
    seen: Seen,
    checkpoint: &mut Checkpoint,
) -> Result<Snapshots, TransferError> {
    context.enter("snapshot");
    let instance = seen.config.instance_id.clone();
    let instance = &instance;
    let just_made = Mutex::new(Vec::new());
    let create = |entry: LedgerEntry| {
        let just_made = &just_made;
        async move {
            let tags = context.ledger.tags(&entry);
            let made = ec2::create_snapshots(account, instance, &Exclude::default(), &tags).await?;
            let (volumes, ids): (Vec<VolumeId>, Vec<String>) =
                made.into_iter().map(|(volume, id)| (volume, id.to_string())).unzip();
            *just_made.lock().unwrap_or_else(PoisonError::into_inner) = volumes;
            Ok(ids)
        }
    };
    let what = (ObjectKind::Snapshot, purpose, instance.as_str());
    let entry = objects::ensure(context, account, what, create).await?;
    // At once, while the instance is still as it was; completing may take hours.
    let volumes: Vec<VolumeId> = just_made.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seen = settle(context, account, seen, &volumes, checkpoint).await?;

    let ids = parse_ids(&entry)?;
    let states = context.completed(account, &ids).await?;
    let mut taken: Vec<TakenSnapshot> = states
        .into_iter()
        .filter_map(|state| {
            Some(TakenSnapshot {
                volume: state.volume?,
                snapshot: state.snapshot,
                n_blocks: blocks_in_gib(state.size_gib),
                kms_key_id: state.kms_key_id.filter(|_| state.encrypted),
            })
        })
        .collect();
    let volumes: Vec<VolumeId> = taken.iter().map(|one| one.volume.clone()).collect();
    let seen = settle(context, account, seen, &volumes, checkpoint).await?;
    if let Some(missing) = seen.config.volumes.iter().find(|one| !volumes.contains(&one.volume_id)) {
        let message = format!(
            "there is no snapshot of {}, which {instance} had when it was described: it was detached since, or its snapshot was deleted; start the backup again",
            missing.volume_id
        );
        return Err(TransferError::new(ErrorClass::Invalid, message));
    }
    let position = |volume: &VolumeId| seen.config.volumes.iter().position(|one| one.volume_id == *volume);
    taken.sort_by_key(|one| position(&one.volume));
    Ok(Snapshots { seen, taken })
}

/// The configuration that fits the snapshots of `volumes`: as it was seen, or as it is now where a volume has a
/// snapshot that was not seen.
async fn settle(
    context: &Arc<TaskContext>,
    account: &Account,
    seen: Seen,
    volumes: &[VolumeId],
    checkpoint: &mut Checkpoint,
) -> Result<Seen, TransferError> {
    if volumes.iter().all(|volume| has(&seen.config, volume)) {
        return Ok(seen);
    }
    let again = ec2::describe_instance(account, &seen.config.instance_id).await?;
    let config = fitting(&seen.config, again.config, volumes);
    if let Some(unknown) = volumes.iter().find(|volume| !has(&config, volume)) {
        let message = format!(
            "there is a snapshot of {unknown}, which {} had neither before nor after it was taken: start the backup again",
            config.instance_id
        );
        return Err(TransferError::new(ErrorClass::Invalid, message));
    }
    let seen = Seen { config, ..seen };
    checkpoint.seen = Some(seen.clone());
    checkpoint.keep(context).await?;
    Ok(seen)
}

fn has(config: &InstanceConfig, volume: &VolumeId) -> bool {
    config.volumes.iter().any(|one| one.volume_id == *volume)
}

/// The later description without what was attached after the snapshots, and with what was detached after them. A
/// volume that was seen before and has no snapshot stays: that it is missing must not pass in silence.
fn fitting(first: &InstanceConfig, again: InstanceConfig, volumes: &[VolumeId]) -> InstanceConfig {
    let mut fitting = again;
    fitting.volumes.retain(|one| volumes.contains(&one.volume_id) || has(first, &one.volume_id));
    let detached: Vec<VolumeConfig> =
        first.volumes.iter().filter(|one| !has(&fitting, &one.volume_id)).cloned().collect();
    fitting.volumes.extend(detached);
    fitting
}

fn parse_ids(entry: &LedgerEntry) -> Result<Vec<SnapshotId>, TransferError> {
    let parsed = entry.object_ids.iter().map(|id| id.parse()).collect::<Result<_, _>>();
    parsed.map_err(|error: snapferry_types::aws::ParseAwsNameError| {
        TransferError::new(ErrorClass::Internal, format!("read ledger entry {}: {error}", entry.id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(volumes: &[&str]) -> InstanceConfig {
        let volumes: Vec<_> = volumes
            .iter()
            .map(|id| {
                serde_json::json!({
                    "volume_id": id, "device_name": "/dev/sdf", "size_gib": 1, "volume_type": "gp3",
                })
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "version": 1, "instance_id": "i-1", "region": "eu-central-1", "availability_zone": "eu-central-1a",
            "instance_type": "m6i.large", "os": "linux", "architecture": "x86_64", "root_device_name": "/dev/xvda",
            "volumes": volumes,
        }))
        .unwrap()
    }

    #[test]
    fn the_configuration_has_what_has_a_snapshot_and_what_should_have_one() {
        let ids = |volumes: &[&str]| volumes.iter().map(|id| id.parse().unwrap()).collect::<Vec<VolumeId>>();
        let of = |first: &[&str], again: &[&str], snapshots: &[&str]| -> Vec<String> {
            let fitting = fitting(&instance(first), instance(again), &ids(snapshots));
            fitting.volumes.iter().map(|one| one.volume_id.to_string()).collect()
        };
        // Attached before the snapshots, after the description.
        assert_eq!(of(&["vol-1"], &["vol-1", "vol-2"], &["vol-1", "vol-2"]), ["vol-1", "vol-2"]);
        // Attached after the snapshots.
        assert_eq!(of(&["vol-1"], &["vol-1", "vol-2", "vol-3"], &["vol-1", "vol-2"]), ["vol-1", "vol-2"]);
        // Detached after the snapshots.
        assert_eq!(
            of(&["vol-1", "vol-3"], &["vol-1", "vol-2"], &["vol-1", "vol-2", "vol-3"]),
            ["vol-1", "vol-2", "vol-3"]
        );
        // Detached before the snapshots: it stays, and is found missing.
        assert_eq!(
            of(&["vol-1", "vol-3"], &["vol-1", "vol-2"], &["vol-1", "vol-2"]),
            ["vol-1", "vol-2", "vol-3"]
        );
    }
}
