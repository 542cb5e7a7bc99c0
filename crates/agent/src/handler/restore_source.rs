//! Where a restore takes its blocks from: a MediaAgent's library, snapshots that exist where they are wanted, or copies of
//! them that are elsewhere.
//!
//! Only looks; runs twice without a trace.

use std::collections::BTreeMap;
use std::sync::Arc;

use snapferry_aws::{Account, EbsSnapshotSource, SessionScope, ec2};
use snapferry_media_agent::client::MediaClient;
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::block::BLOCKS_PER_GIB;
use snapferry_types::catalogue::{RecoveryPointMeta, VaultMeta, VolumeMeta};
use snapferry_types::instance::VolumeConfig;
use snapferry_types::spec::{HeldSnapshots, RestoreFrom, RestoreSpec, RestoreTarget, TargetEncryption};
use snapferry_types::{RecoveryPointId, SnapshotId, VolumeId};
use snapferry_wire::v1;
use snapferry_wire::v1::record_request::Step;

use super::content::{Content, look_again};
use crate::context::TaskContext;

/// A recovery point and the blocks of it.
#[derive(Debug)]
pub(super) struct Origin {
    /// What is known of it.
    pub(super) meta: RecoveryPointMeta,
    /// Its blocks.
    pub(super) blocks: Blocks,
    recovery_point: RecoveryPointId,
    /// Blocks of data and of zeroes that the library has of its volumes.
    counts: BTreeMap<String, u64>,
}

/// The blocks of a recovery point.
#[derive(Debug)]
pub(super) enum Blocks {
    /// In a library.
    Library(MediaClient),
    /// In snapshots that the target's account owns, in the target's region.
    Here(Held),
    /// In copies of another region or account, which are read there block by block.
    Elsewhere(Account, Held),
}

/// Snapshots of volumes.
#[derive(Debug)]
pub(super) struct Held {
    /// The volumes and their snapshots.
    of_volumes: Vec<(VolumeId, SnapshotId)>,
    /// The key that copies have and the snapshots they are of have not.
    key_of_copies: Option<String>,
    is_vault: bool,
}

/// A volume that is to be restored.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    /// The volume in the recovery point.
    pub(super) volume: VolumeMeta,
    /// As it shall be.
    pub(super) config: VolumeConfig,
    /// Where its blocks are.
    pub(super) found: Found,
}

/// Where the blocks of a chosen volume are.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// In the library.
    Library,
    /// In a snapshot where it is wanted.
    Here(SnapshotId),
    /// In a copy that is elsewhere.
    Elsewhere(SnapshotId),
}

impl Found {
    /// The snapshot of which volumes can be made.
    pub(super) const fn here(&self) -> Option<&SnapshotId> {
        match self {
            Self::Here(snapshot) => Some(snapshot),
            Self::Library | Self::Elsewhere(_) => None,
        }
    }

