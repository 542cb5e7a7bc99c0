//! Images over restored snapshots; they live for the minutes that an instance takes to start.

use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::types::{
    ArchitectureValues, BlockDeviceMapping, BootModeValues, EbsBlockDevice, Image, ResourceType, VolumeType,
};
use snapferry_types::SnapshotId;
use snapferry_types::aws::Tag;

use crate::ec2::tags::specification;
use crate::ec2::volumes::accepted;
use crate::error::{Asked, AwsError};
use crate::session::Account;

/// A volume of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageVolume {
    /// Such as `/dev/xvda`.
    pub device_name: String,
    /// Its content.
    pub snapshot: SnapshotId,
    /// Size in GiB.
    pub size_gib: u32,
    /// `gp3`, `io2`, …
    pub volume_type: String,
    /// As described; gp2's are dropped.
    pub iops: Option<u32>,
    /// MiB/s; gp3 only.
    pub throughput_mibps: Option<u32>,
    /// Whether the volume goes with the instance.
    pub delete_on_termination: bool,
}

/// An image to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImage {
    /// Unique in account and region, 3 to 128 characters: derive it from the ledger entry.
    pub name: String,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// `uefi`, `legacy-bios` or `uefi-preferred`; AWS's default when absent.
    pub boot_mode: Option<String>,
    /// `hvm` when absent.
    pub virtualization_type: Option<String>,
    /// Enhanced networking (ENA).
    pub ena_support: bool,
    /// Such as `/dev/xvda`; must be one of the volumes.
    pub root_device_name: String,
    /// All volumes, root first or not.
    pub volumes: Vec<ImageVolume>,
    /// Tags from the start.
    pub tags: Vec<Tag>,
}

/// Registers an image. The call has no client token, but the name is unique: after an error that is
/// [`AwsError::retryable`] look with [`find_by_ledger_tag`](super::find_by_ledger_tag) before repeating it.
///
/// # Errors
/// [`AwsError`].
pub async fn register_image(account: &Account, new: &NewImage) -> Result<String, AwsError> {
    let asked = Asked::new("ec2:RegisterImage", "image", &new.name);
    if !new.volumes.iter().any(|volume| volume.device_name == new.root_device_name) {
        return Err(asked.invalid("NoRootVolume", format!("{} is none of the volumes", new.root_device_name)));
    }
    let mappings: Vec<BlockDeviceMapping> = new.volumes.iter().map(mapping).collect();
    let reply = account
        .call_without_token(|| async {
            let call = account.ec2().register_image().name(&new.name);
            let call = call.architecture(ArchitectureValues::from(new.architecture.as_str()));
            let call = call.set_boot_mode(new.boot_mode.as_deref().map(BootModeValues::from));
            let call = call.virtualization_type(new.virtualization_type.as_deref().unwrap_or("hvm"));
            let call = call.set_ena_support(new.ena_support.then_some(true));
            let call = call.root_device_name(&new.root_device_name);
            let call = call.set_block_device_mappings(Some(mappings.clone()));
            let call = call.set_tag_specifications(specification(ResourceType::Image, &new.tags));
            let once = aws_sdk_ec2::config::Builder::new().retry_config(RetryConfig::disabled());
            call.customize().config_override(once).send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    reply.image_id.ok_or_else(|| asked.lacks("ImageId"))
}

async fn describe(account: &Account, image: &str) -> Result<Image, AwsError> {
    let asked = Asked::new("ec2:DescribeImages", "image", image);
    let reply = account
        .call(|| async {
            let call = account.ec2().describe_images().image_ids(image);
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    let found = reply.images.unwrap_or_default().into_iter().next();
    found.ok_or_else(|| AwsError::NotFound { what: "image", id: image.to_owned() })
}

/// Whether the image can be used; false while it is pending.
///
/// # Errors
/// [`AwsError::NotFound`]; [`AwsError::Failed`] when it never will be.
pub async fn image_available(account: &Account, image: &str) -> Result<bool, AwsError> {
    let found = describe(account, image).await?;
    let state = found.state.map(|state| state.as_str().to_owned()).unwrap_or_default();
    match state.as_str() {
        "available" => Ok(true),
        "pending" => Ok(false),
        _ => {
            let message = found.state_reason.and_then(|reason| reason.message).unwrap_or_default();
            Err(AwsError::Failed { what: "image", id: image.to_owned(), state, message })
        }
    }
}

/// The devices that an image gives to disks of the instance's own machine, which no snapshot holds.
///
/// # Errors
/// [`AwsError::NotFound`], …
pub async fn instance_store_devices(account: &Account, image: &str) -> Result<Vec<String>, AwsError> {
    let found = describe(account, image).await?;
    let mappings = found.block_device_mappings.unwrap_or_default().into_iter();
    let of_machine = mappings.filter(|mapping| mapping.virtual_name.is_some());
    Ok(of_machine.filter_map(|mapping| mapping.device_name).collect())
}

/// Deregisters an image; one that is gone is done. Its snapshots stay.
///
/// # Errors
/// [`AwsError`].
pub async fn deregister_image(account: &Account, image: &str) -> Result<(), AwsError> {
    let asked = Asked::new("ec2:DeregisterImage", "image", image);
    let gone = account
        .call(|| async {
            account.ec2().deregister_image().image_id(image).send().await.map_err(|error| asked.sort(&error))
        })
        .await;
    match gone {
        Ok(_) | Err(AwsError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn mapping(volume: &ImageVolume) -> BlockDeviceMapping {
    let (iops, throughput) = accepted(&volume.volume_type, volume.iops, volume.throughput_mibps);
    let ebs = EbsBlockDevice::builder()
        .snapshot_id(volume.snapshot.as_str())
        .set_volume_size(i32::try_from(volume.size_gib).ok())
        .volume_type(VolumeType::from(volume.volume_type.as_str()))
        .set_iops(iops)
        .set_throughput(throughput)
        .delete_on_termination(volume.delete_on_termination)
        .build();
    BlockDeviceMapping::builder().device_name(&volume.device_name).ebs(ebs).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_says_what_the_type_takes_and_what_goes_with_the_instance() {
        let volume = ImageVolume {
            device_name: "/dev/sdf".to_owned(),
            snapshot: "snap-1a".parse().unwrap(),
            size_gib: 100,
            volume_type: "gp2".to_owned(),
            iops: Some(300),
            throughput_mibps: None,
            delete_on_termination: false,
        };
        let mapped = mapping(&volume);
        assert_eq!(mapped.device_name(), Some("/dev/sdf"));
        let ebs = mapped.ebs().unwrap();
        assert_eq!((ebs.iops(), ebs.volume_size()), (None, Some(100)));
        assert_eq!(ebs.delete_on_termination(), Some(false));
        assert_eq!(ebs.snapshot_id(), Some("snap-1a"));
        assert_eq!(ebs.encrypted(), None, "a snapshot's own encryption holds");
    }
}
