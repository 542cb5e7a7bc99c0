//! Staging: the stored content of one volume becomes a snapshot of which the tenant's account can make volumes. By
//! EBS direct it is written block by block into a snapshot of the tenant's own. A snapshot that exists there is taken
//! as it is: nothing is moved.
//!
//! Runs twice: StartSnapshot has a client token, what is written is in the marks but for a page of blocks, and a snapshot
//! that is complete already is taken as it is.

use std::sync::Arc;

use futures::future::try_join_all;
use snapferry_aws::ec2::{self, SnapshotPhase};
use snapferry_aws::{Account, EbsSnapshotTarget, NewSnapshot, start_snapshot};
use snapferry_transfer::{HighWater, TransferError, boxed};
use snapferry_types::catalogue::VolumeMeta;
use snapferry_types::instance::VolumeConfig;
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind, Purpose};
use snapferry_types::spec::{RestoreSpec, TargetEncryption};
use snapferry_types::{RecoveryPointId, SnapshotId, Transport, TransportWish};

use super::content::Content;
use super::marks::Marks;
use super::objects::{self, parse_one};
use super::restore_source::{Blocks, Chosen, Origin};
use super::transport::{Options, Work, write};
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
    /// Whether the volume is to have another key than the snapshot has.
    pub(super) is_rekeyed: bool,
}

/// What is to be staged.
#[derive(Debug, Clone)]
pub(super) struct ToStage {
    /// The recovery point, for descriptions.
    pub(super) recovery_point: RecoveryPointId,
    /// Where the volume's blocks are.
    pub(super) content: Content,
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
    if matches!(origin.blocks, Blocks::Here(_)) {
        let unused = match spec.transport {
            TransportWish::Automatic => String::new(),
            wish => format!("; {}, which was asked for, has nothing to do", wish.as_str()),
        };
        context
            .note(false, format!("no blocks are moved: volumes are made of the snapshots{unused}"))
            .await?;
        let is_rekeyed = origin.is_vault() || matches!(spec.encryption, TargetEncryption::Key(_));
        let staged = chosen.into_iter().filter_map(|one| {
            Some(Staged { snapshot: one.found.here()?.clone(), config: one.config, is_rekeyed })
        });
        return Ok(staged.collect());
    }
    let volumes: Vec<VolumeConfig> = chosen.iter().map(|one| one.config.clone()).collect();
    let work = Work {
        writes: true,
        volumes: &volumes,
        region: account.region(),
        product_codes: &[],
        unshareable: None,
        tenant: account,
        reads_as_service: false,
        snapshots: &[],
        before: marks.transport(),
    };
    let options = boxed(|| Options::find(context, spec.transport, &work)).await?;
    let counted = async {
        let counts = chosen.iter().map(|one| origin.expected_blocks(context, one));
        Ok(try_join_all(counts).await?.iter().sum())
    };
    let transport = boxed(|| options.choose(context, counted)).await?;
    if marks.transport() != Some(transport) {
        marks.save(context, |checkpoint| checkpoint.transport = Some(transport)).await?;
    }
    context.enter("write");
    let write = chosen.into_iter().map(|one| async move {
        let content = origin.content(context, &one).await?;
        let Chosen { volume, config, .. } = one;
        let what = ToStage { recovery_point: spec.recovery_point, content, volume, config };
        match transport {
            Transport::EbsDirect => boxed(|| stage(context, account, what, marks)).await,
            Transport::HotAdd | Transport::Import => {
                boxed(|| write::stage(context, transport, account, what, marks)).await
            }
        }
    });
    marks.while_keeping(context, Box::pin(context.making.all(VOLUMES_AT_ONCE, write))).await
}

/// Writes one volume into a snapshot and completes it.
///
/// # Errors
/// [`TransferError`] that names the volume and the snapshot.
async fn stage(
    context: &Arc<TaskContext>,
    account: &Account,
    what: ToStage,
    marks: &Marks,
) -> Result<Staged, TransferError> {
    let ToStage { recovery_point, content, volume, config } = what;
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
    let entry = objects::ensure(context, account, what, start)
        .await
        .map_err(|error| error.context(format!("start the snapshot to write {name} into")))?;
    let snapshot: SnapshotId = parse_one(&entry)?;
    if entry.state == LedgerState::Made && is_completed(account, &snapshot).await? {
        return Ok(Staged { config, snapshot, is_rekeyed: false });
    }
    let target = EbsSnapshotTarget::new(account, &snapshot, config.size_gib);
    let (id, written_to) = (&volume.volume_id, snapshot.as_str());
    let mut rise = |block| marks.rise(id, written_to, block);
    let mark = HighWater::new(marks.resume_block(id, written_to), &mut rise);
    let mark = mark.recorded(marks.recorded(id, written_to), marks.ahead());
    content
        .write(context, &volume, Arc::new(target), mark, context.new_transfer())
        .await
        .map_err(|error| error.context(format!("write {name} into {snapshot}")))?;
    context.completed(account, std::slice::from_ref(&snapshot)).await?;
    Ok(Staged { config, snapshot, is_rekeyed: false })
}

async fn is_completed(account: &Account, snapshot: &SnapshotId) -> Result<bool, TransferError> {
    let states = ec2::snapshot_states(account, std::slice::from_ref(snapshot)).await?;
    Ok(states.iter().all(|state| state.phase == SnapshotPhase::Completed))
}
