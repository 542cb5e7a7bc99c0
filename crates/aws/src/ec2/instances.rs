//! Instances as they are: the configuration that goes beside a recovery point, and lists for discovery.

use aws_sdk_ec2::types::{Instance, Placement};
use snapferry_types::aws::Tag;
use snapferry_types::instance::{
    INSTANCE_CONFIG_VERSION, InstanceConfig, NetworkInterface, OsFamily, VolumeConfig,
};
use snapferry_types::{InstanceId, VolumeId};

use crate::ec2::paging::all_pages;
use crate::ec2::snapshots::parsed;
use crate::ec2::tags::told;
use crate::ec2::volumes::{DescribedVolume, described};
use crate::error::{Asked, AwsError};
use crate::session::Account;

/// Instances in a page of [`list_instances`].
const PAGE_INSTANCES: i32 = 200;

/// An instance and what could not be taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedInstance {
    /// Its configuration, volumes by device name.
    pub config: InstanceConfig,
    /// `running`, `stopped`, …
    pub state: String,
    /// What a backup will leave out or fail at, in sentences for the job.
    pub notes: Vec<String>,
    /// Its EBS volumes as they are, with state and attachments, by device name as in the configuration.
    pub volumes: Vec<DescribedVolume>,
}

/// An instance in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceSummary {
    /// Its id.
    pub instance: InstanceId,
    /// Its `Name` tag.
    pub name: Option<String>,
    /// `running`, `stopped`, …
    pub state: String,
    /// Such as `m6i.large`.
    pub instance_type: String,
    /// Operating system.
    pub os: OsFamily,
    /// Its zone.
    pub availability_zone: String,
    /// Its EBS volumes.
    pub volumes: Vec<VolumeId>,
    /// All tags.
    pub tags: Vec<Tag>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstancePage {
    /// The instances; may be none.
    pub instances: Vec<InstanceSummary>,
    /// Token of the next page; `None` at the end.
    pub next: Option<String>,
}

/// The configuration of an instance with all its EBS volumes.
///
/// # Errors
/// [`AwsError::NotFound`] for an unknown or terminated instance; [`AwsError::Invalid`] for one without EBS volumes.
pub async fn describe_instance(account: &Account, id: &InstanceId) -> Result<DescribedInstance, AwsError> {
    let asked = Asked::new("ec2:DescribeInstances", "instance", id.as_str());
    let instance = find(account, id).await?;
    let state = state_of(&instance);
    if state == "terminated" {
        return Err(AwsError::NotFound { what: "instance", id: format!("{id} (terminated)") });
    }
    let found = volumes_of(account, &asked, &instance).await?;
    let (config, mut notes) = config_of(account, &asked, instance, &found)?;
    if config.volumes.is_empty() {
        return Err(asked.invalid("NoVolumes", "it has no EBS volumes: there is nothing to back up"));
    }
    let of = |wanted: &VolumeId| found.iter().find(|volume| volume.id == *wanted).cloned();
    let volumes: Vec<_> = config.volumes.iter().filter_map(|volume| of(&volume.volume_id)).collect();
    for volume in volumes.iter().filter(|volume| volume.state == "error") {
        notes.push(format!("volume {} is in state error: AWS takes no snapshots of it", volume.id));
    }
    Ok(DescribedInstance { config, state, notes, volumes })
}

/// The state of an instance: `pending`, `running`, `stopped`, …
///
/// # Errors
/// [`AwsError::NotFound`], …
pub async fn instance_state(account: &Account, id: &InstanceId) -> Result<String, AwsError> {
    Ok(state_of(&find(account, id).await?))
}

