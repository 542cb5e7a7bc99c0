//! Instances stopped and started, and what goes with them when they end.

use std::time::Duration;

use aws_sdk_ec2::types::{EbsInstanceBlockDeviceSpecification, InstanceBlockDeviceMappingSpecification};
use snapferry_types::InstanceId;
use tokio_util::sync::CancellationToken;

use crate::ec2::instances::instance_state;
use crate::ec2::wait::Wait;
use crate::error::{Asked, AwsError};
use crate::session::Account;

/// A system may take its time to shut down; AWS pulls the plug after some minutes.
const LONGEST_WAIT: Duration = Duration::from_secs(20 * 60);

/// Stops an instance; one that is stopped is done. Returns when the order is accepted.
///
/// # Errors
/// [`AwsError`]; `Busy` while it starts.
pub async fn stop_instance(account: &Account, instance: &InstanceId) -> Result<(), AwsError> {
    let asked = Asked::new("ec2:StopInstances", "instance", instance.as_str());
    account
        .call(|| async {
            let call = account.ec2().stop_instances().instance_ids(instance.as_str());
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await
        .map(|_| ())
}

/// Starts a stopped instance; one that runs is done. Returns when the order is accepted; wait with
/// [`wait_instance_running`](super::wait_instance_running).
///
/// # Errors
/// [`AwsError`]; `Busy` while it stops, `QuotaExceeded` when the zone has no capacity.
pub async fn start_instance(account: &Account, instance: &InstanceId) -> Result<(), AwsError> {
    let asked = Asked::new("ec2:StartInstances", "instance", instance.as_str());
    account
        .call(|| async {
            let call = account.ec2().start_instances().instance_ids(instance.as_str());
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await
        .map(|_| ())
}

/// Waits until the instance is stopped.
///
/// # Errors
/// [`AwsError::Failed`] when it is terminated instead.
pub async fn wait_instance_stopped(
    account: &Account,
    instance: &InstanceId,
    stop: &CancellationToken,
) -> Result<(), AwsError> {
    let mut wait = Wait::new("instance", instance.as_str(), LONGEST_WAIT);
    loop {
        let state = match instance_state(account, instance).await {
            Ok(state) => state,
            Err(error) => wait.passing(error)?,
        };
        match state.as_str() {
            "stopped" => return Ok(()),
            "terminated" | "shutting-down" => {
                let message = "it ends instead of stopping".to_owned();
                return Err(AwsError::Failed { what: "instance", id: instance.to_string(), state, message });
            }
            _ => wait.pause(state, stop).await?,
        }
    }
}

/// Says for attached volumes, by their device names, whether they go with the instance.
///
/// # Errors
/// [`AwsError`].
pub async fn modify_delete_on_termination(
    account: &Account,
    instance: &InstanceId,
    devices: &[(String, bool)],
) -> Result<(), AwsError> {
    if devices.is_empty() {
        return Ok(());
    }
    let asked = Asked::new("ec2:ModifyInstanceAttribute", "instance", instance.as_str());
    let mappings: Vec<InstanceBlockDeviceMappingSpecification> = devices
        .iter()
        .map(|(device, delete)| {
            let ebs = EbsInstanceBlockDeviceSpecification::builder().delete_on_termination(*delete).build();
            InstanceBlockDeviceMappingSpecification::builder().device_name(device).ebs(ebs).build()
        })
        .collect();
    account
        .call(|| async {
            let call = account.ec2().modify_instance_attribute().instance_id(instance.as_str());
            let call = call.set_block_device_mappings(Some(mappings.clone()));
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await
        .map(|_| ())
}
