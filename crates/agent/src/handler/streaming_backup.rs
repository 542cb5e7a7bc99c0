//! Streaming backup: snapshot all volumes of the instance, read their blocks, store them, keep the snapshots as the
//! base of the next incremental and delete the base before.
//!
//! Runs twice, or dies at:
//! - describe: nothing was made.
//! - snapshots: found again by the ledger entry's tag; the configuration seen then is in the checkpoint.
//! - transfer: the session knows its durable leaves; only the rest is read. A base that vanished between two
//!   attempts makes another session, because an incremental leaf must never lie over a full read.
//! - seal: opening the session again answers that it is sealed, and with what id.
//! - record: repeating it changes nothing; from then on the snapshots are the instance's base.
//! - deleting the old base: what is gone is gone; what is left is in the ledger as kept, and the next backup's to
//!   delete.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use snapferry_aws::{Account, SessionScope, ec2};
use snapferry_media_agent::client::{MediaClient, OpenVolume, Opened, Session};
use snapferry_transfer::{BaseLeaves, ChunkSink, ErrorClass, Sealer, TransferError, back_up_volume};
use snapferry_types::block::BLOCKS_PER_GIB;
use snapferry_types::catalogue::{
    RECOVERY_POINT_META_VERSION, RecoveryPointKind, RecoveryPointMeta, VolumeMeta,
};
use snapferry_types::instance::InstanceConfig;
use snapferry_types::spec::{ReadAs, StreamingBackupSpec};
use snapferry_types::{BLOCK_SIZE, RecoveryPointId, Transport};
use snapferry_wire::v1;
use snapferry_wire::v1::record_request::Step;

use super::base::PlannedVolume;
use super::snapshot::Snapshots;
use super::{base, clean, made, snapshot};
use crate::context::TaskContext;

/// Volumes of one instance that are read at the same time; they share the process's byte budget.
const VOLUMES_AT_ONCE: usize = 4;

pub(super) async fn run(
    context: &Arc<TaskContext>,
    spec: &StreamingBackupSpec,
) -> Result<Vec<v1::Made>, TransferError> {
    let account = context.tenant(SessionScope::Backup).await?;
    let snapshots = snapshot::take(context, &account, &spec.instance).await?;
    let media = context.media_agent().await?;
    let reader = reader(context, &account, spec, &snapshots).await?;
    let planned = base::plan(context, &reader, &media, spec, &snapshots).await?;

    let (recovery_point, metadata, stored_bytes) = store(context, &media, spec, &snapshots, &planned).await?;
    let logical_bytes = planned.iter().map(|volume| u64::from(volume.n_blocks) * BLOCK_SIZE as u64).sum();
    context
        .record(Step::Sealed(v1::SealedRecoveryPoint {
            recovery_point_id: recovery_point.to_string(),
            metadata: metadata.into(),
            logical_bytes,
            read_bytes: context.progress().bytes_read,
            stored_bytes,
        }))
        .await?;

    context.enter("drop old base");
    for entry in context.spec.superseded.iter().filter(|entry| entry.id != snapshots.entry.id) {
        if let Err(error) = clean::remove(context, entry, context.stop.token()).await {
            // The backup itself is safe; the entry stays kept and the next backup tries again.
            context.note(true, format!("an older base snapshot could not be deleted: {error}")).await?;
        }
    }
    Ok(vec![made("recovery_point", recovery_point, &spec.instance)])
}

/// The account whose credentials read the blocks.
async fn reader(
    context: &Arc<TaskContext>,
    tenant: &Account,
    spec: &StreamingBackupSpec,
    snapshots: &Snapshots,
) -> Result<Account, TransferError> {
    match spec.read_as {
        ReadAs::Tenant => Ok(tenant.clone()),
        ReadAs::Service => {
            let service = context.service(SessionScope::Backup).await?;
            for (_, snapshot) in &snapshots.of_volumes {
                ec2::share_snapshot(tenant, snapshot, service.account()).await?;
            }
            Ok(service)
        }
    }
}

