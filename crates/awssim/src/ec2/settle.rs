//! What comes of attachments with time: a volume is `available` when its time has come and, on an access node, nobody
//! has its block device open any more. Looked at with every EC2 call, so that what is described is as of now.

use std::path::Path;

use crate::device;
use crate::server::Context;
use crate::world::Attachment;

/// Ends the attachments that are over.
pub(super) fn settle(context: &Context) {
    if over(context).is_empty() {
        return;
    }
    // One at a time: a second one could otherwise let go of what a call has attached again meanwhile.
    let _turn = context.devices.turn();
    for (id, attachment) in over(context) {
        if attachment.link.is_some() {
            match context.devices.is_there(&context.store.volume_path(&id)) {
                Ok(false) => {}
                Ok(true) => continue,
                Err(error) => {
                    tracing::warn!(volume = %id, %error, "the volume stays in detaching");
                    continue;
                }
            }
        }
        end(context, &id, &attachment);
    }
}

/// Ends an attachment that is on its way out, whoever may have its device open still.
pub(super) fn end_now(context: &Context, id: &str, attachment: &Attachment) {
    let _turn = context.devices.turn();
    let now = context.world.read().volumes.get(id).and_then(|volume| volume.attachment.clone());
    if now.is_some_and(|now| now.gone_ms == attachment.gone_ms) {
        end(context, id, attachment);
    }
}

/// The store has the file before anybody can attach the volume again.
fn end(context: &Context, id: &str, attachment: &Attachment) {
    released(context, id, attachment);
    context.world.change(|state| {
        if let Some(volume) = state.volumes.get_mut(id) {
            volume.attachment.take_if(|at| at.gone_ms == attachment.gone_ms);
        }
    });
}

/// Attachments whose time to go has come.
fn over(context: &Context) -> Vec<(String, Attachment)> {
    let now = context.world.now_ms();
    let state = context.world.read();
    let gone = state.volumes.values().filter_map(|volume| {
        let attachment =
            volume.attachment.as_ref().filter(|at| at.gone_ms.is_some_and(|gone| gone <= now))?;
        Some((volume.id.clone(), attachment.clone()))
    });
    gone.collect()
}

/// Makes the volume a block device of this machine.
pub(super) fn connect(context: &Context, id: &str, link: &Path) -> Result<(), String> {
    context.store.set_external_writer(id, true).map_err(|error| error.to_string())?;
    let made = context.devices.attach(&context.store.volume_path(id), link);
    if made.is_err() {
        context.store.set_external_writer(id, false).map_err(|error| error.to_string())?;
    }
    made.map_err(|error| error.to_string())
}

/// Takes the name of the block device away and lets it go as soon as nobody has it open.
pub(super) fn disconnect(context: &Context, id: &str, attachment: &Attachment) -> Result<(), String> {
    let Some(link) = &attachment.link else { return Ok(()) };
    context.devices.detach(&context.store.volume_path(id), link).map_err(|error| error.to_string())
}

/// The device is gone: what was written through it is on disk, and the store has the file to itself.
pub(super) fn released(context: &Context, id: &str, attachment: &Attachment) {
    if attachment.link.is_none() {
        return;
    }
    let synced = context.store.sync_volume(id);
    if let Err(error) = synced.and_then(|()| context.store.set_external_writer(id, false)) {
        tracing::error!(volume = %id, %error, "the volume was not released");
    }
}

/// At the start: takes away the links that an earlier process left and makes the devices of what is attached again.
pub(crate) fn resume_devices(context: &Context) {
    let (mut links, mut attached) = (Vec::new(), Vec::new());
    {
        let state = context.world.read();
        for dir in state.access_nodes.values() {
            links.extend(state.volumes.keys().map(|id| device::link_of(dir, id)));
        }
        for volume in state.volumes.values() {
            let at = volume.attachment.as_ref().filter(|at| at.gone_ms.is_none());
            if let Some(link) = at.and_then(|at| at.link.clone()) {
                attached.push((volume.id.clone(), link));
            }
        }
    }
    for link in links {
        if let Err(error) = device::unlink(&link) {
            tracing::warn!(%error, "a stale link stays");
        }
    }
    for (id, link) in attached {
        if let Err(reason) = connect(context, &id, &link) {
            tracing::error!(volume = %id, reason, "the access node has no device");
        }
    }
}
