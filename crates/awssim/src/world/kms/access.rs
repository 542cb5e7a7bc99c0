//! Who may use a key. The key's policy has the first word: it allows a principal, or hands the decision to an
//! account by naming its root, whose IAM policies then decide. Another account's principal always needs both. A
//! grant stands for what the policy would allow.

use super::{Grant, KeyState, KmsKey};
use crate::world::policy::{self, Asked, Said};
use crate::world::{Caller, State};

/// How a key is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// By a call of KMS.
    Direct,
    /// By EC2 or EBS on the caller's behalf.
    Ebs,
    /// By S3 on the caller's behalf.
    S3,
}

impl Via {
    /// The service as `kms:ViaService` names it, before the region.
    const fn service(self) -> Option<&'static str> {
        match self {
            Self::Direct => None,
            Self::Ebs => Some("ec2"),
            Self::S3 => Some("s3"),
        }
    }
}

/// Why a key is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyRefusal {
    /// There is no such key.
    #[error("Key '{key}' does not exist")]
    NotFound {
        /// As it was named.
        key: String,
    },
    /// A permission is missing or denied.
    #[error("User: {user} is not authorized to perform: kms:{action} on resource: {key} {reason}")]
    Denied {
        /// ARN of the caller.
        user: String,
        /// Without its prefix.
        action: String,
        /// ARN.
        key: String,
        /// The kind of policy that is in the way, in AWS's words.
        reason: String,
    },
    /// It has to be enabled.
    #[error("{key} is disabled.")]
    Disabled {
        /// ARN.
        key: String,
    },
    /// It is going away.
    #[error("{key} is pending deletion.")]
    PendingDeletion {
        /// ARN.
        key: String,
    },
}

impl State {
    /// Whether the caller may do all of `actions` (named without `kms:`) with the key of an ARN, and whether the
    /// key can be used.
    pub(crate) fn use_key(
        &self,
        caller: &Caller,
        arn: &str,
        actions: &[&str],
        via: Via,
        now_ms: u64,
    ) -> Result<(), KeyRefusal> {
        let key = self.kms_key(arn, now_ms).ok_or_else(|| KeyRefusal::NotFound { key: arn.to_owned() })?;
        for action in actions {
            self.permit_key(caller, key, action, via)?;
        }
        key.usable()
    }

    /// Whether the caller may do `action` with the key, whatever the key's state.
    pub(crate) fn permit_key(
        &self,
        caller: &Caller,
        key: &KmsKey,
        action: &str,
        via: Via,
    ) -> Result<(), KeyRefusal> {
        let asked = self.asked_of(caller, key, action, via);
        let denied = |reason: String| {
            let (user, action, key) = (caller.arn.clone(), action.to_owned(), key.arn.clone());
            Err(KeyRefusal::Denied { user, action, key, reason })
        };
        let silent = |kind: &str| denied(format!("because no {kind} policy allows the kms:{action} action"));
        let said = policy::resource_says(&key.policy, &caller.account, &caller.arn, &asked);
        let own = caller.own_verdict(&asked);
        if said == Said::Denied {
            return denied("with an explicit deny in a resource-based policy".to_owned());
        }
        if own == Some(false) {
            return denied("with an explicit deny in an identity-based policy".to_owned());
        }
        if !caller.is_within_session(&asked) {
            return silent("session");
        }
        let is_granted = self.kms_grants.values().any(|grant| grant.covers(key, caller, action));
        if said == Said::Nothing && !is_granted {
            return silent("resource-based");
        }
        let needs_own = caller.account != key.account || (said == Said::Delegated && !is_granted);
        if needs_own && own != Some(true) {
            return silent("identity-based");
        }
        Ok(())
    }

    fn asked_of(&self, caller: &Caller, key: &KmsKey, action: &str, via: Via) -> Asked {
        let mut asked = Asked::new(format!("kms:{action}"), &key.arn)
            .with("aws:PrincipalArn", &caller.arn)
            .with("aws:PrincipalAccount", &caller.account)
            .with("kms:CallerAccount", &caller.account);
        if let Some(service) = via.service() {
            asked = asked.with("kms:ViaService", format!("{service}.{}.amazonaws.com", key.region));
        }
        if action == "CreateGrant" {
            asked = asked.with("kms:GrantIsForAWSResource", (via == Via::Ebs).to_string());
        }
        for (tag, value) in &key.tags {
            asked = asked.with(&format!("aws:ResourceTag/{tag}"), value);
        }
        for (alias, _) in self.kms_aliases.iter().filter(|(_, alias)| alias.target == key.arn) {
            asked = asked.with("kms:ResourceAliases", alias.splitn(6, ':').nth(5).unwrap_or_default());
        }
        asked
    }
}

impl KmsKey {
    /// Whether its state lets it be used.
    pub(crate) fn usable(&self) -> Result<(), KeyRefusal> {
        match self.state {
            KeyState::Enabled => Ok(()),
            KeyState::Disabled => Err(KeyRefusal::Disabled { key: self.arn.clone() }),
            KeyState::PendingDeletion => Err(KeyRefusal::PendingDeletion { key: self.arn.clone() }),
        }
    }
}

impl Grant {
    fn covers(&self, key: &KmsKey, caller: &Caller, action: &str) -> bool {
        self.key == key.arn
            && self.operations.iter().any(|one| one == action)
            && policy::is_principal(&self.grantee, &caller.arn)
    }
}
