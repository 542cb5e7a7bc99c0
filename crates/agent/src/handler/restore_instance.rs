//! From staged snapshots to a new instance: an image over them, an instance of the image, its volumes' tags, and the
//! image goes again.
//!
//! Runs twice: RegisterImage has no client token, so its image is found by its tag; RunInstances has one. All volumes go
//! with the instance until it is whole, so that terminating it leaves nothing. Dies at any later step: the next attempt
//! finds the instance, and repeats tags, power state and what goes with it.

use std::sync::Arc;
use std::time::Duration;

use snapferry_aws::Account;
use snapferry_aws::ec2::{self, ImageVolume, NewImage, NewInstance};
use snapferry_service::Backoff;
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::InstanceId;
use snapferry_types::aws::Tag;
use snapferry_types::instance::{InstanceConfig, OsFamily};
use snapferry_types::ledger::{LedgerEntry, ObjectKind, Purpose};
use snapferry_types::spec::{NewInstanceSpec, RestoreSpec};
use snapferry_wire::v1;

use super::objects::parse_one;
use super::restore_check::Place;
use super::restore_volumes::{restored_tags, say_dropped};
use super::stage::Staged;
use super::{made, objects};
use crate::context::TaskContext;

pub(super) async fn run(
    context: &Arc<TaskContext>,
    account: &Account,
    staged: &[Staged],
    original: &InstanceConfig,
    spec: &RestoreSpec,
    place: &Place,
) -> Result<Vec<v1::Made>, TransferError> {
    context.enter("create instance");
    let image_entry = register(context, account, staged, original).await?;
    let image: String = parse_one(&image_entry)?;
    wait_image(context, account, &image).await?;

    let tags = instance_tags(original, spec, &place.wanted);
    let create = |entry: LedgerEntry| {
        let mut all_tags = context.ledger.tags(&entry);
        all_tags.extend(tags.clone());
        let mut request = new_instance(original, place, &image, entry.id.to_string(), all_tags);
        request.volume_keys = volume_keys(staged);
        async move {
            say_dropped(context, original.instance_id.as_str(), &request.tags).await?;
            Ok(vec![ec2::run_instance(account, &request).await?.into()])
        }
    };
    let what = (ObjectKind::Instance, Purpose::RestoreResult, original.instance_id.as_str());
    let entry = objects::ensure(context, account, what, create).await?;
    let instance: InstanceId = parse_one(&entry)?;
    settle(context, account, &instance, place.wanted.stopped).await?;
    let mut results = vec![made("instance", &instance, &original.instance_id)];
    // The image goes with what only served the restore, once the results are kept: an attempt that dies after it is gone
    // does not look for it.
    let restored = ec2::describe_instance(account, &instance).await?.config;
    say_other_platform(context, original, &restored).await?;
    results.extend(finish_volumes(context, account, &restored, staged, spec).await?);
    Ok(results)
}

/// Waits until the instance runs, and stops it where that is wished. An earlier attempt may have stopped it already.
async fn settle(
    context: &TaskContext,
    account: &Account,
    instance: &InstanceId,
    stopped: bool,
) -> Result<(), TransferError> {
    let stop = context.stop.token();
    if !stopped {
        return Ok(ec2::wait_instance_running(account, instance, stop).await?);
    }
    let is_stopping = ec2::instance_state(account, instance)
        .await
        .is_ok_and(|state| matches!(state.as_str(), "stopping" | "stopped"));
    if !is_stopping {
        ec2::wait_instance_running(account, instance, stop).await?;
        context.enter("stop instance");
        ec2::stop_instance(account, instance).await?;
    }
    Ok(ec2::wait_instance_stopped(account, instance, stop).await?)
}

/// An image over snapshots has no platform, so that AWS takes an instance of Windows for one of Linux.
async fn say_other_platform(
    context: &TaskContext,
    original: &InstanceConfig,
    restored: &InstanceConfig,
) -> Result<(), TransferError> {
    if (original.os, restored.os) != (OsFamily::Windows, OsFamily::Linux) {
        return Ok(());
    }
    let text = format!(
        "{} runs Windows, but AWS calls it Linux/UNIX and bills it so, because it was made of snapshots: for AWS's Windows licence \
         restore in place, or attach the restored volumes to an instance that was launched from a Windows image",
        restored.instance_id
    );
    context.note(true, text).await
}

