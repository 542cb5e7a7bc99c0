//! StartInstances, StopInstances, TerminateInstances.

use super::{Call, encryption};
use crate::faults::Refusal;
use crate::server::form::ec2_error;
use crate::world::{StateReason, World};

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
                    if let Some(at) = volume.attachment.take_if(|at| at.instance == *id)
                        && at.delete_on_termination
                    {
                        orphans.push(volume.id.clone());
                    }
                }
            }
        }
    });
    for id in orphans {
        super::volumes::remove(call, &id)?;
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

/// Those of the instances that have a volume whose key the caller cannot use.
fn unusable_volumes(call: &Call<'_>, ids: &[String]) -> Vec<String> {
    let mut keys = Vec::new();
    for volume in call.context.world.read().volumes.values() {
        if let (Some(at), Some(key)) = (&volume.attachment, &volume.kms_key)
            && ids.contains(&at.instance)
        {
            keys.push((at.instance.clone(), key.clone()));
        }
    }
    let is_refused = |key: &str| encryption::check_attach(call, Some(key)).is_err();
    keys.into_iter().filter(|(_, key)| is_refused(key)).map(|(instance, _)| instance).collect()
}
