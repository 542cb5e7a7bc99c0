//! DescribeInstances and the attributes of an instance.

use std::collections::BTreeMap;

use super::filter::{Filters, maybe, one};
use super::{Call, page, tags, time};
use crate::faults::Refusal;
use crate::server::form::ec2_error;
use crate::server::xml::Xml;
use crate::world::{Instance, Interface, State, Volume};

/// The volumes of instances, by instance.
pub(super) fn attached(state: &State) -> BTreeMap<String, Vec<Volume>> {
    let mut by_instance: BTreeMap<String, Vec<Volume>> = BTreeMap::new();
    for volume in state.volumes.values() {
        if let Some(attachment) = &volume.attachment {
            by_instance.entry(attachment.instance.clone()).or_default().push(volume.clone());
        }
    }
    for volumes in by_instance.values_mut() {
        volumes.sort_by(|a, b| device(a).cmp(device(b)));
    }
    by_instance
}

fn device(volume: &Volume) -> &str {
    volume.attachment.as_ref().map(|at| at.device.as_str()).unwrap_or_default()
}

pub(super) fn describe(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    let now = call.now_ms();
    let filters = Filters::of(call);
    let ids = call.form.list("InstanceId");
    let mut found = Vec::new();
    let attached = {
        let state = call.context.world.read();
        for id in &ids {
            state.instance(call.account(), call.region, id)?;
        }
        let attached = attached(&state);
        for instance in state.instances.values() {
            let is_ours = instance.account == call.account() && instance.region == call.region;
            if !is_ours || !(ids.is_empty() || ids.contains(&instance.id)) {
                continue;
            }
            let (code, name_of_state) = instance.state(now);
            let primary = instance.interfaces.first();
            let passes = filters.pass(&instance.tags, |name| match name {
                "instance-id" => one(&instance.id),
                "instance-state-name" => one(name_of_state),
                "instance-state-code" => one(code),
                "state-reason-code" => maybe(instance.state_reason.as_ref().map(|one| &one.code)),
                "instance-type" => one(&instance.instance_type),
                "availability-zone" => one(&instance.zone),
                "image-id" => maybe(instance.image.as_ref()),
                "key-name" => maybe(instance.key_name.as_ref()),
                "platform" => maybe(instance.platform.as_ref()),
                "vpc-id" => maybe(primary.map(|one| &one.vpc)),
                "subnet-id" => maybe(primary.map(|one| &one.subnet)),
                "private-ip-address" => maybe(primary.map(|one| &one.private_ip)),
                "block-device-mapping.volume-id" => Some(
                    attached
                        .get(&instance.id)
                        .into_iter()
                        .flatten()
                        .map(|volume| volume.id.clone())
                        .collect(),
                ),
                _ => None,
            })?;
            if passes {
                found.push(instance.clone());
            }
        }
        attached
    };
    let (items, next) = page::cut(call, found, |one| one.id.as_str())?;
    Ok(call.reply(|xml| {
        xml.list("reservationSet", &items, |xml, instance| {
            xml.text("reservationId", format!("r-{}", instance.id.trim_start_matches("i-")));
            xml.text("ownerId", &instance.account);
            xml.list("groupSet", std::iter::empty::<()>(), |_, ()| {});
            let volumes = attached.get(&instance.id).map(Vec::as_slice).unwrap_or_default();
            xml.list("instancesSet", [instance], |xml, instance| write(xml, instance, volumes, now));
        });
        xml.maybe("nextToken", next);
    }))
}

/// The fields of an instance.
pub(super) fn write(xml: &mut Xml, instance: &Instance, volumes: &[Volume], now: u64) {
    let (code, name) = instance.state(now);
    xml.text("instanceId", &instance.id);
    xml.text("imageId", instance.image.as_deref().unwrap_or("ami-00000000"));
    xml.nest("instanceState", |xml| {
        xml.text("code", code);
        xml.text("name", name);
    });
    if let Some(reason) = instance.state_reason.as_ref().filter(|_| now >= instance.ready_ms) {
        xml.text("reason", &reason.message);
        xml.nest("stateReason", |xml| {
            xml.text("code", &reason.code);
            xml.text("message", &reason.message);
        });
    }
    xml.maybe("keyName", instance.key_name.as_deref());
    xml.text("instanceType", &instance.instance_type);
    xml.text("launchTime", time(instance.launched_ms));
    xml.nest("placement", |xml| {
        xml.text("availabilityZone", &instance.zone);
        xml.text("groupName", instance.placement_group.as_deref().unwrap_or_default());
        xml.text("tenancy", &instance.tenancy);
    });
    xml.maybe("platform", instance.platform.as_deref());
    xml.text("architecture", &instance.architecture);
    xml.text("rootDeviceType", "ebs");
    xml.text("rootDeviceName", &instance.root_device);
    write_mappings(xml, volumes, now);
    super::codes::write(xml, &instance.marks);
    xml.maybe("outpostArn", instance.marks.outpost.as_deref());
    xml.text("virtualizationType", "hvm");
    xml.text("hypervisor", "xen");
    xml.text("ebsOptimized", instance.ebs_optimized);
    xml.text("enaSupport", instance.ena_support);
    xml.maybe("bootMode", instance.boot_mode.as_deref());
    if let Some(arn) = &instance.iam_profile_arn {
        xml.nest("iamInstanceProfile", |xml| {
            xml.text("arn", arn);
            xml.text("id", "AIPASIMULATED0000000");
        });
    }
    if let Some(primary) = instance.interfaces.first() {
        xml.text("subnetId", &primary.subnet);
        xml.text("vpcId", &primary.vpc);
        xml.text("privateIpAddress", &primary.private_ip);
        write_groups(xml, primary);
    }
    xml.list("networkInterfaceSet", &instance.interfaces, |xml, interface| {
        write_interface(xml, interface);
        xml.nest("attachment", |xml| {
            xml.text("attachmentId", interface.id.replace("eni-", "eni-attach-"));
            xml.text("deviceIndex", interface.device_index);
            xml.text("status", "attached");
            xml.text("deleteOnTermination", interface.delete_on_termination);
        });
    });
    tags::write(xml, &instance.tags);
}

