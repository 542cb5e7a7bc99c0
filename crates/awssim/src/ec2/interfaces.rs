//! The network interfaces of a launch: what is asked for, and the addresses they get.

use super::Call;
use crate::faults::Refusal;
use crate::server::form::{Form, ec2_error};
use crate::world::{Instance, Interface, State, Subnet, new_id};

/// One interface that a launch asks for.
pub(super) struct Wanted {
    device_index: u32,
    subnet: Option<String>,
    private_ip: Option<String>,
    groups: Vec<String>,
    delete_on_termination: bool,
}

/// Reads `NetworkInterface.N`, or the parameters of the instance that stand for a single one; primary first.
pub(super) fn requested(form: &Form) -> Result<Vec<Wanted>, Refusal> {
    let nested = form.structures("NetworkInterface");
    if nested.is_empty() {
        return Ok(vec![read(form, 0, true)]);
    }
    let of_instance = [
        ("subnet ID", form.text("SubnetId").is_some()),
        ("private IP address", form.text("PrivateIpAddress").is_some()),
        ("security groups", !form.list("SecurityGroupId").is_empty()),
    ];
    if let Some((what, _)) = of_instance.iter().find(|(_, is_given)| *is_given) {
        return Err(ec2_error(
            "InvalidParameterCombination",
            format!(
                "Network interfaces and an instance-level {what} may not be specified on the same request"
            ),
        ));
    }
    let mut wanted = Vec::new();
    for one in &nested {
        if one.text("NetworkInterfaceId").is_some() {
            let message = "The simulator makes an instance's interfaces; none can be given";
            return Err(ec2_error("InvalidParameterValue", message));
        }
        let delete_on_termination = one.maybe_flag("DeleteOnTermination").unwrap_or(true);
        wanted.push(read(one, one.number("DeviceIndex")?.unwrap_or(0), delete_on_termination));
    }
    wanted.sort_by_key(|one| one.device_index);
    let is_primary_there = wanted.first().is_some_and(|one| one.device_index == 0);
    let n_wanted = wanted.len();
    let mut indexes: Vec<u32> = wanted.iter().map(|one| one.device_index).collect();
    indexes.dedup();
    if !is_primary_there || indexes.len() != n_wanted {
        let message = "Each network interface needs a device index of its own, and one has index 0";
        return Err(ec2_error("InvalidParameterValue", message));
    }
    Ok(wanted)
}

fn read(form: &Form, device_index: u32, delete_on_termination: bool) -> Wanted {
    Wanted {
        device_index,
        subnet: form.text("SubnetId").map(str::to_owned),
        private_ip: form.text("PrivateIpAddress").map(str::to_owned),
        groups: form.list("SecurityGroupId"),
        delete_on_termination,
    }
}

/// Gives each a subnet, an address and groups; answers the zone too. Nothing is taken yet: see [`check_free`].
pub(super) fn place(
    state: &mut State,
    call: &Call<'_>,
    wanted: &[Wanted],
) -> Result<(String, Vec<Interface>), Refusal> {
    let mut zone = call.form.text("Placement.AvailabilityZone").map(str::to_owned);
    let mut placed: Vec<Interface> = Vec::new();
    for one in wanted {
        let subnet = subnet(state, call, one.subnet.as_deref(), zone.as_deref())?;
        if zone.as_ref().is_some_and(|zone| *zone != subnet.zone) {
            return Err(ec2_error(
                "InvalidParameterValue",
                format!("The subnet '{}' is in {}, the instance is not", subnet.id, subnet.zone),
            ));
        }
        let private_ip = match &one.private_ip {
            Some(address) => given(&subnet, address)?,
            None => next_free(state, &subnet),
        };
        if is_taken(state, &subnet.id, &private_ip)
            || placed.iter().any(|other| other.subnet == subnet.id && other.private_ip == private_ip)
        {
            return Err(in_use(&private_ip));
        }
        placed.push(Interface {
            id: new_id("eni"),
            device_index: one.device_index,
            groups: groups(state, call, &one.groups, &subnet.vpc)?,
            subnet: subnet.id,
            vpc: subnet.vpc,
            private_ip,
            delete_on_termination: one.delete_on_termination,
        });
        zone = Some(subnet.zone);
    }
    Ok((zone.unwrap_or_default(), placed))
}

/// Whether nobody has taken the addresses meanwhile.
pub(super) fn check_free(state: &State, interfaces: &[Interface]) -> Result<(), Refusal> {
    match interfaces.iter().find(|one| is_taken(state, &one.subnet, &one.private_ip)) {
        Some(one) => Err(in_use(&one.private_ip)),
        None => Ok(()),
    }
}

fn subnet(state: &State, call: &Call<'_>, id: Option<&str>, zone: Option<&str>) -> Result<Subnet, Refusal> {
    let mut ours =
        state.subnets.values().filter(|one| one.account == call.account() && one.region == call.region);
    let found = match id {
        Some(id) => ours.find(|one| one.id == id),
        None => ours.find(|one| zone.is_none_or(|zone| one.zone == zone)),
    };
    found.cloned().ok_or_else(|| {
        let id = id.unwrap_or_default();
        ec2_error("InvalidSubnetID.NotFound", format!("The subnet ID '{id}' does not exist"))
    })
}

/// An address that the subnet has and AWS does not keep for itself.
fn given(subnet: &Subnet, address: &str) -> Result<String, Refusal> {
    let host = address.strip_prefix(&format!("{}.", subnet.prefix)).and_then(|host| host.parse::<u8>().ok());
    match host {
        Some(4..=254) => Ok(address.to_owned()),
        Some(_) => Err(ec2_error(
            "InvalidParameterValue",
            format!("Address {address} is in subnet's reserved address range"),
        )),
        None => Err(ec2_error(
            "InvalidParameterValue",
            format!("Address {address} does not fall within the subnet's address range"),
        )),
    }
}

fn next_free(state: &mut State, subnet: &Subnet) -> String {
    loop {
        let Some(hosts) = state.subnets.get_mut(&subnet.id) else { return String::new() };
        hosts.last_host += 1;
        let address = format!("{}.{}", subnet.prefix, hosts.last_host);
        if !is_taken(state, &subnet.id, &address) {
            return address;
        }
    }
}

fn is_taken(state: &State, subnet: &str, address: &str) -> bool {
    let is_alive = |one: &&Instance| !matches!(one.target.as_str(), "terminated" | "launch_failed");
    let mut alive = state.instances.values().filter(is_alive);
    alive.any(|one| one.interfaces.iter().any(|eni| eni.subnet == subnet && eni.private_ip == address))
}

fn in_use(address: &str) -> Refusal {
    ec2_error("InvalidIPAddress.InUse", format!("Address {address} is in use."))
}

fn groups(state: &State, call: &Call<'_>, named: &[String], vpc: &str) -> Result<Vec<String>, Refusal> {
    if named.is_empty() {
        let default = state.groups.values().find(|one| one.vpc == vpc && one.name == "default");
        return Ok(default.map(|one| one.id.clone()).into_iter().collect());
    }
    for id in named {
        if !state.groups.get(id).is_some_and(|one| one.account == call.account() && one.vpc == vpc) {
            return Err(ec2_error(
                "InvalidGroup.NotFound",
                format!("The security group '{id}' does not exist in VPC '{vpc}'"),
            ));
        }
    }
    Ok(named.to_vec())
}
