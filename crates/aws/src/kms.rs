//! Keys: what they are, and whether the account may use them. Nothing is ever encrypted here; EBS does that.

use aws_sdk_kms::types::{DataKeySpec, DryRunModifierType, GrantOperation, KeyManagerType, KeyMetadata};
use snapferry_types::AccountId;

use crate::error::{Asked, AwsError};
use crate::session::Account;

/// Who manages a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyManager {
    /// AWS (`aws/ebs`): snapshots under it cannot be shared.
    Aws,
    /// The customer.
    Customer,
}

/// Whether a key can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyState {
    /// Yes.
    Enabled,
    /// Not until it is enabled again.
    Disabled,
    /// Not any more, unless its deletion is cancelled.
    PendingDeletion,
    /// AWS's word for anything else.
    Other(String),
}

impl KeyState {
    /// The word for what keeps the key from being used.
    #[must_use]
    pub fn obstacle(&self) -> Option<&str> {
        match self {
            Self::Enabled => None,
            Self::Disabled => Some("disabled"),
            Self::PendingDeletion => Some("pending deletion"),
            Self::Other(word) => Some(word),
        }
    }
}

/// A key as KMS describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its ARN, also when it was asked for by alias.
    pub arn: String,
    /// Who manages it.
    pub manager: KeyManager,
    /// Whether it can be used.
    pub state: KeyState,
    /// Whose it is.
    pub account: AccountId,
}

impl KeyInfo {
    /// Checks that the key can be used now.
    ///
    /// # Errors
    /// [`AwsError::Failed`] naming the key and its state.
    pub fn usable(&self) -> Result<(), AwsError> {
        let (state, message) = match &self.state {
            KeyState::Enabled => return Ok(()),
            KeyState::Disabled => ("disabled", "enable it, or choose another key"),
            KeyState::PendingDeletion => ("pending deletion", "cancel its deletion, or choose another key"),
            KeyState::Other(word) => (word.as_str(), "choose another key"),
        };
        Err(AwsError::Failed {
            what: "key",
            id: self.arn.clone(),
            state: state.to_owned(),
            message: message.to_owned(),
        })
    }
}

/// What a key is to be used for; each is a permission of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyUse {
    /// `kms:Decrypt`: reading what is encrypted.
    Decrypt,
    /// `kms:GenerateDataKey`: writing a new encrypted snapshot.
    GenerateDataKey,
    /// `kms:GenerateDataKeyWithoutPlaintext`: making an encrypted volume.
    GenerateDataKeyWithoutPlaintext,
    /// `kms:ReEncryptFrom` and `kms:ReEncryptTo`: copying and attaching.
    ReEncrypt,
    /// `kms:CreateGrant`: letting EC2 use the key for an attached volume. A policy that allows it only with
    /// `kms:GrantIsForAWSResource` denies the probe, though EC2 may do it.
    CreateGrant,
}

impl KeyUse {
    /// All uses.
    pub const ALL: [Self; 5] = [
        Self::Decrypt,
        Self::GenerateDataKey,
        Self::GenerateDataKeyWithoutPlaintext,
        Self::ReEncrypt,
        Self::CreateGrant,
    ];

    /// The IAM action, as a policy names it.
    #[must_use]
    pub const fn action(self) -> &'static str {
        match self {
            Self::Decrypt => "kms:Decrypt",
            Self::GenerateDataKey => "kms:GenerateDataKey",
            Self::GenerateDataKeyWithoutPlaintext => "kms:GenerateDataKeyWithoutPlaintext",
            Self::ReEncrypt => "kms:ReEncrypt*",
            Self::CreateGrant => "kms:CreateGrant",
        }
    }
}

