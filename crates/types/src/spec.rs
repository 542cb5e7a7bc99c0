//! What a task is to do: the specification that the scheduler hands out with a granted claim. It carries secrets
//! (account access, tenant keys) and so has no `Serialize`; the wire crate converts it.

use crate::access::AccountAccess;
use crate::aws::{InstanceId, Region, Tag, VolumeId};
use crate::catalogue::{BaseRef, RecoveryPointMeta, VaultMeta};
use crate::id::{JobId, MediaAgentId, RecoveryPointId, TaskId};
use crate::image::ImageFormat;
use crate::ledger::LedgerEntry;
use crate::state::{Fence, TaskKind};
use crate::tenancy::TenantKeys;
use crate::transport::TransportWish;

/// A granted task.
#[derive(Debug, Clone)]
pub struct TaskSpec {
    /// The task.
    pub task: TaskId,
    /// Its job.
    pub job: JobId,
    /// The right to work; goes with every step that commits.
    pub fence: Fence,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Name of the deployment, for tags.
    pub deployment: String,
    /// Name of the tenant in the library.
    pub tenant: String,
    /// Keys of the tenant.
    pub keys: TenantKeys,
    /// The tenant's account.
    pub tenant_access: AccountAccess,
    /// The service account, where the operation needs it.
    pub service_access: Option<AccountAccess>,
    /// Where the blocks are stored; nothing for work on snapshots alone.
    pub media_agent: Option<MediaAgentRef>,
    /// The operation.
    pub operation: Operation,
    /// What the last attempt left with `checkpoint`; empty on the first.
    pub checkpoint: Vec<u8>,
    /// What this task has in the ledger from earlier attempts: reality is read before a step is repeated.
    pub objects: Vec<LedgerEntry>,
    /// Kept objects of earlier tasks that this one replaces, and deletes once its own are safe.
    pub superseded: Vec<LedgerEntry>,
}

/// A MediaAgent and where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaAgentRef {
    /// Its id.
    pub id: MediaAgentId,
    /// Such as `http://10.0.0.7:7443`.
    pub endpoint: String,
}

/// The operations that agents know.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Snapshot, read, store.
    StreamingBackup(StreamingBackupSpec),
    /// Snapshots that stay as the recovery point.
    IntelliSnap(IntelliSnapSpec),
    /// Read an IntelliSnap recovery point into a library.
    BackupCopy(Box<BackupCopySpec>),
    /// Write back.
    Restore(Box<RestoreSpec>),
    /// Remove a recovery point from its library, and its kept snapshots.
    DeleteRecoveryPoint(RecoveryPointId),
}

impl Operation {
    /// The kind on the queue.
    #[must_use]
    pub const fn kind(&self) -> TaskKind {
        match self {
            Self::StreamingBackup(_) => TaskKind::StreamingBackup,
            Self::IntelliSnap(_) => TaskKind::IntelliSnap,
            Self::BackupCopy(_) => TaskKind::BackupCopy,
            Self::Restore(_) => TaskKind::Restore,
            Self::DeleteRecoveryPoint(_) => TaskKind::DeleteRecoveryPoint,
        }
    }
}

/// With whose credentials blocks are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadAs {
    /// The tenant's: no sharing, every kind of key works, the tenant's quota counts.
    #[default]
    Tenant,
    /// The service account's: the snapshot is shared first (never possible with the AWS-managed key).
    Service,
}

/// A streaming backup of one instance.
#[derive(Debug, Clone)]
pub struct StreamingBackupSpec {
    /// The instance.
    pub instance: InstanceId,
    /// Base of the incremental, if the catalogue knows one on this MediaAgent.
    pub base: Option<BaseRef>,
    /// Read everything even if a base exists.
    pub full: bool,
    /// Whose credentials read.
    pub read_as: ReadAs,
    /// How blocks are read.
    pub transport: TransportWish,
}

/// An IntelliSnap backup of one instance.
#[derive(Debug, Clone)]
pub struct IntelliSnapSpec {
    /// The instance.
    pub instance: InstanceId,
    /// Copies elsewhere.
    pub vault: Option<VaultSpec>,
}

