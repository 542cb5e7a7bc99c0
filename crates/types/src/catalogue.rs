//! What is known of a recovery point: kept in the scheduler's catalogue and, so that a lost catalogue loses
//! nothing, as JSON metadata inside the library's sealed recovery point.

use serde::{Deserialize, Serialize};

use crate::aws::{AccountId, Region, SnapshotId, VolumeId};
use crate::id::{RecoveryPointId, TaskId};
use crate::instance::InstanceConfig;
use crate::transport::Transport;

/// Version of [`RecoveryPointMeta`]'s JSON layout.
pub const RECOVERY_POINT_META_VERSION: u16 = 1;

/// What a recovery point is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryPointKind {
    /// Blocks in a library, from a streaming backup.
    #[default]
    Streamed,
    /// Snapshots in the tenant's account, from an IntelliSnap backup.
    Snapshot,
    /// Blocks in a library, read from an IntelliSnap recovery point.
    Copy,
}

impl RecoveryPointKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Streamed, Self::Snapshot, Self::Copy];

    /// The word in JSON and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Streamed => "streamed",
            Self::Snapshot => "snapshot",
            Self::Copy => "copy",
        }
    }

    /// The kind of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }

    /// Whether its blocks are in a library.
    #[must_use]
    pub const fn is_in_library(self) -> bool {
        matches!(self, Self::Streamed | Self::Copy)
    }
}

/// Snapshots of a recovery point in another region or account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultMeta {
    /// The account that owns the copies.
    pub account: AccountId,
    /// Their region.
    pub region: Region,
    /// Their key, where they are encrypted.
    #[serde(default)]
    pub kms_key_id: Option<String>,
    /// The volumes and their copies.
    pub snapshots: Vec<(VolumeId, SnapshotId)>,
}

/// Metadata sealed with a recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPointMeta {
    /// [`RECOVERY_POINT_META_VERSION`] of the writer.
    pub version: u16,
    /// The tenant account.
    pub account: AccountId,
    /// The task that made it.
    pub task: TaskId,
    /// When the snapshots were started, milliseconds since 1970 UTC.
    pub point_in_time_ms: u64,
    /// The instance.
    pub instance: InstanceConfig,
    /// One for each volume.
    pub volumes: Vec<VolumeMeta>,
    /// The recovery point that the changed blocks were listed against.
    #[serde(default)]
    pub base: Option<RecoveryPointId>,
    /// What it is made of.
    #[serde(default)]
    pub kind: RecoveryPointKind,
    /// The IntelliSnap recovery point that this one is a copy of.
    #[serde(default)]
    pub copy_of: Option<RecoveryPointId>,
    /// Copies of its snapshots elsewhere.
    #[serde(default)]
    pub vaults: Vec<VaultMeta>,
    /// How its blocks were read; nothing where none were.
    #[serde(default)]
    pub transport: Option<Transport>,
}

/// A volume inside a recovery point. Its name in the library is the volume id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMeta {
    /// The volume that was backed up, and its name in the library.
    pub volume_id: VolumeId,
    /// The snapshot whose blocks were read.
    pub snapshot_id: SnapshotId,
    /// Size in blocks of 524,288 bytes.
    pub n_blocks: u32,
    /// Whether only changed blocks were read.
    #[serde(default)]
    pub incremental: bool,
}

/// The newest recovery point of an instance whose snapshots still exist: the base of the next incremental.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRef {
    /// The recovery point, on the same MediaAgent.
    pub recovery_point: RecoveryPointId,
    /// Its volumes and the snapshots that were kept of them.
    pub snapshots: Vec<(VolumeId, SnapshotId)>,
}