    /// The snapshot, wherever it is.
    const fn snapshot(&self) -> Option<&SnapshotId> {
        match self {
            Self::Here(snapshot) | Self::Elsewhere(snapshot) => Some(snapshot),
            Self::Library => None,
        }
    }
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
                let counts = stored.volumes.into_iter().map(|one| (one.name, one.n_data + one.n_zero));
                let (counts, recovery_point) = (counts.collect(), spec.recovery_point);
                Ok(Self { meta, blocks: Blocks::Library(media), recovery_point, counts })
            }
            RestoreFrom::Snapshots(held) => {
                let HeldSnapshots { meta, vault } = HeldSnapshots::clone(held);
                let blocks = match vault {
                    None => own_snapshots(context, spec, &meta)?,
                    Some(vault) => copies(context, spec, vault).await?,
                };
                let (counts, recovery_point) = (BTreeMap::new(), spec.recovery_point);
                Ok(Self { meta, blocks, recovery_point, counts })
            }
        }
    }

    /// Where the blocks of a volume are, for those who move them.
    ///
    /// # Errors
    /// [`TransferError`] of a sign-in.
    pub(super) async fn content(
        &self,
        context: &TaskContext,
        one: &Chosen,
    ) -> Result<Content, TransferError> {
        Ok(match (&self.blocks, &one.found) {
            (Blocks::Library(media), Found::Library) => Content::Library(media.clone(), self.recovery_point),
            (Blocks::Elsewhere(owner, _), Found::Elsewhere(copy)) => {
                Content::Snapshot(owner.clone(), copy.clone())
            }
            (_, Found::Here(snapshot)) => {
                Content::Snapshot(context.tenant(SessionScope::BackupCopy).await?, snapshot.clone())
            }
            (_, found) => {
                let message = format!("{} was found in {found:?}", one.volume.volume_id);
                return Err(TransferError::new(ErrorClass::Internal, message));
            }
        })
    }

    /// About how many blocks are written of a volume, holes left out.
    ///
    /// # Errors
    /// [`TransferError`] of listing a snapshot.
    pub(super) async fn expected_blocks(
        &self,
        context: &TaskContext,
        one: &Chosen,
    ) -> Result<u64, TransferError> {
        match self.content(context, one).await? {
            Content::Library(..) => {
                let counted = self.counts.get(one.volume.volume_id.as_str()).copied();
                Ok(counted.unwrap_or_else(|| u64::from(one.volume.n_blocks)))
            }
            Content::Snapshot(reader, snapshot) => {
                let source = EbsSnapshotSource::open(&reader, &snapshot).await;
                let source = source.map_err(|error| look_again(error.into()))?;
                source.expected_blocks().await.map_err(|error| look_again(error.into()))
            }
        }
    }

    /// Whether copies are read, and not the snapshots.
    pub(super) const fn is_vault(&self) -> bool {
        match &self.blocks {
            Blocks::Library(_) => false,
            Blocks::Here(held) | Blocks::Elsewhere(_, held) => held.is_vault,
        }
    }

    /// Whether the recovery point's own snapshots are read, which have the keys that its volumes had.
    pub(super) const fn is_of_own_snapshots(&self) -> bool {
        matches!(&self.blocks, Blocks::Here(held) if !held.is_vault)
    }

    /// The key of the copies in a vault, and who reads them: the target's account where they are its own.
    pub(super) fn key_of_copies<'a>(&'a self, target: &'a Account) -> Option<(&'a Account, &'a str)> {
        match &self.blocks {
            Blocks::Library(_) => None,
            Blocks::Here(held) => Some((target, held.key_of_copies.as_deref()?)),
            Blocks::Elsewhere(owner, held) => Some((owner, held.key_of_copies.as_deref()?)),
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
        let account = match &self.blocks {
            Blocks::Library(_) => return Ok(chosen),
            Blocks::Here(_) => account,
            Blocks::Elsewhere(owner, _) => owner,
        };
        let wanted: Vec<SnapshotId> = chosen.iter().filter_map(|one| one.found.snapshot().cloned()).collect();
        let existing = ec2::existing_snapshots(account, &wanted).await?;
        let missing: Vec<&str> =
            wanted.iter().filter(|one| !existing.contains(one)).map(SnapshotId::as_str).collect();
        let (account, region) = (account.account(), account.region());
        if !missing.is_empty() {
            let lost = missing.iter().map(ToString::to_string).collect();
            context.record(Step::Lost(v1::LostSnapshots { snapshot_ids: lost })).await?;
            let message = format!(
                "{} of recovery point {} do not exist any more in account {account}, region {region}; that is noted, \
                 and the next attempt reads another copy, where there is one",
                missing.join(", "),
                spec.recovery_point
            );
            return Err(TransferError::new(ErrorClass::Unavailable, message));
        }
        if !self.is_vault() {
            return Ok(chosen);
        }
        let text = format!("its own snapshots are gone: read are their copies in {account}/{region}");
        context.note(false, text).await?;
        if matches!(spec.target, RestoreTarget::DiskImage { .. }) {
            return Ok(chosen);
        }
        for one in &chosen {
            let volume = &one.volume.volume_id;
            let was_plain =
                self.meta.instance.volumes.iter().any(|old| old.volume_id == *volume && !old.encrypted);
            if let (true, Some(copy), Some(key)) = (was_plain, one.found.here(), &one.config.kms_key_id) {
                let text = format!(
                    "{volume} was not encrypted; its copy {copy} is, and so it comes back under {key}"
                );
                context.note(true, text).await?;
            }
        }
        Ok(chosen)
    }
}

