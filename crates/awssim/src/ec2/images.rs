//! RegisterImage, DescribeImages, DeregisterImage.

use super::filter::{Filters, one};
use super::{Call, mapping, page, tags, time};
use crate::faults::Refusal;
use crate::server::form::ec2_error;
use crate::server::xml::Xml;
use crate::world::{Image, Mapping, new_id};

pub(super) fn register(call: &Call<'_>) -> Result<String, Refusal> {
    let form = call.form;
    let name = form.required("Name")?;
    let root_device = form.text("RootDeviceName").unwrap_or("/dev/sda1");
    let mappings = mapping::read(form)?;
    let tags = tags::requested(form, "image")?;
    call.permit(&call.asked(&format!("arn:aws:ec2:{}::image/*", call.region)))?;
    if !mappings.iter().any(|one| one.device == root_device && one.snapshot.is_some()) {
        return Err(ec2_error(
            "InvalidBlockDeviceMapping",
            format!("The root device {root_device} has no snapshot in the block device mapping"),
        ));
    }
    let now = call.now_ms();
    let image = Image {
        id: new_id("ami"),
        account: call.account().to_owned(),
        region: call.region.to_owned(),
        name: name.to_owned(),
        description: form.text("Description").unwrap_or_default().to_owned(),
        architecture: form.text("Architecture").unwrap_or("i386").to_owned(),
        platform: None,
        boot_mode: form.text("BootMode").map(str::to_owned),
        ena_support: form.flag("EnaSupport"),
        root_device: root_device.to_owned(),
        mappings,
        tags,
        created_ms: now,
    };
    let id = image.id.clone();
    call.context.world.change(|state| {
        let is_same = |one: &Image| {
            one.account == image.account && one.region == image.region && one.name == image.name
        };
        if let Some(other) = state.images.values().find(|one| is_same(one)) {
            return Err(ec2_error(
                "InvalidAMIName.Duplicate",
                format!("AMI name {} is already in use by AMI {}", image.name, other.id),
            ));
        }
        for snapshot in image.mappings.iter().filter_map(|one| one.snapshot.as_ref()) {
            let snapshot = state.own_snapshot(&image.account, &image.region, snapshot)?;
            if snapshot.state(now) != "completed" {
                return Err(ec2_error(
                    "InvalidSnapshot.NotFound",
                    format!("Snapshot {} is not completed", snapshot.id),
                ));
            }
        }
        state.images.insert(image.id.clone(), image);
        Ok(())
    })?;
    Ok(call.reply(|xml| xml.text("imageId", id)))
}

pub(super) fn describe(call: &Call<'_>) -> Result<String, Refusal> {
    call.permit_any()?;
    let filters = Filters::of(call);
    let ids = call.form.list("ImageId");
    let mut found = Vec::new();
    {
        let state = call.context.world.read();
        for id in &ids {
            state.image(call.account(), call.region, id)?;
        }
        for image in state.images.values() {
            let is_ours = image.account == call.account() && image.region == call.region;
            if !is_ours || !(ids.is_empty() || ids.contains(&image.id)) {
                continue;
            }
            let passes = filters.pass(&image.tags, |name| match name {
                "image-id" => one(&image.id),
                "name" => one(&image.name),
                "state" => one("available"),
                "owner-id" => one(&image.account),
                "architecture" => one(&image.architecture),
                "root-device-name" => one(&image.root_device),
                "block-device-mapping.snapshot-id" => {
                    Some(image.mappings.iter().filter_map(|mapping| mapping.snapshot.clone()).collect())
                }
                _ => None,
            })?;
            if passes {
                found.push(image.clone());
            }
        }
    }
    let (items, next) = page::cut(call, found, |one| one.id.as_str())?;
    Ok(call.reply(|xml| {
        xml.list("imagesSet", &items, write);
        xml.maybe("nextToken", next);
    }))
}

fn write(xml: &mut Xml, image: &Image) {
    xml.text("imageId", &image.id);
    xml.text("imageState", "available");
    xml.text("imageOwnerId", &image.account);
    xml.text("isPublic", false);
    xml.text("architecture", &image.architecture);
    xml.text("imageType", "machine");
    xml.text("name", &image.name);
    xml.text("description", &image.description);
    xml.text("rootDeviceType", "ebs");
    xml.text("rootDeviceName", &image.root_device);
    xml.text("virtualizationType", "hvm");
    xml.text("hypervisor", "xen");
    xml.maybe("bootMode", image.boot_mode.as_deref());
    xml.text("enaSupport", image.ena_support);
    xml.maybe("platform", image.platform.as_deref());
    xml.text("creationDate", time(image.created_ms));
    xml.list("blockDeviceMapping", &image.mappings, write_mapping);
    tags::write(xml, &image.tags);
}

fn write_mapping(xml: &mut Xml, mapping: &Mapping) {
    xml.text("deviceName", &mapping.device);
    if let Some(name) = &mapping.virtual_name {
        return xml.text("virtualName", name);
    }
    xml.nest("ebs", |xml| {
        xml.maybe("snapshotId", mapping.snapshot.as_deref());
        xml.maybe("volumeSize", mapping.size_gib);
        xml.maybe("volumeType", mapping.kind.as_deref());
        xml.maybe("iops", mapping.iops);
        xml.maybe("throughput", mapping.throughput);
        xml.text("deleteOnTermination", mapping.delete_on_termination.unwrap_or(true));
        xml.maybe("encrypted", mapping.encrypted);
    });
}

pub(super) fn deregister(call: &Call<'_>) -> Result<String, Refusal> {
    let id = call.form.required("ImageId")?;
    let image = call.context.world.read().image(call.account(), call.region, id)?.clone();
    call.permit(&call.asked_of("image", id, &image.tags))?;
    call.context.world.change(|state| state.images.remove(id));
    Ok(call.done())
}
