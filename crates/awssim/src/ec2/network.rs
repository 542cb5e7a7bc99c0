//! Regions, zones, networks and the account's encryption defaults.

use std::collections::BTreeMap;

use super::filter::{Filters, one};
use super::instances::write_interface;
use super::{Call, page};
use crate::faults::Refusal;
use crate::server::form::ec2_error;
use crate::world::REGIONS;

pub(super) fn regions(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    let wanted = call.form.list("RegionName");
    if let Some(unknown) = wanted.iter().find(|name| !REGIONS.contains(&name.as_str())) {
        return Err(ec2_error("InvalidParameterValue", format!("Invalid region provided: {unknown}")));
    }
    let shown = REGIONS.iter().filter(|name| wanted.is_empty() || wanted.iter().any(|one| one == *name));
    Ok(call.reply(|xml| {
        xml.list("regionInfo", shown, |xml, name| {
            xml.text("regionName", name);
            xml.text("regionEndpoint", format!("ec2.{name}.amazonaws.com"));
            xml.text("optInStatus", "opt-in-not-required");
        });
    }))
}

pub(super) fn zones(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    Ok(call.reply(|xml| {
        xml.list("availabilityZoneInfo", ["a", "b", "c"], |xml, letter| {
            xml.text("zoneName", format!("{}{letter}", call.region));
            xml.text("zoneState", "available");
            xml.text("regionName", call.region);
            xml.text("zoneType", "availability-zone");
        });
    }))
}

pub(super) fn vpcs(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    let state = call.context.world.read();
    let ours =
        state.subnets.values().filter(|one| one.account == call.account() && one.region == call.region);
    let vpcs: std::collections::BTreeSet<&str> = ours.map(|one| one.vpc.as_str()).collect();
    Ok(call.reply(|xml| {
        xml.list("vpcSet", vpcs, |xml, id| {
            xml.text("vpcId", id);
            xml.text("state", "available");
            xml.text("cidrBlock", "10.0.0.0/16");
            xml.text("isDefault", true);
        });
    }))
}

pub(super) fn subnets(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    let filters = Filters::of(call);
    let ids = call.form.list("SubnetId");
    let mut found = Vec::new();
    {
        let state = call.context.world.read();
        for id in &ids {
            let is_ours = state
                .subnets
                .get(id)
                .is_some_and(|one| one.account == call.account() && one.region == call.region);
            if !is_ours {
                return Err(ec2_error(
                    "InvalidSubnetID.NotFound",
                    format!("The subnet ID '{id}' does not exist"),
                ));
            }
        }
        for subnet in state.subnets.values() {
            let is_ours = subnet.account == call.account() && subnet.region == call.region;
            let passes = filters.pass(&BTreeMap::new(), |name| match name {
                "subnet-id" => one(&subnet.id),
                "vpc-id" => one(&subnet.vpc),
                "availability-zone" => one(&subnet.zone),
                _ => None,
            })?;
            if is_ours && passes && (ids.is_empty() || ids.contains(&subnet.id)) {
                found.push(subnet.clone());
            }
        }
    }
    let (items, next) = page::cut(call, found, |one| one.id.as_str())?;
    Ok(call.reply(|xml| {
        xml.list("subnetSet", &items, |xml, subnet| {
            xml.text("subnetId", &subnet.id);
            xml.text("state", "available");
            xml.text("vpcId", &subnet.vpc);
            xml.text("cidrBlock", format!("{}.0/24", subnet.prefix));
            xml.text("availableIpAddressCount", 250 - subnet.last_host.min(250));
            xml.text("availabilityZone", &subnet.zone);
            xml.text("defaultForAz", true);
            xml.maybe("outpostArn", subnet.marks.outpost.as_deref());
        });
        xml.maybe("nextToken", next);
    }))
}

pub(super) fn groups(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    let filters = Filters::of(call);
    let ids = call.form.list("GroupId");
    let mut found = Vec::new();
    {
        let state = call.context.world.read();
        for group in state.groups.values() {
            let is_ours = group.account == call.account() && group.region == call.region;
            let passes = filters.pass(&BTreeMap::new(), |name| match name {
                "group-id" => one(&group.id),
                "group-name" => one(&group.name),
                "vpc-id" => one(&group.vpc),
                _ => None,
            })?;
            if is_ours && passes && (ids.is_empty() || ids.contains(&group.id)) {
                found.push(group.clone());
            }
        }
    }
    if let Some(missing) = ids.iter().find(|id| !found.iter().any(|one| one.id == **id)) {
        return Err(ec2_error(
            "InvalidGroup.NotFound",
            format!("The security group '{missing}' does not exist"),
        ));
    }
    let (items, next) = page::cut(call, found, |one| one.id.as_str())?;
    Ok(call.reply(|xml| {
        xml.list("securityGroupInfo", &items, |xml, group| {
            xml.text("ownerId", &group.account);
            xml.text("groupId", &group.id);
            xml.text("groupName", &group.name);
            xml.text("groupDescription", &group.name);
            xml.text("vpcId", &group.vpc);
        });
        xml.maybe("nextToken", next);
    }))
}

pub(super) fn interfaces(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    let filters = Filters::of(call);
    let ids = call.form.list("NetworkInterfaceId");
    let now = call.now_ms();
    let mut found = Vec::new();
    {
        let state = call.context.world.read();
        for instance in state.instances.values() {
            let is_ours = instance.account == call.account() && instance.region == call.region;
            if !is_ours || instance.state(now).1 == "terminated" {
                continue;
            }
            for interface in &instance.interfaces {
                let passes = filters.pass(&BTreeMap::new(), |name| match name {
                    "network-interface-id" => one(&interface.id),
                    "attachment.instance-id" => one(&instance.id),
                    "subnet-id" => one(&interface.subnet),
                    "vpc-id" => one(&interface.vpc),
                    "group-id" => Some(interface.groups.clone()),
                    "addresses.private-ip-address" => one(&interface.private_ip),
                    _ => None,
                })?;
                if passes && (ids.is_empty() || ids.contains(&interface.id)) {
                    found.push((interface.clone(), instance.id.clone()));
                }
            }
        }
    }
    found.sort_by(|a, b| a.0.id.cmp(&b.0.id));
    let (items, next) = page::cut(call, found, |one| one.0.id.as_str())?;
    Ok(call.reply(|xml| {
        xml.list("networkInterfaceSet", &items, |xml, (interface, instance)| {
            write_interface(xml, interface);
            xml.nest("attachment", |xml| {
                xml.text("instanceId", instance);
                xml.text("deviceIndex", interface.device_index);
                xml.text("status", "attached");
                xml.text("deleteOnTermination", interface.delete_on_termination);
            });
        });
        xml.maybe("nextToken", next);
    }))
}