/// Streams all volumes into a session and seals it; answers the recovery point, its metadata and what it added.
async fn store(
    context: &Arc<TaskContext>,
    media: &MediaClient,
    spec: &StreamingBackupSpec,
    snapshots: &Snapshots,
    planned: &[PlannedVolume],
) -> Result<(RecoveryPointId, Vec<u8>, u64), TransferError> {
    let volumes: Vec<OpenVolume> = planned
        .iter()
        .map(|volume| OpenVolume {
            name: volume.volume.to_string(),
            n_blocks: volume.n_blocks,
            base: volume.base.as_ref().map(|(point, _)| (*point, volume.volume.to_string())),
        })
        .collect();
    let key = session_key(context, planned);
    let opened = media.open_session(&key, context.spec.fence, &context.spec.tenant, volumes).await?;
    let session = match opened {
        Opened::Session(session) => Arc::new(session),
        Opened::AlreadySealed(id) => {
            let stored = media.recovery_point(id, &context.spec.tenant).await?;
            return Ok((id, stored.metadata.to_vec(), 0));
        }
    };
    context.remember_session(&session);
    context.enter("read");
    let sealer = Arc::new(Sealer::new(&context.spec.keys));
    stream::iter(planned.iter().cloned())
        .map(|volume| {
            let (session, sealer) = (Arc::clone(&session), Arc::clone(&sealer));
            async move { read_volume(context, media, &session, sealer, &volume).await }
        })
        .buffer_unordered(VOLUMES_AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;

    context.enter("seal");
    let metadata = serde_json::to_vec(&metadata(context, spec, snapshots, planned)).map_err(|error| {
        TransferError::new(ErrorClass::Internal, format!("write the recovery point's metadata: {error}"))
    })?;
    let (id, stored_bytes) = session.seal(metadata.clone()).await?;
    Ok((id, metadata, stored_bytes))
}

async fn read_volume(
    context: &Arc<TaskContext>,
    media: &MediaClient,
    session: &Arc<Session>,
    sealer: Arc<Sealer>,
    volume: &PlannedVolume,
) -> Result<(), TransferError> {
    let name = volume.volume.to_string();
    let base: Option<Arc<dyn BaseLeaves>> = match &volume.base {
        Some((point, _)) => {
            Some(Arc::new(media.base_leaves(*point, &context.spec.tenant, &name, Arc::clone(&sealer))))
        }
        None => None,
    };
    let sink: Arc<dyn ChunkSink> = Arc::new(session.volume(&name, Arc::clone(&sealer)));
    back_up_volume(
        Arc::clone(&volume.source),
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
    .map_err(|error| error.context(format!("back up {name} from {}", volume.snapshot)))
}

/// Changes with the snapshots that are read and with what is read as changed blocks only: a session never mixes two
/// points in time, nor a full read and an incremental one.
fn session_key(context: &TaskContext, planned: &[PlannedVolume]) -> String {
    let mut hasher = blake3::Hasher::new();
    for volume in planned {
        let base = volume.base.as_ref().map(|(point, snapshot)| format!("{point}/{snapshot}"));
        let line = format!("{}={}-{};", volume.volume, volume.snapshot, base.unwrap_or_default());
        hasher.update(line.as_bytes());
    }
    let digest = hasher.finalize().to_hex();
    format!("{}/{}", context.spec.task, digest.as_str().get(..16).unwrap_or_default())
}

/// The instance's configuration with the sizes that the snapshots have: a volume may have been enlarged after it was
/// described.
fn instance_as_read(config: &InstanceConfig, planned: &[PlannedVolume]) -> InstanceConfig {
    let mut config = config.clone();
    for volume in &mut config.volumes {
        if let Some(planned) = planned.iter().find(|one| one.volume == volume.volume_id) {
            volume.size_gib = planned.n_blocks.div_ceil(BLOCKS_PER_GIB);
        }
    }
    config
}

fn metadata(
    context: &TaskContext,
    spec: &StreamingBackupSpec,
    snapshots: &Snapshots,
    planned: &[PlannedVolume],
) -> RecoveryPointMeta {
    RecoveryPointMeta {
        version: RECOVERY_POINT_META_VERSION,
        account: context.spec.tenant_access.account.clone(),
        task: context.spec.task,
        point_in_time_ms: snapshots.seen.point_in_time_ms,
        instance: instance_as_read(&snapshots.seen.config, planned),
        volumes: planned
            .iter()
            .map(|volume| VolumeMeta {
                volume_id: volume.volume.clone(),
                snapshot_id: volume.snapshot.clone(),
                n_blocks: volume.n_blocks,
                incremental: volume.base.is_some(),
            })
            .collect(),
        base: spec
            .base
            .as_ref()
            .map(|base| base.recovery_point)
            .filter(|_| planned.iter().any(|v| v.base.is_some())),
        kind: RecoveryPointKind::Streamed,
        copy_of: None,
        vaults: Vec::new(),
        transport: Some(Transport::EbsDirect),
    }
}
