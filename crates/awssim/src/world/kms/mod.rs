//! KMS keys, their aliases and grants. What a key protects is never really encrypted with it; who may use it, and
//! whether it can be used at all, is decided as KMS decides.

mod access;
pub(crate) mod lookup;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::resource::Tags;
use super::{State, World};

pub(crate) use access::{KeyRefusal, Via};

/// Whether a key can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyState {
    /// It can.
    Enabled,
    /// Not until it is enabled again.
    Disabled,
    /// Not until the deletion is cancelled; gone at its date.
    PendingDeletion,
}

impl KeyState {
    /// KMS's word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::Disabled => "Disabled",
            Self::PendingDeletion => "PendingDeletion",
        }
    }
}

/// Who looks after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum KeyManager {
    /// AWS: made when first needed, its policy cannot be changed, used through one service only.
    Aws,
    /// The account.
    Customer,
}

/// A symmetric key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KmsKey {
    pub(crate) id: String,
    pub(crate) arn: String,
    pub(crate) account: String,
    pub(crate) region: String,
    pub(crate) manager: KeyManager,
    pub(crate) state: KeyState,
    pub(crate) policy: Value,
    pub(crate) description: String,
    pub(crate) tags: Tags,
    pub(crate) created_ms: u64,
    /// When it will be gone, while its deletion is pending.
    pub(crate) deletion_ms: Option<u64>,
    /// What data keys are sealed with: 32 bytes in hexadecimal digits.
    pub(crate) material: String,
}

/// A friendly name of a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Alias {
    /// ARN of the key.
    pub(crate) target: String,
    pub(crate) created_ms: u64,
}

/// A permission on one key that lies beside its policy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) id: String,
    pub(crate) token: String,
    /// ARN of the key.
    pub(crate) key: String,
    pub(crate) name: Option<String>,
    pub(crate) grantee: String,
    pub(crate) retiring: Option<String>,
    pub(crate) issuer: String,
    /// Such as `Decrypt`.
    pub(crate) operations: Vec<String>,
    pub(crate) constraints: Option<Value>,
    pub(crate) created_ms: u64,
}

/// A key to make.
pub(crate) struct NewKey<'a> {
    pub(crate) account: &'a str,
    pub(crate) region: &'a str,
    pub(crate) manager: KeyManager,
    pub(crate) policy: Value,
    pub(crate) description: &'a str,
    pub(crate) tags: Tags,
}

/// The policy that a key gets when none is given: the account's own IAM policies decide.
pub(crate) fn default_policy(account: &str) -> Value {
    json!({
        "Version": "2012-10-17",
        "Id": "key-default-1",
        "Statement": [{
            "Sid": "Enable IAM User Permissions",
            "Effect": "Allow",
            "Principal": { "AWS": format!("arn:aws:iam::{account}:root") },
            "Action": "kms:*",
            "Resource": "*"
        }]
    })
}

/// The policy of `alias/aws/ebs`: everybody in the account may use it through EC2, nobody may change it.
pub(crate) fn managed_policy(account: &str, region: &str) -> Value {
    json!({
        "Version": "2012-10-17",
        "Id": "auto-ebs-2",
        "Statement": [
            {
                "Sid": "Allow access through EBS for all principals in the account that are authorized to use EBS",
                "Effect": "Allow",
                "Principal": { "AWS": "*" },
                "Action": [
                    "kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:CreateGrant",
                    "kms:DescribeKey"
                ],
                "Resource": "*",
                "Condition": { "StringEquals": {
                    "kms:CallerAccount": account,
                    "kms:ViaService": format!("ec2.{region}.amazonaws.com")
                } }
            },
            {
                "Sid": "Allow direct access to key metadata to the account",
                "Effect": "Allow",
                "Principal": { "AWS": format!("arn:aws:iam::{account}:root") },
                "Action": ["kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant"],
                "Resource": "*"
            }
        ]
    })
}

impl World {
    /// Makes a customer managed key; without a policy the account's IAM policies decide. Answers its ARN.
    pub fn create_key(&self, account: &str, region: &str, policy: Option<Value>) -> String {
        let now = self.now_ms();
        self.change(|state| {
            state.add_account(account);
            let policy = policy.unwrap_or_else(|| default_policy(account));
            let (manager, description, tags) = (KeyManager::Customer, "", Tags::new());
            state.add_key(NewKey { account, region, manager, policy, description, tags }, now)
        })
    }

    /// Has an account encrypt all new volumes and snapshots of a region, or stop that.
    pub fn encrypt_by_default(&self, account: &str, region: &str, encrypts: bool) {
        self.change(|state| state.set_encrypts_by_default(account, region, encrypts));
    }

    /// The ARN of the account's AWS managed key for EBS, which is made when it is not there.
    pub fn managed_key(&self, account: &str, region: &str) -> String {
        let now = self.now_ms();
        self.change(|state| {
            state.add_account(account);
            state.managed_key(account, region, now)
        })
    }

    /// Gives a key a name of the form `alias/…`, in place of what had it. `false` when there is no such key.
    pub fn name_key(&self, arn: &str, alias: &str) -> bool {
        let now = self.now_ms();
        self.change(|state| {
            let Some((prefix, _)) = arn.split_once(":key/") else { return false };
            if state.kms_key(arn, now).is_none() {
                return false;
            }
            let named = Alias { target: arn.to_owned(), created_ms: now };
            state.kms_aliases.insert(format!("{prefix}:{alias}"), named);
            true
        })
    }

    /// Puts a key into a state; a deletion comes after 30 days. `false` when there is no such key.
    pub fn set_key_state(&self, arn: &str, key_state: KeyState) -> bool {
        let now = self.now_ms();
        self.change(|state| state.change_key(arn, now, |key| key.set_state(key_state, now, 30)))
    }

    /// Puts a policy in place of a key's policy. `false` when there is no such key.
    pub fn set_key_policy(&self, arn: &str, policy: Value) -> bool {
        let now = self.now_ms();
        self.change(|state| state.change_key(arn, now, |key| key.policy = policy))
    }

    /// The state of a key that is there.
    #[must_use]
    pub fn key_state(&self, arn: &str) -> Option<KeyState> {
        let now = self.now_ms();
        self.read().kms_key(arn, now).map(|key| key.state)
    }

    /// Declares a volume or a snapshot encrypted under a key, as set-up: its content stays. `false` when there is no
    /// such resource or key.
    pub fn encrypt(&self, resource_id: &str, key_arn: &str) -> bool {
        let now = self.now_ms();
        self.change(|state: &mut State| {
            let Some(arn) = state.kms_key(key_arn, now).map(|key| key.arn.clone()) else { return false };
            let fields = match (state.volumes.get_mut(resource_id), state.snapshots.get_mut(resource_id)) {
                (Some(volume), _) => (&mut volume.encrypted, &mut volume.kms_key),
                (None, Some(snapshot)) => (&mut snapshot.encrypted, &mut snapshot.kms_key),
                (None, None) => return false,
            };
            (*fields.0, *fields.1) = (true, Some(arn));
            true
        })
    }
}

impl KmsKey {
    /// Puts the key into a state; `days` count for a pending deletion.
    pub(crate) fn set_state(&mut self, state: KeyState, now_ms: u64, days: u64) {
        self.state = state;
        self.deletion_ms = (state == KeyState::PendingDeletion).then(|| now_ms + days * 24 * 3_600_000);
    }
}
