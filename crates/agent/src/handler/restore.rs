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

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use snapferry_aws::SessionScope;
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::VolumeId;
use snapferry_types::catalogue::{RecoveryPointMeta, VolumeMeta};
use snapferry_types::instance::VolumeConfig;
use snapferry_types::spec::{RestoreSpec, RestoreTarget};
use snapferry_wire::v1;

use super::marks::Marks;
use super::stage::{Staged, ToStage, stage};
use super::{clean, restore_instance, restore_volumes};
use crate::context::TaskContext;

/// Volumes that are written at the same time; they share the process's byte budget.
const VOLUMES_AT_ONCE: usize = 4;

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
    let marks = Marks::read(context)?;

    context.enter("write");
    let write = stream::iter(chosen)
        .map(|(volume, config)| {
            let (account, media, marks) = (&account, &media, &marks);
            let what = ToStage { recovery_point: spec.recovery_point, volume, config };
            async move { stage(context, account, media, what, marks).await }
        })
        .buffered(VOLUMES_AT_ONCE)
        .try_collect();
    let staged: Vec<Staged> = marks.while_keeping(context, write).await?;

    let made = match &spec.target {
        RestoreTarget::Volumes { availability_zone, attach: None } => {
            let zone = availability_zone.as_deref().unwrap_or(&meta.instance.availability_zone);
            restore_volumes::run(context, &account, &staged, zone, &spec.extra_tags).await?
        }
        RestoreTarget::Instance(new) => {
            restore_instance::run(context, &account, &staged, &meta.instance, spec, new).await?
        }
        RestoreTarget::Volumes { attach: Some(_), .. }
        | RestoreTarget::InPlace { .. }
        | RestoreTarget::DiskImage { .. } => {
            return Err(TransferError::new(ErrorClass::Invalid, "this agent does not know the target"));
        }
    };

    // From here on the results are the tenant's: whatever happens to the staging snapshots, no clean-up takes them.
    context.ledger.hand_over().await?;
    context.enter("drop staging");
    for entry in staged.iter().filter_map(|one| one.entry.as_ref()) {
        clean::remove(context, entry, context.stop.token()).await?;
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