/// What a key is: by ARN, id, or alias (`alias/…`).
///
/// # Errors
/// [`AwsError::NotFound`], [`AwsError::AccessDenied`] naming the key, …
pub async fn describe_key(account: &Account, key: &str) -> Result<KeyInfo, AwsError> {
    let asked = Asked::new("kms:DescribeKey", "key", key);
    let reply = account
        .call(|| async {
            account.kms().describe_key().key_id(key).send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    info(&asked, reply.key_metadata.ok_or_else(|| asked.lacks("KeyMetadata"))?)
}

/// The policy of a key, named by id or ARN, as JSON. AWS answers it only to the key's own account.
///
/// # Errors
/// [`AwsError::NotFound`], [`AwsError::AccessDenied`] naming the key, …
pub async fn key_policy(account: &Account, key: &str) -> Result<String, AwsError> {
    let asked = Asked::new("kms:GetKeyPolicy", "key", key);
    let reply = account
        .call(|| async {
            account.kms().get_key_policy().key_id(key).send().await.map_err(|error| asked.sort(&error))
        })
        .await?;
    reply.policy.ok_or_else(|| asked.lacks("Policy"))
}

/// Asks KMS, without doing it, whether the account may use the key so.
///
/// # Errors
/// [`AwsError::AccessDenied`] naming action and key, [`AwsError::NotFound`]; [`AwsError::Invalid`] for a key that is
/// disabled or pending deletion.
pub async fn key_probe(account: &Account, key: &str, key_use: KeyUse) -> Result<(), AwsError> {
    let asked = Asked::new(key_use.action(), "key", key);
    let answer = account
        .call(|| async {
            let kms = account.kms();
            match key_use {
                KeyUse::Decrypt => {
                    let call = kms.decrypt().key_id(key).dry_run(true);
                    let call = call.dry_run_modifiers(DryRunModifierType::IgnoreCiphertext);
                    call.send().await.map(drop).map_err(|error| asked.sort(&error))
                }
                KeyUse::GenerateDataKey => {
                    let call = kms.generate_data_key().key_id(key).key_spec(DataKeySpec::Aes256);
                    call.dry_run(true).send().await.map(drop).map_err(|error| asked.sort(&error))
                }
                KeyUse::GenerateDataKeyWithoutPlaintext => {
                    let call = kms.generate_data_key_without_plaintext().key_id(key);
                    let call = call.key_spec(DataKeySpec::Aes256).dry_run(true);
                    call.send().await.map(drop).map_err(|error| asked.sort(&error))
                }
                KeyUse::ReEncrypt => {
                    let call = kms.re_encrypt().source_key_id(key).destination_key_id(key).dry_run(true);
                    let call = call.dry_run_modifiers(DryRunModifierType::IgnoreCiphertext);
                    call.send().await.map(drop).map_err(|error| asked.sort(&error))
                }
                KeyUse::CreateGrant => {
                    let grantee = format!("arn:aws:iam::{}:root", account.account());
                    let call = kms.create_grant().key_id(key).grantee_principal(grantee);
                    let call = call.operations(GrantOperation::Decrypt).dry_run(true);
                    call.send().await.map(drop).map_err(|error| asked.sort(&error))
                }
            }
        })
        .await;
    match answer {
        Err(AwsError::Invalid { code, .. }) if code == "DryRunOperationException" => Ok(()),
        Err(error) => Err(error),
        Ok(()) => Err(asked.lacks("DryRunOperationException: it was done instead of probed")),
    }
}

fn info(asked: &Asked<'_>, key: KeyMetadata) -> Result<KeyInfo, AwsError> {
    let account = key.aws_account_id.ok_or_else(|| asked.lacks("AWSAccountId"))?;
    let state = match key.key_state.as_ref().map(aws_sdk_kms::types::KeyState::as_str) {
        Some("Enabled") => KeyState::Enabled,
        Some("Disabled") => KeyState::Disabled,
        Some("PendingDeletion" | "PendingReplicaDeletion") => KeyState::PendingDeletion,
        Some(other) => KeyState::Other(other.to_owned()),
        None if key.enabled => KeyState::Enabled,
        None => KeyState::Other("of no known state".to_owned()),
    };
    let is_aws = key.key_manager.is_some_and(|manager| manager == KeyManagerType::Aws);
    Ok(KeyInfo {
        arn: key.arn.ok_or_else(|| asked.lacks("Arn"))?,
        manager: if is_aws { KeyManager::Aws } else { KeyManager::Customer },
        state,
        account: account.parse().map_err(|error| asked.lacks(format!("an account id: {error}")))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_cannot_be_used_says_so_and_why() {
        let asked = Asked::new("kms:DescribeKey", "key", "alias/backup");
        let key = |state: &str| {
            let key = KeyMetadata::builder().key_id("1").aws_account_id("111122223333");
            let key = key.arn("arn:aws:kms:eu-central-1:111122223333:key/1").key_state(state.into());
            info(&asked, key.key_manager(KeyManagerType::Aws).build().unwrap()).unwrap()
        };
        assert_eq!((key("Enabled").usable(), key("Enabled").manager), (Ok(()), KeyManager::Aws));
        let refused = key("PendingDeletion").usable().unwrap_err().to_string();
        assert!(refused.contains("key/1") && refused.contains("pending deletion"), "{refused}");
        assert_eq!(key("Disabled").state, KeyState::Disabled);
        assert_eq!(key("Unavailable").state, KeyState::Other("Unavailable".to_owned()));
    }
}
