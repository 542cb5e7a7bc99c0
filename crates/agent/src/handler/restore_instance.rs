//! From staged snapshots to a new instance: an image over them, an instance of the image, its volumes' tags, and the
//! image goes again.
//!
//! Runs twice: RegisterImage has no client token, so its image is found by its tag; RunInstances has one.

use std::sync::Arc;
use std::time::Duration;

use snapferry_aws::Account;
use snapferry_aws::ec2::{self, ImageVolume, NewImage, NewInstance};
use snapferry_service::Backoff;
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::InstanceId;
use snapferry_types::aws::Tag;
use snapferry_types::instance::InstanceConfig;
use snapferry_types::ledger::{LedgerEntry, ObjectKind, Purpose};
use snapferry_types::spec::{NewInstanceSpec, RestoreSpec};
use snapferry_wire::v1;

use super::objects::parse_one;
use super::restore_volumes::restored_tags;
use super::stage::Staged;
use super::{clean, made, objects};
use crate::context::TaskContext;

pub(super) async fn run(
    context: &Arc<TaskContext>,
    account: &Account,
    staged: &[Staged],
    original: &InstanceConfig,
    spec: &RestoreSpec,
    wanted: &NewInstanceSpec,
) -> Result<Vec<v1::Made>, TransferError> {
    let root = &original.root_device_name;
    if !staged.iter().any(|one| one.config.device_name == *root) {
        return Err(TransferError::new(
            ErrorClass::Invalid,
            format!("an instance needs its root volume ({root}), which is not among the chosen volumes"),
        ));
    }
    context.enter("create instance");
    let image_entry = register(context, account, staged, original).await?;
    let image: String = parse_one(&image_entry)?;
    wait_image(context, account, &image).await?;

    let tags = instance_tags(original, spec, wanted);
    let create = |entry: LedgerEntry| {
        let mut all_tags = context.ledger.tags(&entry);
        all_tags.extend(tags.clone());
        let request = new_instance(original, wanted, &image, entry.id.to_string(), all_tags);
        async move { Ok(vec![ec2::run_instance(account, &request).await?.into()]) }
    };
    let what = (ObjectKind::Instance, Purpose::RestoreResult, original.instance_id.as_str());
    let entry = objects::ensure(context, account, what, create).await?;
    let instance: InstanceId = parse_one(&entry)?;
    ec2::wait_instance_running(account, &instance, context.stop.token()).await?;

    let mut results = vec![made("instance", &instance, &original.instance_id)];
    let restored = ec2::describe_instance(account, &instance).await?.config;
    for volume in &restored.volumes {
        let Some(one) = staged.iter().find(|one| one.config.device_name == volume.device_name) else {
            continue;
        };
        let tags = restored_tags(&one.config.tags, &spec.extra_tags);
        if !tags.is_empty() {
            ec2::create_tags(account, volume.volume_id.as_str(), &tags).await?;
        }
        results.push(made("volume", &volume.volume_id, &one.config.volume_id));
    }
    // The instance holds its volumes; neither image nor snapshots are needed any more.
    clean::remove(context, &image_entry, context.stop.token()).await?;
    Ok(results)
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
        delete_on_termination: one.config.delete_on_termination,
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

/// The instance as it was, with the wishes of the target over it. Only the primary interface is made anew.
fn new_instance(
    original: &InstanceConfig,
    wanted: &NewInstanceSpec,
    image: &str,
    client_token: String,
    tags: Vec<Tag>,
) -> NewInstance {
    let primary = original.network_interfaces.iter().find(|interface| interface.device_index == 0);
    let mut new = NewInstance {
        image_id: image.to_owned(),
        instance_type: original.instance_type.clone(),
        network_interfaces: primary.cloned().into_iter().collect(),
        private_ip: wanted.private_ip.clone(),
        keep_private_ips: false,
        key_name: original.key_name.clone(),
        iam_instance_profile_arn: original.iam_instance_profile_arn.clone(),
        availability_zone: Some(original.availability_zone.clone()),
        tenancy: original.tenancy.clone(),
        placement_group: original.placement_group.clone(),
        ebs_optimized: original.ebs_optimized,
        tags,
        client_token,
    };
    if let Some(instance_type) = &wanted.instance_type {
        new.instance_type.clone_from(instance_type);
    }
    if wanted.key_name.is_some() {
        new.key_name.clone_from(&wanted.key_name);
    }
    if let Some(interface) = new.network_interfaces.first_mut() {
        if let Some(subnet_id) = &wanted.subnet_id {
            interface.subnet_id.clone_from(subnet_id);
        }
        if !wanted.security_group_ids.is_empty() {
            interface.security_group_ids.clone_from(&wanted.security_group_ids);
        }
    }
    new
}
