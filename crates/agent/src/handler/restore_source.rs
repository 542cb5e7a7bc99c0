//! Where a restore takes its blocks from: a MediaAgent's library, or snapshots that exist where they are wanted.
//!
//! Only looks; runs twice without a trace.

use std::sync::Arc;

use snapferry_aws::{Account, ec2};
use snapferry_media_agent::client::MediaClient;
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::block::BLOCKS_PER_GIB;
use snapferry_types::catalogue::{RecoveryPointMeta, VolumeMeta};
use snapferry_types::instance::VolumeConfig;
use snapferry_types::spec::{RestoreFrom, RestoreSpec, TargetEncryption};
use snapferry_types::{SnapshotId, VolumeId};

use crate::context::TaskContext;

/// A recovery point and the blocks of it.
#[derive(Debug)]
pub(super) struct Origin {
    /// What is known of it.
    pub(super) meta: RecoveryPointMeta,
    /// Its blocks.
    pub(super) blocks: Blocks,
}

/// The blocks of a recovery point.
#[derive(Debug)]
pub(super) enum Blocks {
    /// In a library.
    Library(MediaClient),
    /// In snapshots that the target's account owns, in the target's region.
    Snapshots {
        /// The volumes and their snapshots.
        of_volumes: Vec<(VolumeId, SnapshotId)>,
        /// Whether they are copies, encrypted with this key where they are.
        vault: Option<Option<String>>,
    },
}

/// A volume that is to be restored.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    /// The volume in the recovery point.
    pub(super) volume: VolumeMeta,
    /// As it shall be.
    pub(super) config: VolumeConfig,
    /// The snapshot that has it already.
    pub(super) snapshot: Option<SnapshotId>,
}

impl Origin {
    /// Finds the recovery point.
    ///
    /// # Errors
    /// [`TransferError`]; `NotFound` when its snapshots are elsewhere.
    pub(super) async fn open(context: &Arc<TaskContext>, spec: &RestoreSpec) -> Result<Self, TransferError> {
        match &spec.from {
            RestoreFrom::Library => {
                let media = context.media_agent().await?;
                let stored = media.recovery_point(spec.recovery_point, &context.spec.tenant).await?;
                let meta = serde_json::from_slice(&stored.metadata).map_err(|error| {
                    let message = format!("read the metadata of {}: {error}", spec.recovery_point);
                    TransferError::new(ErrorClass::Corrupt, message)
                })?;
                Ok(Self { meta, blocks: Blocks::Library(media) })
            }
            RestoreFrom::Snapshots(meta) => {
                let blocks = local_snapshots(context, spec, meta)?;
                Ok(Self { meta: RecoveryPointMeta::clone(meta), blocks })
            }
        }
    }

    /// The volumes that were asked for, as they shall be.
    ///
    /// # Errors
    /// [`TransferError`] that names the volume which the recovery point lacks, or the snapshots that are gone.
    pub(super) async fn choose(
        &self,
        context: &TaskContext,
        account: &Account,
        spec: &RestoreSpec,
    ) -> Result<Vec<Chosen>, TransferError> {
        let chosen = choose(spec, &self.meta, &self.blocks)?;
        let wanted: Vec<SnapshotId> = chosen.iter().filter_map(|one| one.snapshot.clone()).collect();
        let existing = ec2::existing_snapshots(account, &wanted).await?;
        let missing: Vec<&str> =
            wanted.iter().filter(|one| !existing.contains(one)).map(SnapshotId::as_str).collect();
        if !missing.is_empty() {
            let (account, region) = (account.account(), account.region());
            let message = format!(
                "{} of recovery point {} do not exist any more in account {account}, region {region}: restore from \
                 its MediaAgent copy, or from another recovery point",
                missing.join(", "),
                spec.recovery_point
            );
            return Err(TransferError::new(ErrorClass::NotFound, message));
        }
        if matches!(self.blocks, Blocks::Snapshots { vault: Some(_), .. }) {
            let text = format!("the snapshots are those of a copy in {}", account.region());
            context.note(false, text).await?;
        }
        Ok(chosen)
    }
}

/// The snapshots that are in the target's account and region: the recovery point's own, or a copy of them.
fn local_snapshots(
    context: &TaskContext,
    spec: &RestoreSpec,
    meta: &RecoveryPointMeta,
) -> Result<Blocks, TransferError> {
    let (account, region) = (&context.spec.tenant_access.account, &context.spec.tenant_access.region);
    if meta.account == *account && meta.instance.region == *region {
        let own = meta.volumes.iter().map(|volume| (volume.volume_id.clone(), volume.snapshot_id.clone()));
        return Ok(Blocks::Snapshots { of_volumes: own.collect(), vault: None });
    }
    let mut vaults = meta.vaults.iter();
    let local = vaults.find(|vault| vault.account == *account && vault.region == *region);
    let local = local.ok_or_else(|| {
        let places = meta.vaults.iter().map(|vault| format!("{}/{}", vault.account, vault.region));
        let places: Vec<String> =
            std::iter::once(format!("{}/{}", meta.account, meta.instance.region)).chain(places).collect();
        let message = format!(
            "recovery point {} has no snapshots in account {account}, region {region}, but in {}: restore it there, \
             or from its MediaAgent copy",
            spec.recovery_point,
            places.join(", ")
        );
        TransferError::new(ErrorClass::NotFound, message)
    })?;
    Ok(Blocks::Snapshots { of_volumes: local.snapshots.clone(), vault: Some(local.kms_key_id.clone()) })
}

fn choose(
    spec: &RestoreSpec,
    meta: &RecoveryPointMeta,
    blocks: &Blocks,
) -> Result<Vec<Chosen>, TransferError> {
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
        let mut config = config.cloned().ok_or_else(|| {
            TransferError::new(
                ErrorClass::Corrupt,
                format!("{} has no configuration of {}", spec.recovery_point, volume.volume_id),
            )
        })?;
        if u64::from(config.size_gib) * u64::from(BLOCKS_PER_GIB) < u64::from(volume.n_blocks) {
            let message = format!(
                "the target of {} has {} GiB, the volume {} blocks of 512 KiB: the target must be at least as large",
                volume.volume_id, config.size_gib, volume.n_blocks
            );
            return Err(TransferError::new(ErrorClass::Invalid, message));
        }
        let snapshot = match blocks {
            Blocks::Library(_) => None,
            Blocks::Snapshots { of_volumes, vault } => {
                if let Some(key) = vault {
                    // The old key is of another region or account.
                    config.encrypted |= key.is_some();
                    config.kms_key_id.clone_from(key);
                }
                let found = of_volumes.iter().find(|(of, _)| *of == volume.volume_id);
                Some(found.map(|(_, snapshot)| snapshot.clone()).ok_or_else(|| {
                    let message = format!(
                        "{} has no snapshot of {} here: restore it from the MediaAgent copy",
                        spec.recovery_point, volume.volume_id
                    );
                    TransferError::new(ErrorClass::NotFound, message)
                })?)
            }
        };
        if let TargetEncryption::Key(key) = &spec.encryption {
            config.encrypted = true;
            config.kms_key_id = Some(key.clone());
        }
        chosen.push(Chosen { volume: volume.clone(), config, snapshot });
    }
    Ok(chosen)
}
