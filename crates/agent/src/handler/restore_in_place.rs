//! In place: the instance that was backed up gets the restored volumes in place of its own.
//!
//! The new volumes are made first; then the plan is in the checkpoint, and only then the instance is touched: stopped,
//! its volumes detached, the new ones attached, started. Then the swap is sealed, the old volumes are let go,
//! and the tags that the instance has lost since come back.
//!
//! Runs twice, or dies at:
//! - before the plan: the instance is as it was, and the new volumes are found again by their token.
//! - between plan and seal: the next attempt goes on from what AWS shows. When a step fails or the user cancels, the old
//!   volumes are put back and the instance runs as before; this is repeated until it is done. A failure for good is in
//!   the checkpoint before that, so that no later attempt goes forward again. Suspending and the end of the process wait
//!   for the seal: an instance is not left without its volumes.
//! - after the seal: nothing is taken back any more; a clean-up only hands over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use snapferry_aws::ec2::{self, DescribedInstance};
use snapferry_aws::{Account, AwsError, SessionScope};
use snapferry_service::Backoff;
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::aws::Tag;
use snapferry_types::catalogue::RecoveryPointMeta;
use snapferry_types::instance::VolumeConfig;
use snapferry_wire::v1;
use tokio_util::sync::CancellationToken;

use super::made;
use super::marks::Marks;
use super::restore_source::Chosen;
use super::restore_swap::{Exchange, OldVolume, Swap, SwapFailure, SwapPhase, back, forward};
use super::restore_tags;
use super::restore_volumes::Restored;
use crate::context::TaskContext;
use crate::stop::StopReason;

/// Tag of a volume that was replaced: the volume that took its place.
const TAG_REPLACED_BY: &str = "snapferry:replaced-by";
/// Tries of taking a swap back within one attempt.
const MAX_BACK_TRIES: u32 = 8;

/// The instance as it is, before anything is made.
///
/// # Errors
/// [`TransferError`] when it is gone, in another account, or in no state to be stopped.
pub(super) async fn look(
    context: &Arc<TaskContext>,
    account: &Account,
    meta: &RecoveryPointMeta,
    chosen: &[Chosen],
) -> Result<DescribedInstance, TransferError> {
    let instance = &meta.instance.instance_id;
    if meta.account != *account.account() || meta.instance.region != *account.region() {
        let message = format!(
            "{instance} is in account {}, region {}: in place it can be restored only there; restore it as a new \
             instance instead",
            meta.account, meta.instance.region
        );
        return Err(TransferError::new(ErrorClass::Invalid, message));
    }
    let seen = ec2::describe_instance(account, instance).await.map_err(|error| match error {
        AwsError::NotFound { .. } => {
            let message = format!("{instance} does not exist any more: restore it as a new instance instead");
            TransferError::new(ErrorClass::NotFound, message)
        }
        other => other.into(),
    })?;
    match seen.state.as_str() {
        "running" | "stopped" => {}
        "shutting-down" => {
            let message = format!("{instance} is being terminated: restore it as a new instance instead");
            return Err(TransferError::new(ErrorClass::Invalid, message));
        }
        state => {
            let message = format!("{instance} is {state}: waiting until it runs or is stopped");
            return Err(TransferError::new(ErrorClass::Unavailable, message));
        }
    }
    check_places(&seen, chosen.iter().map(|one| &one.config))?;
    for one in &seen.config.volumes {
        let is_replaced = chosen.iter().any(|wanted| {
            wanted.volume.volume_id == one.volume_id || wanted.config.device_name == one.device_name
        });
        if !is_replaced {
            let text = format!("{} at {} is not restored and stays as it is", one.volume_id, one.device_name);
            context.note(false, text).await?;
        }
    }
    Ok(seen)
}

/// The volume whose place one takes, if there is one: the volume it was made from, wherever that is now, or its device's.
fn replaced<'a>(seen: &'a DescribedInstance, config: &VolumeConfig) -> Option<&'a VolumeConfig> {
    let has = &seen.config.volumes;
    let of = has.iter().find(|volume| volume.volume_id == config.volume_id);
    of.or_else(|| has.iter().find(|volume| volume.device_name == config.device_name))
}

