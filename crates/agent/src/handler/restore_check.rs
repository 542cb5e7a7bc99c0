//! What a restore refers to is looked at before anything is made: zones, subnets, security groups, key pairs, devices.
//! Each error names the thing and the way out. Only looks; runs twice without a trace.

use std::net::Ipv4Addr;
use std::sync::Arc;

use snapferry_aws::ec2::{self, CheckedSubnet, DescribedInstance};
use snapferry_aws::{Account, AwsError};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::VolumeId;
use snapferry_types::instance::{InstanceConfig, NetworkInterface};
use snapferry_types::ledger::{ObjectKind, Purpose};
use snapferry_types::spec::{AttachTo, NewInstanceSpec};

use super::restore_source::Chosen;
use crate::context::TaskContext;

/// Where new volumes are to be.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    /// The availability zone.
    pub(super) name: String,
    /// The instance that they are attached to.
    pub(super) attach_to: Option<DescribedInstance>,
}

/// Where and as what a new instance is to start.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The wishes.
    pub(super) wanted: NewInstanceSpec,
    /// Interfaces that can be made, the primary one first.
    pub(super) interfaces: Vec<NetworkInterface>,
    /// The key pair.
    pub(super) key_name: Option<String>,
}

/// The zone of new volumes.
///
/// # Errors
/// [`TransferError`] that names the zone, the instance or the device.
pub(super) async fn volumes(
    context: &Arc<TaskContext>,
    account: &Account,
    wish: Option<&str>,
    attach: Option<&AttachTo>,
    original: &InstanceConfig,
    chosen: &[Chosen],
) -> Result<Zone, TransferError> {
    let Some(attach) = attach else {
        let zone = wish.unwrap_or(&original.availability_zone);
        let zones = ec2::zone_names(account).await?;
        if zones.iter().any(|known| known == zone) {
            return Ok(Zone { name: zone.to_owned(), attach_to: None });
        }
        let message = format!(
            "{} has no availability zone {zone}: choose one of {}",
            account.region(),
            zones.join(", ")
        );
        return Err(TransferError::new(ErrorClass::Invalid, message));
    };
    let described = ec2::describe_instance(account, &attach.instance)
        .await
        .map_err(|error| TransferError::from(error).context(format!("attach to {}", attach.instance)))?;
    if let Some(outpost) = &described.config.outpost_arn {
        let message = format!(
            "{} is on the Outpost {outpost}, and volumes are restored into the region: attach to another instance, or \
             restore without attaching",
            attach.instance
        );
        return Err(TransferError::new(ErrorClass::Invalid, message));
    }
    let zone = described.config.availability_zone.clone();
    if let Some(wish) = wish.filter(|wish| *wish != zone) {
        let message = format!(
            "{} is in {zone}, the volumes are wanted in {wish}: leave out the zone, or attach to another instance",
            attach.instance
        );
        return Err(TransferError::new(ErrorClass::Invalid, message));
    }
    if !matches!(described.state.as_str(), "running" | "stopped") {
        let message = format!(
            "{} is {}: volumes are attached when it runs or is stopped",
            attach.instance, described.state
        );
        let class =
            if described.state == "shutting-down" { ErrorClass::Invalid } else { ErrorClass::Unavailable };
        return Err(TransferError::new(class, message));
    }
    let ours: Vec<String> = context
        .ledger
        .all_of(Purpose::RestoreResult)
        .await
        .into_iter()
        .flat_map(|entry| entry.object_ids)
        .collect();
    for (n, (volume, device)) in attach.devices.iter().enumerate() {
        let refuse = |why: String| Err(TransferError::new(ErrorClass::Invalid, why));
        if !chosen.iter().any(|one| one.volume.volume_id == *volume) {
            return refuse(format!("a device is named for {volume}, which is not among the chosen volumes"));
        }
        if attach.devices.iter().skip(n + 1).any(|(_, other)| other == device) {
            return refuse(format!("device {device} is named twice"));
        }
        let at = described.config.volumes.iter().find(|one| one.device_name == *device);
        let is_foreign = |id: &VolumeId| !ours.iter().any(|one| one == id.as_str());
        if let Some(at) = at.filter(|at| is_foreign(&at.volume_id)) {
            return refuse(format!(
                "device {device} of {} is taken by {}: choose another",
                attach.instance, at.volume_id
            ));
        }
    }
    let is_foreign = |id: &VolumeId| !ours.iter().any(|one| one == id.as_str());
    let n_others = described.config.volumes.iter().filter(|one| is_foreign(&one.volume_id)).count();
    room(account, &described.config, n_others, chosen.len()).await?;
    Ok(Zone { name: zone, attach_to: Some(described) })
}

