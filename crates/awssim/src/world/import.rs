//! Imports of disk images, as they are written down.

use serde::{Deserialize, Serialize};

use super::policy::{self, Asked};
use super::resource::Tags;
use super::{Caller, State};

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ImportStep {
    /// Waits for its turn.
    Pending,
    /// Reads the image and writes blocks.
    Converting,
    /// Puts the snapshot into the account.
    Updating,
    /// Done; there is a snapshot.
    Completed,
    /// Cancelled, and not yet cleaned up.
    Deleting,
    /// Cancelled or failed; there is no snapshot.
    Deleted,
}

impl ImportStep {
    /// `active`, `completed`, `deleting` or `deleted`.
    pub(crate) const fn status(self) -> &'static str {
        match self {
            Self::Pending | Self::Converting | Self::Updating => "active",
            Self::Completed => "completed",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }

    /// Whether something is still to be done for the task.
    pub(crate) const fn is_alive(self) -> bool {
        !matches!(self, Self::Completed | Self::Deleted)
    }
}

/// What an image file is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ImageFormat {
    /// The disk's bytes.
    Raw,
    /// Microsoft's, fixed or dynamic.
    Vhd,
    /// VMware's, stream-optimised.
    Vmdk,
}

impl ImageFormat {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_uppercase().as_str() {
            "RAW" => Some(Self::Raw),
            "VHD" => Some(Self::Vhd),
            "VMDK" => Some(Self::Vmdk),
            _ => None,
        }
    }
}

impl std::fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Raw => "RAW",
            Self::Vhd => "VHD",
            Self::Vmdk => "VMDK",
        })
    }
}

/// An import of a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImportTask {
    /// `import-snap-…`
    pub(crate) id: String,
    pub(crate) account: String,
    pub(crate) region: String,
    pub(crate) description: String,
    /// What the disk container was described as.
    pub(crate) disk_description: String,
    pub(crate) bucket: String,
    pub(crate) key: String,
    /// As it was given, when it was given as one.
    pub(crate) url: Option<String>,
    pub(crate) format: ImageFormat,
    /// Bytes of the image file, once they are known.
    pub(crate) image_bytes: u64,
    pub(crate) encrypted: bool,
    pub(crate) kms_key: Option<String>,
    pub(crate) tags: Tags,
    pub(crate) step: ImportStep,
    pub(crate) progress_percent: u8,
    /// Why it was given up, or will be.
    pub(crate) failure: Option<String>,
    /// The snapshot that it makes: in the store from the first block on, in the account when completed.
    pub(crate) snapshot: Option<String>,
}

impl State {
    /// The importer with the account's role, which uses the key of what is imported.
    pub(crate) fn importer(&self, account: &str, role: &str) -> Caller {
        let arn = format!("arn:aws:iam::{account}:role/{role}");
        let policies = self.roles.get(&arn).map(|role| role.policies.clone()).unwrap_or_default();
        Caller {
            account: account.to_owned(),
            arn,
            access_key: String::new(),
            is_session: true,
            policies,
            session_policy: None,
        }
    }

    /// Whether the importer may read the object: the account's role has to be there, to trust VM import, and to be
    /// allowed to get the object.
    pub(crate) fn importer_may(&self, account: &str, role: &str, bucket: &str, key: &str) -> bool {
        let Some(role) = self.roles.get(&format!("arn:aws:iam::{account}:role/{role}")) else { return false };
        let assume = Asked::new("sts:AssumeRole", "*").with("sts:ExternalId", "vmimport");
        let get = Asked::new("s3:GetObject", format!("arn:aws:s3:::{bucket}/{key}"));
        policy::trusts_service(&role.trust, "vmie.amazonaws.com", &assume)
            && policy::evaluate(&role.policies, &get) == Some(true)
    }
}
