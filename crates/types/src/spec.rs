//! What a task is to do: the specification that the scheduler hands out with a granted claim. It carries secrets
//! (account access, tenant keys) and so has no `Serialize`; the wire crate converts it.

use crate::access::AccountAccess;
use crate::aws::{InstanceId, Tag, VolumeId};
use crate::catalogue::BaseRef;
use crate::id::{JobId, MediaAgentId, RecoveryPointId, TaskId};
use crate::ledger::LedgerEntry;
use crate::state::{Fence, TaskKind};
use crate::tenancy::TenantKeys;

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
    /// Where the blocks are stored.
    pub media_agent: MediaAgentRef,
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
    /// Write back.
    Restore(RestoreSpec),
    /// Remove a recovery point from its library, and its kept snapshots.
    DeleteRecoveryPoint(RecoveryPointId),
}

impl Operation {
    /// The kind on the queue.
    #[must_use]
    pub const fn kind(&self) -> TaskKind {
        match self {
            Self::StreamingBackup(_) => TaskKind::StreamingBackup,
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
}

/// A restore of one recovery point.
#[derive(Debug, Clone)]
pub struct RestoreSpec {
    /// What.
    pub recovery_point: RecoveryPointId,
    /// Only these volumes; all when empty.
    pub volumes: Vec<VolumeId>,
    /// To what.
    pub target: RestoreTarget,
    /// Tags on everything handed over, besides the tags that come back.
    pub extra_tags: Vec<Tag>,
}

/// What a restore makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreTarget {
    /// Detached volumes.
    Volumes {
        /// The zone; that of the original instance when absent.
        availability_zone: Option<String>,
    },
    /// A new instance. What is absent comes from the recovery point.
    Instance {
        /// The new `Name` tag.
        name: Option<String>,
        /// Instance type.
        instance_type: Option<String>,
        /// Subnet; decides the zone.
        subnet_id: Option<String>,
        /// Security groups; empty means as before.
        security_group_ids: Vec<String>,
        /// Key pair.
        key_name: Option<String>,
    },
}
