//! Taking snapshots: of all volumes of an instance at one moment, or of one volume.

use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::types::{CopyTagsFromSource, InstanceSpecification, ResourceType};
use snapferry_types::aws::Tag;
use snapferry_types::{InstanceId, SnapshotId, VolumeId};

use crate::ec2::snapshots::parsed;
use crate::ec2::tags::specification;
use crate::error::{Asked, AwsError};
use crate::session::Account;

/// Volumes that CreateSnapshots leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exclude {
    /// The root volume.
    pub boot_volume: bool,
    /// These others.
    pub data_volumes: Vec<VolumeId>,
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

/// Takes a snapshot of one volume. The call has no client token: the care of [`create_snapshots`] holds here too.
///
/// # Errors
/// [`AwsError`].
pub async fn create_snapshot(
    account: &Account,
    volume: &VolumeId,
    description: &str,
    tags: &[Tag],
) -> Result<SnapshotId, AwsError> {
    let asked = Asked::new("ec2:CreateSnapshot", "volume", volume.as_str());
    let reply = account
        .call_without_token(|| async {
            let call = account.ec2().create_snapshot().volume_id(volume.as_str());
            let call = call.set_tag_specifications(specification(ResourceType::Snapshot, tags));
            let call = call.description(description);
            let once = aws_sdk_ec2::config::Builder::new().retry_config(RetryConfig::disabled());
            call.customize().config_override(once).send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    let id = reply.snapshot_id.ok_or_else(|| asked.lacks("SnapshotId"))?;
    parsed(&asked, &id)
}
