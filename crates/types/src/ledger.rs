//! The ledger's words: which AWS objects we make, for what, and how far each has come. Every object is in the
//! ledger before it is made and carries tags that name deployment, task and purpose.

use serde::{Deserialize, Serialize};

use crate::aws::{AccountId, Region, Tag};
use crate::id::{LedgerId, TaskId};

/// Tag that every object we make carries: the deployment's name.
pub const TAG_DEPLOYMENT: &str = "snapferry:deployment";
/// Tag: the task that made it.
pub const TAG_TASK: &str = "snapferry:task";
/// Tag: what it is for, as [`Purpose::as_str`].
pub const TAG_PURPOSE: &str = "snapferry:purpose";
/// Tag: the ledger entry, by which an object is found again after a lost reply.
pub const TAG_LEDGER: &str = "snapferry:ledger";

/// Kinds of AWS objects in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// One or, from CreateSnapshots, several snapshots under one entry.
    Snapshot,
    /// An EBS volume.
    Volume,
    /// A registered image.
    Image,
    /// An EC2 instance.
    Instance,
    /// A permission on a snapshot; its id is `<snapshot>/<account>`.
    Share,
    /// An import of a disk image.
    ImportTask,
    /// An object in S3; its id is `<bucket>/<key>`.
    S3Object,
}

/// Why an object was made; decides who may remove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Snapshot that a streaming backup reads; the newest one stays as the base of the next incremental.
    BackupSource,
    /// Snapshot that a restore writes; goes as soon as its volume exists.
    RestoreStaging,
    /// Image over restored snapshots; goes as soon as the instance exists.
    RestoreImage,
    /// What the user asked for; once handed over it is theirs and leaves the ledger's care.
    RestoreResult,
    /// Snapshots that are an IntelliSnap recovery point.
    RecoveryPoint,
    /// A copy of a recovery point's snapshots in another region or account, or a share of them.
    Vault,
    /// What only moves blocks: shares, HotAdd volumes and their snapshots, import tasks, objects in S3. It goes as soon
    /// as they are moved.
    Transport,
}

macro_rules! words {
    ($name:ident, $($variant:ident = $text:literal),*) => {
        impl $name {
            /// The word in tags, in the database and in JSON.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// The value of a word; `None` for a word of a newer version.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

words!(
    ObjectKind,
    Snapshot = "snapshot",
    Volume = "volume",
    Image = "image",
    Instance = "instance",
    Share = "share",
    ImportTask = "import_task",
    S3Object = "s3_object"
);
words!(
    Purpose,
    BackupSource = "backup_source",
    RestoreStaging = "restore_staging",
    RestoreImage = "restore_image",
    RestoreResult = "restore_result",
    RecoveryPoint = "recovery_point",
    Vault = "vault",
    Transport = "transport"
);
words!(
    LedgerState,
    Intended = "intended",
    Made = "made",
    Kept = "kept",
    HandedOver = "handed_over",
    Gone = "gone"
);

/// How far an object has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerState {
    /// About to be made; may exist in AWS under its tag.
    Intended,
    /// Exists and belongs to its task.
    Made,
    /// Exists and is kept beyond its task (base of the next incremental).
    Kept,
    /// Exists and belongs to the user.
    HandedOver,
    /// Deleted, or never made.
    Gone,
}

/// The tags that an object of ours carries.
#[must_use]
pub fn ownership_tags(deployment: &str, task: TaskId, purpose: Purpose, entry: LedgerId) -> Vec<Tag> {
    vec![
        Tag::new(TAG_DEPLOYMENT, deployment),
        Tag::new(TAG_TASK, task.to_string()),
        Tag::new(TAG_PURPOSE, purpose.as_str()),
        Tag::new(TAG_LEDGER, entry.to_string()),
    ]
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Its id, which is also in the object's [`TAG_LEDGER`] tag.
    pub id: LedgerId,
    /// The task that made it.
    pub task: TaskId,
    /// What it is.
    pub kind: ObjectKind,
    /// What for.
    pub purpose: Purpose,
    /// Where.
    pub account: AccountId,
    /// Where.
    pub region: Region,
    /// AWS ids, empty while only intended; several for one CreateSnapshots call.
    pub object_ids: Vec<String>,
    /// How far.
    pub state: LedgerState,
}
