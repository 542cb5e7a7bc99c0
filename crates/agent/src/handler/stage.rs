//! Staging: the stored content of one volume becomes a snapshot of which the tenant's account can make volumes. By
//! EBS direct it is written block by block into a snapshot of the tenant's own. A snapshot that exists there is taken
//! as it is: nothing is moved.
//!
//! Runs twice: StartSnapshot has a client token, what is written is in the marks but for a page of blocks, and a snapshot
//! that is complete already is taken as it is.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use snapferry_aws::ec2::{self, SnapshotPhase};
use snapferry_aws::{Account, EbsSnapshotTarget, NewSnapshot, start_snapshot};
use snapferry_media_agent::client::MediaClient;
use snapferry_transfer::{HighWater, Sealer, TransferError, restore_volume};
use snapferry_types::catalogue::VolumeMeta;
use snapferry_types::instance::VolumeConfig;
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind, Purpose};
use snapferry_types::spec::RestoreSpec;
use snapferry_types::{RecoveryPointId, SnapshotId, Transport};

use super::marks::Marks;
use super::objects::{self, parse_one};
use super::restore_source::{Blocks, Chosen, Origin};
use super::transport::{self, Work, write};
use crate::context::TaskContext;

/// Volumes that are written at the same time; they share the process's byte budget.
const VOLUMES_AT_ONCE: usize = 4;

/// A volume whose content is in a complete snapshot that the tenant's account can use.
#[derive(Debug, Clone)]
pub(super) struct Staged {
    /// The volume as it shall be.
    pub(super) config: VolumeConfig,
    /// The snapshot.
    pub(super) snapshot: SnapshotId,
    /// Its ledger entry, where it is ours and goes when the volume is made.
    pub(super) entry: Option<LedgerEntry>,
}

/// What is to be staged.
#[derive(Debug, Clone)]
pub(super) struct ToStage {
    /// The recovery point in the library.
    pub(super) recovery_point: RecoveryPointId,
    /// The volume in it.
    pub(super) volume: VolumeMeta,
    /// The volume as it shall be.
    pub(super) config: VolumeConfig,
}

/// Stages the chosen volumes, in their order.
///
/// # Errors
/// See [`stage`].
pub(super) async fn all(
    context: &Arc<TaskContext>,
    account: &Account,
    origin: &Origin,
    spec: &RestoreSpec,
    chosen: Vec<Chosen>,
    marks: &Marks,
) -> Result<Vec<Staged>, TransferError> {
    let media = match &origin.blocks {
        Blocks::Library(media) => media,
        Blocks::Snapshots { .. } => {
            context.note(false, "no blocks are moved: volumes are made of the snapshots").await?;
            let staged = chosen
                .into_iter()
                .filter_map(|one| Some(Staged { config: one.config, snapshot: one.snapshot?, entry: None }));
            return Ok(staged.collect());
        }
    };
    let volumes: Vec<VolumeConfig> = chosen.iter().map(|one| one.config.clone()).collect();
    let work = Work {
        writes: true,
        volumes: &volumes,
        blocks: None,
        region: account.region(),
        product_codes: &[],
        unshareable: None,
        outpost: None,
        tenant: account,
        reads_as_service: false,
        snapshots: &[],
        before: marks.transport(),
    };
    let transport = transport::choose(context, spec.transport, work).await?;
    if marks.transport() != Some(transport) {
        marks.save(context, |checkpoint| checkpoint.transport = Some(transport)).await?;
    }
    context.enter("write");
    let write = stream::iter(chosen)
        .map(|Chosen { volume, config, .. }| {
            let what = ToStage { recovery_point: spec.recovery_point, volume, config };
            async move {
                match transport {
                    Transport::EbsDirect => stage(context, account, media, what, marks).await,
                    Transport::HotAdd | Transport::Import => {
                        write::stage(context, transport, account, media, what, marks).await
                    }
                }
            }
        })
        .buffered(VOLUMES_AT_ONCE)
        .try_collect();
    marks.while_keeping(context, write).await
}

/// Writes one volume into a snapshot and completes it.
///
/// # Errors
/// [`TransferError`] that names the volume and the snapshot.
async fn stage(
    context: &Arc<TaskContext>,
    account: &Account,
    media: &MediaClient,
    what: ToStage,
    marks: &Marks,
) -> Result<Staged, TransferError> {
    let ToStage { recovery_point, volume, config } = what;
    let name = volume.volume_id.to_string();
    let start = |entry: LedgerEntry| {
        let request = NewSnapshot {
            size_gib: config.size_gib,
            client_token: entry.id.to_string(),
            description: format!("Snapferry restore of {name} from {recovery_point}"),
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
        return Ok(Staged { config, snapshot, entry: Some(entry) });
    }
    let sealer = Arc::new(Sealer::new(&context.spec.keys));
    let source = media.volume_source(
        recovery_point,
        &context.spec.tenant,
        &name,
        volume.n_blocks,
        Arc::clone(&sealer),
    );
    let target = EbsSnapshotTarget::new(account, &snapshot, config.size_gib);
    let (id, written_to) = (&volume.volume_id, snapshot.as_str());
    let mut rise = |block| marks.rise(id, written_to, block);
    let mark = HighWater::new(marks.resume_block(id, written_to), &mut rise);
    let mark = mark.recorded(marks.recorded(id, written_to));
    restore_volume(
        Arc::new(source),
        Arc::new(target),
        sealer,
        context.shared.budget.clone(),
        &context.shared.workers,
        mark,
        context.new_transfer(),
        context.stop.token().clone(),
    )
    .await
    .map_err(|error| error.context(format!("write {name} into {snapshot}")))?;
    ec2::wait_snapshots_completed(account, std::slice::from_ref(&snapshot), |_| (), context.stop.token())
        .await?;
    Ok(Staged { config, snapshot, entry: Some(entry) })
}

async fn is_completed(account: &Account, snapshot: &SnapshotId) -> Result<bool, TransferError> {
    let states = ec2::snapshot_states(account, std::slice::from_ref(snapshot)).await?;
    Ok(states.iter().all(|state| state.phase == SnapshotPhase::Completed))
}
