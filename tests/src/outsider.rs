//! Somebody else at work in the tenant's account.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use snapferry_aws::ec2::{self, DescribedInstance, SnapshotState};
use snapferry_aws::{Account, SessionPurpose, SessionScope};
use snapferry_types::InstanceId;
use snapferry_types::access::{AccountAccess, Credentials, SignIn};

use crate::rig::{ACCOUNT, REGION, Rig};

impl Rig {
    /// A user of the tenant's account who may do everything.
    ///
    /// # Errors
    /// AWS's.
    pub async fn outsider(&self) -> Result<Account> {
        let key = self.sim.context().world.create_user(ACCOUNT, "outsider", Vec::new());
        let access = AccountAccess {
            account: ACCOUNT.parse()?,
            region: REGION.parse()?,
            sign_in: SignIn::AccessKey(Credentials {
                access_key_id: key.access_key_id,
                secret_access_key: key.secret_access_key.into(),
            }),
            roles: Vec::new(),
            endpoint_url: Some(self.sim.endpoint()),
        };
        let purpose = SessionPurpose::named("outsider", SessionScope::Unrestricted);
        Ok(Account::open(&access, purpose).await?)
    }

    /// An instance of the tenant as it is now.
    ///
    /// # Errors
    /// AWS's; also when it has no volume.
    pub async fn describe(&self, instance: &InstanceId) -> Result<DescribedInstance> {
        Ok(ec2::describe_instance(&self.outsider().await?, instance).await?)
    }

    /// The volumes of an instance of the tenant by device name.
    ///
    /// # Errors
    /// AWS's; also when it has no volume.
    pub async fn attached(&self, instance: &InstanceId) -> Result<BTreeMap<String, String>> {
        let volumes = self.describe(instance).await?.config.volumes.into_iter();
        Ok(volumes.map(|volume| (volume.device_name, volume.volume_id.to_string())).collect())
    }

    /// Deletes those of the tenant's snapshots in its region that are meant behind our back; answers how many.
    ///
    /// # Errors
    /// AWS's; none was meant.
    pub async fn delete_snapshots(&self, is_meant: impl Fn(&SnapshotState) -> bool) -> Result<usize> {
        let account = self.outsider().await?;
        let mut meant = self.snapshots_of(ACCOUNT, REGION).await?;
        meant.retain(is_meant);
        ensure!(!meant.is_empty(), "there is nothing to lose");
        for one in &meant {
            ec2::delete_snapshot(&account, &one.snapshot).await?;
        }
        Ok(meant.len())
    }

    /// As [`Self::delete_snapshots`], and lets it be noticed.
    ///
    /// # Errors
    /// Also the API's.
    pub async fn lose_snapshots(&self, is_meant: impl Fn(&SnapshotState) -> bool) -> Result<usize> {
        let n_lost = self.delete_snapshots(is_meant).await?;
        self.client.reconcile(self.tenant).await?;
        Ok(n_lost)
    }

    /// Deletes every snapshot of the tenant behind our back; answers how many there were.
    ///
    /// # Errors
    /// AWS's.
    pub async fn delete_all_snapshots(&self) -> Result<usize> {
        let account = self.outsider().await?;
        let world = &self.sim.context().world;
        let ids = world.inventory(Some(ACCOUNT)).get("snapshots").cloned().unwrap_or_default();
        for id in &ids {
            ec2::delete_snapshot(&account, &id.parse()?).await?;
        }
        Ok(ids.len())
    }
}
