//! The configuration of an instance as it was when its snapshots were taken: what a restore needs to build the
//! instance again. Kept as JSON beside the recovery point, so every field is optional to a reader of older data.

use serde::{Deserialize, Serialize};

use crate::aws::{InstanceId, Region, Tag, VolumeId};

/// Version of [`InstanceConfig`]'s JSON layout.
pub const INSTANCE_CONFIG_VERSION: u16 = 1;

/// Operating system family, as EC2's `Platform` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OsFamily {
    /// Everything that EC2 does not call Windows.
    Linux,
    /// EC2 says `Platform: windows`.
    Windows,
}

impl OsFamily {
    /// `linux` or `windows`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Windows => "windows",
        }
    }
}

/// An instance's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceConfig {
    /// [`INSTANCE_CONFIG_VERSION`] of the writer.
    pub version: u16,
    /// The instance that was backed up.
    pub instance_id: InstanceId,
    /// Its region.
    pub region: Region,
    /// Its availability zone.
    pub availability_zone: String,
    /// `default`, `dedicated` or `host`.
    #[serde(default)]
    pub tenancy: Option<String>,
    /// Placement group.
    #[serde(default)]
    pub placement_group: Option<String>,
    /// Such as `m6i.large`.
    pub instance_type: String,
    /// Operating system.
    pub os: OsFamily,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// `uefi`, `legacy-bios` or `uefi-preferred`.
    #[serde(default)]
    pub boot_mode: Option<String>,
    /// The image it was launched from.
    #[serde(default)]
    pub image_id: Option<String>,
    /// `hvm` or `paravirtual`.
    #[serde(default)]
    pub virtualization_type: Option<String>,
    /// Whether enhanced networking (ENA) is on.
    #[serde(default)]
    pub ena_support: bool,
    /// Key pair.
    #[serde(default)]
    pub key_name: Option<String>,
    /// ARN of the instance profile.
    #[serde(default)]
    pub iam_instance_profile_arn: Option<String>,
    /// Whether EBS optimisation is on.
    #[serde(default)]
    pub ebs_optimized: bool,
    /// Such as `/dev/xvda`.
    pub root_device_name: String,
    /// Network interfaces, by device index.
    #[serde(default)]
    pub network_interfaces: Vec<NetworkInterface>,
    /// Marketplace product codes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub product_codes: Vec<String>,
    /// ARN of the Outpost that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outpost_arn: Option<String>,
    /// Tags of the instance.
    #[serde(default)]
    pub tags: Vec<Tag>,
    /// Volumes by device name.
    pub volumes: Vec<VolumeConfig>,
}

impl InstanceConfig {
    /// The value of the `Name` tag.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.tags.iter().find(|tag| tag.key == "Name").map(|tag| tag.value.as_str())
    }
}

/// A network interface of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInterface {
    /// Zero for the primary interface.
    pub device_index: u32,
    /// Subnet.
    pub subnet_id: String,
    /// VPC.
    #[serde(default)]
    pub vpc_id: Option<String>,
    /// Primary private address.
    #[serde(default)]
    pub private_ip: Option<String>,
    /// Security groups.
    #[serde(default)]
    pub security_group_ids: Vec<String>,
    /// Whether the interface goes with the instance.
    #[serde(default)]
    pub delete_on_termination: bool,
}

/// A volume of an instance and its place in the block device mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeConfig {
    /// The volume that was backed up.
    pub volume_id: VolumeId,
    /// Such as `/dev/sdf`.
    pub device_name: String,
    /// Size in GiB.
    pub size_gib: u32,
    /// `gp2`, `gp3`, `io1`, `io2`, `st1`, `sc1` or `standard`.
    pub volume_type: String,
    /// Provisioned IOPS; EC2 also reports one for gp2, which CreateVolume refuses.
    #[serde(default)]
    pub iops: Option<u32>,
    /// MiB/s, gp3 only.
    #[serde(default)]
    pub throughput_mibps: Option<u32>,
    /// Whether the volume is encrypted.
    #[serde(default)]
    pub encrypted: bool,
    /// Key of an encrypted volume.
    #[serde(default)]
    pub kms_key_id: Option<String>,
    /// Whether the volume goes with the instance.
    #[serde(default)]
    pub delete_on_termination: bool,
    /// Tags of the volume.
    #[serde(default)]
    pub tags: Vec<Tag>,
}
