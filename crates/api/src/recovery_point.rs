//! Recovery points in the catalogue.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::instance::InstanceConfig;
use snapferry_types::{
    AccountId, HypervisorId, InstanceId, MediaAgentId, RecoveryPointId, Region, SnapshotId, TaskId, VolumeId,
};
use utoipa::ToSchema;

/// A recovery point in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryPointSummary {
    /// Its id.
    #[schema(value_type = String)]
    pub id: RecoveryPointId,
    /// The tenant.
    #[schema(value_type = String)]
    pub hypervisor: HypervisorId,
    /// The instance.
    #[schema(value_type = String)]
    pub instance: InstanceId,
    /// The instance's `Name` tag then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_name: Option<String>,
    /// Region.
    #[schema(value_type = String)]
    pub region: Region,
    /// When the snapshots were started.
    #[schema(value_type = String, format = DateTime)]
    pub point_in_time: Timestamp,
    /// What it is made of: `streamed`, `snapshot` or `copy`.
    #[schema(value_type = String)]
    #[serde(default)]
    pub kind: RecoveryPointKind,
    /// The IntelliSnap recovery point that it is a copy of.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_of: Option<RecoveryPointId>,
    /// What became of its own snapshots; of copies of them, see [`RecoveryPoint::vaults`].
    #[serde(default)]
    pub snapshots: SnapshotsState,
    /// When it may be removed by its retention.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_until: Option<Timestamp>,
    /// Whether only changed blocks were read (the recovery point is whole in any case).
    pub incremental: bool,
    /// Volumes in it.
    pub n_volumes: u32,
    /// Size of the volumes in bytes.
    pub logical_bytes: u64,
    /// Bytes read from AWS for it.
    pub read_bytes: u64,
    /// Bytes it added to the library.
    pub stored_bytes: u64,
    /// Where it is stored; never told to tenants.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_agent: Option<MediaAgentId>,
}

/// What became of the snapshots of a recovery point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotsState {
    /// None are kept.
    #[default]
    None,
    /// All exist.
    Kept,
    /// Some were deleted by somebody else.
    Missing,
}

/// A recovery point with what was kept of its instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryPoint {
    /// The figures of the list.
    #[serde(flatten)]
    pub summary: RecoveryPointSummary,
    /// The task that made it.
    #[schema(value_type = String)]
    pub task: TaskId,
    /// The recovery point whose changed blocks it was read against.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<RecoveryPointId>,
    /// The instance as it was.
    #[schema(value_type = Object)]
    pub config: InstanceConfig,
    /// Its volumes.
    pub volumes: Vec<RecoveryPointVolume>,
    /// Where copies of its snapshots are.
    #[serde(default)]
    pub vaults: Vec<RecoveryPointVault>,
}

/// Copies of a recovery point's snapshots in another account, region or under another key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryPointVault {
    /// The account that owns them.
    #[schema(value_type = String)]
    pub account: AccountId,
    /// Their region.
    #[schema(value_type = String)]
    pub region: Region,
    /// What became of them.
    pub snapshots: SnapshotsState,
}

/// A volume inside a recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryPointVolume {
    /// The volume that was backed up.
    #[schema(value_type = String)]
    pub id: VolumeId,
    /// Such as `/dev/sdf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// The snapshot whose blocks were read.
    #[schema(value_type = String)]
    pub snapshot: SnapshotId,
    /// Whether the snapshot is kept as the base of the next incremental.
    pub snapshot_kept: bool,
    /// Whether only changed blocks were read.
    pub incremental: bool,
}

/// `GET /v1/recovery-points`; newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RecoveryPointQuery {
    /// Only this tenant's.
    #[param(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<HypervisorId>,
    /// Only this instance's.
    #[param(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Cursor of the last page's `next`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// 1 to 1,000; 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Answer of `POST /v1/hypervisors/{id}/reconcile`: which of the kept snapshots are still in the account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reconciled {
    /// Snapshots that were looked for.
    pub n_checked: u64,
    /// Those that somebody else has deleted.
    #[schema(value_type = Vec<String>)]
    pub missing: Vec<SnapshotId>,
    /// Recovery points that lost snapshots.
    #[schema(value_type = Vec<String>)]
    pub recovery_points: Vec<RecoveryPointId>,
}
