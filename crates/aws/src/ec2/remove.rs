//! Removing an object that the ledger names: the one place that knows how each kind goes.

use snapferry_types::ledger::ObjectKind;
use snapferry_types::{AccountId, SnapshotId, VolumeId};
use tokio_util::sync::CancellationToken;

use crate::ec2;
use crate::error::{Asked, AwsError};
use crate::s3::S3;
use crate::session::Account;

/// Removes one object by its id in the ledger; one that is gone is done.
///
/// # Errors
/// [`AwsError`]; an id of the wrong shape is `Invalid`.
pub async fn remove_object(account: &Account, kind: ObjectKind, id: &str) -> Result<(), AwsError> {
    let removed = match kind {
        ObjectKind::Instance => ec2::terminate_instance(account, &parse(kind, id)?).await,
        ObjectKind::Image => ec2::deregister_image(account, id).await,
        ObjectKind::Volume => remove_volume(account, &parse(kind, id)?).await,
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

/// Deletes a volume; one that a node, which may be gone, still has attached is taken off it.
async fn remove_volume(account: &Account, volume: &VolumeId) -> Result<(), AwsError> {
    match ec2::delete_volume(account, volume).await {
        Err(AwsError::Busy { .. }) => {}
        other => return other,
    }
    ec2::detach_volume(account, volume, true).await?;
    ec2::wait_volume_detached(account, volume, &CancellationToken::new()).await?;
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
