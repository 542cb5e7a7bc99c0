//! AttachVolume and DetachVolume. What becomes of a volume that is detached is [`super::settle`]'s.

use super::settle::{connect, disconnect, end_now};
use super::{Call, encryption, time, types};
use crate::faults::Refusal;
use crate::server::form::ec2_error;
use crate::world::{Attachment, Instance, State, Volume, World};

pub(super) fn attach(call: &Call<'_>) -> Result<String, Refusal> {
    let (id, instance_id) = (call.form.required("VolumeId")?, call.form.required("InstanceId")?);
    let device = call.form.required("Device")?;
    let world = &call.context.world;
    let (instance, volume) = {
        let state = world.read();
        let instance = state.instance(call.account(), call.region, instance_id)?.clone();
        (instance, state.volume(call.account(), call.region, id)?.clone())
    };
    call.caller.demand(&call.asked_of("instance", instance_id, &instance.tags))?;
    call.permit(&call.asked_of("volume", id, &volume.tags))?;
    // The place is taken first and the device made after, so that two calls cannot both have it.
    let attachment = world.change(|state| take_place(state, call, id, instance_id, device))?;
    if let Some(link) = &attachment.link
        && let Err(reason) = connect(call.context, id, link)
    {
        world.change(|state| {
            if let Some(volume) = state.volumes.get_mut(id) {
                volume.attachment = None;
            }
        });
        return Err(ec2_error("InternalError", format!("The access node got no device: failed to {reason}")));
    }
    Ok(reply(call, id, &attachment, "attaching"))
}

fn take_place(
    state: &mut State,
    call: &Call<'_>,
    id: &str,
    instance_id: &str,
    device: &str,
) -> Result<Attachment, Refusal> {
    let now = call.now_ms();
    let volume = state.volume(call.account(), call.region, id)?.clone();
    let instance = state.instance(call.account(), call.region, instance_id)?;
    check_pair(&volume, instance, device, now)?;
    encryption::check_attach(call, state, volume.kms_key.as_deref()).map_err(|refusal| {
        ec2_error(
            "CustomerKeyHasBeenRevoked",
            format!("The encrypted volume was unable to access the KMS key: {refusal}"),
        )
    })?;
    let is_here = |one: &Volume| one.attachment.as_ref().is_some_and(|at| at.instance == instance_id);
    let is_taken = |one: &Volume| one.attachment.as_ref().is_some_and(|at| at.device == device);
    if state.volumes.values().any(|one| is_here(one) && is_taken(one)) {
        return Err(ec2_error(
            "InvalidParameterValue",
            format!("Invalid value '{device}' for unixDevice. Attachment point {device} is already in use"),
        ));
    }
    let n_volumes = state.volumes.values().filter(|one| is_here(one)).count();
    types::check_attachments(call, instance, n_volumes + 1)?;
    let attachment = Attachment {
        instance: instance_id.to_owned(),
        device: device.to_owned(),
        delete_on_termination: false,
        since_ms: now,
        ready_ms: now + World::STATE_DELAY_MS,
        gone_ms: None,
        link: state.access_nodes.get(instance_id).map(|dir| crate::device::link_of(dir, id)),
    };
    if let Some(volume) = state.volumes.get_mut(id) {
        volume.attachment = Some(attachment.clone());
    }
    let most = state.most_attached.entry(instance_id.to_owned()).or_default();
    *most = (*most).max(n_volumes + 1);
    if let Some(instance) = state.instances.get_mut(instance_id) {
        super::codes::add(&mut instance.marks, &volume.marks);
    }
    Ok(attachment)
}

