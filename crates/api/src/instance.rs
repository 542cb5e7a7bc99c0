//! Instances as they are in AWS now.

use serde::{Deserialize, Serialize};
use snapferry_types::aws::Tag;
use snapferry_types::instance::OsFamily;
use snapferry_types::{InstanceId, Region, VolumeId};
use utoipa::ToSchema;

/// An instance of a hypervisor's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// `i-…`.
    #[schema(value_type = String)]
    pub id: InstanceId,
    /// Its `Name` tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Region.
    #[schema(value_type = String)]
    pub region: Region,
    /// Availability zone.
    pub availability_zone: String,
    /// EC2's word: `running`, `stopped`, …
    pub state: String,
    /// Such as `m6i.large`.
    pub instance_type: String,
    /// `linux` or `windows`.
    #[schema(value_type = String)]
    pub os: OsFamily,
    /// Its EBS volumes.
    pub volumes: Vec<InstanceVolume>,
    /// Its tags.
    #[schema(value_type = Vec<Object>)]
    pub tags: Vec<Tag>,
}

/// A volume attached to an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceVolume {
    /// `vol-…`.
    #[schema(value_type = String)]
    pub id: VolumeId,
    /// Such as `/dev/sdf`; absent where discovery did not ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// Size in GiB; absent where discovery did not ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
}

/// `GET /v1/hypervisors/{id}/instances`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct InstanceQuery {
    /// Only this region; all of the hypervisor's when absent.
    #[param(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
}
