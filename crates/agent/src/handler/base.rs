//! Which volumes can be read as changed blocks only. A base that is gone is said, never passed over in silence.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::try_join_all;
use snapferry_aws::{Account, EbsSnapshotSource};
use snapferry_media_agent::client::MediaClient;
use snapferry_transfer::{BlockSource, ErrorClass, TransferError};
use snapferry_types::catalogue::BaseRef;
use snapferry_types::{RecoveryPointId, SnapshotId, VolumeId};

use super::session::{ReadVolume, Reading};
use crate::context::TaskContext;

/// A volume to read.
#[derive(Clone)]
pub(super) struct PlannedVolume {
    /// What is read of it.
    pub(super) read: ReadVolume,
    /// Opened against the base where there is one.
    pub(super) source: Arc<EbsSnapshotSource>,
}

/// What is read, by its volumes.
pub(super) fn reading(planned: &[PlannedVolume]) -> Reading {
    Reading { volumes: planned.iter().map(|volume| volume.read.clone()).collect() }
}

/// About how many blocks are read of all.
pub(super) async fn expected_blocks(planned: &[PlannedVolume]) -> Result<u64, TransferError> {
    let counts = planned.iter().map(|PlannedVolume { read, source }| async move {
        source.expected_blocks().await.map_err(|error| listing(&read.volume, &read.snapshot, error))
    });
    Ok(try_join_all(counts).await?.iter().sum())
}

/// What the catalogue and the library know of a volume's base.
struct KnownBase {
    recovery_point: RecoveryPointId,
    snapshot: SnapshotId,
    n_blocks: u32,
}

/// Opens each volume's snapshot, against its base where that can be, and notes every volume that has to be read in
/// full although a base was expected.
pub(super) async fn plan(
    context: &Arc<TaskContext>,
    reader: &Account,
    media: &MediaClient,
    base: Option<&BaseRef>,
    snapshots: &[(VolumeId, SnapshotId)],
) -> Result<Vec<PlannedVolume>, TransferError> {
    let mut bases = known_bases(context, media, base).await?;
    let mut planned = Vec::with_capacity(snapshots.len());
    for (volume, snapshot) in snapshots {
        let opened = match bases.remove(volume) {
            Some(base) => open_against(context, reader, volume, snapshot, base).await?,
            None => None,
        };
        let (source, base) = match opened {
            Some((source, base)) => (source, Some(base)),
            None => {
                let opened = EbsSnapshotSource::open(reader, snapshot).await;
                (opened.map_err(|error| listing(volume, snapshot, error))?, None)
            }
        };
        let read = ReadVolume {
            volume: volume.clone(),
            snapshot: snapshot.clone(),
            n_blocks: source.n_blocks(),
            base,
        };
        planned.push(PlannedVolume { read, source: Arc::new(source) });
    }
    Ok(planned)
}

/// The source of the changes, or nothing (and a note) where the base cannot serve.
async fn open_against(
    context: &Arc<TaskContext>,
    reader: &Account,
    volume: &VolumeId,
    snapshot: &SnapshotId,
    base: KnownBase,
) -> Result<Option<(EbsSnapshotSource, (RecoveryPointId, SnapshotId))>, TransferError> {
    match EbsSnapshotSource::open_against(reader, snapshot, &base.snapshot).await {
        Ok(source) if source.n_blocks() == base.n_blocks => {
            Ok(Some((source, (base.recovery_point, base.snapshot))))
        }
        Ok(_) => {
            context.note(false, format!("{volume} has a new size: reading it in full")).await?;
            Ok(None)
        }
        Err(error) if error.needs_full_read() => {
            context.note(true, format!("{volume}: {error}: reading it in full")).await?;
            Ok(None)
        }
        Err(error) => Err(listing(volume, snapshot, error)),
    }
}

fn listing(volume: &VolumeId, snapshot: &SnapshotId, error: impl Into<TransferError>) -> TransferError {
    error.into().context(format!("list the blocks of {volume} in {snapshot}"))
}

async fn known_bases(
    context: &Arc<TaskContext>,
    media: &MediaClient,
    base: Option<&BaseRef>,
) -> Result<BTreeMap<VolumeId, KnownBase>, TransferError> {
    let mut known = BTreeMap::new();
    let Some(base) = base else { return Ok(known) };
    let stored = match media.recovery_point(base.recovery_point, &context.spec.tenant).await {
        Ok(stored) => stored,
        Err(error) if error.class == ErrorClass::NotFound => {
            let text =
                format!("the base {} is not in the library any more: reading in full", base.recovery_point);
            context.note(true, text).await?;
            return Ok(known);
        }
        Err(error) => return Err(error),
    };
    for (volume, snapshot) in &base.snapshots {
        if let Some(stored) = stored.volumes.iter().find(|stored| stored.name == volume.as_str()) {
            let base = KnownBase {
                recovery_point: base.recovery_point,
                snapshot: snapshot.clone(),
                n_blocks: stored.n_blocks,
            };
            known.insert(volume.clone(), base);
        }
    }
    Ok(known)
}
