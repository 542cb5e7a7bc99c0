//! What is known of a recovery point: kept in the scheduler's catalogue and, so that a lost catalogue loses
//! nothing, as JSON metadata inside the library's sealed recovery point.

use serde::{Deserialize, Serialize};

use crate::aws::{AccountId, SnapshotId, VolumeId};
use crate::id::{RecoveryPointId, TaskId};
use crate::instance::InstanceConfig;

/// Version of [`RecoveryPointMeta`]'s JSON layout.
pub const RECOVERY_POINT_META_VERSION: u16 = 1;

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
