//! From where a restore takes its blocks: the fastest that exists, or what was asked for and nothing else.

use snapferry_api::restore::{Restore, RestoreFrom};
use snapferry_types::catalogue::{RecoveryPointKind, VaultMeta};
use snapferry_types::{MediaAgentId, RecoveryPointId};
use sqlx::AnyConnection;

use super::StoreError;
use super::point::PointRow;

/// Where the blocks are.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// In a MediaAgent's library, under this id.
    Library { point: RecoveryPointId, media_agent: MediaAgentId },
    /// In snapshots of this recovery point.
    Snapshots(Box<PointRow>),
    /// In copies of its snapshots.
    Vault(Box<(PointRow, VaultMeta)>),
}

impl Source {
    /// The recovery point that is read.
    pub(super) const fn point(&self) -> RecoveryPointId {
        match self {
            Self::Library { point, .. } => *point,
            Self::Snapshots(holder) => holder.id,
            Self::Vault(copies) => copies.0.id,
        }
    }

    /// The MediaAgent that it is read from.
    pub(super) const fn media_agent(&self) -> Option<MediaAgentId> {
        match self {
            Self::Library { media_agent, .. } => Some(*media_agent),
            Self::Snapshots(_) | Self::Vault(_) => None,
        }
    }
}

/// Where the blocks of a restore are now: snapshots need no moving, a library is nearer than a vault. A restore that has
/// begun from a library stays there (`stay`).
pub(super) async fn resolve(
    conn: &mut AnyConnection,
    restore: &Restore,
    named: &PointRow,
    stay: bool,
) -> Result<Source, StoreError> {
    let snapshots = snapshots(conn, restore, named).await?;
    let library = library(conn, named).await?;
    let vault = vault(conn, restore, named).await?;
    let refuse = |reason: &str| Err(refusal(named, reason));
    match (restore.from, snapshots.or(vault), library) {
        (RestoreFrom::Automatic, Some(Source::Snapshots(_)), Some(library)) if stay => Ok(library),
        (RestoreFrom::Automatic, Some(Source::Vault(_)), Some(library)) => Ok(library),
        (RestoreFrom::Automatic | RestoreFrom::Snapshot, Some(snapshots), _) => Ok(snapshots),
        (RestoreFrom::Automatic | RestoreFrom::MediaAgent, _, Some(library)) => Ok(library),
        (RestoreFrom::Snapshot, None, Some(_)) => refuse(
            "its snapshots do not exist (any more); a MediaAgent has a copy: restore from media_agent or automatic",
        ),
        (RestoreFrom::MediaAgent, Some(_), None) => refuse(
            "no MediaAgent has a copy of it; its snapshots or copies of them exist: restore from snapshot or automatic, or make a \
             backup copy first",
        ),
        (_, None, None) => Err(refusal(named, &nowhere_whole(conn, restore, named).await?)),
    }
}

fn refusal(named: &PointRow, reason: &str) -> StoreError {
    StoreError::Invalid(format!("recovery point {}: {reason}", named.id))
}

/// Why neither the snapshots nor a vault has the wanted volumes: all are lost, or some are here and some there.
async fn nowhere_whole(
    conn: &mut AnyConnection,
    restore: &Restore,
    named: &PointRow,
) -> Result<String, StoreError> {
    let (mut found, mut lost) = (Vec::new(), Vec::new());
    let holder = named.holder(conn).await?;
    if let Some(holder) = &holder {
        let all = holder.meta.volumes.iter().map(|volume| &volume.volume_id);
        for volume in all.filter(|id| restore.volumes.is_empty() || restore.volumes.contains(id)) {
            let one = std::slice::from_ref(volume);
            let exists = holder.has_snapshots(conn, one).await? || holder.vault(conn, one).await?.is_some();
            if exists { found.push(volume.as_str()) } else { lost.push(volume.as_str()) }
        }
    }
    Ok(match (found.as_slice(), lost.as_slice()) {
        ([], _) => {
            "its snapshots were deleted, no vault has copies of them, and no MediaAgent has a copy of it"
                .to_owned()
        }
        (found, []) => format!(
            "some snapshots were deleted, and no vault has copies of all volumes that are asked for: restore {} one by one, \
             to volumes, from automatic (--volume)",
            found.join(" and ")
        ),
        (found, lost) => format!(
            "the snapshots of {} were deleted, and neither a vault nor a MediaAgent has copies of them: only {} can be \
             restored, to volumes, from automatic (--volume)",
            lost.join(" and "),
            found.join(" and ")
        ),
    })
}

/// The snapshots that have the wanted volumes, unless a backup is about to replace them.
async fn snapshots(
    conn: &mut AnyConnection,
    restore: &Restore,
    named: &PointRow,
) -> Result<Option<Source>, StoreError> {
    let Some(holder) = named.holder(conn).await? else { return Ok(None) };
    if !holder.has_snapshots(conn, &restore.volumes).await? {
        return Ok(None);
    }
    if holder.kind == RecoveryPointKind::Streamed && is_being_replaced(conn, &holder).await? {
        return Ok(None);
    }
    Ok(Some(Source::Snapshots(Box::new(holder))))
}

/// Copies of the snapshots of the wanted volumes.
async fn vault(
    conn: &mut AnyConnection,
    restore: &Restore,
    named: &PointRow,
) -> Result<Option<Source>, StoreError> {
    let Some(holder) = named.holder(conn).await? else { return Ok(None) };
    let vault = holder.vault(conn, &restore.volumes).await?;
    Ok(vault.map(|vault| Source::Vault(Box::new((holder, vault)))))
}

/// Whether a backup at work will delete the snapshots of a streamed recovery point when it has its own.
async fn is_being_replaced(conn: &mut AnyConnection, point: &PointRow) -> Result<bool, StoreError> {
    let row = sqlx::query(
        "SELECT id FROM task WHERE hypervisor_id = $1 AND instance_id = $2 AND kind = 'streaming_backup' \
         AND state IN ('dispatched', 'running', 'suspect', 'retry_wait') AND id <> $3 LIMIT 1",
    )
    .bind(point.hypervisor.to_string())
    .bind(point.meta.instance.instance_id.to_string())
    .bind(point.task.to_string())
    .fetch_optional(conn)
    .await?;
    Ok(row.is_some())
}

/// What a library has of it: the recovery point itself, or its newest copy.
async fn library(conn: &mut AnyConnection, named: &PointRow) -> Result<Option<Source>, StoreError> {
    let stored = match named.kind {
        RecoveryPointKind::Streamed | RecoveryPointKind::Copy => Some(named.clone()),
        RecoveryPointKind::Snapshot => named.copies(conn).await?.into_iter().next(),
    };
    Ok(stored.and_then(|point| {
        let media_agent = point.media_agent?;
        Some(Source::Library { point: point.id, media_agent })
    }))
}
