//! Starting an instance from an image over restored snapshots.

use std::time::Duration;

use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, IamInstanceProfileSpecification,
    InstanceNetworkInterfaceSpecification, InstanceType, Placement, ResourceType, Tenancy,
};
use snapferry_types::InstanceId;
use snapferry_types::aws::Tag;
use snapferry_types::instance::NetworkInterface;
use tokio_util::sync::CancellationToken;

use crate::ec2::instances::instance_state;
use crate::ec2::snapshots::parsed;
use crate::ec2::tags::specification;
use crate::ec2::wait::Wait;
use crate::error::{Asked, AwsError};
use crate::session::Account;

const LONGEST_WAIT: Duration = Duration::from_secs(20 * 60);

/// An instance to be started. Private addresses are left to AWS unless wished for: the old ones may be in use.
/// RunInstances always starts; whoever wants it stopped stops it afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInstance {
    /// The image.
    pub image_id: String,
    /// Such as `m6i.large`.
    pub instance_type: String,
    /// Interfaces by device index; the first gives the subnet and thereby the zone. None leaves it to AWS.
    pub network_interfaces: Vec<NetworkInterface>,
    /// Private address of the primary interface.
    pub private_ip: Option<String>,
    /// Whether the interfaces get the private addresses that they are described with.
    pub keep_private_ips: bool,
    /// Key pair.
    pub key_name: Option<String>,
    /// ARN or name of the instance profile.
    pub iam_instance_profile: Option<String>,
    /// Devices whose volumes are encrypted with another key than the image's snapshots are (or with one at all), and
    /// the keys.
    pub volume_keys: Vec<(String, String)>,
    /// Zone, where no interface decides it.
    pub availability_zone: Option<String>,
    /// `default`, `dedicated`; a host is not chosen again.
    pub tenancy: Option<String>,
    /// Placement group.
    pub placement_group: Option<String>,
    /// EBS optimisation.
    pub ebs_optimized: bool,
    /// Tags of the instance from the start; those of its volumes follow by [`create_tags`](super::create_tags).
    pub tags: Vec<Tag>,
    /// The same token gives the same instance again: derive it from the ledger entry (64 characters at most).
    pub client_token: String,
}

