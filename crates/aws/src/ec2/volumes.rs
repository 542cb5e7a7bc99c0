//! Volumes: made from snapshots, attached, detached, deleted.

use std::time::Duration;

use aws_sdk_ec2::types::{ResourceType, VolumeType};
use snapferry_types::aws::Tag;
use snapferry_types::{InstanceId, SnapshotId, VolumeId};
use tokio_util::sync::CancellationToken;

use crate::ec2::snapshots::parsed;
use crate::ec2::tags::specification;
use crate::ec2::wait::Wait;
use crate::error::{Asked, AwsError};
use crate::session::Account;

const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// A volume to be made from a snapshot. IOPS and throughput are left out where the type does not take them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The zone.
    pub availability_zone: String,
    /// Size in GiB; the snapshot's when absent.
    pub size_gib: Option<u32>,
    /// `gp3`, `io2`, …
    pub volume_type: String,
    /// As described; gp2's are dropped.
    pub iops: Option<u32>,
    /// MiB/s; gp3 only.
    pub throughput_mibps: Option<u32>,
    /// Encrypts a volume of a plain snapshot. That of an encrypted one always is.
    pub encrypted: bool,
    /// Key; the account's default when absent.
    pub kms_key_id: Option<String>,
    /// Tags from the start.
    pub tags: Vec<Tag>,
    /// The same token gives the same volume again: derive it from the ledger entry.
    pub client_token: String,
}

/// Makes a volume from a snapshot, or finds the one that the same token made.
///
/// # Errors
/// [`AwsError`].
pub async fn create_volume(account: &Account, new: &NewVolume) -> Result<VolumeId, AwsError> {
    let asked = Asked::new("ec2:CreateVolume", "snapshot", new.snapshot.as_str());
    let (iops, throughput) = accepted(&new.volume_type, new.iops, new.throughput_mibps);
    let reply = account
        .call(|| async {
            let call = account.ec2().create_volume().snapshot_id(new.snapshot.as_str());
            let call = call.availability_zone(&new.availability_zone);
            let call = call.volume_type(VolumeType::from(new.volume_type.as_str()));
            let call = call.set_size(new.size_gib.and_then(|gib| i32::try_from(gib).ok()));
            let call = call.set_iops(iops).set_throughput(throughput);
            let call = call.set_encrypted(new.encrypted.then_some(true));
            let call = call.set_kms_key_id(new.kms_key_id.clone().filter(|_| new.encrypted));
            let call = call.set_tag_specifications(specification(ResourceType::Volume, &new.tags));
            let call = call.client_token(&new.client_token);
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    let id = reply.volume_id.ok_or_else(|| asked.lacks("VolumeId"))?;
    parsed(&asked, &id)
}

/// The state of a volume: `creating`, `available`, `in-use`, `deleting`, `deleted`, `error`.
///
/// # Errors
/// [`AwsError::NotFound`], …
pub async fn volume_state(account: &Account, volume: &VolumeId) -> Result<String, AwsError> {
    let asked = Asked::new("ec2:DescribeVolumes", "volume", volume.as_str());
    let reply = account
        .call(|| async {
            let call = account.ec2().describe_volumes().volume_ids(volume.as_str());
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    let found = reply.volumes.unwrap_or_default().into_iter().next();
    let found = found.ok_or_else(|| AwsError::NotFound { what: "volume", id: volume.to_string() })?;
    found.state.map(|state| state.as_str().to_owned()).ok_or_else(|| asked.lacks("State"))
}

/// Waits until the volume is available.
///
/// # Errors
/// [`AwsError::Failed`] when it ended in error (often: no access to the key).
pub async fn wait_volume_available(
    account: &Account,
    volume: &VolumeId,
    stop: &CancellationToken,
) -> Result<(), AwsError> {
    let mut wait = Wait::new("volume", volume.as_str(), LONGEST_WAIT);
    loop {
        let state = match volume_state(account, volume).await {
            Ok(state) => state,
            Err(error) => wait.passing_of_newborn(error)?,
        };
        match state.as_str() {
            "available" => return Ok(()),
            "error" | "deleted" | "deleting" => {
                let message = "it did not become available; for an encrypted volume check access to its key";
                return Err(AwsError::Failed {
                    what: "volume",
                    id: volume.to_string(),
                    state,
                    message: message.to_owned(),
                });
            }
            _ => wait.pause(state, stop).await?,
        }
    }
}

/// Deletes a volume; one that is gone is done.
///
/// # Errors
/// [`AwsError`]; `Busy` while it is attached.
pub async fn delete_volume(account: &Account, volume: &VolumeId) -> Result<(), AwsError> {
    let asked = Asked::new("ec2:DeleteVolume", "volume", volume.as_str());
    let deleted = account
        .call(|| async {
            let call = account.ec2().delete_volume().volume_id(volume.as_str());
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await;
    match deleted {
        Ok(_) | Err(AwsError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Attaches a volume; returns before the device appears.
///
/// # Errors
/// [`AwsError`]; `Busy` when it is attached elsewhere.
pub async fn attach_volume(
    account: &Account,
    volume: &VolumeId,
    instance: &InstanceId,
    device_name: &str,
) -> Result<(), AwsError> {
    let asked = Asked::new("ec2:AttachVolume", "volume", volume.as_str());
    account
        .call(|| async {
            let call = account.ec2().attach_volume().volume_id(volume.as_str());
            let call = call.instance_id(instance.as_str()).device(device_name);
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await
        .map(|_| ())
}

/// Detaches a volume; one that is not attached, or gone, is done.
///
/// # Errors
/// [`AwsError`].
pub async fn detach_volume(account: &Account, volume: &VolumeId) -> Result<(), AwsError> {
    let asked = Asked::new("ec2:DetachVolume", "volume", volume.as_str());
    let detached = account
        .call(|| async {
            let call = account.ec2().detach_volume().volume_id(volume.as_str());
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await;
    match detached {
        Ok(_) | Err(AwsError::NotFound { .. }) => Ok(()),
        Err(AwsError::Busy { .. }) if volume_state(account, volume).await? == "available" => Ok(()),
        Err(error) => Err(error),
    }
}

/// The IOPS and throughput that CreateVolume and RegisterImage take for a type.
pub(super) fn accepted(
    volume_type: &str,
    iops: Option<u32>,
    throughput: Option<u32>,
) -> (Option<i32>, Option<i32>) {
    let takes_iops = matches!(volume_type, "gp3" | "io1" | "io2");
    let takes_throughput = volume_type == "gp3";
    (
        iops.filter(|_| takes_iops).and_then(|n| i32::try_from(n).ok()),
        throughput.filter(|_| takes_throughput).and_then(|n| i32::try_from(n).ok()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_type_takes_is_asked_for() {
        assert_eq!(accepted("gp2", Some(300), None), (None, None));
        assert_eq!(accepted("gp3", Some(4_000), Some(250)), (Some(4_000), Some(250)));
        assert_eq!(accepted("io2", Some(9_000), Some(250)), (Some(9_000), None));
        assert_eq!(accepted("st1", Some(1), Some(1)), (None, None));
    }
}
