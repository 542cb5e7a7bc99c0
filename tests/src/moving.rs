//! Backups and restores by a transport, and what moving blocks may leave nowhere.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use snapferry_api::job::{Job, StreamingBackup, Work};
use snapferry_api::restore::{Restore, RestoreFrom, RestoreTarget};
use snapferry_testkit::eventually;
use snapferry_types::{InstanceId, JobId, RecoveryPointId, TransportWish};

use crate::instance::TestInstance;
use crate::rig::{ACCOUNT, Rig, SERVICE, VOLUMES};

/// The reaper's delay and some rounds.
const CLEAN_BOUND: Duration = Duration::from_secs(30);

impl Rig {
    /// Asks for a backup by a transport.
    ///
    /// # Errors
    /// The API's.
    pub async fn back_up_by(&self, instance: &InstanceId, transport: TransportWish) -> Result<JobId> {
        self.submit(Work::StreamingBackup(StreamingBackup {
            hypervisor: self.tenant,
            instances: vec![instance.clone()],
            region: None,
            media_agent: None,
            full: false,
            transport,
            retention: None,
        }))
        .await
    }

    /// Backs an instance up by EBS direct; answers the recovery point.
    ///
    /// # Errors
    /// When it does not succeed.
    pub async fn backed_up(&self, instance: &TestInstance) -> Result<RecoveryPointId> {
        let job = self.back_up_by(&instance.id, TransportWish::EbsDirect).await?;
        Self::recovery_point(&self.succeed(job).await?)
    }

    /// Asks for a restore to volumes by a transport, under a key where one is given.
    ///
    /// # Errors
    /// The API's.
    pub async fn restore_by(
        &self,
        recovery_point: RecoveryPointId,
        transport: TransportWish,
        kms_key_id: Option<String>,
    ) -> Result<JobId> {
        self.restore_with(recovery_point, RestoreFrom::MediaAgent, VOLUMES, transport, kms_key_id).await
    }

    /// Asks for a restore from a copy to a target by a transport, under a key where one is given.
    ///
    /// # Errors
    /// The API's.
    pub async fn restore_with(
        &self,
        recovery_point: RecoveryPointId,
        from: RestoreFrom,
        target: RestoreTarget,
        transport: TransportWish,
        kms_key_id: Option<String>,
    ) -> Result<JobId> {
        self.submit(Work::Restore(Restore {
            recovery_point,
            from,
            volumes: Vec::new(),
            target,
            tags: Vec::new(),
            transport,
            kms_key_id,
        }))
        .await
    }

    /// Checks that neither account has anything of what moving blocks makes, and this machine no block device of it.
    ///
    /// # Errors
    /// Names what there is.
    pub fn nothing_is_left(&self) -> Result<()> {
        for account in [SERVICE, ACCOUNT] {
            let left = self.transient(account);
            ensure!(left.is_empty(), "left in account {account}: {left:?}");
        }
        self.nothing_is_attached()
    }

    /// Checks that the nodes have their own volumes only, and this machine no block device of others.
    ///
    /// # Errors
    /// Names what there is.
    pub fn nothing_is_attached(&self) -> Result<()> {
        let devices = self.block_devices()?;
        ensure!(devices.is_empty(), "block devices that are left: {devices:?}");
        for instance in &self.instances {
            let attached = self.sim.context().world.attached_to(instance);
            ensure!(attached.len() == 1, "attached to {instance}: {attached:?}");
        }
        Ok(())
    }

    /// Waits until [`Self::nothing_is_left`], and the tenant has so many snapshots and volumes.
    ///
    /// # Errors
    /// Names what there is instead.
    pub async fn only_these_are_left(&self, snapshots: usize, volumes: usize) -> Result<()> {
        let is_clean = || async {
            (self.count("snapshots"), self.count("volumes")) == (snapshots, volumes)
                && self.nothing_is_left().is_ok()
        };
        let waited = eventually(CLEAN_BOUND, "nothing is left but what is meant to stay", is_clean).await;
        waited.with_context(|| {
            let world = &self.sim.context().world;
            let (tenant, left) = (world.inventory(Some(ACCOUNT)), self.nothing_is_left());
            format!("{left:?}; the tenant has {tenant:?}\n{}", self.logs())
        })
    }

    /// What an account has of everything that only moves blocks.
    fn transient(&self, account: &str) -> Vec<String> {
        let mut inventory = self.sim.context().world.inventory(Some(account));
        let kinds = ["images", "s3_objects", "s3_uploads", "import_tasks"];
        let mut left: Vec<String> =
            kinds.iter().flat_map(|kind| inventory.remove(*kind).unwrap_or_default()).collect();
        if account == SERVICE {
            // The nodes' own volumes stay.
            let volumes = inventory.remove("volumes").unwrap_or_default();
            if volumes.len() > self.instances.len() {
                left.extend(volumes);
            }
            left.extend(inventory.remove("snapshots").unwrap_or_default());
        }
        left
    }

    /// The files of this rig's volumes that are block devices of this machine now.
    fn block_devices(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for device in std::fs::read_dir("/sys/block").context("list block devices")? {
            // Only a loop device in use has this file, and it may go while it is looked at.
            let Ok(file) = std::fs::read_to_string(device?.path().join("loop/backing_file")) else {
                continue;
            };
            let file = PathBuf::from(file.trim());
            if file.starts_with(&self.dir) {
                found.push(file);
            }
        }
        Ok(found)
    }
}

/// Whether a job says something in its history.
#[must_use]
pub fn says(job: &Job, words: &str) -> bool {
    job.tasks.iter().flat_map(|task| &task.notes).any(|note| note.text.contains(words))
}
