//! AttachVolume and DetachVolume.

use super::{Call, encryption, time};
use crate::faults::Refusal;
use crate::server::form::ec2_error;
use crate::world::{Attachment, Volume};

pub(super) fn attach(call: &Call<'_>) -> Result<String, Refusal> {
    let (id, instance_id) = (call.form.required("VolumeId")?, call.form.required("InstanceId")?);
    let device = call.form.required("Device")?;
    let now = call.now_ms();
    let (volume, instance) = {
        let state = call.context.world.read();
        (
            state.volume(call.account(), call.region, id)?.clone(),
            state.instance(call.account(), call.region, instance_id)?.clone(),
        )
    };
    call.permit(&call.asked_of("volume", id, &volume.tags))?;
    if let Some(attachment) = &volume.attachment {
        return Err(ec2_error(
            "VolumeInUse",
            format!("{id} is already attached to an instance ({})", attachment.instance),
        ));
    }
    if volume.zone != instance.zone {
        return Err(ec2_error(
            "InvalidVolume.ZoneMismatch",
            format!("The volume '{id}' is not in the same availability zone as instance '{instance_id}'"),
        ));
    }
    if volume.failed {
        return Err(ec2_error("IncorrectState", format!("Volume '{id}' is in the 'error' state.")));
    }
    encryption::check_attach(call, volume.kms_key.as_deref()).map_err(|refusal| {
        ec2_error(
            "CustomerKeyHasBeenRevoked",
            format!("The encrypted volume was unable to access the KMS key: {refusal}"),
        )
    })?;
    if !matches!(instance.state(now).1, "running" | "stopped") {
        return Err(ec2_error("IncorrectState", format!("Instance '{instance_id}' is not 'running'.")));
    }
    let attachment = Attachment {
        instance: instance_id.to_owned(),
        device: device.to_owned(),
        delete_on_termination: false,
        since_ms: now,
    };
    call.context.world.change(|state| {
        let is_taken = |one: &Volume| {
            one.attachment.as_ref().is_some_and(|at| at.instance == instance_id && at.device == device)
        };
        if state.volumes.values().any(is_taken) {
            return Err(ec2_error(
                "InvalidParameterValue",
                format!(
                    "Invalid value '{device}' for unixDevice. Attachment point {device} is already in use"
                ),
            ));
        }
        if let Some(volume) = state.volumes.get_mut(id) {
            volume.attachment = Some(attachment.clone());
        }
        Ok(())
    })?;
    Ok(reply(call, id, &attachment, "attaching"))
}

pub(super) fn detach(call: &Call<'_>) -> Result<String, Refusal> {
    let id = call.form.required("VolumeId")?;
    let now = call.now_ms();
    let volume = call.context.world.read().volume(call.account(), call.region, id)?.clone();
    call.permit(&call.asked_of("volume", id, &volume.tags))?;
    let Some(attachment) = volume.attachment else {
        return Err(ec2_error("IncorrectState", format!("Volume '{id}' is in the 'available' state.")));
    };
    let root_of_running = {
        let state = call.context.world.read();
        state.instances.get(&attachment.instance).is_some_and(|instance| {
            instance.root_device == attachment.device && instance.state(now).1 == "running"
        })
    };
    if root_of_running {
        return Err(ec2_error(
            "OperationNotPermitted",
            format!("Unable to detach root volume '{id}' from instance '{}'", attachment.instance),
        ));
    }
    call.context.world.change(|state| {
        if let Some(volume) = state.volumes.get_mut(id) {
            volume.attachment = None;
        }
    });
    Ok(reply(call, id, &attachment, "detaching"))
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
