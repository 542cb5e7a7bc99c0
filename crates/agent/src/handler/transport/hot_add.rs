//! A volume of the service account on this node: made, attached, found as a device; and let go again.
//!
//! Runs twice: CreateVolume has a client token, attaching what is attached is done. Dies at any step: the volume is in
//! the ledger; the next attempt attaches it here, by force where the last node still has it, which also ends whatever
//! that one was writing. One in another zone is removed and made anew.
//!
//! An attempt that ends, however it ends, takes its volumes off (see [`HotAddNode::let_go`]); only one that lost its
//! lease touches nothing, because another may have them by then.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use snapferry_aws::ec2::{self, DescribedInstance, NewVolume, VolumeAttachment};
use snapferry_aws::{Account, AwsError, SessionScope};
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::instance::OsFamily;
use snapferry_types::ledger::{LedgerEntry, ObjectKind, Purpose};
use snapferry_types::{Fence, InstanceId, SnapshotId, TaskId, VolumeId};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::clean;
use super::super::objects::{self, parse_one};
use super::places::Places;
use crate::config::HotAddConfig;
use crate::context::TaskContext;
use crate::devices::VolumeDevices;

/// A device appears within seconds of its attachment.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(60);
const DEVICE_POLL: Duration = Duration::from_millis(100);
/// Between two looks whether the instance has room again, while others than us have its places.
const ROOM_POLL: Duration = Duration::from_secs(2);

/// What HotAdd needs of this node; its tasks share it.
#[derive(Debug)]
pub(crate) struct HotAddNode {
    config: HotAddConfig,
    zone: String,
    os: OsFamily,
    devices: Arc<dyn VolumeDevices>,
    /// Volumes that may be attached at the same time.
    places: Places,
    /// Room is made, and device names are found and taken, one at a time.
    naming: Mutex<()>,
}

/// A volume on this node.
#[derive(Debug)]
pub(super) struct Attached {
    /// The ledger entry of the volume.
    pub(super) entry: LedgerEntry,
    /// The volume.
    pub(super) volume: VolumeId,
    /// The device.
    pub(super) device: PathBuf,
}

/// A volume to be made.
#[derive(Debug, Clone)]
pub(super) struct Wanted<'a> {
    /// Tells it apart within the task.
    pub(super) label: &'a str,
    /// Its content; blank when absent.
    pub(super) snapshot: Option<&'a SnapshotId>,
    /// Size in GiB.
    pub(super) size_gib: u32,
    /// Its key; plain when absent and the snapshot is.
    pub(super) kms_key_id: Option<String>,
}

impl HotAddNode {
    /// A node in `zone`.
    #[must_use]
    pub(crate) fn new(
        config: HotAddConfig,
        zone: String,
        os: OsFamily,
        devices: Arc<dyn VolumeDevices>,
    ) -> Self {
        let places = Places::new(usize::from(config.max_attachments));
        Self { config, zone, os, devices, places, naming: Mutex::new(()) }
    }

    /// Makes the volume and attaches it. Waits while the node has as many attached as it may. It has a place of the node
    /// until it is detached, removed, or let go with the attempt.
    ///
    /// # Errors
    /// [`TransferError`] that names volume and node.
    pub(super) async fn attach(
        &self,
        context: &TaskContext,
        service: &Account,
        wanted: &Wanted<'_>,
    ) -> Result<Attached, TransferError> {
        let place = self.places.wait(context.stop.token()).await?;
        self.drop_elsewhere(context, service, wanted.label).await?;
        let entry = self.create(context, service, wanted).await?;
        let volume: VolumeId = parse_one(&entry)?;
        self.places.put(&volume, owner(context), place);
        self.attach_here(context, service, &volume)
            .await
            .map_err(|error| error.context(format!("attach {volume} to {}", self.config.instance_id)))?;
        let device = self.find_device(context, &volume).await?;
        tracing::info!(%volume, device = %device.display(), "volume attached");
        Ok(Attached { entry, volume, device })
    }

    /// Takes the volume off and deletes it.
    ///
    /// # Errors
    /// [`TransferError`]; the ledger has it.
    pub(super) async fn remove(
        &self,
        context: &TaskContext,
        service: &Account,
        attached: Attached,
    ) -> Result<(), TransferError> {
        self.detach(context, service, &attached.volume).await?;
        clean::remove(context, &attached.entry, context.stop.token()).await
    }