/// Where else the snapshots of a recovery point shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSpec {
    /// The region of the copies; that of the instance when absent.
    pub region: Option<Region>,
    /// To whom.
    pub to: VaultTo,
    /// Key of the copies: a key of the account that owns them, in their region.
    pub kms_key_id: Option<String>,
}

/// Whose the copies of a recovery point's snapshots are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VaultTo {
    /// Copies in the tenant's own account, in another region.
    Tenant,
    /// The snapshots are shared with the service account; nothing is copied.
    ServiceShare,
    /// The snapshots are shared with the service account, which makes copies of its own.
    ServiceCopy,
}

/// A backup copy of one IntelliSnap recovery point.
#[derive(Debug, Clone)]
pub struct BackupCopySpec {
    /// The recovery point whose snapshots are read.
    pub source: RecoveryPointId,
    /// What is known of it.
    pub meta: RecoveryPointMeta,
    /// The copy made before, of a recovery point whose snapshots still exist.
    pub base: Option<BaseRef>,
    /// Read everything even if a base exists.
    pub full: bool,
    /// Whose credentials read.
    pub read_as: ReadAs,
    /// How blocks are read.
    pub transport: TransportWish,
}

/// A restore of one recovery point.
#[derive(Debug, Clone)]
pub struct RestoreSpec {
    /// What, by its name in the library or the catalogue.
    pub recovery_point: RecoveryPointId,
    /// From where.
    pub from: RestoreFrom,
    /// Only these volumes; all when empty.
    pub volumes: Vec<VolumeId>,
    /// To what.
    pub target: RestoreTarget,
    /// Tags on everything handed over, besides the tags that come back.
    pub extra_tags: Vec<Tag>,
    /// How blocks are written; snapshots in the right account and region need no moving.
    pub transport: TransportWish,
    /// How the restored volumes are encrypted.
    pub encryption: TargetEncryption,
}

/// Where a restore takes the blocks from.
#[derive(Debug, Clone)]
pub enum RestoreFrom {
    /// From the MediaAgent's library.
    Library,
    /// From snapshots.
    Snapshots(Box<HeldSnapshots>),
}

/// Snapshots that have the blocks of a recovery point, and exist.
#[derive(Debug, Clone)]
pub struct HeldSnapshots {
    /// The recovery point.
    pub meta: RecoveryPointMeta,
    /// Which of its vaults is read; its own snapshots when absent.
    pub vault: Option<VaultMeta>,
}

/// How restored volumes are encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TargetEncryption {
    /// As the volume was, with its key.
    #[default]
    AsBefore,
    /// With this key, whatever the volume had.
    Key(String),
}

/// What a restore makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreTarget {
    /// Volumes, detached or attached to an instance.
    Volumes {
        /// The zone; that of the original instance, or of the one they are attached to, when absent.
        availability_zone: Option<String>,
        /// Attach them.
        attach: Option<AttachTo>,
    },
    /// A new instance.
    Instance(Box<NewInstanceSpec>),
    /// The original instance gets the restored volumes in place of its own.
    InPlace {
        /// Leave the volumes it had, detached and tagged; else they are deleted once the instance has the new ones.
        keep_old_volumes: bool,
        /// Start it when it ran before.
        start: bool,
    },
    /// A disk image a volume, below the access node's image folder.
    DiskImage {
        /// Folder below the image folder; plain names and `/` only.
        folder: String,
        /// Format.
        format: ImageFormat,
    },
}

/// The instance that gets restored volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachTo {
    /// The instance, of the tenant's account.
    pub instance: InstanceId,
    /// Device names of volumes; free ones are found for the others.
    pub devices: Vec<(VolumeId, String)>,
}

/// A new instance. What is absent comes from the recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewInstanceSpec {
    /// The new `Name` tag.
    pub name: Option<String>,
    /// Instance type.
    pub instance_type: Option<String>,
    /// Subnet; decides the zone.
    pub subnet_id: Option<String>,
    /// Security groups; empty means as before.
    pub security_group_ids: Vec<String>,
    /// Key pair.
    pub key_name: Option<String>,
    /// ARN or name of the instance profile.
    pub iam_instance_profile: Option<String>,
    /// Primary private address; AWS picks one when absent.
    pub private_ip: Option<String>,
    /// Leave it stopped.
    pub stopped: bool,
}