/// `blockDeviceMapping`: EBS volumes only, as in AWS.
fn write_mappings(xml: &mut Xml, volumes: &[Volume], now: u64) {
    let attached = volumes.iter().filter_map(|one| Some((one, one.attachment.as_ref()?)));
    xml.list("blockDeviceMapping", attached, |xml, (volume, at)| {
        xml.text("deviceName", &at.device);
        xml.nest("ebs", |xml| {
            xml.text("volumeId", &volume.id);
            xml.text("status", at.state(now));
            xml.text("attachTime", time(at.since_ms));
            xml.text("deleteOnTermination", at.delete_on_termination);
        });
    });
}

/// The fields of an interface, but for its attachment.
pub(super) fn write_interface(xml: &mut Xml, interface: &Interface) {
    xml.text("networkInterfaceId", &interface.id);
    xml.text("subnetId", &interface.subnet);
    xml.text("vpcId", &interface.vpc);
    xml.text("status", "in-use");
    xml.text("privateIpAddress", &interface.private_ip);
    write_groups(xml, interface);
    xml.list("privateIpAddressesSet", [interface], |xml, interface| {
        xml.text("privateIpAddress", &interface.private_ip);
        xml.text("primary", true);
    });
}

fn write_groups(xml: &mut Xml, interface: &Interface) {
    xml.list("groupSet", &interface.groups, |xml, group| {
        xml.text("groupId", group);
        xml.text("groupName", group);
    });
}

pub(super) fn describe_attribute(call: &Call<'_>) -> Result<String, Refusal> {
    let id = call.form.required("InstanceId")?;
    let attribute = call.form.required("Attribute")?;
    call.permit_any()?;
    let state = call.context.world.read();
    let instance = state.instance(call.account(), call.region, id)?;
    let flag = |xml: &mut Xml, name: &str, value: bool| xml.nest(name, |xml| xml.text("value", value));
    match attribute {
        "instanceType"
        | "blockDeviceMapping"
        | "userData"
        | "ebsOptimized"
        | "enaSupport"
        | "disableApiTermination"
        | "rootDeviceName"
        | "sriovNetSupport"
        | "sourceDestCheck"
        | "instanceInitiatedShutdownBehavior" => {}
        other => {
            return Err(ec2_error(
                "InvalidParameterValue",
                format!("Value ({other}) for parameter attribute is invalid. Unknown attribute."),
            ));
        }
    }
    let volumes = attached(&state).remove(id).unwrap_or_default();
    let now = call.now_ms();
    Ok(call.reply(|xml| {
        xml.text("instanceId", id);
        match attribute {
            "blockDeviceMapping" => write_mappings(xml, &volumes, now),
            "instanceType" => xml.nest("instanceType", |xml| xml.text("value", &instance.instance_type)),
            "rootDeviceName" => xml.nest("rootDeviceName", |xml| xml.text("value", &instance.root_device)),
            "ebsOptimized" => flag(xml, "ebsOptimized", instance.ebs_optimized),
            "enaSupport" => flag(xml, "enaSupport", instance.ena_support),
            "disableApiTermination" => flag(xml, "disableApiTermination", false),
            "sourceDestCheck" => flag(xml, "sourceDestCheck", true),
            _ => {}
        }
    }))
}

pub(super) fn modify_attribute(call: &Call<'_>) -> Result<String, Refusal> {
    let form = call.form;
    let id = form.required("InstanceId")?;
    let instance = call.context.world.read().instance(call.account(), call.region, id)?.clone();
    call.permit(&call.asked_of("instance", id, &instance.tags))?;
    let new_type = form
        .text("InstanceType.Value")
        .or_else(|| form.text("Value").filter(|_| form.text("Attribute") == Some("instanceType")));
    if new_type.is_some() && instance.state(call.now_ms()).1 != "stopped" {
        return Err(ec2_error(
            "IncorrectInstanceState",
            format!("The instance '{id}' is not in the 'stopped' state."),
        ));
    }
    let flags: Vec<(String, bool)> = form
        .structures("BlockDeviceMapping")
        .iter()
        .filter_map(|one| {
            Some((one.text("DeviceName")?.to_owned(), one.maybe_flag("Ebs.DeleteOnTermination")?))
        })
        .collect();
    let volumes = attached(&call.context.world.read()).remove(id).unwrap_or_default();
    if let Some((missing, _)) = flags.iter().find(|(name, _)| !volumes.iter().any(|one| device(one) == name))
    {
        return Err(ec2_error(
            "InvalidInstanceAttributeValue",
            format!("No device is currently mapped at {missing}"),
        ));
    }
    call.context.world.change(|state| {
        if let (Some(instance), Some(new_type)) = (state.instances.get_mut(id), new_type) {
            instance.instance_type = new_type.to_owned();
        }
        for volume in state.volumes.values_mut() {
            let Some(at) = volume.attachment.as_mut().filter(|at| at.instance == id) else { continue };
            if let Some((_, flag)) = flags.iter().find(|(device, _)| *device == at.device) {
                at.delete_on_termination = *flag;
            }
        }
    });
    Ok(call.done())
}
