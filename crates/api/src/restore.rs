//! What a restore makes.

use serde::{Deserialize, Serialize};
use snapferry_types::aws::Tag;
use snapferry_types::{RecoveryPointId, VolumeId};
use utoipa::ToSchema;

/// A restore of one recovery point into its own account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// What.
    #[schema(value_type = String)]
    pub recovery_point: RecoveryPointId,
    /// Only these volumes; all when empty.
    #[schema(value_type = Vec<String>)]
    #[serde(default)]
    pub volumes: Vec<VolumeId>,
    /// To what.
    pub target: RestoreTarget,
    /// Tags on everything handed over, besides those that come back from the recovery point; at most 40.
    #[schema(value_type = Vec<Object>)]
    #[serde(default)]
    pub tags: Vec<Tag>,
}

/// What a restore makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RestoreTarget {
    /// Detached volumes.
    Volumes {
        /// The zone; that of the original instance when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        availability_zone: Option<String>,
    },
    /// A new instance. What is absent comes from the recovery point.
    Instance {
        /// The new `Name` tag.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Such as `m6i.large`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance_type: Option<String>,
        /// Subnet; decides the zone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subnet_id: Option<String>,
        /// Empty means as before.
        #[serde(default)]
        security_group_ids: Vec<String>,
        /// Key pair.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_name: Option<String>,
    },
}