/// Refuses two that would take one place.
fn check_places<'a>(
    seen: &'a DescribedInstance,
    of: impl Iterator<Item = &'a VolumeConfig>,
) -> Result<(), TransferError> {
    let mut taken = BTreeMap::new();
    for one in of {
        let device = &replaced(seen, one).unwrap_or(one).device_name;
        if let Some(other) = taken.insert(device, &one.volume_id) {
            let message = format!(
                "{other} and {} would both come to {device} of {}: restore one of them to a volume",
                one.volume_id, seen.config.instance_id
            );
            return Err(TransferError::new(ErrorClass::Invalid, message));
        }
    }
    Ok(())
}

/// Which volume takes whose place.
///
/// # Errors
/// [`TransferError`] when two would take one place.
pub(super) fn plan(
    seen: &DescribedInstance,
    meta: &RecoveryPointMeta,
    restored: &[Restored],
) -> Result<Swap, TransferError> {
    check_places(seen, restored.iter().map(|one| &one.config))?;
    let exchange = |one: &Restored| {
        let of = replaced(seen, &one.config);
        Exchange {
            source: one.config.volume_id.clone(),
            device: of.unwrap_or(&one.config).device_name.clone(),
            old: of.map(|volume| OldVolume {
                volume: volume.volume_id.clone(),
                delete_on_termination: volume.delete_on_termination,
            }),
            new: one.volume.clone(),
            delete_on_termination: one.config.delete_on_termination,
        }
    };
    let exchanges = restored.iter().map(exchange).collect();
    Ok(Swap {
        instance: seen.config.instance_id.clone(),
        was_running: seen.state == "running",
        phase: SwapPhase::Planned,
        exchanges,
        tags: restore_tags::wanted(meta, restored),
        failure: None,
    })
}

/// Brings a planned swap to its end, or back.
///
/// # Errors
/// [`TransferError`]; the instance is as it was then, unless the message says otherwise.
pub(super) async fn run(
    context: &Arc<TaskContext>,
    account: &Account,
    swap: Swap,
    keep_old_volumes: bool,
    start: bool,
    marks: &Marks,
) -> Result<Vec<v1::Made>, TransferError> {
    match swap.phase {
        SwapPhase::Sealed => {}
        SwapPhase::Planned => match go_forward(context, account, &swap, start).await {
            Ok(()) => set_phase(context, marks, SwapPhase::Sealed, None).await?,
            Err(error) => return Err(take_back(context, account, &swap, marks, error).await),
        },
        SwapPhase::RollingBack | SwapPhase::RolledBack => {
            let error = swap.failure.as_ref().map_or_else(TransferError::cancelled, TransferError::from);
            return Err(take_back(context, account, &swap, marks, error).await);
        }
    }
    // The volumes are the user's from here on, whatever becomes of those before.
    context.ledger.hand_over().await?;
    context.enter("let old volumes go");
    for exchange in &swap.exchanges {
        if let Some(old) = &exchange.old {
            let_go(context, account, &swap, exchange, old, keep_old_volumes).await?;
        }
    }
    restore_tags::bring_back(context, account, &swap.instance, &swap.tags).await?;
    Ok(swap.exchanges.iter().map(|one| made("volume", &one.new, &one.source)).collect())
}

/// Goes forward until done, an error, a lost lease or the user's cancel; nothing else stops it half-way.
async fn go_forward(
    context: &Arc<TaskContext>,
    account: &Account,
    swap: &Swap,
    start: bool,
) -> Result<(), TransferError> {
    let halt = CancellationToken::new();
    let watch = async {
        context.stop.token().cancelled().await;
        match context.stop.reason() {
            Some(StopReason::Suspend | StopReason::Shutdown) => {
                let (task, instance) = (&context.spec.task, &swap.instance);
                tracing::info!(%task, %instance, "the swap is brought to its end before the task stops");
                context.stop.lost().cancelled().await;
            }
            Some(StopReason::Cancel | StopReason::LeaseLost) | None => {}
        }
        halt.cancel();
        std::future::pending::<()>().await;
    };
    let work = async {
        if is_cancelled(context) {
            return Err(TransferError::cancelled());
        }
        forward(context, account, swap, start, &halt).await
    };
    let done = tokio::select! {
        done = work => done,
        () = watch => Err(TransferError::cancelled()),
    };
    // A step that ended while the user cancelled: before the seal that counts.
    if done.is_ok() && is_cancelled(context) { Err(TransferError::cancelled()) } else { done }
}

fn is_cancelled(context: &TaskContext) -> bool {
    matches!(context.stop.reason(), Some(StopReason::Cancel))
}

