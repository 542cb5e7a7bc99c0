//! The exchange of an instance's volumes, as it is planned and kept in the checkpoint, and its steps on AWS, forward
//! and back.
//!
//! Every step looks before it acts, so it runs twice without harm, and both directions begin wherever the other, or an
//! earlier attempt, has stopped.

use serde::{Deserialize, Serialize};
use snapferry_aws::{Account, AwsError, ec2};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::aws::Tag;
use snapferry_types::{InstanceId, VolumeId};
use tokio_util::sync::CancellationToken;

use super::restore_attach::ensure_attached;
use crate::context::TaskContext;

/// How often an instance that is on its way to another state is looked at again.
const MAX_STATE_CHANGES: u32 = 5;

/// A planned exchange, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Swap {
    /// The instance.
    pub(super) instance: InstanceId,
    /// Whether it ran before.
    pub(super) was_running: bool,
    /// How far.
    pub(super) phase: SwapPhase,
    /// One for each restored volume.
    pub(super) exchanges: Vec<Exchange>,
    /// Tags that the instance had; none when only some of its volumes are restored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) tags: Vec<Tag>,
    /// Why it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<SwapFailure>,
}

/// How far an exchange has come. Within a phase AWS itself says what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SwapPhase {
    /// The new volumes exist; the instance may have been touched.
    Planned,
    /// It failed for good and is being taken back.
    RollingBack,
    /// The instance is as it was.
    RolledBack,
    /// The instance has the new volumes, for good.
    Sealed,
}

/// One volume and what comes in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exchange {
    /// The volume that was backed up.
    pub(super) source: VolumeId,
    /// Device name.
    pub(super) device: String,
    /// What the instance has there now; nothing when it was detached since the backup.
    pub(super) old: Option<OldVolume>,
    /// The restored volume.
    pub(super) new: VolumeId,
    /// Whether the restored volume goes with the instance.
    pub(super) delete_on_termination: bool,
}

/// A volume that is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OldVolume {
    /// The volume.
    pub(super) volume: VolumeId,
    /// Whether it goes with the instance.
    pub(super) delete_on_termination: bool,
}

/// An error, as kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SwapFailure {
    class: String,
    message: String,
}

impl From<&TransferError> for SwapFailure {
    fn from(error: &TransferError) -> Self {
        Self { class: error.class.as_str().to_owned(), message: error.message.clone() }
    }
}

impl From<&SwapFailure> for TransferError {
    fn from(failure: &SwapFailure) -> Self {
        let permanent =
            [ErrorClass::NotFound, ErrorClass::AccessDenied, ErrorClass::Corrupt, ErrorClass::Invalid];
        let class = permanent.into_iter().find(|class| class.as_str() == failure.class);
        Self::new(class.unwrap_or(ErrorClass::Invalid), failure.message.clone())
    }
}

/// Gives the instance its new volumes, and starts it when it ran and is to run.
///
/// # Errors
/// [`TransferError`] that names the volume or the instance; what was done stays.
pub(super) async fn forward(
    context: &TaskContext,
    account: &Account,
    swap: &Swap,
    start: bool,
    halt: &CancellationToken,
) -> Result<(), TransferError> {
    let instance = &swap.instance;
    context.enter("stop instance");
    ensure_stopped(account, instance, halt).await?;
    context.enter("swap volumes");
    for exchange in &swap.exchanges {
        go_on(halt)?;
        if let Some(old) = &exchange.old {
            ensure_detached(account, &old.volume, instance, halt).await?;
        }
    }
    for exchange in &swap.exchanges {
        go_on(halt)?;
        ensure_attached(account, &exchange.new, instance, &exchange.device, halt).await?;
    }
    go_on(halt)?;
    let devices: Vec<(String, bool)> =
        swap.exchanges.iter().map(|one| (one.device.clone(), one.delete_on_termination)).collect();
    ec2::modify_delete_on_termination(account, instance, &devices).await?;
    go_on(halt)?;
    if swap.was_running && start {
        context.enter("start instance");
        ensure_running(account, instance, halt).await?;
    }
    Ok(())
}

/// A swap that is to be taken back goes no step further.
fn go_on(halt: &CancellationToken) -> Result<(), TransferError> {
    if halt.is_cancelled() { Err(TransferError::cancelled()) } else { Ok(()) }
}