    /// Takes the volume off, and keeps it.
    ///
    /// # Errors
    /// [`TransferError`].
    pub(super) async fn detach(
        &self,
        context: &TaskContext,
        service: &Account,
        volume: &VolumeId,
    ) -> Result<(), TransferError> {
        self.take_off(service, volume, false, context.stop.token()).await?;
        self.places.leave(volume, owner(context));
        Ok(())
    }

    /// Takes off what the attempt still has attached, at its end: the next attempt, here or elsewhere, attaches it again,
    /// and the place is another task's until then. Its places are free afterwards in any case.
    ///
    /// # Errors
    /// [`TransferError`] of the first volume that stays; the one that needs its place lets it go.
    pub(crate) async fn let_go(
        &self,
        context: &TaskContext,
        stop: &CancellationToken,
    ) -> Result<(), TransferError> {
        let volumes = self.places.of(owner(context));
        if volumes.is_empty() {
            return Ok(());
        }
        let taken_off = async {
            let service = service(context).await?;
            let mut first_error = None;
            for volume in &volumes {
                match self.take_off(&service, volume, false, stop).await {
                    Ok(()) => tracing::info!(%volume, "volume detached with its attempt"),
                    Err(error) => {
                        first_error.get_or_insert(error.context(format!("detach {volume}")));
                    }
                }
            }
            first_error.map_or(Ok(()), Err)
        };
        let result = taken_off.await;
        self.give_up(context);
        result
    }

    /// Frees the places of an attempt that may not touch its volumes any more.
    pub(crate) fn give_up(&self, context: &TaskContext) {
        for volume in self.places.of(owner(context)) {
            self.places.leave(&volume, owner(context));
        }
    }

    /// Takes a volume off this instance, and no other.
    async fn take_off(
        &self,
        service: &Account,
        volume: &VolumeId,
        by_force: bool,
        stop: &CancellationToken,
    ) -> Result<(), TransferError> {
        ec2::detach_volume_from(service, volume, &self.config.instance_id, by_force).await?;
        ec2::wait_volume_off(service, volume, &self.config.instance_id, stop).await?;
        Ok(())
    }

