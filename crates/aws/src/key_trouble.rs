//! Whether a key stands in the way of what a task will do, as far as KMS says so beforehand. Nothing is ever encrypted.
//!
//! KMS is asked directly, while EC2 and EBS will use the key on the account's behalf. A policy of the account's own that
//! allows a use through them only (`kms:ViaService`) denies the question. So a denial by the account's own policies
//! counts for nothing, but for `kms:GenerateDataKeyWithoutPlaintext`: that answers sealed bytes, so it costs nothing to
//! allow it without a condition, and the policies in deploy/iam do. A denial by the key's policy counts, unless that
//! policy itself [demands a service](demands_a_service): whoever can read it is to look. What the policy of a VPC endpoint
//! denies says nothing: EC2 does not come through ours.

use snapferry_types::{AccountId, Region};
use thiserror::Error;

use crate::error::AwsError;
use crate::kms::{KeyInfo, KeyManager, KeyUse, describe_key, key_probe};
use crate::session::Account;

/// What is wrong with a key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyTrouble {
    /// It is of another region than what it is to protect.
    #[error("key {key} is of region {found}, and one of {needed} is needed")]
    Elsewhere {
        /// The key.
        key: String,
        /// Its region.
        found: String,
        /// The region that needs one.
        needed: Region,
    },
    /// There is no such key.
    #[error("key {key} does not exist in {region} for account {account}")]
    Missing {
        /// As it was named.
        key: String,
        /// Where it was looked for.
        region: Region,
        /// By whom.
        account: String,
    },
    /// It cannot be used now.
    #[error("key {key} is {state}")]
    Unusable {
        /// The key.
        key: String,
        /// Such as `disabled`.
        state: String,
    },
    /// A permission is missing.
    #[error("account {account} may not use key {key}: {action} is denied ({message})")]
    Denied {
        /// Who asked.
        account: String,
        /// The key.
        key: String,
        /// The permission.
        action: String,
        /// AWS's own words.
        message: String,
        /// Where the key's own policy may be what denies: who can read it, and the key's ARN.
        by_policy_of: Option<(AccountId, String)>,
    },
}

/// Looks whether the account can use the key so, in the account's region; nothing when nothing is known to be wrong.
///
/// # Errors
/// [`AwsError`] when KMS gives no verdict.
pub async fn key_trouble(
    account: &Account,
    key: &str,
    key_use: KeyUse,
) -> Result<Option<KeyTrouble>, AwsError> {
    let missing = || KeyTrouble::Missing {
        key: key.to_owned(),
        region: account.region().clone(),
        account: account.account().to_string(),
    };
    let unusable = |state: &str| KeyTrouble::Unusable { key: key.to_owned(), state: state.to_owned() };
    if let Some(found) = part_of_arn(key, 3).filter(|found| *found != account.region().as_str()) {
        let (key, found, needed) = (key.to_owned(), found.to_owned(), account.region().clone());
        return Ok(Some(KeyTrouble::Elsewhere { key, found, needed }));
    }
    let mut owner =
        part_of_arn(key, 4).and_then(|owner| owner.parse().ok()).map(|owner| (owner, key.to_owned()));
    match describe_key(account, key).await {
        Ok(KeyInfo { arn, state, manager, account }) => {
            owner = Some((account, arn));
            if let Some(word) = state.obstacle() {
                return Ok(Some(unusable(word)));
            }
            // Its policy lets nobody use it directly, and everybody of its account through EC2.
            if manager == KeyManager::Aws {
                return Ok(None);
            }
        }
        Err(AwsError::NotFound { .. }) => return Ok(Some(missing())),
        Err(error @ AwsError::AccessDenied { .. }) => {
            if part_of_arn(key, 4) == Some(account.account().as_str()) || !key.starts_with("arn:") {
                // It may be the one that AWS manages.
                tracing::debug!(key, %error, "the key cannot be looked at");
                return Ok(None);
            }
        }
        Err(error) => return Err(error),
    }
    match key_probe(account, key, key_use).await {
        Ok(()) => Ok(None),
        Err(AwsError::NotFound { .. }) => Ok(Some(missing())),
        Err(AwsError::Invalid { code, .. }) if code == "DisabledException" => Ok(Some(unusable("disabled"))),
        Err(AwsError::Invalid { code, message, .. }) if code == "KMSInvalidStateException" => {
            Ok(Some(unusable(&format!("in a state in which it cannot be used ({message})"))))
        }
        Err(AwsError::AccessDenied { action, message, .. }) => {
            if is_by_own_policy(&message) && key_use != KeyUse::GenerateDataKeyWithoutPlaintext {
                tracing::info!(
                    key,
                    action,
                    message,
                    "denied when asked directly; it may be allowed through EC2"
                );
                return Ok(None);
            }
            if message.contains("VPC endpoint policy") {
                tracing::info!(key, action, message, "denied on the way to KMS, which is not EC2's way");
                return Ok(None);
            }
            let by_policy_of = owner.filter(|_| !is_by_own_policy(&message));
            let (account, key) = (account.account().to_string(), key.to_owned());
            Ok(Some(KeyTrouble::Denied { account, key, action, message, by_policy_of }))
        }
        Err(error) => Err(error),
    }
}

/// Whether a key's policy has conditions that a question asked directly never meets, though EC2 may on the same account's
/// behalf: the service that asks, or the encryption context that it sends.
#[must_use]
pub fn demands_a_service(policy: &str) -> bool {
    // AWS compares the names of condition keys without regard to case.
    let policy = policy.to_ascii_lowercase();
    ["kms:viaservice", "aws:viaawsservice", "kms:encryptioncontext"]
        .iter()
        .any(|condition| policy.contains(condition))
}

/// Whether AWS's sentence names a policy of the caller's own account as what is in the way.
fn is_by_own_policy(message: &str) -> bool {
    ["identity-based", "session policy", "permissions boundary", "service control"]
        .iter()
        .any(|kind| message.contains(kind))
}

/// A part of an ARN: 3 is the region, 4 the account.
fn part_of_arn(key: &str, n: usize) -> Option<&str> {
    key.strip_prefix("arn:").and_then(|_| key.split(':').nth(n)).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_the_keys_or_the_accounts_own() {
        let own = "is not authorized to perform: kms:Decrypt on resource: k because no identity-based policy allows \
                   the kms:Decrypt action";
        let of_key = "is not authorized to perform: kms:Decrypt on resource: k because the resource does not exist \
                      in this Region, no resource-based policies allow access, or a resource-based policy \
                      explicitly denies access";
        assert!(is_by_own_policy(own) && !is_by_own_policy(of_key));
    }

    #[test]
    fn an_arn_says_region_and_account_and_an_alias_does_not() {
        let arn = "arn:aws:kms:eu-central-1:111122223333:key/1";
        assert_eq!((part_of_arn(arn, 3), part_of_arn(arn, 4)), (Some("eu-central-1"), Some("111122223333")));
        assert_eq!(part_of_arn("alias/aws/ebs", 3), None);
    }

    #[test]
    fn a_policy_that_lets_services_only_is_told_from_one_that_lets_nobody() {
        let via = r#"{"Condition":{"StringEquals":{"kms:viaservice":"ec2.eu-central-1.amazonaws.com"}}}"#;
        assert!(demands_a_service(via));
        assert!(!demands_a_service(
            r#"{"Principal":{"AWS":"*"},"Condition":{"Bool":{"aws:SecureTransport":"true"}}}"#
        ));
    }
}