/// A page of the account's instances in the region, terminated ones left out.
///
/// # Errors
/// [`AwsError`].
pub async fn list_instances(account: &Account, page: Option<String>) -> Result<InstancePage, AwsError> {
    let asked = Asked::new("ec2:DescribeInstances", "instances of account", account.account().as_str());
    let reply = account
        .call(|| async {
            let call = account.ec2().describe_instances().max_results(PAGE_INSTANCES);
            call.set_next_token(page.clone()).send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    let found = reply.reservations.unwrap_or_default().into_iter();
    let found = found.flat_map(|reservation| reservation.instances.unwrap_or_default());
    let instances = found
        .filter(|instance| !matches!(state_of(instance).as_str(), "terminated" | "shutting-down"))
        .map(|instance| summary_of(&asked, instance))
        .collect::<Result<_, _>>()?;
    Ok(InstancePage { instances, next: reply.next_token.filter(|token| !token.is_empty()) })
}

async fn find(account: &Account, id: &InstanceId) -> Result<Instance, AwsError> {
    let asked = Asked::new("ec2:DescribeInstances", "instance", id.as_str());
    let reply = account
        .call(|| async {
            let call = account.ec2().describe_instances().instance_ids(id.as_str());
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    let found = reply.reservations.unwrap_or_default().into_iter();
    let mut found = found.flat_map(|reservation| reservation.instances.unwrap_or_default());
    found.next().ok_or_else(|| AwsError::NotFound { what: "instance", id: id.to_string() })
}

async fn volumes_of(
    account: &Account,
    asked: &Asked<'_>,
    instance: &Instance,
) -> Result<Vec<DescribedVolume>, AwsError> {
    let ids: Vec<String> = instance
        .block_device_mappings()
        .iter()
        .filter_map(|mapping| mapping.ebs()?.volume_id().map(ToOwned::to_owned))
        .collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let asked = Asked::new("ec2:DescribeVolumes", "volumes of instance", asked.id);
    let found = all_pages(asked, async |token: Option<String>| {
        let reply = account
            .call(|| async {
                let call = account.ec2().describe_volumes().set_volume_ids(Some(ids.clone()));
                call.set_next_token(token.clone()).send().await.map_err(|error| asked.sort(&error))
            })
            .await?;
        Ok((reply.volumes.unwrap_or_default(), reply.next_token))
    })
    .await?;
    found.into_iter().map(|volume| described(&asked, volume)).collect()
}

fn config_of(
    account: &Account,
    asked: &Asked<'_>,
    instance: Instance,
    volumes: &[DescribedVolume],
) -> Result<(InstanceConfig, Vec<String>), AwsError> {
    let mut notes = Vec::new();
    let mut mapped = Vec::new();
    for mapping in instance.block_device_mappings.clone().unwrap_or_default() {
        let device_name = mapping.device_name.unwrap_or_default();
        let Some((id, ebs)) = mapping.ebs.and_then(|ebs| Some((ebs.volume_id.clone()?, ebs))) else {
            notes.push(format!("{device_name} is not an EBS volume (instance store?) and is left out"));
            continue;
        };
        let volume = volumes.iter().find(|volume| volume.id.as_str() == id);
        let volume = volume.ok_or_else(|| AwsError::NotFound { what: "volume", id: id.clone() })?;
        mapped.push(volume_config(device_name, volume, ebs.delete_on_termination.unwrap_or(false)));
    }
    mapped.sort_by(|a, b| a.device_name.cmp(&b.device_name));
    if instance.instance_lifecycle.is_some() {
        notes.push("it is a spot or scheduled instance; a restore makes an on-demand one".to_owned());
    }
    let id = instance.instance_id.as_deref().ok_or_else(|| asked.lacks("InstanceId"))?;
    let os = os_of(&instance);
    let codes = instance.product_codes().iter().filter_map(|code| code.product_code_id());
    let product_codes = codes.map(ToOwned::to_owned).collect();
    let placement = instance.placement.unwrap_or_else(|| Placement::builder().build());
    let mut network_interfaces: Vec<NetworkInterface> =
        instance.network_interfaces.unwrap_or_default().into_iter().filter_map(interface).collect();
    network_interfaces.sort_by_key(|interface| interface.device_index);
    let config = InstanceConfig {
        version: INSTANCE_CONFIG_VERSION,
        instance_id: parsed(asked, id)?,
        region: account.region().clone(),
        availability_zone: placement.availability_zone.ok_or_else(|| asked.lacks("AvailabilityZone"))?,
        tenancy: placement.tenancy.map(|tenancy| tenancy.as_str().to_owned()),
        placement_group: placement.group_name.filter(|name| !name.is_empty()),
        instance_type: instance
            .instance_type
            .map(|kind| kind.as_str().to_owned())
            .ok_or_else(|| asked.lacks("InstanceType"))?,
        os,
        architecture: instance
            .architecture
            .map_or_else(|| "x86_64".to_owned(), |architecture| architecture.as_str().to_owned()),
        boot_mode: instance.boot_mode.map(|mode| mode.as_str().to_owned()),
        image_id: instance.image_id,
        virtualization_type: instance.virtualization_type.map(|kind| kind.as_str().to_owned()),
        ena_support: instance.ena_support.unwrap_or(false),
        key_name: instance.key_name.filter(|name| !name.is_empty()),
        iam_instance_profile_arn: instance.iam_instance_profile.and_then(|profile| profile.arn),
        ebs_optimized: instance.ebs_optimized.unwrap_or(false),
        root_device_name: instance.root_device_name.ok_or_else(|| asked.lacks("RootDeviceName"))?,
        network_interfaces,
        product_codes,
        outpost_arn: instance.outpost_arn.filter(|arn| !arn.is_empty()),
        tags: told(instance.tags),
        volumes: mapped,
    };
    Ok((config, notes))
}

fn volume_config(device_name: String, volume: &DescribedVolume, delete_on_termination: bool) -> VolumeConfig {
    VolumeConfig {
        volume_id: volume.id.clone(),
        device_name,
        size_gib: volume.size_gib,
        volume_type: volume.volume_type.clone(),
        iops: volume.iops,
        throughput_mibps: volume.throughput_mibps,
        encrypted: volume.encrypted,
        kms_key_id: volume.kms_key_id.clone(),
        delete_on_termination,
        tags: volume.tags.clone(),
    }
}

fn interface(interface: aws_sdk_ec2::types::InstanceNetworkInterface) -> Option<NetworkInterface> {
    let attachment = interface.attachment.as_ref();
    let index = attachment.and_then(|attachment| attachment.device_index).unwrap_or(0);
    Some(NetworkInterface {
        device_index: u32::try_from(index).ok()?,
        subnet_id: interface.subnet_id?,
        vpc_id: interface.vpc_id,
        private_ip: interface.private_ip_address,
        security_group_ids: interface
            .groups
            .unwrap_or_default()
            .into_iter()
            .filter_map(|group| group.group_id)
            .collect(),
        delete_on_termination: interface
            .attachment
            .and_then(|attachment| attachment.delete_on_termination)
            .unwrap_or(false),
    })
}

fn summary_of(asked: &Asked<'_>, instance: Instance) -> Result<InstanceSummary, AwsError> {
    let state = state_of(&instance);
    let os = os_of(&instance);
    let tags = told(instance.tags);
    let id = instance.instance_id.ok_or_else(|| asked.lacks("InstanceId"))?;
    Ok(InstanceSummary {
        instance: parsed(asked, &id)?,
        name: tags.iter().find(|tag| tag.key == "Name").map(|tag| tag.value.clone()),
        state,
        instance_type: instance.instance_type.map(|kind| kind.as_str().to_owned()).unwrap_or_default(),
        os,
        availability_zone: instance
            .placement
            .and_then(|placement| placement.availability_zone)
            .unwrap_or_default(),
        volumes: instance
            .block_device_mappings
            .unwrap_or_default()
            .into_iter()
            .filter_map(|mapping| mapping.ebs?.volume_id?.parse().ok())
            .collect(),
        tags,
    })
}

fn state_of(instance: &Instance) -> String {
    let state = instance.state.as_ref().and_then(|state| state.name.as_ref());
    state.map_or_else(|| "unknown".to_owned(), |name| name.as_str().to_owned())
}

fn os_of(instance: &Instance) -> OsFamily {
    let is_windows =
        instance.platform.as_ref().is_some_and(|platform| platform.as_str().eq_ignore_ascii_case("windows"));
    if is_windows { OsFamily::Windows } else { OsFamily::Linux }
}