    /// A volume of an earlier attempt in another zone is no use here.
    async fn drop_elsewhere(
        &self,
        context: &TaskContext,
        service: &Account,
        label: &str,
    ) -> Result<(), TransferError> {
        let known = context.ledger.existing(ObjectKind::Volume, Purpose::Transport, label).await;
        let Some(entry) = known.filter(|entry| !entry.object_ids.is_empty()) else { return Ok(()) };
        let is_usable = match ec2::describe_volume(service, &parse_one(&entry)?).await {
            Ok(volume) => volume.zone == self.zone && volume.state != "error",
            Err(AwsError::NotFound { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        if is_usable { Ok(()) } else { clean::remove(context, &entry, context.stop.token()).await }
    }

    async fn create(
        &self,
        context: &TaskContext,
        service: &Account,
        wanted: &Wanted<'_>,
    ) -> Result<LedgerEntry, TransferError> {
        let create = |entry: LedgerEntry| {
            let new = NewVolume {
                snapshot: wanted.snapshot.cloned(),
                availability_zone: self.zone.clone(),
                size_gib: Some(wanted.size_gib),
                volume_type: "gp3".to_owned(),
                iops: None,
                throughput_mibps: Some(250),
                encrypted: wanted.kms_key_id.is_some(),
                kms_key_id: wanted.kms_key_id.clone(),
                tags: context.ledger.tags(&entry),
                client_token: entry.id.to_string(),
            };
            async move { Ok(vec![ec2::create_volume(service, &new).await?.into()]) }
        };
        let what = (ObjectKind::Volume, Purpose::Transport, wanted.label);
        let entry = objects::ensure(context, service, what, create).await?;
        Ok(entry)
    }

    async fn attach_here(
        &self,
        context: &TaskContext,
        service: &Account,
        volume: &VolumeId,
    ) -> Result<(), TransferError> {
        let (stop, here) = (context.stop.token(), &self.config.instance_id);
        let described = ec2::describe_volume(service, volume).await?;
        let is_here =
            |one: &VolumeAttachment| one.instance.as_ref() == Some(here) && one.state != "detaching";
        if !described.attachments.iter().any(is_here) {
            if !described.attachments.is_empty() {
                // The node of an earlier attempt, which has lost its lease, may hold on to it.
                ec2::detach_volume(service, volume, true).await?;
                ec2::wait_volume_detached(service, volume, stop).await?;
            }
            ec2::wait_volume_available(service, volume, stop).await?;
        }
        let mut is_told = false;
        loop {
            let turn = self.naming.lock().await;
            let node = ec2::describe_instance(service, here).await?;
            let found = node.volumes.iter().find(|one| one.id == *volume);
            if !found.is_some_and(|one| one.attachments.iter().any(is_here)) {
                if !self.make_room(context, service, volume, &node).await? {
                    drop(turn);
                    if !std::mem::replace(&mut is_told, true) {
                        let n = node.volumes.len();
                        let text = format!(
                            "{volume} waits for room on {here}: {n} volumes are attached, and those that move blocks are \
                             as many as this node may have"
                        );
                        context.note(true, text).await?;
                    }
                    tokio::select! {
                        () = stop.cancelled() => return Err(TransferError::cancelled()),
                        () = tokio::time::sleep(ROOM_POLL) => continue,
                    }
                }
                let device = self.free_name(&node)?;
                ec2::attach_volume(service, volume, here, &device).await?;
            }
            ec2::wait_volume_attached(service, volume, here, stop).await?;
            return Ok(());
        }
    }

    /// Lets go of what a process that was killed has left attached, if there is no room otherwise. False when there is
    /// none even so.
    async fn make_room(
        &self,
        context: &TaskContext,
        service: &Account,
        volume: &VolumeId,
        node: &DescribedInstance,
    ) -> Result<bool, TransferError> {
        let Some(left) = self.places.make_room(volume, &node.volumes, &context.spec.deployment) else {
            return Ok(false);
        };
        for one in left {
            tracing::info!(volume = %one, "letting go of a volume that no attempt here works with");
            // Whoever had it open is gone; what it had not written yet it has not counted either.
            self.take_off(service, &one, true, context.stop.token()).await?;
        }
        Ok(true)
    }

    fn free_name(&self, node: &DescribedInstance) -> Result<String, TransferError> {
        let taken: Vec<String> =
            node.config.volumes.iter().map(|volume| volume.device_name.clone()).collect();
        ec2::free_device_name(&taken, self.os).ok_or_else(|| {
            let here = &self.config.instance_id;
            let text = format!("all device names of {here} are taken by {} volumes", taken.len());
            TransferError::new(ErrorClass::Unavailable, text)
        })
    }

    async fn find_device(&self, context: &TaskContext, volume: &VolumeId) -> Result<PathBuf, TransferError> {
        let until = Instant::now() + DEVICE_TIMEOUT;
        loop {
            let (devices, asked) = (Arc::clone(&self.devices), volume.clone());
            let found = tokio::task::spawn_blocking(move || devices.find(&asked)).await;
            let died =
                |cause| TransferError::new(ErrorClass::Internal, format!("a look for devices died: {cause}"));
            match found.map_err(died)? {
                Ok(device) => return Ok(device),
                Err(missing) if Instant::now() >= until => {
                    let text = format!("{volume} is attached to {} but {missing}", self.config.instance_id);
                    return Err(TransferError::new(ErrorClass::Unavailable, text));
                }
                Err(_not_yet) => tokio::select! {
                    () = context.stop.token().cancelled() => return Err(TransferError::cancelled()),
                    () = tokio::time::sleep(DEVICE_POLL) => {}
                },
            }
        }
    }
}

impl HotAddNode {
    /// The node as an instance.
    pub(super) const fn instance(&self) -> &InstanceId {
        &self.config.instance_id
    }

    /// The zone of its volumes.
    pub(super) fn zone(&self) -> &str {
        &self.zone
    }
}

fn owner(context: &TaskContext) -> (TaskId, Fence) {
    (context.spec.task, context.spec.fence)
}

/// The session of the service account that makes and attaches volumes.
///
/// # Errors
/// [`TransferError`].
pub(super) async fn service(context: &TaskContext) -> Result<Account, TransferError> {
    context.service(SessionScope::HotAdd).await
}
