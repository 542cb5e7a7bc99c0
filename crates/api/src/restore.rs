//! What a restore makes.

use serde::{Deserialize, Serialize};
use snapferry_types::aws::Tag;
use snapferry_types::{ImageFormat, InstanceId, RecoveryPointId, TransportWish, VolumeId};
use utoipa::ToSchema;

/// A restore of one recovery point into its own account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// What.
    #[schema(value_type = String)]
    pub recovery_point: RecoveryPointId,
    /// From which copy of it.
    #[serde(default)]
    pub from: RestoreFrom,
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
    /// How blocks are written.
    #[schema(value_type = String)]
    #[serde(default)]
    pub transport: TransportWish,
    /// Encrypt the restored volumes with this key of the tenant; as they were when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key_id: Option<String>,
}

/// From which copy of a recovery point a restore takes its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestoreFrom {
    /// The fastest that exists: its snapshots, or else a MediaAgent's copy, or else copies of the snapshots in a vault.
    #[default]
    Automatic,
    /// Its snapshots, or else copies of them in a vault.
    Snapshot,
    /// A MediaAgent's copy.
    MediaAgent,
}

/// What a restore makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RestoreTarget {
    /// Volumes.
    Volumes {
        /// The zone; that of the original instance, or of the one they are attached to, when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        availability_zone: Option<String>,
        /// Attach them to an instance.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attach: Option<AttachTo>,
    },
    /// A new instance.
    Instance(Box<NewInstance>),
    /// The original instance gets the restored volumes in place of its own. It is stopped first; until it starts with
    /// the new volumes every step can be taken back.
    InPlace {
        /// Delete the volumes it had, once it has the new ones; they are left, detached, when false.
        #[serde(default)]
        delete_old_volumes: bool,
        /// Leave it stopped even if it ran.
        #[serde(default)]
        leave_stopped: bool,
    },
    /// A disk image a volume, on the access node's disk. Operators only.
    DiskImage {
        /// Folder below the access node's image folder; made when it is not there.
        folder: String,
        /// Format.
        #[schema(value_type = String)]
        #[serde(default)]
        format: ImageFormat,
    },
}

/// The instance that gets restored volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachTo {
    /// Which.
    #[schema(value_type = String)]
    pub instance: InstanceId,
    /// Device names; free ones are found for volumes that are not named.
    #[serde(default)]
    pub devices: Vec<AttachDevice>,
}

/// The device name of a restored volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachDevice {
    /// The volume that was backed up.
    #[schema(value_type = String)]
    pub volume: VolumeId,
    /// Such as `/dev/sdf`.
    pub device: String,
}

/// A new instance. What is absent comes from the recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NewInstance {
    /// The new `Name` tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Such as `m6i.large`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// Subnet; decides the zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet_id: Option<String>,
    /// Empty means as before.
    pub security_group_ids: Vec<String>,
    /// Key pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_name: Option<String>,
    /// ARN or name of the instance profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iam_instance_profile: Option<String>,
    /// Primary private address; AWS picks one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_ip: Option<String>,
    /// Leave it stopped.
    pub stopped: bool,
}
