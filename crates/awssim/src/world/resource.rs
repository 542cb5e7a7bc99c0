//! EC2 resources, as much of each as a backup or a restore can see. Times are milliseconds since 1970.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Tags of a resource.
pub(crate) type Tags = BTreeMap<String, String>;

/// An EBS volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volume {
    /// `vol-…`
    pub id: String,
    /// Owner.
    pub account: String,
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
    /// GiB.
    pub size_gib: u64,
    /// `gp3` and so on.
    pub kind: String,
    /// As given or as the type has it.
    pub iops: Option<u32>,
    /// gp3 only.
    pub throughput: Option<u32>,
    /// Encrypted.
    pub encrypted: bool,
    /// With which key.
    pub kms_key: Option<String>,
    /// Made from this snapshot.
    pub snapshot: Option<String>,
    /// Tags.
    pub tags: Tags,
    /// When made.
    pub created_ms: u64,
    /// `creating` until then.
    pub ready_ms: u64,
    /// To what it is attached.
    pub attachment: Option<Attachment>,
    /// What else it was marked with.
    #[serde(default)]
    pub marks: Marks,
}

impl Volume {
    /// EC2's name of the state.
    #[must_use]
    pub const fn state(&self, now_ms: u64) -> &'static str {
        match &self.attachment {
            None if now_ms < self.ready_ms => "creating",
            _ if self.marks.is_failed => "error",
            Some(_) => "in-use",
            None => "available",
        }
    }
}

/// What a volume, a snapshot, an instance or a subnet has mostly from outside the calls that are modelled: from an operator
/// of the simulator, from the Marketplace, from an Outpost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Marks {
    /// Marketplace product codes.
    pub product_codes: Vec<String>,
    /// ARN of the Outpost it is on.
    pub outpost: Option<String>,
    /// A volume in the state `error`: it was declared to be, or its key could not be used.
    pub is_failed: bool,
}

/// A volume's place on an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attachment {
    /// The instance.
    pub instance: String,
    /// Such as `/dev/sdf`.
    pub device: String,
    /// Goes with the instance.
    pub delete_on_termination: bool,
    /// When attached.
    pub since_ms: u64,
    /// `attaching` until then.
    #[serde(default)]
    pub ready_ms: u64,
    /// `detaching`, and gone then, or when nobody has the block device open any more.
    #[serde(default)]
    pub gone_ms: Option<u64>,
    /// On an access node: the link to the block device on this machine.
    #[serde(default)]
    pub link: Option<PathBuf>,
}

impl Attachment {
    /// EC2's name of the state.
    #[must_use]
    pub const fn state(&self, now_ms: u64) -> &'static str {
        match self.gone_ms {
            Some(_) => "detaching",
            None if now_ms < self.ready_ms => "attaching",
            None => "attached",
        }
    }
}

/// How far a snapshot has come, as it was told; time decides the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotStep {
    /// Taken from a volume: complete at `ready_ms`.
    Taken,
    /// A copy: complete at `ready_ms`.
    Copied,
    /// Started by StartSnapshot: pending until completed.
    Started,
    /// Completed by CompleteSnapshot.
    Completed,
    /// Failed.
    Failed,
}

/// An EBS snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// `snap-…`
    pub id: String,
    /// Owner.
    pub account: String,
    /// Region.
    pub region: String,
    /// The volume it was taken of; `vol-ffffffff` for one that was written.
    pub volume: String,
    /// GiB.
    pub size_gib: u64,
    /// Encrypted.
    pub encrypted: bool,
    /// With which key.
    pub kms_key: Option<String>,
    /// Free text.
    pub description: String,
    /// Tags.
    pub tags: Tags,
    /// When started.
    pub started_ms: u64,
    /// Pending until then, for one that was taken or whose copy fails.
    pub ready_ms: u64,
    /// How far.
    pub step: SnapshotStep,
    /// Why it failed.
    #[serde(default)]
    pub status_message: Option<String>,
    /// Accounts it is shared with.
    pub shared_with: Vec<String>,
    /// What else it was marked with.
    #[serde(default)]
    pub marks: Marks,
}

impl Snapshot {
    /// `pending`, `completed` or `error`.
    #[must_use]
    pub const fn state(&self, now_ms: u64) -> &'static str {
        match self.step {
            SnapshotStep::Taken | SnapshotStep::Copied | SnapshotStep::Completed
                if now_ms >= self.ready_ms =>
            {
                "completed"
            }
            SnapshotStep::Failed if now_ms >= self.ready_ms => "error",
            SnapshotStep::Taken
            | SnapshotStep::Copied
            | SnapshotStep::Completed
            | SnapshotStep::Started
            | SnapshotStep::Failed => "pending",
        }
    }

    /// Percent done; nothing is known of one that a client writes until it is complete.
    #[must_use]
    pub fn progress(&self, now_ms: u64) -> u64 {
        match (self.state(now_ms), self.step) {
            ("completed", _) => 100,
            (_, SnapshotStep::Taken | SnapshotStep::Copied) => {
                let whole = self.ready_ms.saturating_sub(self.started_ms).max(1);
                (now_ms.saturating_sub(self.started_ms).saturating_mul(100) / whole).min(99)
            }
            _ => 0,
        }
    }
}

