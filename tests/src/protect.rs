//! IntelliSnap backups and backup copies, and what the accounts hold afterwards.

use anyhow::{Context as _, Result, ensure};
use awssim::world::AccessKey;
use snapferry_api::job::{Job, Work};
use snapferry_api::protect::{BackupCopy, IntelliSnap, Vault, VaultTo};
use snapferry_api::recovery_point::RecoveryPointSummary;
use snapferry_aws::ec2::{self, SnapshotState};
use snapferry_aws::{Account, SessionPurpose, SessionScope};
use snapferry_types::access::{AccountAccess, Credentials, SignIn};
use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::{InstanceId, JobId, RecoveryPointId, SnapshotId, TransportWish};

use crate::rig::{ACCOUNT, REGION, Rig};

impl Rig {
    /// Asks for an IntelliSnap backup.
    ///
    /// # Errors
    /// The API's.
    pub async fn snap(&self, instance: &InstanceId, vault: Option<Vault>) -> Result<JobId> {
        self.submit(Work::IntelliSnap(IntelliSnap {
            hypervisor: self.tenant,
            instances: vec![instance.clone()],
            region: None,
            vault,
            retention: None,
        }))
        .await
    }

    /// Asks for a backup copy of one recovery point.
    ///
    /// # Errors
    /// The API's.
    pub async fn copy(&self, source: RecoveryPointId) -> Result<JobId> {
        self.copy_by(source, TransportWish::default()).await
    }

    /// Asks for a backup copy of one recovery point by a transport.
    ///
    /// # Errors
    /// The API's.
    pub async fn copy_by(&self, source: RecoveryPointId, transport: TransportWish) -> Result<JobId> {
        self.submit(Work::BackupCopy(BackupCopy {
            hypervisor: self.tenant,
            recovery_points: vec![source],
            media_agent: None,
            full: false,
            transport,
            retention: None,
        }))
        .await
    }

    /// Restores the volumes of a copy from the MediaAgent.
    ///
    /// # Errors
    /// When it does not succeed.
    pub async fn restore_copy(&self, recovery_point: RecoveryPointId) -> Result<Job> {
        let restore = self.restore(recovery_point).await?;
        self.succeed(restore).await
    }

    /// The recovery points of a kind.
    ///
    /// # Errors
    /// The API's.
    pub async fn points(&self, kind: RecoveryPointKind) -> Result<Vec<RecoveryPointSummary>> {
        let all = self.client.recovery_points(&Default::default()).await?.items;
        Ok(all.into_iter().filter(|point| point.kind == kind).collect())
    }

    /// The snapshots of an account in a region, as its owner sees them.
    ///
    /// # Errors
    /// AWS's.
    pub async fn snapshots_of(&self, account: &str, region: &str) -> Result<Vec<SnapshotState>> {
        let owner = self.owner(account, region).await?;
        let all = self.sim.context().world.inventory(Some(account)).remove("snapshots").unwrap_or_default();
        let ids: Vec<SnapshotId> = all.iter().map(|id| id.parse()).collect::<Result<_, _>>()?;
        let here = ec2::existing_snapshots(&owner, &ids).await?;
        let here: Vec<SnapshotId> = here.into_iter().collect();
        Ok(ec2::snapshot_states(&owner, &here).await?)
    }

    /// Checks that the tenant's snapshots are shared with so many accounts each.
    ///
    /// # Errors
    /// Names the snapshot that is not.
    pub async fn shared_with(&self, n_accounts: usize) -> Result<()> {
        let owner = self.owner(ACCOUNT, REGION).await?;
        for state in self.snapshots_of(ACCOUNT, REGION).await? {
            let shared = ec2::snapshot_sharing(&owner, &state.snapshot).await?;
            ensure!(shared.len() == n_accounts, "{} is shared with {shared:?}", state.snapshot);
        }
        Ok(())
    }

    /// The key of a volume of the tenant; nothing for a plain one.
    ///
    /// # Errors
    /// AWS's.
    pub async fn key_of_volume(&self, volume: &str) -> Result<Option<String>> {
        let described = ec2::describe_volume(&self.owner(ACCOUNT, REGION).await?, &volume.parse()?).await?;
        Ok(described.kms_key_id.filter(|_| described.encrypted))
    }

    /// A user of an account who may do everything.
    ///
    /// # Errors
    /// AWS's.
    pub async fn owner(&self, account: &str, region: &str) -> Result<Account> {
        let key = self.sim.context().world.create_user(account, "owner", Vec::new());
        self.sign_in(account, region, key).await
    }

    /// Signs in with a key.
    pub(crate) async fn sign_in(&self, account: &str, region: &str, key: AccessKey) -> Result<Account> {
        let access = AccountAccess {
            account: account.parse()?,
            region: region.parse()?,
            sign_in: SignIn::AccessKey(Credentials {
                access_key_id: key.access_key_id,
                secret_access_key: key.secret_access_key.into(),
            }),
            roles: Vec::new(),
            endpoint_url: Some(self.sim.endpoint()),
        };
        let purpose = SessionPurpose::named("owner", SessionScope::Unrestricted);
        Account::open(&access, purpose).await.context("sign in")
    }
}

/// A vault without a key of its own.
#[must_use]
pub fn vault(to: VaultTo, region: Option<&str>) -> Vault {
    Vault { to, region: region.map(|region| region.parse().expect("a region")), kms_key_id: None }
}