impl Held {
    fn of(&self, volume: &VolumeId, spec: &RestoreSpec) -> Result<SnapshotId, TransferError> {
        let found = self.of_volumes.iter().find(|(of, _)| of == volume);
        found.map(|(_, snapshot)| snapshot.clone()).ok_or_else(|| {
            let message = format!(
                "{} has no snapshot of {volume} here: restore it from the MediaAgent copy",
                spec.recovery_point
            );
            TransferError::new(ErrorClass::NotFound, message)
        })
    }
}

/// The recovery point's own snapshots, which are to be in the target's account and region.
fn own_snapshots(
    context: &TaskContext,
    spec: &RestoreSpec,
    meta: &RecoveryPointMeta,
) -> Result<Blocks, TransferError> {
    let (account, region) = (&context.spec.tenant_access.account, &context.spec.tenant_access.region);
    if meta.account != *account || meta.instance.region != *region {
        let message = format!(
            "recovery point {} has its snapshots in {}/{}, not in {account}/{region}: restore it there, or from its \
             MediaAgent copy",
            spec.recovery_point, meta.account, meta.instance.region
        );
        return Err(TransferError::new(ErrorClass::NotFound, message));
    }
    let own = meta.volumes.iter().map(|volume| (volume.volume_id.clone(), volume.snapshot_id.clone()));
    Ok(Blocks::Here(Held { of_volumes: own.collect(), key_of_copies: None, is_vault: false }))
}

/// Copies of the snapshots in a vault.
async fn copies(
    context: &Arc<TaskContext>,
    spec: &RestoreSpec,
    vault: VaultMeta,
) -> Result<Blocks, TransferError> {
    let VaultMeta { account, region, kms_key_id, snapshots } = vault;
    let held = Held { of_volumes: snapshots, key_of_copies: kms_key_id, is_vault: true };
    let tenant = &context.spec.tenant_access;
    if account == tenant.account && region == tenant.region {
        return Ok(Blocks::Here(held));
    }
    let owner = context.account_in(&account, &region, SessionScope::BackupCopy).await.ok_or_else(|| {
        let message = format!(
            "the copies of recovery point {} are in account {account}, which is neither that of the tenant nor that of \
             its admin hypervisor any more: let the tenant refer to the admin hypervisor of that account",
            spec.recovery_point
        );
        TransferError::new(ErrorClass::Invalid, message)
    })??;
    Ok(Blocks::Elsewhere(owner, held))
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
        let found = match blocks {
            Blocks::Library(_) => Found::Library,
            Blocks::Here(held) => {
                if let Some(key) = held.key_of_copies.as_ref().filter(|_| !config.encrypted) {
                    // Of an encrypted snapshot there are encrypted volumes only.
                    config.encrypted = true;
                    config.kms_key_id = Some(key.clone());
                }
                Found::Here(held.of(&volume.volume_id, spec)?)
            }
            Blocks::Elsewhere(_, held) => Found::Elsewhere(held.of(&volume.volume_id, spec)?),
        };
        if let TargetEncryption::Key(key) = &spec.encryption {
            config.encrypted = true;
            config.kms_key_id = Some(key.clone());
        }
        chosen.push(Chosen { volume: volume.clone(), config, found });
    }
    Ok(chosen)
}
