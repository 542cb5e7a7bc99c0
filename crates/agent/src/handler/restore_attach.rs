//! Attaching restored volumes to an instance that exists.
//!
//! Runs twice: a volume that the instance has already is taken as it is, at the device it has.

use std::sync::Arc;

use snapferry_aws::ec2::DescribedInstance;
use snapferry_aws::{Account, AwsError, ec2};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::spec::AttachTo;
use snapferry_types::{InstanceId, VolumeId};
use tokio_util::sync::CancellationToken;

use super::restore_volumes::Restored;
use crate::context::TaskContext;

/// Attaches the volumes at the devices that were asked for, or free ones, and sets what goes with the instance.
///
/// # Errors
/// [`TransferError`] that names volume and device.
pub(super) async fn run(
    context: &Arc<TaskContext>,
    account: &Account,
    to: &AttachTo,
    restored: &[Restored],
) -> Result<(), TransferError> {
    context.enter("attach volumes");
    let described = ec2::describe_instance(account, &to.instance).await?;
    let mut goes_along = Vec::new();
    for (one, device) in restored.iter().zip(devices(to, &described, restored)?) {
        ensure_attached(account, &one.volume, &to.instance, &device, context.stop.token()).await?;
        if one.config.delete_on_termination {
            goes_along.push((device, true));
        }
    }
    ec2::modify_delete_on_termination(account, &to.instance, &goes_along).await?;
    Ok(())
}

/// A device for each volume, in their order.
fn devices(
    to: &AttachTo,
    described: &DescribedInstance,
    restored: &[Restored],
) -> Result<Vec<String>, TransferError> {
    let has = |volume: &VolumeId| {
        let of = described.config.volumes.iter().find(|one| one.volume_id == *volume)?;
        Some(of.device_name.clone())
    };
    let wished = |one: &Restored| {
        let mut named = to.devices.iter();
        named.find(|(volume, _)| *volume == one.config.volume_id).map(|(_, device)| device.clone())
    };
    let mut taken: Vec<String> =
        described.config.volumes.iter().map(|volume| volume.device_name.clone()).collect();
    taken.extend(to.devices.iter().map(|(_, device)| device.clone()));
    let mut devices = Vec::with_capacity(restored.len());
    for one in restored {
        let device = match has(&one.volume).or_else(|| wished(one)) {
            Some(device) => device,
            None => {
                let free = ec2::free_device_name(&taken, described.config.os);
                let free = free.ok_or_else(|| {
                    let message = format!("{} has no device name left for {}", to.instance, one.volume);
                    TransferError::new(ErrorClass::Invalid, message)
                })?;
                taken.push(free.clone());
                free
            }
        };
        devices.push(device);
    }
    Ok(devices)
}

/// Attaches a volume, unless the instance has it there, and waits for it.
///
/// # Errors
/// [`TransferError`]; `Invalid` when it is attached elsewhere.
pub(super) async fn ensure_attached(
    account: &Account,
    volume: &VolumeId,
    instance: &InstanceId,
    device: &str,
    stop: &CancellationToken,
) -> Result<(), TransferError> {
    let attachments = ec2::describe_volume(account, volume).await?.attachments;
    match attachments.first() {
        Some(one) if one.state == "detaching" => {
            ec2::wait_volume_detached(account, volume, stop).await?;
        }
        Some(one) if one.instance.as_ref() == Some(instance) && one.device == device => {
            ec2::wait_volume_attached(account, volume, instance, stop).await?;
            return Ok(());
        }
        Some(one) => {
            let at = one.instance.as_ref().map_or("an AWS service", InstanceId::as_str);
            let message = format!(
                "{volume} is attached to {at} at {}, not to {instance} at {device}: somebody has moved it",
                one.device
            );
            return Err(TransferError::new(ErrorClass::Invalid, message));
        }
        None => {}
    }
    match ec2::attach_volume(account, volume, instance, device).await {
        Ok(()) => {}
        // The reply of an earlier try was lost.
        Err(error @ AwsError::Busy { .. }) => {
            let now = ec2::describe_volume(account, volume).await?.attachments;
            if !now.iter().any(|one| one.instance.as_ref() == Some(instance) && one.device == device) {
                return Err(error.into());
            }
        }
        Err(error) => return Err(error.into()),
    }
    ec2::wait_volume_attached(account, volume, instance, stop).await?;
    Ok(())
}