/// Gives the instance its old volumes back, and starts it when it ran. An instance that is gone needs nothing.
///
/// # Errors
/// [`TransferError`]; what was done stays, and the rest is to be tried again.
pub(super) async fn back(
    context: &TaskContext,
    account: &Account,
    swap: &Swap,
    lost: &CancellationToken,
) -> Result<(), TransferError> {
    let instance = &swap.instance;
    context.enter("take the swap back");
    let described = match ec2::describe_instance(account, instance).await {
        Ok(described) => Some(described),
        Err(AwsError::NotFound { what: "instance", .. }) => return Ok(()),
        // All its volumes are detached just now.
        Err(AwsError::Invalid { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let has = |volume: &VolumeId| {
        described.as_ref().is_some_and(|one| one.config.volumes.iter().any(|has| has.volume_id == *volume))
    };
    let is_untouched = swap
        .exchanges
        .iter()
        .all(|one| !has(&one.new) && one.old.as_ref().is_none_or(|old| has(&old.volume)));
    if !is_untouched {
        ensure_stopped(account, instance, lost).await?;
        for exchange in &swap.exchanges {
            ensure_detached(account, &exchange.new, instance, lost).await?;
        }
        for exchange in &swap.exchanges {
            if let Some(old) = &exchange.old {
                ensure_attached(account, &old.volume, instance, &exchange.device, lost).await?;
            }
        }
        let olds = swap.exchanges.iter().filter_map(|one| Some((one.device.clone(), one.old.as_ref()?)));
        let devices: Vec<(String, bool)> =
            olds.map(|(device, old)| (device, old.delete_on_termination)).collect();
        ec2::modify_delete_on_termination(account, instance, &devices).await?;
    }
    if swap.was_running {
        ensure_running(account, instance, lost).await?;
    }
    Ok(())
}

/// Stops the instance whatever it is about to do.
async fn ensure_stopped(
    account: &Account,
    instance: &InstanceId,
    stop: &CancellationToken,
) -> Result<(), TransferError> {
    for _ in 0..MAX_STATE_CHANGES {
        match ec2::instance_state(account, instance).await?.as_str() {
            "stopped" => return Ok(()),
            "pending" => match ec2::wait_instance_running(account, instance, stop).await {
                Ok(()) | Err(AwsError::Failed { .. }) => {}
                Err(error) => return Err(error.into()),
            },
            "stopping" => ec2::wait_instance_stopped(account, instance, stop).await?,
            "running" => {
                ec2::stop_instance(account, instance).await?;
                ec2::wait_instance_stopped(account, instance, stop).await?;
            }
            state => return Err(ends(instance, state)),
        }
    }
    let message = format!("{instance} does not stay stopped: something else starts it");
    Err(TransferError::new(ErrorClass::Unavailable, message))
}

/// Starts the instance, unless it runs.
pub(super) async fn ensure_running(
    account: &Account,
    instance: &InstanceId,
    stop: &CancellationToken,
) -> Result<(), TransferError> {
    match ec2::instance_state(account, instance).await?.as_str() {
        "running" => return Ok(()),
        "stopping" => ec2::wait_instance_stopped(account, instance, stop).await?,
        "stopped" | "pending" => {}
        state => return Err(ends(instance, state)),
    }
    ec2::start_instance(account, instance).await?;
    ec2::wait_instance_running(account, instance, stop).await?;
    Ok(())
}

fn ends(instance: &InstanceId, state: &str) -> TransferError {
    TransferError::new(ErrorClass::Invalid, format!("{instance} is {state}: it has no volumes to exchange"))
}

/// Takes a volume off the instance; one that it does not have is done.
async fn ensure_detached(
    account: &Account,
    volume: &VolumeId,
    instance: &InstanceId,
    stop: &CancellationToken,
) -> Result<(), TransferError> {
    let described = match ec2::describe_volume(account, volume).await {
        Ok(described) => described,
        Err(AwsError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if described.attachments.iter().any(|one| one.instance.as_ref() == Some(instance)) {
        ec2::detach_volume(account, volume, false).await?;
        ec2::wait_volume_detached(account, volume, stop).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_failure_stays_permanent_and_in_its_words() {
        let error = TransferError::new(ErrorClass::AccessDenied, "ec2:AttachVolume is denied");
        assert_eq!(TransferError::from(&SwapFailure::from(&error)), error);
        let odd = SwapFailure { class: "of a newer version".to_owned(), message: "x".to_owned() };
        assert!(!TransferError::from(&odd).retryable());
    }
}
