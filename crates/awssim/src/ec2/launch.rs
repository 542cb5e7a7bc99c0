//! RunInstances.

use super::instances::{attached, write};
use super::volumes::{NewVolume, make};
use super::{Call, interfaces, keys, mapping, tags, types};
use crate::faults::Refusal;
use crate::server::form::ec2_error;
use crate::world::{
    Asked, Attachment, Image, Instance, KeyRefusal, Mapping, Marks, StateReason, World, new_id,
};

pub(super) fn run(call: &Call<'_>) -> Result<String, Refusal> {
    let form = call.form;
    let image_id = form.required("ImageId")?;
    if form.number("MaxCount")?.unwrap_or(1) != 1 || form.number("MinCount")?.unwrap_or(1) != 1 {
        return Err(ec2_error(
            "InvalidParameterValue",
            "The simulator launches one instance a call: MinCount and MaxCount must be 1",
        ));
    }
    let image = call.context.world.read().image(call.account(), call.region, image_id)?.clone();
    let tags = tags::requested(form, "instance")?;
    permit_role(call)?;
    let instances = format!("arn:aws:ec2:{}:{}:instance/*", call.region, call.account());
    call.caller.demand(&call.asked(&instances))?;
    call.permit(&call.asked_of("image", image_id, &image.tags))?;
    let (scope, fingerprint, token) = (call.token_scope(), form.fingerprint(), form.text("ClientToken"));
    let before = call.context.world.read().by_token(&scope, token, &fingerprint)?;
    let id = match before {
        Some(id) => id,
        None => {
            let instance = plan(call, &image, tags)?;
            let id = instance.id.clone();
            launch(call, &image, instance)?;
            call.context.world.change(|state| state.remember_token(&scope, token, &id, &fingerprint));
            id
        }
    };
    let now = call.now_ms();
    let state = call.context.world.read();
    let instance = state.instance(call.account(), call.region, &id)?;
    let volumes = attached(&state).remove(&id).unwrap_or_default();
    Ok(call.reply(|xml| {
        xml.text("reservationId", format!("r-{}", id.trim_start_matches("i-")));
        xml.text("ownerId", call.account());
        xml.list("instancesSet", [instance], |xml, instance| write(xml, instance, &volumes, now));
    }))
}

/// The instance as it will be; nothing is made yet.
fn plan(
    call: &Call<'_>,
    image: &Image,
    tags: std::collections::BTreeMap<String, String>,
) -> Result<Instance, Refusal> {
    let form = call.form;
    let wanted = interfaces::requested(form)?;
    let (zone, interfaces) = call.context.world.change(|state| {
        keys::check(state, call.account(), call.region, form.text("KeyName"))?;
        interfaces::place(state, call, &wanted)
    })?;
    let now = call.now_ms();
    Ok(Instance {
        id: new_id("i"),
        account: call.account().to_owned(),
        region: call.region.to_owned(),
        zone,
        instance_type: form.text("InstanceType").unwrap_or("m1.small").to_owned(),
        image: Some(image.id.clone()),
        platform: image.platform.clone(),
        architecture: image.architecture.clone(),
        boot_mode: image.boot_mode.clone(),
        ena_support: image.ena_support,
        key_name: form.text("KeyName").map(str::to_owned),
        iam_profile_arn: profile(call),
        ebs_optimized: form.flag("EbsOptimized"),
        tenancy: form.text("Placement.Tenancy").unwrap_or("default").to_owned(),
        placement_group: form.text("Placement.GroupName").map(str::to_owned),
        root_device: image.root_device.clone(),
        interfaces,
        tags,
        launched_ms: now,
        target: "running".to_owned(),
        ready_ms: now + World::STATE_DELAY_MS,
        marks: Marks::default(),
        state_reason: None,
    })
}

/// ARN of the instance profile that the request names.
fn profile(call: &Call<'_>) -> Option<String> {
    let form = call.form;
    form.text("IamInstanceProfile.Arn").map(str::to_owned).or_else(|| {
        let name = form.text("IamInstanceProfile.Name")?;
        Some(format!("arn:aws:iam::{}:instance-profile/{name}", call.account()))
    })
}

