//! Importing a disk image from S3 as a snapshot. AWS reads it through the role `vmimport` of the account.

use std::time::Duration;

use aws_sdk_ec2::types::{
    ImportSnapshotTask, ResourceType, SnapshotDiskContainer, SnapshotTaskDetail, UserBucket,
};
use snapferry_types::LedgerId;
use snapferry_types::SnapshotId;
use snapferry_types::aws::Tag;
use snapferry_types::ledger::TAG_LEDGER;
use tokio_util::sync::CancellationToken;

use crate::ec2::paging::all_pages;
use crate::ec2::tags::{specification, told};
use crate::ec2::wait::Wait;
use crate::error::{Asked, AwsError};
use crate::session::Account;

const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3_600);

/// Formats of disk images that ImportSnapshot reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImportFormat {
    /// The bytes of the disk.
    Raw,
    /// Microsoft's, fixed or dynamic.
    Vhd,
    /// VMware's, stream-optimised.
    Vmdk,
}

impl ImportFormat {
    /// AWS's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "RAW",
            Self::Vhd => "VHD",
            Self::Vmdk => "VMDK",
        }
    }
}

/// A disk image to be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImport {
    /// The bucket, in the region of the import.
    pub bucket: String,
    /// Key of the image in it.
    pub key: String,
    /// Its format.
    pub format: ImportFormat,
    /// Becomes the snapshot's.
    pub description: String,
    /// Encrypts the snapshot.
    pub encrypted: bool,
    /// Key; the account's default when absent.
    pub kms_key_id: Option<String>,
    /// The role through which AWS reads the bucket; `vmimport` when absent.
    pub role_name: Option<String>,
    /// Tags of the task. The snapshot gets none: tag it when it is there.
    pub tags: Vec<Tag>,
    /// The same token gives the same task again: derive it from the ledger entry.
    pub client_token: String,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportPhase {
    /// At work.
    Active,
    /// The snapshot is there.
    Completed,
    /// Cancelled or failed; the message says why.
    Ended,
}

/// An import task as EC2 describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportState {
    /// Its id, `import-snap-…`.
    pub task: String,
    /// How far it is.
    pub phase: ImportPhase,
    /// AWS's word: `active`, `completed`, `deleting`, `deleted`, …
    pub status: String,
    /// What it does at the moment, or why it failed.
    pub message: Option<String>,
    /// Percent.
    pub progress: u8,
    /// The snapshot, as soon as there is one.
    pub snapshot: Option<SnapshotId>,
    /// Tags of the task.
    pub tags: Vec<Tag>,
}