/// Puts the old volumes back after an error, and answers the error to report. A failure that may pass leaves the plan
/// in force: the next attempt begins the swap again.
async fn take_back(
    context: &Arc<TaskContext>,
    account: &Account,
    swap: &Swap,
    marks: &Marks,
    error: TransferError,
) -> TransferError {
    if context.stop.lost().is_cancelled() || error.class == ErrorClass::StaleFence {
        return error;
    }
    let is_final = !error.retryable();
    if is_final && swap.phase == SwapPhase::Planned {
        let failure = (error.class != ErrorClass::Cancelled).then(|| SwapFailure::from(&error));
        if let Err(unrecorded) = set_phase(context, marks, SwapPhase::RollingBack, failure).await {
            tracing::warn!(task = %context.spec.task, error = %unrecorded, "the end of the swap is not recorded");
        }
    }
    tracing::warn!(task = %context.spec.task, %error, instance = %swap.instance, "the swap is taken back");
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    let mut tries = 0;
    let undone = loop {
        tries += 1;
        match back(context, account, swap, context.stop.lost()).await {
            Ok(()) => break None,
            Err(undone) if tries >= MAX_BACK_TRIES || context.stop.lost().is_cancelled() => {
                break Some(undone);
            }
            Err(undone) => {
                tracing::warn!(task = %context.spec.task, %undone, "not taken back yet; trying again")
            }
        }
        tokio::select! {
            () = context.stop.lost().cancelled() => {}
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    };
    if let Some(undone) = undone {
        let message =
            format!("{} does not have its volumes back yet ({undone}), after: {error}", swap.instance);
        // Whatever class it has, another attempt has to go on with it.
        return TransferError::new(ErrorClass::Unavailable, message);
    }
    if is_final && let Err(unrecorded) = set_phase(context, marks, SwapPhase::RolledBack, None).await {
        tracing::warn!(task = %context.spec.task, error = %unrecorded, "the end of the swap is not recorded");
    }
    error
}

async fn set_phase(
    context: &TaskContext,
    marks: &Marks,
    phase: SwapPhase,
    failure: Option<SwapFailure>,
) -> Result<(), TransferError> {
    marks
        .save(context, |checkpoint| {
            if let Some(swap) = &mut checkpoint.swap {
                swap.phase = phase;
                swap.failure = failure.or(swap.failure.take());
            }
        })
        .await
}

/// Deletes a volume that was replaced, or says what took its place.
async fn let_go(
    context: &Arc<TaskContext>,
    account: &Account,
    swap: &Swap,
    exchange: &Exchange,
    old: &OldVolume,
    keep: bool,
) -> Result<(), TransferError> {
    let (volume, device, new) = (&old.volume, &exchange.device, &exchange.new);
    let done = if keep {
        let tag = Tag::new(TAG_REPLACED_BY, new.as_str());
        ec2::create_tags(account, volume.as_str(), &[tag]).await.map(|_| ())
    } else {
        ec2::delete_volume(account, volume).await
    };
    let text = match (done.map_err(TransferError::from), keep) {
        (Err(error), _) if error.retryable() => return Err(error),
        (Err(error), true) => format!("{volume} is left detached, but not tagged: {error}"),
        (Err(error), false) => format!("{volume} is left detached and could not be deleted: {error}"),
        (Ok(()), true) => format!("{volume} is left detached"),
        (Ok(()), false) => format!("{volume} is deleted"),
    };
    context.note(false, format!("{device} of {}: {new} is in its place, {text}", swap.instance)).await
}

/// What a clean-up has to do first: take back a swap that is under way, or hand over after its seal.
///
/// # Errors
/// [`TransferError`]; the new volumes must not be removed then.
pub(super) async fn clean_up(
    context: &Arc<TaskContext>,
    lost: &CancellationToken,
) -> Result<(), TransferError> {
    let marks = Marks::read(context)?;
    let Some(swap) = marks.swap() else { return Ok(()) };
    match swap.phase {
        SwapPhase::RolledBack => Ok(()),
        SwapPhase::Sealed => context.ledger.hand_over().await,
        SwapPhase::Planned | SwapPhase::RollingBack => {
            let account = context.tenant(SessionScope::Restore).await?;
            back(context, &account, &swap, lost).await?;
            set_phase(context, &marks, SwapPhase::RolledBack, None).await
        }
    }
}
