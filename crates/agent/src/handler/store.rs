//! From snapshots to a recovery point in a library: plan, read, seal, and tell the catalogue. Streaming backup and
//! backup copy are this, over snapshots of their own or of an IntelliSnap recovery point.
//!
//! Runs twice, or dies at:
//! - planning: nothing was made. What will be read, and how, goes into the checkpoint before its session is opened.
//! - reading: the session knows its durable leaves; only the rest is read. A base that vanished between two
//!   attempts makes another session, because an incremental leaf must never lie over a full read.
//! - seal: opening the session of the checkpoint again answers that it is sealed, and as what.
//! - record: repeating it changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use snapferry_aws::{Account, EbsSnapshotSource, ec2};
use snapferry_media_agent::client::{MediaClient, Opened, Session};
use snapferry_transfer::{
    BaseLeaves, BlockSource, ChunkSink, ErrorClass, Sealer, TransferError, back_up_volume, boxed,
};
use snapferry_types::block::BLOCKS_PER_GIB;
use snapferry_types::catalogue::{
    BaseRef, RECOVERY_POINT_META_VERSION, RecoveryPointKind, RecoveryPointMeta, VolumeMeta,
};
use snapferry_types::instance::InstanceConfig;
use snapferry_types::ledger::LedgerEntry;
use snapferry_types::spec::ReadAs;
use snapferry_types::{
    AccountId, BLOCK_SIZE, LedgerId, RecoveryPointId, SnapshotId, Transport, TransportWish, VolumeId,
};
use snapferry_wire::v1;

use super::base::{self, PlannedVolume};
use super::checkpoint::Checkpoint;
use super::session::Reading;
use super::transport::read::Reader;
use super::transport::{Options, Work};
use super::{clean, share};
use crate::context::TaskContext;

/// Volumes of one instance that are read at the same time; they share the process's byte budget.
const VOLUMES_AT_ONCE: usize = 4;

/// What is to be stored.
#[derive(Debug)]
pub(super) struct ToStore {
    /// Whose the snapshots are.
    pub(super) owner: Account,
    /// Whose credentials read the blocks.
    pub(super) reader: Account,
    /// The volumes and their complete snapshots.
    pub(super) snapshots: Vec<(VolumeId, SnapshotId)>,
    /// What changes are listed against; nothing for a full read.
    pub(super) base: Option<BaseRef>,
    /// What the recovery point says of itself.
    pub(super) about: About,
}

/// What is known of a recovery point before its volumes are read.
#[derive(Debug)]
pub(super) struct About {
    /// The tenant's account.
    pub(super) account: AccountId,
    /// When the snapshots were taken, milliseconds since 1970 UTC.
    pub(super) point_in_time_ms: u64,
    /// The instance then.
    pub(super) instance: InstanceConfig,
    /// Streamed or a copy.
    pub(super) kind: RecoveryPointKind,
    /// Of which recovery point it is a copy.
    pub(super) copy_of: Option<RecoveryPointId>,
}

/// What is to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct ToRead<'a> {
    /// The instance.
    pub(super) instance: &'a InstanceConfig,
    /// Whose credentials read the blocks.
    pub(super) read_as: ReadAs,
    /// Snapshots that are there already: what is copied, or the base.
    pub(super) snapshots: &'a [SnapshotId],
    /// Of these, what is copied.
    pub(super) copied: &'a [SnapshotId],
}

/// How blocks may be read; [`store`] chooses.
///
/// # Errors
/// [`TransferError`] of class `Invalid` when the wish cannot be kept.
pub(super) async fn options(
    context: &Arc<TaskContext>,
    tenant: &Account,
    wish: TransportWish,
    what: ToRead<'_>,
    checkpoint: &Checkpoint,
) -> Result<Options, TransferError> {
    let ToRead { instance, read_as, snapshots, copied } = what;
    let unshareable = match share::check(tenant, instance).await {
        Ok(()) => None,
        Err(error) if error.class == ErrorClass::Invalid => Some(error.message),
        Err(error) => return Err(error),
    };
    let may_hot_add = wish != TransportWish::EbsDirect
        && checkpoint.transport != Some(Transport::EbsDirect)
        && context.spec.service_access.is_some()
        && context.shared.hot_add.is_some();
    let product_codes =
        if may_hot_add { product_codes(context, tenant, instance, copied).await? } else { Vec::new() };
    let work = Work {
        writes: false,
        volumes: &instance.volumes,
        region: &instance.region,
        product_codes: &product_codes,
        unshareable: unshareable.as_deref(),
        tenant,
        reads_as_service: read_as == ReadAs::Service,
        snapshots,
        before: checkpoint.transport,
    };
    boxed(|| Options::find(context, wish, &work)).await
}

