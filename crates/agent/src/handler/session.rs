//! Which session in the library belongs to what is read: its key changes with the snapshots and with what is read
//! as changed blocks only, so that a session never mixes two points in time, nor a full read and an incremental one.
//!
//! Runs twice: the key is the same, so the same session is opened; one that is sealed says as what. What was read
//! last is in the checkpoint, because after the seal a new plan may differ: the older base may be gone by then.

use serde::{Deserialize, Serialize};
use snapferry_media_agent::client::{MediaClient, OpenVolume, Opened};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::{RecoveryPointId, SnapshotId, TaskId, VolumeId};

use crate::context::TaskContext;

/// One volume of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReadVolume {
    pub(super) volume: VolumeId,
    pub(super) snapshot: SnapshotId,
    /// Size in blocks of 512 KiB.
    pub(super) n_blocks: u32,
    /// The recovery point and the snapshot that changes are listed against; nothing for a full read.
    #[serde(default)]
    pub(super) base: Option<(RecoveryPointId, SnapshotId)>,
}

/// What is read into a session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reading {
    pub(super) volumes: Vec<ReadVolume>,
}

impl Reading {
    /// The session's key.
    fn key(&self, task: TaskId) -> String {
        let mut hasher = blake3::Hasher::new();
        for volume in &self.volumes {
            let base = volume.base.as_ref().map(|(point, snapshot)| format!("{point}/{snapshot}"));
            let line = format!("{}={}-{};", volume.volume, volume.snapshot, base.unwrap_or_default());
            hasher.update(line.as_bytes());
        }
        let digest = hasher.finalize().to_hex();
        format!("{task}/{}", digest.as_str().get(..16).unwrap_or_default())
    }

    /// Opens the session, or goes on with it.
    ///
    /// # Errors
    /// [`TransferError`]; `Unavailable` also when a base cannot be used.
    pub(super) async fn open(
        &self,
        context: &TaskContext,
        media: &MediaClient,
    ) -> Result<Opened, TransferError> {
        let volumes = self.volumes.iter().map(|volume| OpenVolume {
            name: volume.volume.to_string(),
            n_blocks: volume.n_blocks,
            base: volume.base.as_ref().map(|(point, _)| (*point, volume.volume.to_string())),
        });
        let key = self.key(context.spec.task);
        media.open_session(&key, context.spec.fence, &context.spec.tenant, volumes.collect()).await
    }

    /// The recovery point that an earlier attempt has sealed of it.
    ///
    /// # Errors
    /// [`TransferError`].
    pub(super) async fn sealed_before(
        &self,
        context: &TaskContext,
        media: &MediaClient,
    ) -> Result<Option<RecoveryPointId>, TransferError> {
        match self.open(context, media).await {
            Ok(Opened::AlreadySealed(id)) => Ok(Some(id)),
            // It is open, and is opened again when the new plan is the same.
            Ok(Opened::Session(_)) => Ok(None),
            // What cannot be opened for want of its base was not sealed: a seal is told before the base is looked at.
            Err(error) => {
                let lacks_base =
                    error.class == ErrorClass::Unavailable && self.lacks_base(context, media).await?;
                if lacks_base { Ok(None) } else { Err(error) }
            }
        }
    }

    async fn lacks_base(&self, context: &TaskContext, media: &MediaClient) -> Result<bool, TransferError> {
        let mut bases: Vec<RecoveryPointId> =
            self.volumes.iter().filter_map(|volume| Some(volume.base.as_ref()?.0)).collect();
        bases.dedup();
        for base in bases {
            match media.recovery_point(base, &context.spec.tenant).await {
                Ok(_) => {}
                Err(error) if error.class == ErrorClass::NotFound => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_changes_with_snapshot_and_base_and_with_nothing_else() {
        let task = TaskId::from_u128(7);
        let base = (RecoveryPointId::from_u128(1), "snap-0".parse().unwrap());
        let read = |snapshot: &str, base| ReadVolume {
            volume: "vol-1".parse().unwrap(),
            snapshot: snapshot.parse().unwrap(),
            n_blocks: 2_048,
            base,
        };
        let key = |volume| Reading { volumes: vec![volume] }.key(task);
        assert_eq!(key(read("snap-1", None)), key(read("snap-1", None)));
        assert_ne!(key(read("snap-1", None)), key(read("snap-2", None)));
        assert_ne!(key(read("snap-1", None)), key(read("snap-1", Some(base))));
    }
}
