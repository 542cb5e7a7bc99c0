//! Asking AWS beforehand whether the account may do what a task will do: EC2 calls with DryRun, and keys by
//! [`key_probe`]. Nothing is made.
//!
//! A dry run needs ids that exist, and often those of a task do not yet. So what is probed is a call of the same kind
//! on something known: attaching is probed with a volume that the instance has, sharing with the newest snapshot. Calls
//! whose subject only the task makes (DeregisterImage, CancelImportTask, the EBS direct APIs, which know no dry run)
//! have no probe; their denial names the action when it comes.

use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, EbsInstanceBlockDeviceSpecification,
    InstanceBlockDeviceMappingSpecification, InstanceSpecification, InstanceType, OperationType,
    ResourceType, SnapshotAttributeName, SnapshotDiskContainer, UserBucket, VolumeType,
};
use snapferry_transfer::boxed;
use snapferry_types::aws::Tag;
use snapferry_types::{AccountId, InstanceId, Region, SnapshotId, VolumeId};

use crate::denial::named_in;
use crate::ec2::tag_specification;
use crate::error::{Asked, AwsError};
use crate::kms::{KeyUse, key_probe};
use crate::session::Account;

/// A call that a task will make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Snapshots of all volumes of an instance.
    CreateSnapshots(InstanceId),
    /// A snapshot of one volume.
    CreateSnapshot(VolumeId),
    /// A copy into the account's region.
    CopySnapshot {
        /// Where the snapshot is.
        source_region: Region,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Sharing a snapshot, and taking that back.
    ShareSnapshot {
        /// The snapshot.
        snapshot: SnapshotId,
        /// With whom.
        with: AccountId,
    },
    /// Deleting a snapshot.
    DeleteSnapshot(SnapshotId),
    /// Making a volume.
    CreateVolume {
        /// The zone.
        zone: String,
        /// Its content; blank when absent.
        snapshot: Option<SnapshotId>,
        /// Key of an encrypted volume.
        kms_key_id: Option<String>,
    },
    /// Attaching a volume.
    AttachVolume {
        /// The volume.
        volume: VolumeId,
        /// The instance.
        instance: InstanceId,
        /// Such as `/dev/sdf`.
        device: String,
    },
    /// Detaching a volume.
    DetachVolume(VolumeId),
    /// Deleting a volume.
    DeleteVolume(VolumeId),
    /// Starting a new instance.
    RunInstance {
        /// An image of the same kind, such as that of the original instance.
        image: String,
        /// Such as `m6i.large`.
        instance_type: String,
        /// The subnet.
        subnet: Option<String>,
        /// The security groups.
        security_groups: Vec<String>,
        /// The instance profile, by name or ARN: handing over its role is a permission of its own.
        profile: Option<String>,
    },
    /// Making an image.
    RegisterImage {
        /// Of its root volume.
        snapshot: SnapshotId,
        /// Such as `/dev/xvda`.
        root_device: String,
    },
    /// Stopping an instance.
    StopInstance(InstanceId),
    /// Starting a stopped instance.
    StartInstance(InstanceId),
    /// Terminating an instance.
    TerminateInstance(InstanceId),
    /// Changing what goes with an instance, by the name of one of its devices.
    ModifyInstance {
        /// The instance.
        instance: InstanceId,
        /// Such as `/dev/xvda`.
        device: String,
    },
    /// Tagging an object.
    CreateTags(String),
    /// Importing a disk image.
    ImportSnapshot {
        /// The bucket.
        bucket: String,
        /// Key of an object in it.
        key: String,
    },
    /// Using a key.
    Key {
        /// Its ARN.
        key: String,
        /// What for.
        key_use: KeyUse,
    },
}

/// A permission that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// IAM action, such as `ec2:CreateSnapshots`: where AWS's message names another than the one probed, that one.
    pub action: String,
    /// What it was asked on.
    pub resource: String,
    /// AWS's own words.
    pub message: String,
}

impl Denied {
    /// Whether it is about a resource of a kind as ARNs name it, such as `volume`.
    #[must_use]
    pub fn is_on(&self, kind: &str) -> bool {
        let named = named_in(&self.message).and_then(|(_, resource)| resource).unwrap_or(&self.resource);
        named.split(':').nth(5).is_some_and(|last| last.split('/').next() == Some(kind))
    }
}

/// Probes with the tags that the task's objects will carry: policies may demand them.
#[derive(Debug, Clone, Default)]
pub struct Preflight {
    tags: Vec<Tag>,
}

impl Preflight {
    /// Probes whose objects would carry these tags.
    #[must_use]
    pub const fn new(tags: Vec<Tag>) -> Self {
        Self { tags }
    }

