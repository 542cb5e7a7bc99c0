//! Snapshots: looked at, waited for, deleted.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use aws_sdk_ec2::types::Filter;
use snapferry_types::aws::Tag;
use snapferry_types::ledger::TAG_LEDGER;
use snapferry_types::{AccountId, SnapshotId, VolumeId};
use tokio_util::sync::CancellationToken;

use crate::ec2::paging::all_pages;
use crate::ec2::tags::told;
use crate::ec2::wait::Wait;
use crate::error::{Asked, AwsError};
use crate::session::Account;

/// First snapshots of large volumes take hours.
const LONGEST_WAIT: Duration = Duration::from_secs(48 * 3_600);
/// Snapshots asked about in one call.
const IDS_PER_CALL: usize = 200;
/// The smallest page that AWS gives.
const SOME_OF_OURS: i32 = 5;

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

/// A snapshot as EC2 describes it. Its product codes are asked for by
/// [`snapshot_product_codes`](super::snapshot_product_codes).
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
    /// Whose it is.
    pub owner: Option<AccountId>,
    /// The moment whose content it has.
    pub started: Option<SystemTime>,
    /// The Outpost it is kept on; such a one cannot be read block by block.
    pub outpost_arn: Option<String>,
    /// Tags.
    pub tags: Vec<Tag>,
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

/// Those of the snapshots that exist and are visible to the account, in whatever state; a missing one is no error.
///
/// # Errors
/// [`AwsError`].
pub async fn existing_snapshots(
    account: &Account,
    ids: &[SnapshotId],
) -> Result<HashSet<SnapshotId>, AwsError> {
    let mut existing = HashSet::with_capacity(ids.len());
    for ids in ids.chunks(IDS_PER_CALL) {
        let names = ids.iter().map(SnapshotId::as_str).collect::<Vec<_>>().join(", ");
        let asked = Asked::new("ec2:DescribeSnapshots", "snapshots", &names);
        let wanted = ids.iter().map(ToString::to_string).collect();
        let filter = Filter::builder().name("snapshot-id").set_values(Some(wanted)).build();
        let found = all_pages(asked, async |token: Option<String>| {
            let reply = account
                .call(|| async {
                    let call = account.ec2().describe_snapshots().filters(filter.clone());
                    call.set_next_token(token.clone()).send().await.map_err(|error| asked.sort(&error))
                })
                .await?;
            Ok((reply.snapshots.unwrap_or_default(), reply.next_token))
        })
        .await?;
        for snapshot in found {
            let id = snapshot.snapshot_id.ok_or_else(|| asked.lacks("SnapshotId"))?;
            existing.insert(parsed(&asked, &id)?);
        }
    }
    Ok(existing)
}

/// Some complete snapshot of the account in the region that carries our tag: a stand-in for one that is not made yet.
///
/// # Errors
/// [`AwsError`].
pub async fn one_of_ours(account: &Account) -> Result<Option<SnapshotId>, AwsError> {
    let asked = Asked::new("ec2:DescribeSnapshots", "snapshots of account", account.account().as_str());
    let filter = |name: &str, value: &str| Filter::builder().name(name).values(value).build();
    let reply = account
        .call(|| async {
            let call = account.ec2().describe_snapshots().owner_ids("self").max_results(SOME_OF_OURS);
            let call = call.filters(filter("tag-key", TAG_LEDGER)).filters(filter("status", "completed"));
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    let mut found = reply.snapshots.unwrap_or_default().into_iter();
    Ok(found.find_map(|snapshot| snapshot.snapshot_id?.parse().ok()))
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
        owner: snapshot.owner_id.and_then(|id| id.parse().ok()),
        started: snapshot.start_time.and_then(|time| SystemTime::try_from(time).ok()),
        outpost_arn: snapshot.outpost_arn.filter(|arn| !arn.is_empty()),
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