/// Starts an import, or finds the task that the same token started. Gives the task's id.
///
/// # Errors
/// [`AwsError`]; `Invalid` when AWS cannot read the bucket or the role is missing.
pub async fn import_snapshot(account: &Account, new: &NewImport) -> Result<String, AwsError> {
    let object = format!("s3://{}/{}", new.bucket, new.key);
    let asked = Asked::new("ec2:ImportSnapshot", "image", &object);
    let container = SnapshotDiskContainer::builder()
        .format(new.format.as_str())
        .description(&new.description)
        .user_bucket(UserBucket::builder().s3_bucket(&new.bucket).s3_key(&new.key).build())
        .build();
    let reply = account
        .call(|| async {
            let call = account.ec2().import_snapshot().disk_container(container.clone());
            let call = call.description(&new.description);
            let call = call.set_encrypted(new.encrypted.then_some(true));
            let call = call.set_kms_key_id(new.kms_key_id.clone().filter(|_| new.encrypted));
            let call = call.set_role_name(new.role_name.clone());
            let call =
                call.set_tag_specifications(specification(ResourceType::ImportSnapshotTask, &new.tags));
            let call = call.client_token(&new.client_token);
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    reply.import_task_id.ok_or_else(|| asked.lacks("ImportTaskId"))
}

/// How far an import is.
///
/// # Errors
/// [`AwsError::NotFound`], …
pub async fn import_state(account: &Account, task: &str) -> Result<ImportState, AwsError> {
    let asked = Asked::new("ec2:DescribeImportSnapshotTasks", "import task", task);
    let reply = account
        .call(|| async {
            let call = account.ec2().describe_import_snapshot_tasks().import_task_ids(task);
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    let found = reply.import_snapshot_tasks.unwrap_or_default().into_iter().next();
    let found = found.ok_or_else(|| AwsError::NotFound { what: "import task", id: task.to_owned() })?;
    state_of(&asked, found)
}

/// Waits for the snapshot of an import; `on_progress` gets the state after every look.
///
/// # Errors
/// [`AwsError::Failed`] with AWS's explanation; [`AwsError::Cancelled`] by the token, which leaves the task at work.
pub async fn wait_import(
    account: &Account,
    task: &str,
    mut on_progress: impl FnMut(&ImportState) + Send,
    stop: &CancellationToken,
) -> Result<SnapshotId, AwsError> {
    let mut wait = Wait::new("import task", task, LONGEST_WAIT);
    loop {
        let waiting = match import_state(account, task).await {
            Err(error) => wait.passing_of_newborn(error)?,
            Ok(state) => {
                on_progress(&state);
                match (state.phase, state.snapshot) {
                    (ImportPhase::Completed, Some(snapshot)) => return Ok(snapshot),
                    (ImportPhase::Completed, None) => {
                        let asked = Asked::new("ec2:DescribeImportSnapshotTasks", "import task", task);
                        return Err(asked.lacks("SnapshotId"));
                    }
                    (ImportPhase::Ended, _) => {
                        return Err(AwsError::Failed {
                            what: "import task",
                            id: task.to_owned(),
                            state: state.status,
                            message: state.message.unwrap_or_else(|| "AWS gives no reason".to_owned()),
                        });
                    }
                    (ImportPhase::Active, _) => format!("{} at {} %", state.status, state.progress),
                }
            }
        };
        wait.pause(waiting, stop).await?;
    }
}

/// Cancels an import; one that has ended or is gone is done. A completed one leaves its snapshot.
///
/// # Errors
/// [`AwsError`].
pub async fn cancel_import(account: &Account, task: &str) -> Result<(), AwsError> {
    let asked = Asked::new("ec2:CancelImportTask", "import task", task);
    let cancelled = account
        .call(|| async {
            let call = account.ec2().cancel_import_task().import_task_id(task);
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await;
    match cancelled {
        Ok(_) | Err(AwsError::NotFound { .. }) => Ok(()),
        // AWS has several words for a task that cannot be cancelled any more; its state is plain.
        Err(error @ (AwsError::Invalid { .. } | AwsError::Busy { .. })) => {
            match import_state(account, task).await {
                Ok(state) if state.phase != ImportPhase::Active => Ok(()),
                Err(AwsError::NotFound { .. }) => Ok(()),
                _ => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// The import tasks that carry the ledger entry's tag, ended ones left out. All tasks are looked through: which
/// filters the call takes is not documented.
///
/// # Errors
/// [`AwsError`].
pub async fn find_import_by_ledger_tag(
    account: &Account,
    entry: LedgerId,
) -> Result<Vec<ImportState>, AwsError> {
    let value = entry.to_string();
    let asked = Asked::new("ec2:DescribeImportSnapshotTasks", "ledger entry", &value);
    let tasks = all_pages(asked, async |token: Option<String>| {
        let reply = account
            .call(|| async {
                let call = account.ec2().describe_import_snapshot_tasks();
                call.set_next_token(token.clone()).send().await.map_err(|error| asked.sort(&error))
            })
            .await?;
        Ok((reply.import_snapshot_tasks.unwrap_or_default(), reply.next_token))
    })
    .await?;
    let mut found = Vec::new();
    for task in tasks {
        let state = state_of(&asked, task)?;
        let is_of_entry = state.tags.iter().any(|tag| tag.key == TAG_LEDGER && tag.value == value);
        if is_of_entry && state.phase != ImportPhase::Ended {
            found.push(state);
        }
    }
    Ok(found)
}

fn state_of(asked: &Asked<'_>, task: ImportSnapshotTask) -> Result<ImportState, AwsError> {
    let id = task.import_task_id.ok_or_else(|| asked.lacks("ImportTaskId"))?;
    let detail = task.snapshot_task_detail.unwrap_or_else(|| SnapshotTaskDetail::builder().build());
    let status = detail.status.unwrap_or_else(|| "active".to_owned());
    let phase = match status.as_str() {
        "completed" => ImportPhase::Completed,
        "deleting" | "deleted" | "error" | "cancelled" => ImportPhase::Ended,
        _ => ImportPhase::Active,
    };
    let progress = detail.progress.as_deref().map(|text| text.trim_end_matches('%'));
    Ok(ImportState {
        task: id,
        phase,
        status,
        message: detail.status_message,
        progress: progress.and_then(|text| text.parse().ok()).unwrap_or(0),
        snapshot: detail.snapshot_id.and_then(|id| id.parse().ok()),
        tags: told(task.tags),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_import_has_ended_and_says_why() {
        let asked = Asked::new("ec2:DescribeImportSnapshotTasks", "import task", "import-snap-1");
        let detail = SnapshotTaskDetail::builder()
            .status("deleted")
            .status_message("ClientError: Disk validation failed")
            .progress("19");
        let task = ImportSnapshotTask::builder()
            .import_task_id("import-snap-1")
            .snapshot_task_detail(detail.build())
            .build();
        let state = state_of(&asked, task).unwrap();
        assert_eq!((state.phase, state.progress, state.snapshot), (ImportPhase::Ended, 19, None));
        assert_eq!(state.message.as_deref(), Some("ClientError: Disk validation failed"));
    }

    #[test]
    fn a_new_import_without_details_is_at_work() {
        let asked = Asked::new("ec2:DescribeImportSnapshotTasks", "import task", "import-snap-1");
        let task = ImportSnapshotTask::builder().import_task_id("import-snap-1").build();
        assert_eq!(state_of(&asked, task).unwrap().phase, ImportPhase::Active);
    }
}