/// Whether an instance can have so many more volumes, as far as its type says.
pub(super) async fn room(
    account: &Account,
    instance: &InstanceConfig,
    n_volumes: usize,
    n_more: usize,
) -> Result<(), TransferError> {
    let kind = match ec2::describe_instance_type(account, &instance.instance_type).await {
        Ok(kind) => kind,
        Err(error) => {
            tracing::debug!(%error, "the instance type is not looked at");
            return Ok(());
        }
    };
    let Some(most) = kind.max_attachments.and_then(|most| usize::try_from(most).ok()) else { return Ok(()) };
    let n_interfaces = if kind.is_limit_shared { instance.network_interfaces.len() } else { 0 };
    if n_volumes + n_interfaces + n_more <= most {
        return Ok(());
    }
    let message = format!(
        "{} of type {} takes {most} attachments and has {n_volumes} volumes and {n_interfaces} network interfaces that \
         count: there is no room for {n_more} more; detach some, choose fewer volumes, or attach to another instance",
        instance.instance_id, kind.instance_type
    );
    Err(TransferError::new(ErrorClass::Invalid, message))
}

/// Where a new instance is to start.
///
/// # Errors
/// [`TransferError`] that names the subnet, the security group, the key pair, the address or the missing root volume.
pub(super) async fn instance(
    context: &Arc<TaskContext>,
    account: &Account,
    original: &InstanceConfig,
    wanted: &NewInstanceSpec,
    chosen: &[Chosen],
) -> Result<Place, TransferError> {
    let root = &original.root_device_name;
    if !chosen.iter().any(|one| one.config.device_name == *root) {
        let message = format!(
            "an instance needs its root volume ({root}), which is not among the chosen volumes: choose it too, or \
             restore to volumes"
        );
        return Err(TransferError::new(ErrorClass::Invalid, message));
    }
    let address = wanted.private_ip.as_ref().map(|ip| {
        ip.parse::<Ipv4Addr>().map_err(|_| {
            TransferError::new(ErrorClass::Invalid, format!("private_ip: {ip} is not an IPv4 address"))
        })
    });
    let address = address.transpose()?;
    let interfaces = interfaces(context, account, original, wanted).await?;
    if let (Some(address), Some(primary)) = (address, interfaces.first()) {
        let label = original.instance_id.as_str();
        // An instance of ours may have it already.
        let made = context.ledger.existing(ObjectKind::Instance, Purpose::RestoreResult, label).await;
        if made.is_none() {
            check_address(account, &primary.subnet_id, address).await?;
        }
    }
    let key_name = key_name(context, account, original, wanted).await?;
    Ok(Place { wanted: wanted.clone(), interfaces, key_name })
}

/// Whether an instance can have this address in this subnet.
async fn check_address(account: &Account, subnet_id: &str, address: Ipv4Addr) -> Result<(), TransferError> {
    let refuse = |why: String| {
        let message = format!(
            "private_ip: {address} {why}: choose another address of subnet {subnet_id}, or leave it to AWS"
        );
        Err(TransferError::new(ErrorClass::Invalid, message))
    };
    if let Some(why) = ec2::check_subnet(account, subnet_id).await?.refuses(address) {
        return refuse(why);
    }
    match ec2::holder_of_address(account, subnet_id, address).await {
        Ok(None) => Ok(()),
        Ok(Some(holder)) => refuse(format!("is taken by network interface {holder}")),
        Err(error) => {
            tracing::debug!(%error, "who has the address is not known");
            Ok(())
        }
    }
}