    /// Sends the probes, one after the other, and gives what is denied, each once. Refusals for the state of a thing
    /// or for a quota are none: they come after the permission, and may pass until the task runs.
    ///
    /// # Errors
    /// [`AwsError`] of the first probe that has no verdict: its subject does not exist, AWS cannot be reached, …
    pub async fn check(&self, account: &Account, probes: &[Probe]) -> Result<Vec<Denied>, AwsError> {
        let mut all = Vec::new();
        for probe in probes {
            if let Some(denied) = verdict(self.send(account, probe).await)?
                && !all.contains(&denied)
            {
                all.push(denied);
            }
        }
        Ok(all)
    }

    async fn send(&self, account: &Account, probe: &Probe) -> Result<(), AwsError> {
        if let Probe::Key { key, key_use } = probe {
            return key_probe(account, key, *key_use).await;
        }
        let asked = probe.asked();
        account.call(|| self.send_to_ec2(account, probe, &asked)).await
    }

    async fn send_to_ec2(&self, account: &Account, probe: &Probe, asked: &Asked<'_>) -> Result<(), AwsError> {
        let ec2 = account.ec2();
        // Each call has a type of its own, so its sending cannot be a function.
        macro_rules! dry {
            ($call:expr) => {
                boxed(|| $call.dry_run(true).send()).await.map(drop).map_err(|error| asked.sort(&error))
            };
        }
        let tagged = |kind| tag_specification(kind, &self.tags);
        match probe {
            Probe::CreateSnapshots(instance) => {
                let which = InstanceSpecification::builder().instance_id(instance.as_str()).build();
                let call = ec2.create_snapshots().instance_specification(which);
                dry!(call.set_tag_specifications(tagged(ResourceType::Snapshot)))
            }
            Probe::CreateSnapshot(volume) => {
                let call = ec2.create_snapshot().volume_id(volume.as_str());
                dry!(call.set_tag_specifications(tagged(ResourceType::Snapshot)))
            }
            Probe::CopySnapshot { source_region, snapshot } => {
                let call = ec2.copy_snapshot().source_region(source_region.as_str());
                let call = call.source_snapshot_id(snapshot.as_str());
                dry!(call.set_tag_specifications(tagged(ResourceType::Snapshot)))
            }
            Probe::ShareSnapshot { snapshot, with } => {
                let call = ec2.modify_snapshot_attribute().snapshot_id(snapshot.as_str());
                let call = call.attribute(SnapshotAttributeName::CreateVolumePermission);
                dry!(call.operation_type(OperationType::Add).user_ids(with.as_str()))
            }
            Probe::DeleteSnapshot(snapshot) => dry!(ec2.delete_snapshot().snapshot_id(snapshot.as_str())),
            Probe::CreateVolume { zone, snapshot, kms_key_id } => {
                let call = ec2.create_volume().availability_zone(zone).volume_type(VolumeType::Gp3);
                let call = call.set_snapshot_id(snapshot.as_ref().map(ToString::to_string));
                let call = call.set_size(snapshot.is_none().then_some(1));
                let call = call.set_encrypted(kms_key_id.is_some().then_some(true));
                let call = call.set_kms_key_id(kms_key_id.clone());
                dry!(call.set_tag_specifications(tagged(ResourceType::Volume)))
            }
            Probe::AttachVolume { volume, instance, device } => {
                let call = ec2.attach_volume().volume_id(volume.as_str());
                dry!(call.instance_id(instance.as_str()).device(device))
            }
            Probe::DetachVolume(volume) => dry!(ec2.detach_volume().volume_id(volume.as_str())),
            Probe::DeleteVolume(volume) => dry!(ec2.delete_volume().volume_id(volume.as_str())),
            Probe::RunInstance { image, instance_type, subnet, security_groups, profile } => {
                let call = ec2.run_instances().image_id(image).min_count(1).max_count(1);
                let call = call.instance_type(InstanceType::from(instance_type.as_str()));
                let groups = Some(security_groups.clone()).filter(|groups| !groups.is_empty());
                let call = call.set_subnet_id(subnet.clone()).set_security_group_ids(groups);
                let call = call.set_iam_instance_profile(profile.as_deref().map(crate::ec2::profile));
                dry!(call.set_tag_specifications(tagged(ResourceType::Instance)))
            }
            Probe::RegisterImage { snapshot, root_device } => {
                let ebs = EbsBlockDevice::builder().snapshot_id(snapshot.as_str()).build();
                let root = BlockDeviceMapping::builder().device_name(root_device).ebs(ebs).build();
                let call = ec2.register_image().name("snapferry-dry-run").root_device_name(root_device);
                dry!(call.block_device_mappings(root).set_tag_specifications(tagged(ResourceType::Image)))
            }
            Probe::StopInstance(instance) => dry!(ec2.stop_instances().instance_ids(instance.as_str())),
            Probe::StartInstance(instance) => dry!(ec2.start_instances().instance_ids(instance.as_str())),
            Probe::TerminateInstance(instance) => {
                dry!(ec2.terminate_instances().instance_ids(instance.as_str()))
            }
            Probe::ModifyInstance { instance, device } => {
                let ebs = EbsInstanceBlockDeviceSpecification::builder().delete_on_termination(true).build();
                let mapping = InstanceBlockDeviceMappingSpecification::builder().device_name(device).ebs(ebs);
                let call = ec2.modify_instance_attribute().instance_id(instance.as_str());
                dry!(call.block_device_mappings(mapping.build()))
            }
            Probe::CreateTags(object) => {
                let sample = Tag::new("snapferry:probe", "dry run");
                let tags = if self.tags.is_empty() { std::slice::from_ref(&sample) } else { &self.tags };
                dry!(ec2.create_tags().resources(object).set_tags(Some(crate::ec2::to_ec2_tags(tags))))
            }
            Probe::ImportSnapshot { bucket, key } => {
                let object = UserBucket::builder().s3_bucket(bucket).s3_key(key).build();
                let container = SnapshotDiskContainer::builder().format("RAW").user_bucket(object).build();
                let call = ec2.import_snapshot().disk_container(container);
                dry!(call.set_tag_specifications(tagged(ResourceType::ImportSnapshotTask)))
            }
            Probe::Key { key, key_use } => key_probe(account, key, *key_use).await,
        }
    }
}