/// Whether this volume may go to this place of this instance at all.
fn check_pair(volume: &Volume, instance: &Instance, device: &str, now: u64) -> Result<(), Refusal> {
    let id = &volume.id;
    if let Some(attachment) = &volume.attachment {
        return Err(ec2_error(
            "VolumeInUse",
            format!("{id} is already attached to an instance ({})", attachment.instance),
        ));
    }
    if volume.state(now) != "available" {
        return Err(ec2_error("IncorrectState", format!("Volume '{id}' is not 'available'.")));
    }
    if volume.zone != instance.zone || volume.marks.outpost != instance.marks.outpost {
        return Err(ec2_error(
            "InvalidVolume.ZoneMismatch",
            format!(
                "The volume '{id}' is not in the same availability zone or Outpost as instance '{}'",
                instance.id
            ),
        ));
    }
    let state = instance.state(now).1;
    if !matches!(state, "running" | "stopped") {
        return Err(ec2_error("IncorrectState", format!("Instance '{}' is not 'running'.", instance.id)));
    }
    if !volume.marks.product_codes.is_empty() && (device != instance.root_device || state != "stopped") {
        return Err(ec2_error(
            "OperationNotPermitted",
            format!("'{id}' with Marketplace codes may not be attached as a secondary device."),
        ));
    }
    Ok(())
}

pub(super) fn detach(call: &Call<'_>) -> Result<String, Refusal> {
    let id = call.form.required("VolumeId")?;
    let (world, is_forced) = (&call.context.world, call.form.flag("Force"));
    let volume = world.read().volume(call.account(), call.region, id)?.clone();
    let holder = volume.attachment.as_ref().and_then(|at| world.read().instances.get(&at.instance).cloned());
    if let Some(instance) = holder {
        call.caller.demand(&call.asked_of("instance", &instance.id, &instance.tags))?;
    }
    call.permit(&call.asked_of("volume", id, &volume.tags))?;
    let attachment = world.change(|state| begin_to_leave(state, call, id))?;
    if attachment.link.is_some() {
        // After a failure the volume stays `detaching`, and the call may be made again.
        let refuse = |reason| ec2_error("InternalError", format!("The device stays: failed to {reason}"));
        disconnect(call.context, id, &attachment).map_err(refuse)?;
    }
    if is_forced {
        end_now(call.context, id, &attachment);
    }
    Ok(reply(call, id, &attachment, "detaching"))
}

fn begin_to_leave(state: &mut State, call: &Call<'_>, id: &str) -> Result<Attachment, Refusal> {
    let now = call.now_ms();
    let attachment = state.volume(call.account(), call.region, id)?.attachment.clone();
    let Some(attachment) = attachment else {
        return Err(ec2_error("IncorrectState", format!("Volume '{id}' is in the 'available' state.")));
    };
    let is_other = |name: &str, have: &str| call.form.text(name).is_some_and(|named| named != have);
    if is_other("InstanceId", &attachment.instance) || is_other("Device", &attachment.device) {
        return Err(ec2_error(
            "InvalidAttachment.NotFound",
            format!("The volume '{id}' is attached to '{}' as {}", attachment.instance, attachment.device),
        ));
    }
    let root_of_running = state.instances.get(&attachment.instance).is_some_and(|instance| {
        instance.root_device == attachment.device && instance.state(now).1 != "stopped"
    });
    if root_of_running {
        return Err(ec2_error(
            "OperationNotPermitted",
            format!("Unable to detach root volume '{id}' from instance '{}'", attachment.instance),
        ));
    }
    if let Some(at) = state.volumes.get_mut(id).and_then(|volume| volume.attachment.as_mut()) {
        at.gone_ms = at.gone_ms.or(Some(now + World::STATE_DELAY_MS));
        return Ok(at.clone());
    }
    Ok(attachment)
}

fn reply(call: &Call<'_>, id: &str, attachment: &Attachment, status: &str) -> String {
    call.reply(|xml| {
        xml.text("volumeId", id);
        xml.text("instanceId", &attachment.instance);
        xml.text("device", &attachment.device);
        xml.text("status", status);
        xml.text("attachTime", time(attachment.since_ms));
        xml.text("deleteOnTermination", attachment.delete_on_termination);
    })
}
