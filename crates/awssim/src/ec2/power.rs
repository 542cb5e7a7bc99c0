//! StartInstances, StopInstances, TerminateInstances.

use super::{Call, encryption, settle};
use crate::faults::Refusal;
use crate::server::form::ec2_error;
use crate::world::{Attachment, StateReason, World};

/// What is to become of the instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Start,
    Stop,
    Terminate,
}

pub(super) fn change(call: &Call<'_>, change: Change) -> Result<String, Refusal> {
    let ids = call.form.list("InstanceId");
    if ids.is_empty() {
        return Err(ec2_error("MissingParameter", "The request must contain the parameter InstanceId"));
    }
    let now = call.now_ms();
    for id in &ids {
        let instance = call.context.world.read().instance(call.account(), call.region, id)?.clone();
        call.permit(&call.asked_of("instance", id, &instance.tags))?;
        let (_, state) = instance.state(now);
        let is_allowed = match change {
            Change::Start => matches!(state, "stopped" | "running" | "pending"),
            Change::Stop => matches!(state, "stopped" | "running" | "stopping"),
            Change::Terminate => true,
        };
        if !is_allowed {
            return Err(ec2_error(
                "IncorrectInstanceState",
                format!("The instance '{id}' is not in a state from which it can be changed: {state}."),
            ));
        }
    }
    if change == Change::Start {
        ids.iter().try_for_each(|id| check_root(call, id))?;
    }
    let mut changed = Vec::new();
    let mut orphans = Vec::new();
    let refused = if change == Change::Start { unusable_volumes(call, &ids) } else { Vec::new() };
    call.context.world.change(|state| {
        for id in &ids {
            let Some(instance) = state.instances.get_mut(id) else { continue };
            let before = instance.state(now);
            let by_user = StateReason::new("Client.UserInitiatedShutdown", "User initiated shutdown");
            let (target, reason) = match change {
                Change::Start if refused.contains(id) => {
                    let reason = StateReason::new("Client.InternalError", "Client error on launch");
                    ("start_failed", Some(reason))
                }
                Change::Start => ("running", None),
                Change::Stop => ("stopped", Some(by_user)),
                Change::Terminate => ("terminated", Some(by_user)),
            };
            // What is in the state already stays as it is; a start that failed may be tried again.
            let is_there = match change {
                Change::Start => instance.target == "running",
                Change::Stop => matches!(before.1, "stopped" | "stopping"),
                Change::Terminate => matches!(before.1, "terminated" | "shutting-down"),
            };
            if !is_there {
                target.clone_into(&mut instance.target);
                instance.ready_ms = now + World::STATE_DELAY_MS;
                instance.state_reason = reason;
            }
            changed.push((id.clone(), before, instance.state(now)));
            if change == Change::Terminate {
                for volume in state.volumes.values_mut() {
                    if let Some(at) = volume.attachment.take_if(|at| at.instance == *id) {
                        orphans.push((volume.id.clone(), at));
                    }
                }
            }
        }
    });
    for (id, at) in orphans {
        if let Err(reason) = settle::disconnect(call.context, &id, &at) {
            tracing::error!(volume = %id, reason, "a terminated access node's device stays");
        }
        settle::released(call.context, &id, &at);
        if at.delete_on_termination {
            super::volumes::remove(call, &id)?;
        }
    }
    Ok(call.reply(|xml| {
        xml.list("instancesSet", changed, |xml, (id, before, after)| {
            xml.text("instanceId", id);
            for (tag, (code, name)) in [("currentState", after), ("previousState", before)] {
                xml.nest(tag, |xml| {
                    xml.text("code", code);
                    xml.text("name", name);
                });
            }
        });
    }))
}

/// An instance whose root volume was taken away does not start.
fn check_root(call: &Call<'_>, id: &str) -> Result<(), Refusal> {
    let state = call.context.world.read();
    let instance = state.instance(call.account(), call.region, id)?;
    let is_root = |at: &Attachment| at.instance == id && at.device == instance.root_device;
    if state.volumes.values().any(|volume| volume.attachment.as_ref().is_some_and(is_root)) {
        return Ok(());
    }
    Err(ec2_error(
        "IncorrectState",
        format!("Instance '{id}' does not have a volume attached at root ({})", instance.root_device),
    ))
}

/// Those of the instances that have a volume whose key the caller cannot use.
fn unusable_volumes(call: &Call<'_>, ids: &[String]) -> Vec<String> {
    let state = call.context.world.read();
    let is_refused = |key: Option<&str>| encryption::check_attach(call, &state, key).is_err();
    let of_instances = state.volumes.values().filter_map(|volume| {
        let at = volume.attachment.as_ref().filter(|at| ids.contains(&at.instance))?;
        is_refused(volume.kms_key.as_deref()).then(|| at.instance.clone())
    });
    of_instances.collect()
}