/// Who launches an instance with a profile hands it a role, which takes a permission of its own. A profile holds the
/// role of the same name.
fn permit_role(call: &Call<'_>) -> Result<(), Refusal> {
    let Some(profile) = profile(call) else { return Ok(()) };
    let role = profile.replace(":instance-profile/", ":role/");
    call.caller.demand(&Asked::new("iam:PassRole", role).with("iam:PassedToService", "ec2.amazonaws.com"))
}

/// Makes the volumes and puts the instance there; on an error what was made goes again. An instance with a volume
/// whose key cannot be used is there too, without volumes and on its way to the end.
fn launch(call: &Call<'_>, image: &Image, mut instance: Instance) -> Result<(), Refusal> {
    let mut mappings = mapping::merge(&image.mappings, &mapping::read(call.form)?);
    // Instance store disks come with the type; the mapping gives them a name at most.
    mappings.retain(|one| one.virtual_name.is_none());
    types::check_attachments(call, &instance, mappings.len())?;
    let volume_tags = tags::requested(call.form, "volume")?;
    let mut made = Vec::new();
    let mut refused = None;
    let mut done: Result<(), Refusal> = mappings.iter().try_for_each(|one| {
        let (volume, refusal) = make(call, new_volume(one, &instance, volume_tags.clone()))?;
        super::codes::add(&mut instance.marks, &volume.marks);
        refused = refused.take().or(refusal);
        made.push((volume.id, one));
        Ok(())
    });
    if let Some(refusal) = refused.filter(|_| done.is_ok()) {
        done = made.drain(..).try_for_each(|(id, _)| super::volumes::remove(call, &id));
        "launch_failed".clone_into(&mut instance.target);
        instance.state_reason = Some(reason(&refusal));
    }
    let done = done.and_then(|()| {
        call.context.world.change(|state| {
            interfaces::check_free(state, &instance.interfaces)?;
            for (id, mapping) in &made {
                if let Some(volume) = state.volumes.get_mut(id) {
                    volume.attachment = Some(attachment(&instance, mapping));
                }
            }
            state.instances.insert(instance.id.clone(), instance);
            Ok(())
        })
    });
    if done.is_err() {
        for (id, _) in made {
            super::volumes::remove(call, &id)?;
        }
    }
    done
}

fn attachment(instance: &Instance, mapping: &Mapping) -> Attachment {
    Attachment {
        instance: instance.id.clone(),
        device: mapping.device.clone(),
        delete_on_termination: mapping.delete_on_termination.unwrap_or(true),
        since_ms: instance.launched_ms,
        ready_ms: instance.ready_ms,
        gone_ms: None,
        link: None,
    }
}

/// EC2's words for a launch that a key is in the way of.
fn reason(refusal: &KeyRefusal) -> StateReason {
    match refusal {
        KeyRefusal::Denied { .. } => StateReason::new("Client.InternalError", "Client error on launch"),
        KeyRefusal::NotFound { .. } | KeyRefusal::Disabled { .. } | KeyRefusal::PendingDeletion { .. } => {
            let sentence = "The KMS key provided is in an incorrect state";
            StateReason::new("Client.InvalidKMSKey.InvalidState", sentence)
        }
    }
}

fn new_volume(
    mapping: &Mapping,
    instance: &Instance,
    tags: std::collections::BTreeMap<String, String>,
) -> NewVolume {
    NewVolume {
        zone: instance.zone.clone(),
        size_gib: mapping.size_gib,
        kind: mapping.kind.clone().unwrap_or_else(|| "gp2".to_owned()),
        iops: mapping.iops,
        throughput: mapping.throughput,
        encrypted: mapping.encrypted,
        kms_key: mapping.kms_key.clone(),
        snapshot: mapping.snapshot.clone(),
        outpost: None,
        tags,
    }
}