/// Marketplace codes of the instance and of its volumes, or of the snapshots that are copied: a volume that was made of a
/// snapshot with a code has it, too, whatever instance it is attached to.
async fn product_codes(
    context: &TaskContext,
    tenant: &Account,
    instance: &InstanceConfig,
    copied: &[SnapshotId],
) -> Result<Vec<String>, TransferError> {
    let mut found = Vec::new();
    if copied.is_empty() {
        for volume in &instance.volumes {
            found.push(ec2::volume_product_codes(tenant, &volume.volume_id).await);
        }
    } else {
        for snapshot in copied {
            found.push(ec2::snapshot_product_codes(tenant, snapshot).await);
        }
    }
    let mut codes = BTreeSet::from_iter(instance.product_codes.iter().cloned());
    for answer in found {
        match answer.map_err(TransferError::from) {
            Ok(of_one) => codes.extend(of_one),
            Err(error) if error.retryable() => return Err(error),
            // What is gone is told by the step that needs it.
            Err(error) if error.class == ErrorClass::NotFound => {}
            Err(error) => {
                context.note(true, format!("its Marketplace product codes are not known: {error}")).await?;
            }
        }
    }
    Ok(codes.into_iter().collect())
}

/// The recovery point that an earlier attempt has sealed, told to the catalogue: nothing is left to read.
pub(super) async fn stored_before(
    context: &Arc<TaskContext>,
    media: &MediaClient,
    checkpoint: &Checkpoint,
) -> Result<Option<RecoveryPointId>, TransferError> {
    let Some(reading) = &checkpoint.reading else { return Ok(None) };
    let Some(id) = reading.sealed_before(context, media).await? else { return Ok(None) };
    catalogue(context, media, reading, id).await?;
    Ok(Some(id))
}

/// Reads all volumes into a session, seals it, and tells the catalogue.
pub(super) async fn store(
    context: &Arc<TaskContext>,
    media: &MediaClient,
    what: ToStore,
    options: Options,
    checkpoint: &mut Checkpoint,
) -> Result<RecoveryPointId, TransferError> {
    context.enter("plan");
    let planned = base::plan(context, &what.reader, media, what.base.as_ref(), &what.snapshots).await?;
    let counted = async { base::expected_blocks(&planned).await.map_err(plan_again) };
    let transport = boxed(|| options.choose(context, counted)).await?;
    let reading = base::reading(&planned);
    if checkpoint.reading.as_ref() != Some(&reading) || checkpoint.transport != Some(transport) {
        checkpoint.reading = Some(reading.clone());
        checkpoint.transport = Some(transport);
        checkpoint.keep(context).await?;
    }
    let session = match reading.open(context, media).await? {
        Opened::Session(session) => Arc::from(session),
        Opened::AlreadySealed(id) => {
            catalogue(context, media, &reading, id).await?;
            return Ok(id);
        }
    };
    context.remember_session(&session);
    context.enter("read");
    let sealer = Arc::new(Sealer::new(&context.spec.keys).compressing(context.shared.compress));
    let volumes = planned.into_iter().map(|volume| {
        let (session, sealer, owner) = (Arc::clone(&session), Arc::clone(&sealer), &what.owner);
        async move {
            let of = (&volume.read.volume, &volume.read.snapshot);
            let listing = Arc::<EbsSnapshotSource>::clone(&volume.source);
            let reader = Reader::open(context, transport, owner, of, listing).await?;
            read_volume(context, media, &session, sealer, &volume, reader.source()).await?;
            reader.close(context).await
        }
    });
    boxed(|| context.making.all(VOLUMES_AT_ONCE, volumes)).await?;

    context.enter("seal");
    let metadata =
        serde_json::to_vec(&metadata(context, what.about, &reading, transport)).map_err(|error| {
            TransferError::new(ErrorClass::Internal, format!("write the recovery point's metadata: {error}"))
        })?;
    let (id, stored_bytes) = session.seal(metadata.clone()).await.map_err(plan_again)?;
    context.count_stored(stored_bytes);
    record(context, &reading, id, metadata, stored_bytes).await?;
    Ok(id)
}

/// Deletes what earlier tasks kept and this one replaces. The backup itself is safe: what cannot be deleted stays
/// kept, and is the next one's to delete.
pub(super) async fn drop_superseded(
    context: &Arc<TaskContext>,
    own: Option<LedgerId>,
) -> Result<(), TransferError> {
    let superseded: Vec<&LedgerEntry> =
        context.spec.superseded.iter().filter(|entry| Some(entry.id) != own).collect();
    if superseded.is_empty() {
        return Ok(());
    }
    context.enter("drop old base");
    for entry in superseded {
        if let Err(error) = clean::remove(context, entry, context.stop.token()).await {
            context.note(true, format!("an older base snapshot could not be deleted: {error}")).await?;
        }
    }
    Ok(())
}

