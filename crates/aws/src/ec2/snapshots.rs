//! Snapshots of an instance's volumes.

use std::time::Duration;

use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::types::{
    CopyTagsFromSource, InstanceSpecification, OperationType, ResourceType, SnapshotAttributeName,
};
use snapferry_types::aws::Tag;
use snapferry_types::{AccountId, InstanceId, SnapshotId, VolumeId};
use tokio_util::sync::CancellationToken;

use crate::ec2::paging::all_pages;
use crate::ec2::tags::{specification, told};
use crate::ec2::wait::Wait;
use crate::error::{Asked, AwsError};
use crate::session::Account;

/// First snapshots of large volumes take hours.
const LONGEST_WAIT: Duration = Duration::from_secs(48 * 3_600);
/// Snapshots asked about in one call.
const IDS_PER_CALL: usize = 200;

/// Volumes that CreateSnapshots leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exclude {
    /// The root volume.
    pub boot_volume: bool,
    /// These others.
    pub data_volumes: Vec<VolumeId>,
}

/// How far a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotPhase {
    /// Being made.
    Pending,
    /// Ready to be read.
    Completed,
    /// Failed, with AWS's explanation.
    Error(String),
    /// Archived, recoverable, …: AWS's word.
    Other(String),
}

/// A snapshot as EC2 describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotState {
    /// Its id.
    pub snapshot: SnapshotId,
    /// The volume it was taken of; of a snapshot written block by block it is a made-up id.
    pub volume: Option<VolumeId>,
    /// How far it is.
    pub phase: SnapshotPhase,
    /// Percent.
    pub progress: u8,
    /// Size of the volume in GiB.
    pub size_gib: u32,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// With which key.
    pub kms_key_id: Option<String>,
    /// Tags.
    pub tags: Vec<Tag>,
}

