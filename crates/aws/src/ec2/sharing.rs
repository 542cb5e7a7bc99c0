//! Who may use a snapshot: other accounts, and product codes that forbid more than AWS does.

use aws_sdk_ec2::operation::describe_snapshot_attribute::DescribeSnapshotAttributeOutput;
use aws_sdk_ec2::types::{OperationType, SnapshotAttributeName};
use snapferry_types::{AccountId, SnapshotId};

use crate::error::{Asked, AwsError};
use crate::session::Account;

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

/// The accounts that the snapshot is shared with. A public one is an error: nothing of ours ever is.
///
/// # Errors
/// [`AwsError::NotFound`], …
pub async fn snapshot_sharing(account: &Account, snapshot: &SnapshotId) -> Result<Vec<AccountId>, AwsError> {
    let asked = Asked::new("ec2:DescribeSnapshotAttribute", "snapshot", snapshot.as_str());
    let reply = attribute(account, snapshot, SnapshotAttributeName::CreateVolumePermission).await?;
    let permissions = reply.create_volume_permissions.unwrap_or_default().into_iter();
    permissions
        .map(|permission| match permission.user_id {
            Some(id) => super::snapshots::parsed(&asked, &id),
            None => Err(asked.invalid("Public", "it is shared with everybody")),
        })
        .collect()
}

/// The Marketplace product codes of a snapshot, which DescribeSnapshots does not tell: a volume of it cannot be
/// attached by another account.
///
/// # Errors
/// [`AwsError::NotFound`], …
pub async fn snapshot_product_codes(
    account: &Account,
    snapshot: &SnapshotId,
) -> Result<Vec<String>, AwsError> {
    let reply = attribute(account, snapshot, SnapshotAttributeName::ProductCodes).await?;
    let codes = reply.product_codes.unwrap_or_default().into_iter();
    Ok(codes.filter_map(|code| code.product_code_id).collect())
}

async fn attribute(
    account: &Account,
    snapshot: &SnapshotId,
    name: SnapshotAttributeName,
) -> Result<DescribeSnapshotAttributeOutput, AwsError> {
    let asked = Asked::new("ec2:DescribeSnapshotAttribute", "snapshot", snapshot.as_str());
    account
        .call(|| async {
            let call = account.ec2().describe_snapshot_attribute().snapshot_id(snapshot.as_str());
            call.attribute(name.clone()).send().await.map_err(|error| asked.sort(&error))
        })
        .await
}