async fn read_volume(
    context: &Arc<TaskContext>,
    media: &MediaClient,
    session: &Arc<Session>,
    sealer: Arc<Sealer>,
    volume: &PlannedVolume,
    source: Arc<dyn BlockSource>,
) -> Result<(), TransferError> {
    let read = &volume.read;
    let name = read.volume.to_string();
    let base: Option<Arc<dyn BaseLeaves>> = match &read.base {
        Some((point, _)) => {
            Some(Arc::new(media.base_leaves(*point, &context.spec.tenant, &name, Arc::clone(&sealer))))
        }
        None => None,
    };
    let sink: Arc<dyn ChunkSink> = Arc::new(session.volume(&name, Arc::clone(&sealer)));
    back_up_volume(
        source,
        sink,
        base,
        sealer,
        context.shared.budget.clone(),
        &context.shared.workers,
        context.new_transfer(),
        context.stop.token().clone(),
    )
    .await
    .map(|_summary| ())
    .map_err(|error| plan_again(error).context(format!("back up {name} from {}", read.snapshot)))
}

/// What was there when it was opened and is gone in the middle: the base's snapshot, its leaves, or the session. The
/// next attempt opens all of them anew and reads in full what has no base. If it is the snapshot itself, that attempt
/// finds out, and fails for good.
fn plan_again(error: TransferError) -> TransferError {
    if error.class != ErrorClass::NotFound {
        return error;
    }
    let message = format!("{}; the next attempt plans anew, without it", error.message);
    TransferError::new(ErrorClass::Unavailable, message)
}

/// Tells the catalogue of a recovery point that was sealed before.
async fn catalogue(
    context: &Arc<TaskContext>,
    media: &MediaClient,
    reading: &Reading,
    id: RecoveryPointId,
) -> Result<(), TransferError> {
    let stored = media.recovery_point(id, &context.spec.tenant).await?;
    record(context, reading, id, stored.metadata.to_vec(), 0).await
}

async fn record(
    context: &Arc<TaskContext>,
    reading: &Reading,
    id: RecoveryPointId,
    metadata: Vec<u8>,
    stored_bytes: u64,
) -> Result<(), TransferError> {
    let logical_bytes = reading.volumes.iter().map(|volume| bytes_in(volume.n_blocks)).sum();
    let sealed = v1::SealedRecoveryPoint {
        recovery_point_id: id.to_string(),
        metadata: metadata.into(),
        logical_bytes,
        read_bytes: context.progress().bytes_read,
        stored_bytes,
    };
    context.sealed(sealed).await
}

/// Bytes of so many blocks.
pub(super) fn bytes_in(n_blocks: u32) -> u64 {
    u64::from(n_blocks) * BLOCK_SIZE as u64
}

/// The instance's configuration with the sizes that the snapshots have: a volume may have been enlarged after it was
/// described.
pub(super) fn instance_as_read<'a>(
    mut config: InstanceConfig,
    sizes: impl Iterator<Item = (&'a VolumeId, u32)>,
) -> InstanceConfig {
    for (volume, n_blocks) in sizes {
        if let Some(config) = config.volumes.iter_mut().find(|one| one.volume_id == *volume) {
            config.size_gib = n_blocks.div_ceil(BLOCKS_PER_GIB);
        }
    }
    config
}

fn metadata(
    context: &TaskContext,
    about: About,
    reading: &Reading,
    transport: Transport,
) -> RecoveryPointMeta {
    let sizes = reading.volumes.iter().map(|volume| (&volume.volume, volume.n_blocks));
    RecoveryPointMeta {
        version: RECOVERY_POINT_META_VERSION,
        account: about.account,
        task: context.spec.task,
        point_in_time_ms: about.point_in_time_ms,
        instance: instance_as_read(about.instance, sizes),
        volumes: reading
            .volumes
            .iter()
            .map(|volume| VolumeMeta {
                volume_id: volume.volume.clone(),
                snapshot_id: volume.snapshot.clone(),
                n_blocks: volume.n_blocks,
                incremental: volume.base.is_some(),
            })
            .collect(),
        base: reading.volumes.iter().find_map(|volume| volume.base.as_ref()).map(|(point, _)| *point),
        kind: about.kind,
        copy_of: about.copy_of,
        vaults: Vec::new(),
        transport: Some(transport),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_vanished_in_the_middle_is_planned_again_and_nothing_else_is() {
        let after = |class| plan_again(TransferError::new(class, "it is gone"));
        assert!(after(ErrorClass::NotFound).retryable());
        assert_eq!(after(ErrorClass::AccessDenied).class, ErrorClass::AccessDenied);
        assert_eq!(after(ErrorClass::StaleFence).class, ErrorClass::StaleFence);
        assert_eq!(after(ErrorClass::Cancelled), TransferError::new(ErrorClass::Cancelled, "it is gone"));
    }
}