/// The interfaces that can be made: the primary one must be, of the others it is said which cannot.
async fn interfaces(
    context: &Arc<TaskContext>,
    account: &Account,
    original: &InstanceConfig,
    wanted: &NewInstanceSpec,
) -> Result<Vec<NetworkInterface>, TransferError> {
    let mut primary = original.network_interfaces.iter().find(|one| one.device_index == 0).cloned();
    if primary.is_none()
        && let Some(subnet_id) = &wanted.subnet_id
    {
        primary = Some(NetworkInterface {
            device_index: 0,
            subnet_id: subnet_id.clone(),
            vpc_id: None,
            private_ip: None,
            security_group_ids: Vec::new(),
            delete_on_termination: true,
        });
    }
    // Nothing is known of its network: AWS puts it into the default one.
    let Some(mut primary) = primary else { return Ok(Vec::new()) };
    if let Some(subnet_id) = &wanted.subnet_id {
        primary.subnet_id.clone_from(subnet_id);
    }
    if !wanted.security_group_ids.is_empty() {
        primary.security_group_ids.clone_from(&wanted.security_group_ids);
    }
    let subnet = check(account, &primary).await?;
    let mut made = vec![primary];
    for other in original.network_interfaces.iter().filter(|one| one.device_index != 0) {
        let refused = match check(account, other).await {
            Ok(of_other) if of_other.zone == subnet.zone => None,
            Ok(of_other) => {
                Some(format!("its subnet is in {}, the instance in {}", of_other.zone, subnet.zone))
            }
            Err(error) if error.retryable() => return Err(error),
            Err(error) => Some(error.message),
        };
        match refused {
            None => made.push(other.clone()),
            Some(why) => {
                let text = format!(
                    "network interface {} in {} is not made: {why}; attach one by hand",
                    other.device_index, other.subnet_id
                );
                context.note(true, text).await?;
            }
        }
    }
    Ok(made)
}

/// Whether an interface can be made: its subnet, room in it, its security groups.
async fn check(account: &Account, interface: &NetworkInterface) -> Result<CheckedSubnet, TransferError> {
    let id = &interface.subnet_id;
    let subnet = ec2::check_subnet(account, id).await.map_err(|error| {
        let error = TransferError::from(error);
        TransferError::new(error.class, format!("{}; or choose another subnet", error.message))
    })?;
    if let Some(outpost) = &subnet.outpost_arn {
        let message = format!(
            "subnet {id} is on {outpost}: volumes of a Region cannot be used there; choose another subnet"
        );
        return Err(TransferError::new(ErrorClass::Invalid, message));
    }
    if subnet.free_addresses == 0 {
        let message = format!("subnet {id} has no free address: choose another subnet");
        return Err(TransferError::new(ErrorClass::Invalid, message));
    }
    let groups = &interface.security_group_ids;
    ec2::check_security_groups(account, groups, &subnet.vpc).await.map_err(|error| {
        let error = TransferError::from(error);
        TransferError::new(
            error.class,
            format!("{}; or choose security groups of {}", error.message, subnet.vpc),
        )
    })?;
    Ok(subnet)
}

/// The key pair: one that is wished for must exist; one of old that is gone is left out, since its public key is on
/// the restored disk anyway.
async fn key_name(
    context: &Arc<TaskContext>,
    account: &Account,
    original: &InstanceConfig,
    wanted: &NewInstanceSpec,
) -> Result<Option<String>, TransferError> {
    let Some(name) = wanted.key_name.as_ref().or(original.key_name.as_ref()) else { return Ok(None) };
    match ec2::check_key_pair(account, name).await {
        Ok(()) => Ok(Some(name.clone())),
        Err(error @ AwsError::NotFound { .. }) if wanted.key_name.is_some() => {
            let error = TransferError::from(error);
            Err(TransferError::new(error.class, format!("{}; or choose another key pair", error.message)))
        }
        Err(AwsError::NotFound { .. }) => {
            let text = format!("key pair {name} does not exist any more; the instance is made without one");
            context.note(true, text).await?;
            Ok(None)
        }
        // Not being allowed to look is no reason to fail; RunInstances decides.
        Err(error) if !error.retryable() => {
            tracing::debug!(%error, "the key pair is not checked");
            Ok(Some(name.clone()))
        }
        Err(error) => Err(error.into()),
    }
}