/// Takes snapshots of the instance's volumes at one moment (crash-consistent), with the tags given and those of the
/// volumes. The call has no client token: `tags` must have the ledger's tag, and after an error that is
/// [`AwsError::retryable`] look with [`find_by_ledger_tag`](super::find_by_ledger_tag) before repeating it.
///
/// # Errors
/// [`AwsError`].
pub async fn create_snapshots(
    account: &Account,
    instance: &InstanceId,
    exclude: &Exclude,
    tags: &[Tag],
) -> Result<Vec<(VolumeId, SnapshotId)>, AwsError> {
    let asked = Asked::new("ec2:CreateSnapshots", "instance", instance.as_str());
    let excluded: Vec<String> = exclude.data_volumes.iter().map(ToString::to_string).collect();
    let which = InstanceSpecification::builder()
        .instance_id(instance.as_str())
        .exclude_boot_volume(exclude.boot_volume)
        .set_exclude_data_volume_ids((!excluded.is_empty()).then_some(excluded))
        .build();
    let reply = account
        .call_without_token(|| async {
            let call = account.ec2().create_snapshots().instance_specification(which.clone());
            let call = call.set_tag_specifications(specification(ResourceType::Snapshot, tags));
            let call = call.copy_tags_from_source(CopyTagsFromSource::Volume);
            let call = call.description(format!("snapferry backup of {instance}"));
            let once = aws_sdk_ec2::config::Builder::new().retry_config(RetryConfig::disabled());
            call.customize().config_override(once).send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    let made = reply.snapshots.unwrap_or_default().into_iter();
    made.map(|snapshot| {
        let volume = snapshot.volume_id.ok_or_else(|| asked.lacks("VolumeId"))?;
        let id = snapshot.snapshot_id.ok_or_else(|| asked.lacks("SnapshotId"))?;
        Ok((parsed(&asked, &volume)?, parsed(&asked, &id)?))
    })
    .collect()
}

/// The states of snapshots, in no order. An unknown one is an error that names it.
///
/// # Errors
/// [`AwsError::NotFound`], …
pub async fn snapshot_states(account: &Account, ids: &[SnapshotId]) -> Result<Vec<SnapshotState>, AwsError> {
    let mut states = Vec::with_capacity(ids.len());
    for ids in ids.chunks(IDS_PER_CALL) {
        let names = ids.iter().map(SnapshotId::as_str).collect::<Vec<_>>().join(", ");
        let asked = Asked::new("ec2:DescribeSnapshots", "snapshot", &names);
        let wanted: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let found = all_pages(asked, async |token: Option<String>| {
            let reply = account
                .call(|| async {
                    let call = account.ec2().describe_snapshots().set_snapshot_ids(Some(wanted.clone()));
                    call.set_next_token(token.clone()).send().await.map_err(|error| asked.sort(&error))
                })
                .await?;
            Ok((reply.snapshots.unwrap_or_default(), reply.next_token))
        })
        .await?;
        for snapshot in found {
            states.push(state_of(&asked, snapshot)?);
        }
        for id in ids {
            if !states.iter().any(|state| state.snapshot == *id) {
                return Err(AwsError::NotFound { what: "snapshot", id: id.to_string() });
            }
        }
    }
    Ok(states)
}

/// Waits until all snapshots are completed; `on_progress` gets all states after every look.
///
/// # Errors
/// [`AwsError::Failed`] with AWS's explanation when one ended in error; [`AwsError::Cancelled`] by the token.
pub async fn wait_snapshots_completed(
    account: &Account,
    ids: &[SnapshotId],
    mut on_progress: impl FnMut(&[SnapshotState]) + Send,
    stop: &CancellationToken,
) -> Result<Vec<SnapshotState>, AwsError> {
    let names = ids.iter().map(SnapshotId::as_str).collect::<Vec<_>>().join(", ");
    let mut wait = Wait::new("snapshots", &names, LONGEST_WAIT);
    loop {
        let mut waiting = None;
        match snapshot_states(account, ids).await {
            Err(error) => waiting = Some(wait.passing_of_newborn(error)?),
            Ok(states) => {
                on_progress(&states);
                for state in &states {
                    match &state.phase {
                        SnapshotPhase::Completed => {}
                        SnapshotPhase::Pending => waiting = Some(format!("pending at {} %", state.progress)),
                        SnapshotPhase::Error(message) => return Err(failed(state, "error", message)),
                        SnapshotPhase::Other(word) => {
                            return Err(failed(state, word, "it cannot be read in this state"));
                        }
                    }
                }
                if waiting.is_none() {
                    return Ok(states);
                }
            }
        }
        wait.pause(waiting.unwrap_or_default(), stop).await?;
    }
}

/// Deletes a snapshot; one that is gone is done.
///
/// # Errors
/// [`AwsError`]; `Busy` while an image uses it.
pub async fn delete_snapshot(account: &Account, snapshot: &SnapshotId) -> Result<(), AwsError> {
    let asked = Asked::new("ec2:DeleteSnapshot", "snapshot", snapshot.as_str());
    let deleted = account
        .call(|| async {
            let call = account.ec2().delete_snapshot().snapshot_id(snapshot.as_str());
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await;
    match deleted {
        Ok(_) | Err(AwsError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Lets another account make volumes of the snapshot and read it. Not possible with the AWS-managed key.
///
/// # Errors
/// [`AwsError`].
pub async fn share_snapshot(
    account: &Account,
    snapshot: &SnapshotId,
    with: &AccountId,
) -> Result<(), AwsError> {
    modify_sharing(account, snapshot, with, OperationType::Add).await
}

/// Takes [`share_snapshot`] back; a snapshot that is gone is done.
///
/// # Errors
/// [`AwsError`].
pub async fn unshare_snapshot(
    account: &Account,
    snapshot: &SnapshotId,
    with: &AccountId,
) -> Result<(), AwsError> {
    match modify_sharing(account, snapshot, with, OperationType::Remove).await {
        Err(AwsError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

async fn modify_sharing(
    account: &Account,
    snapshot: &SnapshotId,
    with: &AccountId,
    how: OperationType,
) -> Result<(), AwsError> {
    let asked = Asked::new("ec2:ModifySnapshotAttribute", "snapshot", snapshot.as_str());
    account
        .call(|| async {
            let call = account.ec2().modify_snapshot_attribute().snapshot_id(snapshot.as_str());
            let call = call.attribute(SnapshotAttributeName::CreateVolumePermission);
            let call = call.operation_type(how.clone()).user_ids(with.as_str());
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await
        .map(|_| ())
}

fn state_of(asked: &Asked<'_>, snapshot: aws_sdk_ec2::types::Snapshot) -> Result<SnapshotState, AwsError> {
    let id = snapshot.snapshot_id.ok_or_else(|| asked.lacks("SnapshotId"))?;
    let message = snapshot.state_message.unwrap_or_else(|| "AWS gives no reason".to_owned());
    let phase = match snapshot.state.as_ref().map(aws_sdk_ec2::types::SnapshotState::as_str) {
        Some("completed") => SnapshotPhase::Completed,
        Some("pending") | None => SnapshotPhase::Pending,
        Some("error") => SnapshotPhase::Error(message),
        Some(other) => SnapshotPhase::Other(other.to_owned()),
    };
    let progress = snapshot.progress.as_deref().map(|text| text.trim_end_matches('%'));
    Ok(SnapshotState {
        snapshot: parsed(asked, &id)?,
        volume: snapshot.volume_id.and_then(|id| id.parse().ok()),
        phase,
        progress: progress.and_then(|text| text.parse().ok()).unwrap_or(0),
        size_gib: snapshot.volume_size.and_then(|gib| u32::try_from(gib).ok()).unwrap_or(0),
        encrypted: snapshot.encrypted.unwrap_or(false),
        kms_key_id: snapshot.kms_key_id,
        tags: told(snapshot.tags),
    })
}

fn failed(state: &SnapshotState, word: &str, message: &str) -> AwsError {
    AwsError::Failed {
        what: "snapshot",
        id: state.snapshot.to_string(),
        state: word.to_owned(),
        message: message.to_owned(),
    }
}

/// An id as AWS gives it, of a known shape.
pub(super) fn parsed<T>(asked: &Asked<'_>, text: &str) -> Result<T, AwsError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| asked.lacks(format!("an id of the known shape: {error}")))
}
