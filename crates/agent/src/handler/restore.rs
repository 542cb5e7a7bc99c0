//! Restore of one recovery point: its blocks, from a MediaAgent's library or from snapshots, become volumes, an
//! instance, the volumes of the instance that was backed up, or disk images.
//!
//! Runs twice, or dies at:
//! - checking: nothing was made.
//! - staging (see [`super::stage`]): what is written is in the checkpoint, a snapshot that is complete is taken as it
//!   is. Snapshots that exist already need none.
//! - volumes, image, instance: made under client tokens or found by their ledger tag.
//! - exchanging the volumes of an instance: see [`super::restore_in_place`].
//! - handing over (see [`super::restore_done`]): what was made is in the checkpoint before it, and the next attempt
//!   only does what is left of the end.

use std::sync::Arc;

use snapferry_aws::SessionScope;
use snapferry_transfer::{ErrorClass, TransferError, boxed};
use snapferry_types::TransportWish;
use snapferry_types::spec::{RestoreSpec, RestoreTarget};
use snapferry_wire::v1;

use super::marks::Marks;
use super::restore_preflight::To;
use super::restore_source::Origin;
use super::{
    made, restore_attach, restore_check, restore_done, restore_image, restore_in_place, restore_instance,
    restore_preflight, restore_volumes, stage,
};
use crate::context::TaskContext;

pub(super) async fn run(
    context: &Arc<TaskContext>,
    spec: &RestoreSpec,
) -> Result<Vec<v1::Made>, TransferError> {
    let marks = Marks::read(context)?;
    if let Some(results) = marks.results() {
        return restore_done::finish(context, &marks, results).await;
    }
    if let RestoreTarget::DiskImage { folder, format } = &spec.target {
        if matches!(spec.transport, TransportWish::HotAdd | TransportWish::Import) {
            let wish = spec.transport.as_str();
            let text = format!(
                "{wish} was asked for and cannot be used: nothing is written to AWS for a disk image; leave the transport \
                 to Snapferry. Nothing was made"
            );
            return Err(TransferError::new(ErrorClass::Invalid, text));
        }
        return boxed(|| restore_image::run(context, spec, folder, *format, &marks)).await;
    }
    let account = context.tenant(SessionScope::Restore).await?;
    if let RestoreTarget::InPlace { keep_old_volumes, start } = spec.target
        && let Some(swap) = marks.swap()
    {
        let made =
            boxed(|| restore_in_place::run(context, &account, swap, keep_old_volumes, start, &marks)).await?;
        return restore_done::finish(context, &marks, made).await;
    }

    // Cancelled before anything was exchanged: there is nothing to go forward with.
    context.stop.check()?;
    context.enter("plan");
    let origin = Origin::open(context, spec).await?;
    let chosen = origin.choose(context, &account, spec).await?;
    let original = &origin.meta.instance;
    let made = match &spec.target {
        RestoreTarget::Volumes { availability_zone, attach } => {
            let wish = availability_zone.as_deref();
            let zone =
                restore_check::volumes(context, &account, wish, attach.as_ref(), original, &chosen).await?;
            boxed(|| restore_preflight::run(context, &account, &origin, &chosen, To::Volumes(&zone))).await?;
            let staged = boxed(|| stage::all(context, &account, &origin, spec, chosen, &marks)).await?;
            let restored =
                boxed(|| restore_volumes::run(context, &account, &staged, &zone.name, &spec.extra_tags))
                    .await?;
            if let Some(attach) = attach {
                boxed(|| restore_attach::run(context, &account, attach, &restored)).await?;
            }
            restored.iter().map(|one| made("volume", &one.volume, &one.config.volume_id)).collect()
        }
        RestoreTarget::Instance(new) => {
            let place = restore_check::instance(context, &account, original, new, &chosen).await?;
            boxed(|| {
                restore_preflight::run(context, &account, &origin, &chosen, To::Instance(&place, original))
            })
            .await?;
            let staged = boxed(|| stage::all(context, &account, &origin, spec, chosen, &marks)).await?;
            boxed(|| restore_instance::run(context, &account, &staged, original, spec, &place)).await?
        }
        RestoreTarget::InPlace { keep_old_volumes, start } => {
            let seen = boxed(|| restore_in_place::look(context, &account, &origin.meta, &chosen)).await?;
            let to = To::InPlace { seen: &seen, keep_old_volumes: *keep_old_volumes };
            boxed(|| restore_preflight::run(context, &account, &origin, &chosen, to)).await?;
            let staged = boxed(|| stage::all(context, &account, &origin, spec, chosen, &marks)).await?;
            let zone = &seen.config.availability_zone;
            let restored =
                boxed(|| restore_volumes::run(context, &account, &staged, zone, &spec.extra_tags)).await?;
            // The last moment at which the instance is as it was.
            context.stop.check()?;
            let swap = restore_in_place::plan(&seen, &origin.meta, &restored)?;
            marks.save(context, |checkpoint| checkpoint.swap = Some(swap.clone())).await?;
            let made =
                boxed(|| restore_in_place::run(context, &account, swap, *keep_old_volumes, *start, &marks))
                    .await?;
            // The swap is sealed: a cancel comes too late.
            return restore_done::finish(context, &marks, made).await;
        }
        RestoreTarget::DiskImage { .. } => Vec::new(),
    };
    context.stop.check()?;
    restore_done::finish(context, &marks, made).await
}
