//! Somebody else at work in the tenant's account.

use anyhow::Result;
use snapferry_aws::{Account, SessionPurpose, SessionScope, ec2};
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