/// Gives the volumes their tags, and last what goes with the instance: until now all did, so that a failed restore
/// leaves none.
async fn finish_volumes(
    context: &Arc<TaskContext>,
    account: &Account,
    restored: &InstanceConfig,
    staged: &[Staged],
    spec: &RestoreSpec,
) -> Result<Vec<v1::Made>, TransferError> {
    let instance = &restored.instance_id;
    let mut results = Vec::with_capacity(staged.len());
    for one in staged {
        let Staged { config, .. } = one;
        let of = restored.volumes.iter().find(|volume| volume.device_name == config.device_name);
        let of = of.ok_or_else(|| {
            let message = format!("{instance} started without a volume at {}", config.device_name);
            TransferError::new(ErrorClass::Unavailable, message)
        })?;
        let tags = restored_tags(&config.tags, &spec.extra_tags);
        say_dropped(context, config.volume_id.as_str(), &tags).await?;
        ec2::create_tags(account, of.volume_id.as_str(), &tags).await?;
        results.push(made("volume", &of.volume_id, &config.volume_id));
    }
    let stays = staged.iter().filter(|one| !one.config.delete_on_termination);
    let devices: Vec<(String, bool)> = stays.map(|one| (one.config.device_name.clone(), false)).collect();
    ec2::modify_delete_on_termination(account, instance, &devices).await?;
    Ok(results)
}

/// Keys that the snapshots do not have: those that were written for this restore have theirs.
fn volume_keys(staged: &[Staged]) -> Vec<(String, String)> {
    let rekeyed = staged.iter().filter(|one| one.is_rekeyed && one.config.encrypted);
    rekeyed.filter_map(|one| Some((one.config.device_name.clone(), one.config.kms_key_id.clone()?))).collect()
}

async fn register(
    context: &Arc<TaskContext>,
    account: &Account,
    staged: &[Staged],
    original: &InstanceConfig,
) -> Result<LedgerEntry, TransferError> {
    let create = |entry: LedgerEntry| {
        let request = NewImage {
            name: format!("snapferry-{}", entry.id),
            architecture: original.architecture.clone(),
            boot_mode: original.boot_mode.clone(),
            virtualization_type: original.virtualization_type.clone(),
            ena_support: original.ena_support,
            root_device_name: original.root_device_name.clone(),
            volumes: staged.iter().map(image_volume).collect(),
            tags: context.ledger.tags(&entry),
        };
        async move { Ok(vec![ec2::register_image(account, &request).await?]) }
    };
    let what = (ObjectKind::Image, Purpose::RestoreImage, original.instance_id.as_str());
    objects::ensure(context, account, what, create).await
}

fn instance_tags(original: &InstanceConfig, spec: &RestoreSpec, wanted: &NewInstanceSpec) -> Vec<Tag> {
    let mut extra = spec.extra_tags.clone();
    if let Some(name) = &wanted.name {
        extra.retain(|tag| tag.key != "Name");
        extra.push(Tag::new("Name", name));
    }
    restored_tags(&original.tags, &extra)
}

fn image_volume(one: &Staged) -> ImageVolume {
    ImageVolume {
        device_name: one.config.device_name.clone(),
        snapshot: one.snapshot.clone(),
        size_gib: one.config.size_gib,
        volume_type: one.config.volume_type.clone(),
        iops: one.config.iops,
        throughput_mibps: one.config.throughput_mibps,
        // Set right when the instance is handed over.
        delete_on_termination: true,
    }
}

async fn wait_image(context: &TaskContext, account: &Account, image: &str) -> Result<(), TransferError> {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
    while !ec2::image_available(account, image).await? {
        tokio::select! {
            () = context.stop.token().cancelled() => return Err(TransferError::cancelled()),
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
    Ok(())
}

/// The instance as it was, with the wishes of the target over it.
fn new_instance(
    original: &InstanceConfig,
    place: &Place,
    image: &str,
    client_token: String,
    tags: Vec<Tag>,
) -> NewInstance {
    let wanted = &place.wanted;
    let profile = wanted.iam_instance_profile.as_ref().or(original.iam_instance_profile_arn.as_ref());
    NewInstance {
        image_id: image.to_owned(),
        instance_type: wanted.instance_type.as_ref().unwrap_or(&original.instance_type).clone(),
        network_interfaces: place.interfaces.clone(),
        private_ip: wanted.private_ip.clone(),
        keep_private_ips: false,
        key_name: place.key_name.clone(),
        iam_instance_profile: profile.cloned(),
        volume_keys: Vec::new(),
        availability_zone: Some(original.availability_zone.clone()),
        tenancy: original.tenancy.clone(),
        placement_group: original.placement_group.clone(),
        ebs_optimized: original.ebs_optimized,
        tags,
        client_token,
    }
}