/// A machine image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// `ami-…`
    pub id: String,
    /// Owner.
    pub account: String,
    /// Region.
    pub region: String,
    /// Unique in account and region.
    pub name: String,
    /// Free text.
    pub description: String,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// `windows` or nothing.
    pub platform: Option<String>,
    /// Boot mode.
    pub boot_mode: Option<String>,
    /// Enhanced networking.
    pub ena_support: bool,
    /// Such as `/dev/xvda`.
    pub root_device: String,
    /// Volumes.
    pub mappings: Vec<Mapping>,
    /// Tags.
    pub tags: Tags,
    /// When made.
    pub created_ms: u64,
}

/// A volume in an image or in a launch.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Mapping {
    /// Device.
    pub device: String,
    /// `ephemeral0` and so on: an instance store disk, no volume.
    #[serde(default)]
    pub virtual_name: Option<String>,
    /// In a launch: what the image has at this device is left out.
    #[serde(default)]
    pub is_left_out: bool,
    /// Content.
    pub snapshot: Option<String>,
    /// GiB.
    pub size_gib: Option<u64>,
    /// Type.
    pub kind: Option<String>,
    /// IOPS.
    pub iops: Option<u32>,
    /// MiB/s.
    pub throughput: Option<u32>,
    /// Goes with the instance.
    pub delete_on_termination: Option<bool>,
    /// Encrypted.
    pub encrypted: Option<bool>,
    /// With which key.
    pub kms_key: Option<String>,
}

/// An instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Instance {
    /// `i-…`
    pub id: String,
    /// Owner.
    pub account: String,
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
    /// Type.
    pub instance_type: String,
    /// Image.
    pub image: Option<String>,
    /// `windows` or nothing.
    pub platform: Option<String>,
    /// Architecture.
    pub architecture: String,
    /// Boot mode.
    pub boot_mode: Option<String>,
    /// Enhanced networking.
    pub ena_support: bool,
    /// Key pair.
    pub key_name: Option<String>,
    /// Instance profile.
    pub iam_profile_arn: Option<String>,
    /// EBS optimisation.
    pub ebs_optimized: bool,
    /// Tenancy.
    pub tenancy: String,
    /// Placement group.
    pub placement_group: Option<String>,
    /// Root device.
    pub root_device: String,
    /// Interfaces.
    pub interfaces: Vec<Interface>,
    /// Tags.
    pub tags: Tags,
    /// When launched.
    pub launched_ms: u64,
    /// Where it goes: `running`, `stopped` or `terminated`; `launch_failed` or `start_failed` by way of `pending`.
    pub target: String,
    /// On its way until then.
    pub ready_ms: u64,
    /// Why it stopped or ended.
    #[serde(default)]
    pub state_reason: Option<StateReason>,
    /// What else it was marked with.
    #[serde(default)]
    pub marks: Marks,
}

/// Why an instance is in its state, in EC2's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReason {
    /// Such as `Client.InternalError`.
    pub code: String,
    /// The code again, and a sentence.
    pub message: String,
}

impl StateReason {
    pub(crate) fn new(code: &str, sentence: &str) -> Self {
        Self { code: code.to_owned(), message: format!("{code}: {sentence}") }
    }
}

impl Instance {
    /// EC2's code and name of the state.
    #[must_use]
    pub fn state(&self, now_ms: u64) -> (u16, &'static str) {
        match (self.target.as_str(), now_ms >= self.ready_ms) {
            ("running" | "launch_failed" | "start_failed", false) => (0, "pending"),
            ("running", true) => (16, "running"),
            ("stopped", false) => (64, "stopping"),
            ("stopped" | "start_failed", true) => (80, "stopped"),
            (_, false) => (32, "shutting-down"),
            (_, true) => (48, "terminated"),
        }
    }
}

/// A network interface of an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Interface {
    /// `eni-…`
    pub id: String,
    /// 0 is the primary.
    pub device_index: u32,
    /// Subnet.
    pub subnet: String,
    /// VPC.
    pub vpc: String,
    /// Address.
    pub private_ip: String,
    /// Security groups.
    pub groups: Vec<String>,
    /// Goes with the instance.
    pub delete_on_termination: bool,
}

/// A subnet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Subnet {
    /// `subnet-…`
    pub id: String,
    /// Owner.
    pub account: String,
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
    /// VPC.
    pub vpc: String,
    /// Such as `10.0.1`; hosts are counted.
    pub prefix: String,
    /// Last host given out.
    pub last_host: u32,
    /// What else it was marked with.
    #[serde(default)]
    pub marks: Marks,
}
