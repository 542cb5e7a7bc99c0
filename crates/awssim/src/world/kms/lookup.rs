//! Finding keys: by id, ARN, alias or the alias's ARN. The key that AWS manages is made when somebody asks for it.

use super::{Alias, KeyManager, KeyState, KmsKey, NewKey, managed_policy};
use crate::world::State;
use crate::world::resource::Tags;

/// The name of the AWS managed key for EBS.
pub(crate) const EBS_ALIAS: &str = "alias/aws/ebs";

impl State {
    /// Makes a key; answers its ARN.
    pub(crate) fn add_key(&mut self, new: NewKey<'_>, now_ms: u64) -> String {
        let id = uuid();
        let arn = format!("arn:aws:kms:{}:{}:key/{id}", new.region, new.account);
        let key = KmsKey {
            id,
            arn: arn.clone(),
            account: new.account.to_owned(),
            region: new.region.to_owned(),
            manager: new.manager,
            state: KeyState::Enabled,
            policy: new.policy,
            description: new.description.to_owned(),
            tags: new.tags,
            created_ms: now_ms,
            deletion_ms: None,
            material: hex::encode(rand::random::<[u8; 32]>()),
        };
        self.kms_keys.insert(arn.clone(), key);
        arn
    }

    /// The account's AWS managed key for EBS.
    pub(crate) fn managed_key(&mut self, account: &str, region: &str, now_ms: u64) -> String {
        let alias = format!("arn:aws:kms:{region}:{account}:{EBS_ALIAS}");
        if let Some(alias) = self.kms_aliases.get(&alias) {
            return alias.target.clone();
        }
        let new = NewKey {
            account,
            region,
            manager: KeyManager::Aws,
            policy: managed_policy(account, region),
            description: "Default key that protects my EBS volumes when no other key is defined",
            tags: Tags::new(),
        };
        let arn = self.add_key(new, now_ms);
        self.kms_aliases.insert(alias, Alias { target: arn.clone(), created_ms: now_ms });
        arn
    }

    /// The key that EBS takes in an account's region when none is named.
    pub(crate) fn default_key(&mut self, account: &str, region: &str, now_ms: u64) -> String {
        let chosen = self.accounts.get(account).and_then(|one| one.default_keys.get(region).cloned());
        chosen.unwrap_or_else(|| self.managed_key(account, region, now_ms))
    }

    /// The ARN of the key that an account means by an id, an ARN, an alias or an alias's ARN; nothing when there is
    /// no such key in the region.
    pub(crate) fn find_key(
        &mut self,
        account: &str,
        region: &str,
        reference: &str,
        now_ms: u64,
    ) -> Option<String> {
        let arn = full_arn(account, region, reference);
        let own_managed = arn == format!("arn:aws:kms:{region}:{account}:{EBS_ALIAS}");
        if own_managed {
            return Some(self.managed_key(account, region, now_ms));
        }
        let is_here =
            arn.strip_prefix("arn:aws:kms:").and_then(|rest| rest.split(':').next()) == Some(region);
        self.kms_key(&arn, now_ms).filter(|_| is_here).map(|key| key.arn.clone())
    }

    /// The key of an ARN or of an alias's ARN, unless its deletion has come.
    pub(crate) fn kms_key(&self, arn: &str, now_ms: u64) -> Option<&KmsKey> {
        let arn = self.kms_aliases.get(arn).map_or(arn, |alias| alias.target.as_str());
        self.kms_keys.get(arn).filter(|key| key.deletion_ms.is_none_or(|at| now_ms < at))
    }

    /// Changes a key; `false` when there is none.
    pub(crate) fn change_key(&mut self, arn: &str, now_ms: u64, change: impl FnOnce(&mut KmsKey)) -> bool {
        let Some(arn) = self.kms_key(arn, now_ms).map(|key| key.arn.clone()) else { return false };
        let key = self.kms_keys.get_mut(&arn);
        key.map(change).is_some()
    }

    /// Sets whether new volumes and snapshots are encrypted unasked.
    pub(crate) fn set_encrypts_by_default(&mut self, account: &str, region: &str, encrypts: bool) {
        let account = self.accounts.entry(account.to_owned()).or_default();
        if encrypts {
            account.encrypted_regions.insert(region.to_owned());
        } else {
            account.encrypted_regions.remove(region);
        }
    }

    /// Whether new volumes and snapshots are encrypted unasked.
    pub(crate) fn encrypts_by_default(&self, account: &str, region: &str) -> bool {
        self.accounts.get(account).is_some_and(|one| one.encrypted_regions.contains(region))
    }
}

/// The ARN that a reference to a key stands for in an account's region, whether or not there is such a key.
pub(crate) fn full_arn(account: &str, region: &str, reference: &str) -> String {
    let prefix = format!("arn:aws:kms:{region}:{account}");
    if reference.starts_with("arn:") {
        reference.to_owned()
    } else if reference.starts_with("alias/") || reference.starts_with("key/") {
        format!("{prefix}:{reference}")
    } else {
        format!("{prefix}:key/{reference}")
    }
}

/// A random UUID, version 4.
pub(crate) fn uuid() -> String {
    let hex = format!("{:032x}", rand::random::<u128>());
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default().to_owned();
    format!("{}-{}-4{}-a{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}
