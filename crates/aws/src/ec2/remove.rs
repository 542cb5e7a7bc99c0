//! Removing an object that the ledger names: the one place that knows how each kind goes, and with what care. Whoever
//! removes, an agent that cleans up after its task or the scheduler's reaper, does it the same way.

use snapferry_types::ledger::{ObjectKind, Purpose};
use snapferry_types::{AccountId, InstanceId, SnapshotId, VolumeId};
use tokio_util::sync::CancellationToken;

use crate::ec2;
use crate::error::{Asked, AwsError};
use crate::s3::S3;
use crate::session::Account;

/// What is to be removed.
#[derive(Debug, Clone, Copy)]
pub struct Removal<'a> {
    /// Its kind.
    pub kind: ObjectKind,
    /// What it was made for.
    pub purpose: Purpose,
    /// Of an instance that a restore made: the snapshots its volumes were made of. Those volumes go with it, whatever
    /// their setting says; what somebody has attached since stays.
    pub snapshots: &'a [SnapshotId],
}

/// Removes one object by its id in the ledger; one that is gone is done.
///
/// A volume that only moved blocks is taken off its node by force, which may be gone. A volume that a restore made may be
/// attached to a tenant's instance that runs: it is detached without force, and stays while the system there does not let
/// go of it.
///
/// # Errors
/// [`AwsError`]; an id of the wrong shape is `Invalid`.
pub async fn remove_object(
    account: &Account,
    what: Removal<'_>,
    id: &str,
    stop: &CancellationToken,
) -> Result<(), AwsError> {
    let kind = what.kind;
    let removed = match kind {
        ObjectKind::Instance => remove_instance(account, what, &parse(kind, id)?).await,
        ObjectKind::Image => ec2::deregister_image(account, id).await,
        ObjectKind::Volume => remove_volume(account, what.purpose, &parse(kind, id)?, stop).await,
        ObjectKind::Snapshot => ec2::delete_snapshot(account, &parse(kind, id)?).await,
        ObjectKind::Share => {
            let (snapshot, with) = parse_share(id)?;
            ec2::unshare_snapshot(account, &snapshot, &with).await
        }
        ObjectKind::ImportTask => remove_import(account, id).await,
        ObjectKind::S3Object => remove_s3_object(account, id).await,
    };
    match removed {
        Err(AwsError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

/// Terminates an instance; the volumes that were restored for it go along.
async fn remove_instance(
    account: &Account,
    what: Removal<'_>,
    instance: &InstanceId,
) -> Result<(), AwsError> {
    let described = match what.purpose {
        Purpose::RestoreResult => match ec2::describe_instance(account, instance).await {
            // One that is gone needs nothing.
            Err(AwsError::NotFound { .. }) => None,
            described => Some(described?),
        },
        _ => None,
    };
    if let Some(described) = described {
        let is_ours = |volume: &VolumeId| {
            let of = described.volumes.iter().find(|one| one.id == *volume);
            of.and_then(|one| one.snapshot.as_ref()).is_some_and(|of| what.snapshots.contains(of))
        };
        let stays = described.config.volumes.iter();
        let stays = stays.filter(|one| !one.delete_on_termination && is_ours(&one.volume_id));
        let devices: Vec<(String, bool)> = stays.map(|one| (one.device_name.clone(), true)).collect();
        ec2::modify_delete_on_termination(account, instance, &devices).await?;
    }
    ec2::terminate_instance(account, instance).await
}

/// Takes a volume off what it is attached to, and deletes it.
async fn remove_volume(
    account: &Account,
    purpose: Purpose,
    volume: &VolumeId,
    stop: &CancellationToken,
) -> Result<(), AwsError> {
    if ec2::volume_state(account, volume).await? == "in-use" {
        // Nothing of a volume that only moved blocks needs to be saved.
        ec2::detach_volume(account, volume, purpose == Purpose::Transport).await?;
        ec2::wait_volume_detached(account, volume, stop).await?;
    }
    ec2::delete_volume(account, volume).await
}

/// Cancels an import, and deletes what it had made when it was faster than that.
async fn remove_import(account: &Account, id: &str) -> Result<(), AwsError> {
    ec2::cancel_import(account, id).await?;
    match ec2::import_state(account, id).await?.snapshot {
        Some(snapshot) => ec2::delete_snapshot(account, &snapshot).await,
        None => Ok(()),
    }
}

/// An upload that was cut off has parts and no object, so both go.
async fn remove_s3_object(account: &Account, id: &str) -> Result<(), AwsError> {
    let (bucket, key) = id
        .split_once('/')
        .filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
        .ok_or_else(|| wrong(ObjectKind::S3Object, id, "expected <bucket>/<key>"))?;
    let bucket = S3::open(account, bucket)?;
    bucket.abort_uploads(key).await?;
    bucket.delete(key).await
}

/// The id of a share in the ledger.
#[must_use]
pub fn share_id(snapshot: &SnapshotId, with: &AccountId) -> String {
    format!("{snapshot}/{with}")
}

fn parse_share(id: &str) -> Result<(SnapshotId, AccountId), AwsError> {
    let (snapshot, account) =
        id.split_once('/').ok_or_else(|| wrong(ObjectKind::Share, id, "expected <snapshot>/<account>"))?;
    Ok((parse(ObjectKind::Share, snapshot)?, parse(ObjectKind::Share, account)?))
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(kind: ObjectKind, id: &str) -> Result<T, AwsError> {
    id.parse().map_err(|error: T::Err| wrong(kind, id, &error.to_string()))
}

fn wrong(kind: ObjectKind, id: &str, reason: &str) -> AwsError {
    Asked::new("remove", kind.as_str(), id).invalid("InvalidLedgerId", reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_read_back() {
        let (snapshot, account) = ("snap-0a".parse().unwrap(), "123456789012".parse().unwrap());
        assert_eq!(parse_share(&share_id(&snapshot, &account)).unwrap(), (snapshot, account));
        assert!(parse_share("snap-0a").is_err());
    }
}
