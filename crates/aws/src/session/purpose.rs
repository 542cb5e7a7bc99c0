//! What a session is for: its name in the account's CloudTrail, and the policy that narrows the assumed role.

use snapferry_types::TaskId;

/// The operation a session is narrowed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionScope {
    /// Look, change nothing.
    Discover,
    /// Make, share, copy, read and delete snapshots.
    Backup,
    /// Make snapshots that stay, share and copy them.
    IntelliSnap,
    /// Read snapshots that stay, block by block.
    BackupCopy,
    /// Volumes of snapshots on an access node: the service account's side.
    HotAdd,
    /// Disk images through S3: the service account's side.
    Import,
    /// Write snapshots, make volumes, images and instances, stop and start them.
    Restore,
    /// Remove what was left behind.
    CleanUp,
    /// Whatever the role allows.
    Unrestricted,
}

/// What a session is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPurpose {
    session_name: String,
    scope: SessionScope,
}

const LOOK: &[&str] = &[
    "ec2:Describe*",
    "ec2:GetEbsEncryptionByDefault",
    "kms:DescribeKey",
    "kms:GetKeyPolicy",
    "sts:GetCallerIdentity",
];
const READ: &[&str] = &["ebs:ListSnapshotBlocks", "ebs:ListChangedBlocks", "ebs:GetSnapshotBlock"];
const KEYS: &[&str] = &[
    "kms:Decrypt",
    "kms:CreateGrant",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncrypt*",
];
const SNAPSHOT: &[&str] = &[
    "ec2:CreateSnapshot",
    "ec2:CreateSnapshots",
    "ec2:CreateTags",
    "ec2:DeleteSnapshot",
    "ec2:ModifySnapshotAttribute",
];
const COPY: &[&str] = &["ec2:CopySnapshot"];
const ATTACH: &[&str] = &["ec2:CreateVolume", "ec2:AttachVolume", "ec2:DetachVolume", "ec2:DeleteVolume"];
const IMPORT: &[&str] = &[
    "s3:PutObject",
    "s3:GetObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListBucketMultipartUploads",
    "s3:ListBucket",
    "s3:GetBucketLocation",
    "ec2:ImportSnapshot",
    "ec2:CancelImportTask",
];
const WRITE: &[&str] = &[
    "ebs:StartSnapshot",
    "ebs:PutSnapshotBlock",
    "ebs:CompleteSnapshot",
    "ec2:CreateTags",
    "ec2:DeleteTags",
    "ec2:DeleteSnapshot",
    "ec2:RegisterImage",
    "ec2:DeregisterImage",
    "ec2:RunInstances",
    "ec2:StartInstances",
    "ec2:StopInstances",
    "ec2:ModifyInstanceAttribute",
    "ec2:TerminateInstances",
    "iam:PassRole",
];
const REMOVE: &[&str] = &[
    "ec2:DeleteSnapshot",
    "ec2:DeleteVolume",
    "ec2:DetachVolume",
    "ec2:DeregisterImage",
    "ec2:TerminateInstances",
    "ec2:ModifyInstanceAttribute",
    "ec2:ModifySnapshotAttribute",
    "ec2:CancelImportTask",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListBucketMultipartUploads",
];

impl SessionPurpose {
    /// A session of a task; its name is `snapferry-<task id>`.
    #[must_use]
    pub fn task(task: TaskId, scope: SessionScope) -> Self {
        Self { session_name: format!("snapferry-{task}"), scope }
    }

    /// A session beside tasks; `label` (letters, digits, `-`) becomes part of its name.
    #[must_use]
    pub fn named(label: &str, scope: SessionScope) -> Self {
        let label: String =
            label.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
        Self { session_name: format!("snapferry-{label}"), scope }
    }

    /// RoleSessionName: 2 to 64 characters.
    #[must_use]
    pub fn session_name(&self) -> &str {
        &self.session_name
    }

    /// The session policy, JSON; `None` leaves the role as it is. AWS takes 2,048 characters at most.
    #[must_use]
    pub fn session_policy(&self) -> Option<String> {
        let parts: &[&[&str]] = match self.scope {
            SessionScope::Unrestricted => return None,
            SessionScope::Discover => &[LOOK],
            SessionScope::Backup => &[LOOK, READ, KEYS, SNAPSHOT, COPY],
            SessionScope::IntelliSnap => &[LOOK, KEYS, SNAPSHOT, COPY],
            SessionScope::BackupCopy => &[LOOK, READ, KEYS],
            SessionScope::HotAdd => &[LOOK, KEYS, SNAPSHOT, COPY, ATTACH],
            SessionScope::Import => &[LOOK, KEYS, SNAPSHOT, COPY, ATTACH, IMPORT],
            SessionScope::Restore => &[LOOK, KEYS, WRITE, COPY, ATTACH],
            SessionScope::CleanUp => &[LOOK, REMOVE],
        };
        let actions: Vec<String> =
            parts.iter().flat_map(|part| part.iter()).map(|action| format!("\"{action}\"")).collect();
        Some(format!(
            "{{\"Version\":\"2012-10-17\",\"Statement\":[{{\"Effect\":\"Allow\",\"Action\":[{}],\"Resource\":\"*\"}}]}}",
            actions.join(",")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_policies_keep_to_the_limits_of_sts() {
        let scopes = [
            SessionScope::Discover,
            SessionScope::Backup,
            SessionScope::IntelliSnap,
            SessionScope::BackupCopy,
            SessionScope::HotAdd,
            SessionScope::Import,
            SessionScope::Restore,
            SessionScope::CleanUp,
        ];
        for scope in scopes {
            let purpose = SessionPurpose::task(TaskId::generate(), scope);
            assert!((2..=64).contains(&purpose.session_name().len()));
            let policy = purpose.session_policy().unwrap();
            assert!(policy.len() <= 2_048, "{scope:?}: {}", policy.len());
        }
        assert_eq!(SessionPurpose::named("a b/c", SessionScope::Unrestricted).session_policy(), None);
        assert_eq!(SessionPurpose::named("a b/c", SessionScope::Discover).session_name(), "snapferry-abc");
    }

    #[test]
    fn a_discovery_can_change_nothing() {
        let policy = SessionPurpose::named("look", SessionScope::Discover).session_policy().unwrap();
        assert!(!policy.contains("Create") && !policy.contains("Delete"));
    }

    #[test]
    fn each_scope_allows_what_its_operation_needs_and_no_more() {
        let policy = |scope| SessionPurpose::named("x", scope).session_policy().unwrap();
        assert!(policy(SessionScope::IntelliSnap).contains("ec2:CopySnapshot"));
        let reading = policy(SessionScope::BackupCopy);
        assert!(reading.contains("ebs:GetSnapshotBlock") && !reading.contains("ec2:Delete"), "{reading}");
        let node = policy(SessionScope::HotAdd);
        assert!(node.contains("ec2:AttachVolume") && !node.contains("RunInstances") && !node.contains("s3:"));
        assert!(policy(SessionScope::Import).contains("ec2:ImportSnapshot"));
        assert!(policy(SessionScope::Restore).contains("ec2:ModifyInstanceAttribute"));
    }
}
