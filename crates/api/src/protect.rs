//! Recovery points of snapshots, their copies, and how long recovery points are kept.

use serde::{Deserialize, Serialize};
use snapferry_types::{HypervisorId, InstanceId, MediaAgentId, RecoveryPointId, Region, TransportWish};
use utoipa::ToSchema;

/// An IntelliSnap backup: snapshots that stay in the tenant's account as the recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IntelliSnap {
    /// The tenant.
    #[schema(value_type = String)]
    pub hypervisor: HypervisorId,
    /// 1 to 1,000 instances.
    #[schema(value_type = Vec<String>)]
    pub instances: Vec<InstanceId>,
    /// Their region; the hypervisor's first when absent.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// Copies elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<Vault>,
    /// How long it is kept; until it is deleted when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

/// Where else the snapshots shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Vault {
    /// To whom.
    pub to: VaultTo,
    /// Region of the copies; that of the instance when absent.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// Key of the copies: of the account that owns them, in their region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key_id: Option<String>,
}

/// Whose the copies are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VaultTo {
    /// Copies in the tenant's account, in another region than the instance's or under another key: names one of them.
    Tenant,
    /// The snapshots are shared with the service account; nothing is copied.
    ServiceShare,
    /// Copies that the service account owns.
    ServiceCopy,
}

/// How long a recovery point is kept. It goes when every given limit lets it go; the newest of an instance's points of
/// its kind is never removed by age alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// At least so many days, 1 to 36,500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
    /// The newest so many of the instance's recovery points of the same kind, 1 to 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u32>,
}

/// Reads IntelliSnap recovery points into a library: one task each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupCopy {
    /// The tenant.
    #[schema(value_type = String)]
    pub hypervisor: HypervisorId,
    /// Which; all of the tenant that were not copied yet, oldest first, when empty. At most 1,000.
    #[schema(value_type = Vec<String>)]
    #[serde(default)]
    pub recovery_points: Vec<RecoveryPointId>,
    /// Where to store; as for a streaming backup when absent. Operators only.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_agent: Option<MediaAgentId>,
    /// Read everything even if a base exists.
    #[serde(default)]
    pub full: bool,
    /// How blocks are read.
    #[schema(value_type = String)]
    #[serde(default)]
    pub transport: TransportWish,
    /// How long the copies are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}