/// Starts one instance, or finds the one that the same token started.
///
/// # Errors
/// [`AwsError`]; `QuotaExceeded` when the zone has no capacity.
pub async fn run_instance(account: &Account, new: &NewInstance) -> Result<InstanceId, AwsError> {
    let asked = Asked::new("ec2:RunInstances", "image", &new.image_id);
    let placement = Placement::builder()
        .set_availability_zone(new.availability_zone.clone().filter(|_| new.network_interfaces.is_empty()))
        .set_tenancy(new.tenancy.as_deref().filter(|tenancy| *tenancy == "dedicated").map(Tenancy::from))
        .set_group_name(new.placement_group.clone())
        .build();
    let has_placement = placement.availability_zone.is_some()
        || placement.tenancy.is_some()
        || placement.group_name.is_some();
    let profile = new.iam_instance_profile.as_deref().map(profile);
    let keys: Vec<BlockDeviceMapping> = new.volume_keys.iter().map(key_mapping).collect();
    let reply = account
        .call(|| async {
            let call = account.ec2().run_instances().image_id(&new.image_id).min_count(1).max_count(1);
            let call = call.instance_type(InstanceType::from(new.instance_type.as_str()));
            let call = call.set_key_name(new.key_name.clone()).set_iam_instance_profile(profile.clone());
            let call = call.set_placement(has_placement.then(|| placement.clone()));
            let call = call.set_ebs_optimized(new.ebs_optimized.then_some(true));
            let call = call.set_tag_specifications(specification(ResourceType::Instance, &new.tags));
            let call = call.set_block_device_mappings(Some(keys.clone()).filter(|keys| !keys.is_empty()));
            let call = call.client_token(&new.client_token);
            let call = match new.network_interfaces.as_slice() {
                [] => call.set_private_ip_address(new.private_ip.clone()),
                [only] => {
                    let groups = Some(only.security_group_ids.clone()).filter(|ids| !ids.is_empty());
                    let call = call.subnet_id(&only.subnet_id).set_security_group_ids(groups);
                    call.set_private_ip_address(private_ip(new, only))
                }
                several => {
                    let interfaces = several.iter().map(|one| interface(one, private_ip(new, one)));
                    call.set_network_interfaces(Some(interfaces.collect()))
                }
            };
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    let started = reply.instances.unwrap_or_default().into_iter().next();
    let id = started.and_then(|instance| instance.instance_id).ok_or_else(|| asked.lacks("InstanceId"))?;
    parsed(&asked, &id)
}

/// Waits until the instance runs. That its system has booted is not looked at.
///
/// # Errors
/// [`AwsError::Failed`] when it stopped or terminated instead.
pub async fn wait_instance_running(
    account: &Account,
    instance: &InstanceId,
    stop: &CancellationToken,
) -> Result<(), AwsError> {
    let mut wait = Wait::new("instance", instance.as_str(), LONGEST_WAIT);
    loop {
        let state = match instance_state(account, instance).await {
            Ok(state) => state,
            Err(error) => wait.passing_of_newborn(error)?,
        };
        match state.as_str() {
            "running" => return Ok(()),
            // Right after the order to start it, the state before may still be seen.
            "stopped" | "stopping" if wait.is_young() => wait.pause(state, stop).await?,
            "terminated" | "shutting-down" | "stopped" | "stopping" => {
                let message = "it did not start; its state reason in the console says why (often: no access to \
                               the key of a volume)";
                return Err(AwsError::Failed {
                    what: "instance",
                    id: instance.to_string(),
                    state,
                    message: message.to_owned(),
                });
            }
            _ => wait.pause(state, stop).await?,
        }
    }
}

/// Terminates an instance; one that is gone is done.
///
/// # Errors
/// [`AwsError`].
pub async fn terminate_instance(account: &Account, instance: &InstanceId) -> Result<(), AwsError> {
    let asked = Asked::new("ec2:TerminateInstances", "instance", instance.as_str());
    let gone = account
        .call(|| async {
            let call = account.ec2().terminate_instances().instance_ids(instance.as_str());
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await;
    match gone {
        Ok(_) | Err(AwsError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// An instance profile by what names it.
pub(crate) fn profile(arn_or_name: &str) -> IamInstanceProfileSpecification {
    let profile = IamInstanceProfileSpecification::builder();
    if arn_or_name.starts_with("arn:") { profile.arn(arn_or_name) } else { profile.name(arn_or_name) }.build()
}

/// RegisterImage takes no keys; this is where AWS has them.
fn key_mapping((device, key): &(String, String)) -> BlockDeviceMapping {
    let ebs = EbsBlockDevice::builder().encrypted(true).kms_key_id(key).build();
    BlockDeviceMapping::builder().device_name(device).ebs(ebs).build()
}

/// The address that an interface is to get.
fn private_ip(new: &NewInstance, interface: &NetworkInterface) -> Option<String> {
    let wished = new.private_ip.clone().filter(|_| interface.device_index == 0);
    wished.or_else(|| interface.private_ip.clone().filter(|_| new.keep_private_ips))
}

fn interface(
    interface: &NetworkInterface,
    private_ip: Option<String>,
) -> InstanceNetworkInterfaceSpecification {
    InstanceNetworkInterfaceSpecification::builder()
        .set_device_index(i32::try_from(interface.device_index).ok())
        .subnet_id(&interface.subnet_id)
        .set_groups(Some(interface.security_group_ids.clone()).filter(|ids| !ids.is_empty()))
        .set_private_ip_address(private_ip)
        .delete_on_termination(interface.delete_on_termination)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_left_to_aws_unless_wished_for() {
        let described = |device_index, ip: &str| NetworkInterface {
            device_index,
            subnet_id: "subnet-1".to_owned(),
            vpc_id: None,
            private_ip: Some(ip.to_owned()),
            security_group_ids: Vec::new(),
            delete_on_termination: true,
        };
        let (first, second) = (described(0, "10.0.0.5"), described(1, "10.0.0.6"));
        let mut new = NewInstance {
            image_id: "ami-1".to_owned(),
            instance_type: "m6i.large".to_owned(),
            network_interfaces: vec![first.clone(), second.clone()],
            private_ip: None,
            keep_private_ips: false,
            key_name: None,
            iam_instance_profile: None,
            volume_keys: Vec::new(),
            availability_zone: None,
            tenancy: None,
            placement_group: None,
            ebs_optimized: false,
            tags: Vec::new(),
            client_token: "token".to_owned(),
        };
        assert_eq!((private_ip(&new, &first), private_ip(&new, &second)), (None, None));
        new.private_ip = Some("10.0.0.99".to_owned());
        assert_eq!(private_ip(&new, &first).as_deref(), Some("10.0.0.99"));
        assert_eq!(private_ip(&new, &second), None);
        new.keep_private_ips = true;
        assert_eq!(private_ip(&new, &first).as_deref(), Some("10.0.0.99"), "the wish goes before");
        assert_eq!(interface(&second, private_ip(&new, &second)).private_ip_address(), Some("10.0.0.6"));
    }
}