impl Probe {
    fn asked(&self) -> Asked<'_> {
        match self {
            Self::CreateSnapshots(instance) => {
                Asked::new("ec2:CreateSnapshots", "instance", instance.as_str())
            }
            Self::CreateSnapshot(volume) => Asked::new("ec2:CreateSnapshot", "volume", volume.as_str()),
            Self::CopySnapshot { snapshot, .. } => {
                Asked::new("ec2:CopySnapshot", "snapshot", snapshot.as_str())
            }
            Self::ShareSnapshot { snapshot, .. } => {
                Asked::new("ec2:ModifySnapshotAttribute", "snapshot", snapshot.as_str())
            }
            Self::DeleteSnapshot(snapshot) => Asked::new("ec2:DeleteSnapshot", "snapshot", snapshot.as_str()),
            Self::CreateVolume { zone, .. } => Asked::new("ec2:CreateVolume", "zone", zone),
            Self::AttachVolume { volume, .. } => Asked::new("ec2:AttachVolume", "volume", volume.as_str()),
            Self::DetachVolume(volume) => Asked::new("ec2:DetachVolume", "volume", volume.as_str()),
            Self::DeleteVolume(volume) => Asked::new("ec2:DeleteVolume", "volume", volume.as_str()),
            Self::RunInstance { image, .. } => Asked::new("ec2:RunInstances", "image", image),
            Self::RegisterImage { snapshot, .. } => {
                Asked::new("ec2:RegisterImage", "snapshot", snapshot.as_str())
            }
            Self::StopInstance(instance) => Asked::new("ec2:StopInstances", "instance", instance.as_str()),
            Self::StartInstance(instance) => Asked::new("ec2:StartInstances", "instance", instance.as_str()),
            Self::TerminateInstance(instance) => {
                Asked::new("ec2:TerminateInstances", "instance", instance.as_str())
            }
            Self::ModifyInstance { instance, .. } => {
                Asked::new("ec2:ModifyInstanceAttribute", "instance", instance.as_str())
            }
            Self::CreateTags(object) => Asked::new("ec2:CreateTags", "resource", object),
            Self::ImportSnapshot { bucket, .. } => Asked::new("ec2:ImportSnapshot", "bucket", bucket),
            Self::Key { key, key_use } => Asked::new(key_use.action(), "key", key),
        }
    }
}

/// What the answer to a dry run says.
fn verdict(answer: Result<(), AwsError>) -> Result<Option<Denied>, AwsError> {
    match answer {
        Ok(()) | Err(AwsError::Busy { .. } | AwsError::QuotaExceeded { .. }) => Ok(None),
        Err(AwsError::Invalid { code, .. }) if code == "DryRunOperation" => Ok(None),
        Err(AwsError::AccessDenied { action, resource, message }) => {
            Ok(Some(Denied { action, resource, message }))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_denial_is_a_missing_permission() {
        let asked = Asked::new("ec2:CreateVolume", "zone", "eu-central-1a");
        let of = |code: &str, message: &str| verdict(Err(asked.sort_code(code, message, 400)));
        assert_eq!(of("DryRunOperation", "would have succeeded").unwrap(), None);
        assert_eq!(of("VolumeInUse", "in use").unwrap(), None);
        assert!(of("InvalidZone.NotFound", "no such zone").unwrap_err().is_not_found());
        let message = "You are not authorized to perform this operation. User: u is not authorized to perform: \
                       ec2:CreateTags on resource: arn:aws:ec2:eu-central-1:111122223333:volume/* because …";
        let denied = of("UnauthorizedOperation", message).unwrap().unwrap();
        assert_eq!(denied.action, "ec2:CreateTags");
        assert_eq!(denied.resource, "arn:aws:ec2:eu-central-1:111122223333:volume/*");
        assert!(denied.is_on("volume") && !denied.is_on("instance"));
    }
}
