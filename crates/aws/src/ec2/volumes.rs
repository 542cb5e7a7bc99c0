//! Volumes: made from snapshots or blank, described, deleted.

use std::time::Duration;

use aws_sdk_ec2::types::{
    ResourceType, Volume, VolumeAttachment as Ec2Attachment, VolumeAttributeName, VolumeType,
};
use snapferry_types::aws::Tag;
use snapferry_types::{InstanceId, SnapshotId, VolumeId};
use tokio_util::sync::CancellationToken;

use crate::ec2::snapshots::parsed;
use crate::ec2::tags::{specification, told};
use crate::ec2::wait::Wait;
use crate::error::{Asked, AwsError};
use crate::session::Account;

const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// A volume to be made. IOPS and throughput are left out where the type does not take them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// Its content; a blank volume when absent.
    pub snapshot: Option<SnapshotId>,
    /// The zone.
    pub availability_zone: String,
    /// Size in GiB; the snapshot's when absent. A blank volume needs one.
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

/// What a volume is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeAttachment {
    /// The instance; `None` when an AWS service holds it.
    pub instance: Option<InstanceId>,
    /// Such as `/dev/sdf`.
    pub device: String,
    /// `attaching`, `attached`, `detaching`, `busy`, `detached`.
    pub state: String,
    /// Whether the volume goes with the instance.
    pub delete_on_termination: bool,
}

/// A volume as EC2 describes it. Its product codes are asked for by [`volume_product_codes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedVolume {
    /// Its id.
    pub id: VolumeId,
    /// Its availability zone.
    pub zone: String,
    /// Size in GiB.
    pub size_gib: u32,
    /// `gp3`, `io2`, …
    pub volume_type: String,
    /// As described; for gp2 too, which CreateVolume refuses.
    pub iops: Option<u32>,
    /// MiB/s; gp3 only.
    pub throughput_mibps: Option<u32>,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// With which key.
    pub kms_key_id: Option<String>,
    /// `creating`, `available`, `in-use`, `deleting`, `deleted`, `error`.
    pub state: String,
    /// What it is attached to; several with multi-attach.
    pub attachments: Vec<VolumeAttachment>,
    /// Tags.
    pub tags: Vec<Tag>,
    /// Whether several instances may hold it.
    pub multi_attach: bool,
    /// The Outpost it is on.
    pub outpost_arn: Option<String>,
    /// The snapshot it was made from.
    pub snapshot: Option<SnapshotId>,
}

/// Makes a volume, or finds the one that the same token made.
///
/// # Errors
/// [`AwsError`]; `Invalid` for a blank volume without a size.
pub async fn create_volume(account: &Account, new: &NewVolume) -> Result<VolumeId, AwsError> {
    let asked = match &new.snapshot {
        Some(snapshot) => Asked::new("ec2:CreateVolume", "snapshot", snapshot.as_str()),
        None => Asked::new("ec2:CreateVolume", "blank volume in zone", &new.availability_zone),
    };
    if new.snapshot.is_none() && new.size_gib.is_none() {
        return Err(asked.invalid("NoSize", "a blank volume needs a size"));
    }
    let (iops, throughput) = accepted(&new.volume_type, new.iops, new.throughput_mibps);
    let reply = account
        .call(|| async {
            let call = account.ec2().create_volume();
            let call = call.set_snapshot_id(new.snapshot.as_ref().map(ToString::to_string));
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

/// A volume with all that is known of it.
///
/// # Errors
/// [`AwsError::NotFound`], …
pub async fn describe_volume(account: &Account, volume: &VolumeId) -> Result<DescribedVolume, AwsError> {
    let asked = Asked::new("ec2:DescribeVolumes", "volume", volume.as_str());
    described(&asked, find(account, volume).await?)
}

/// The state of a volume: `creating`, `available`, `in-use`, `deleting`, `deleted`, `error`.
///
/// # Errors
/// [`AwsError::NotFound`], …
pub async fn volume_state(account: &Account, volume: &VolumeId) -> Result<String, AwsError> {
    let asked = Asked::new("ec2:DescribeVolumes", "volume", volume.as_str());
    let found = find(account, volume).await?;
    found.state.map(|state| state.as_str().to_owned()).ok_or_else(|| asked.lacks("State"))
}

/// The Marketplace product codes of a volume: only its owner's instances may attach it. DescribeVolumes does not tell.
///
/// # Errors
/// [`AwsError::NotFound`], …
pub async fn volume_product_codes(account: &Account, volume: &VolumeId) -> Result<Vec<String>, AwsError> {
    let asked = Asked::new("ec2:DescribeVolumeAttribute", "volume", volume.as_str());
    let reply = account
        .call(|| async {
            let call = account.ec2().describe_volume_attribute().volume_id(volume.as_str());
            let call = call.attribute(VolumeAttributeName::ProductCodes);
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    let codes = reply.product_codes.unwrap_or_default().into_iter();
    Ok(codes.filter_map(|code| code.product_code_id).collect())
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

async fn find(account: &Account, volume: &VolumeId) -> Result<Volume, AwsError> {
    let asked = Asked::new("ec2:DescribeVolumes", "volume", volume.as_str());
    let reply = account
        .call(|| async {
            let call = account.ec2().describe_volumes().volume_ids(volume.as_str());
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    let found = reply.volumes.unwrap_or_default().into_iter().next();
    found.ok_or_else(|| AwsError::NotFound { what: "volume", id: volume.to_string() })
}

/// A volume in our words.
pub(super) fn described(asked: &Asked<'_>, volume: Volume) -> Result<DescribedVolume, AwsError> {
    let id = volume.volume_id.ok_or_else(|| asked.lacks("VolumeId"))?;
    Ok(DescribedVolume {
        zone: volume.availability_zone.ok_or_else(|| asked.lacks("AvailabilityZone"))?,
        size_gib: volume
            .size
            .and_then(|gib| u32::try_from(gib).ok())
            .ok_or_else(|| asked.lacks(format!("the size of {id}")))?,
        id: parsed(asked, &id)?,
        volume_type: volume
            .volume_type
            .map_or_else(|| "standard".to_owned(), |kind| kind.as_str().to_owned()),
        iops: volume.iops.and_then(|n| u32::try_from(n).ok()),
        throughput_mibps: volume.throughput.and_then(|n| u32::try_from(n).ok()),
        encrypted: volume.encrypted.unwrap_or(false),
        kms_key_id: volume.kms_key_id,
        state: volume.state.map(|state| state.as_str().to_owned()).ok_or_else(|| asked.lacks("State"))?,
        attachments: volume.attachments.unwrap_or_default().into_iter().map(attachment).collect(),
        tags: told(volume.tags),
        multi_attach: volume.multi_attach_enabled.unwrap_or(false),
        outpost_arn: volume.outpost_arn.filter(|arn| !arn.is_empty()),
        snapshot: volume.snapshot_id.and_then(|id| id.parse().ok()),
    })
}

fn attachment(attachment: Ec2Attachment) -> VolumeAttachment {
    VolumeAttachment {
        instance: attachment.instance_id.and_then(|id| id.parse().ok()),
        device: attachment.device.unwrap_or_default(),
        state: attachment.state.map(|state| state.as_str().to_owned()).unwrap_or_default(),
        delete_on_termination: attachment.delete_on_termination.unwrap_or(false),
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
