//! Who calls: users with access keys, roles, and the sessions that AssumeRole made.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{State, World};
use crate::faults::Refusal;

/// A user with its policies.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) arn: String,
    pub(crate) policies: Vec<Value>,
}

/// A role: who may assume it, and what it may do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Role {
    pub(crate) account: String,
    pub(crate) name: String,
    pub(crate) trust: Value,
    pub(crate) policies: Vec<Value>,
    pub(crate) max_session_seconds: u64,
}

/// A user's access key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) secret: String,
    pub(crate) user_arn: String,
}

/// Temporary credentials.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) secret: String,
    pub(crate) token: String,
    pub(crate) role_arn: String,
    pub(crate) arn: String,
    pub(crate) policy: Option<Value>,
    pub(crate) expires_ms: u64,
}

/// An access key as it is handed out.
#[derive(Debug, Clone, Serialize)]
pub struct AccessKey {
    /// `AKIA…`
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: String,
}

/// Who makes a call.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Twelve digits.
    pub account: String,
    /// The principal as policies see it.
    pub arn: String,
    /// The access key's id.
    pub access_key: String,
    /// Whether the credentials are a session's, so that a role assumed with them is chained.
    pub is_session: bool,
    /// What the principal may do; the call needs one of these.
    pub(crate) policies: Vec<Value>,
    /// And this too, where the session was narrowed.
    pub(crate) session_policy: Option<Value>,
}

/// A key that is alive, and whose it is.
pub(crate) struct ActiveKey {
    pub(crate) secret: String,
    pub(crate) caller: Caller,
}

impl World {
    /// Makes an account with default networks in every region. Doing it again changes nothing.
    pub fn create_account(&self, account: &str) {
        self.change(|state| state.add_account(account));
    }

    /// Makes a user with an access key. Without policies it may do everything.
    pub fn create_user(&self, account: &str, name: &str, policies: Vec<Value>) -> AccessKey {
        let arn = format!("arn:aws:iam::{account}:user/{name}");
        let policies = if policies.is_empty() { vec![administrator()] } else { policies };
        let key = AccessKey {
            access_key_id: format!("AKIA{}", random_text(16)),
            secret_access_key: random_text(40),
        };
        self.change(|state| {
            state.add_account(account);
            state.users.insert(arn.clone(), User { arn: arn.clone(), policies });
            let secret = key.secret_access_key.clone();
            state.keys.insert(key.access_key_id.clone(), Key { secret, user_arn: arn });
        });
        key
    }

    /// Makes or replaces a role; answers its ARN. Without policies it may do everything.
    pub fn create_role(&self, account: &str, name: &str, trust: Value, policies: Vec<Value>) -> String {
        let arn = format!("arn:aws:iam::{account}:role/{name}");
        let policies = if policies.is_empty() { vec![administrator()] } else { policies };
        let role = Role {
            account: account.to_owned(),
            name: name.to_owned(),
            trust,
            policies,
            max_session_seconds: 12 * 3_600,
        };
        self.change(|state| {
            state.add_account(account);
            state.roles.insert(arn.clone(), role);
        });
        arn
    }

    /// Ends every session at once, as revoking does; their credentials answer as expired.
    pub fn expire_sessions(&self) {
        self.change(|state| state.sessions.values_mut().for_each(|session| session.expires_ms = 0));
    }
}

impl State {
    pub(super) fn access_key(
        &self,
        id: &str,
        token: Option<&str>,
        now_ms: u64,
    ) -> Result<ActiveKey, Refusal> {
        let invalid = || {
            Refusal::new(
                403,
                "InvalidClientTokenId",
                None,
                "The security token included in the request is invalid.",
            )
        };
        if let Some(session) = self.sessions.get(id) {
            if token != Some(session.token.as_str()) {
                return Err(invalid());
            }
            if now_ms >= session.expires_ms {
                let message = "The security token included in the request is expired";
                return Err(Refusal::new(403, "ExpiredToken", None, message));
            }
            let role = self.roles.get(&session.role_arn).ok_or_else(invalid)?;
            let caller = Caller {
                account: role.account.clone(),
                arn: session.arn.clone(),
                access_key: id.to_owned(),
                is_session: true,
                policies: role.policies.clone(),
                session_policy: session.policy.clone(),
            };
            return Ok(ActiveKey { secret: session.secret.clone(), caller });
        }
        let key = self.keys.get(id).ok_or_else(invalid)?;
        let user = self.users.get(&key.user_arn).ok_or_else(invalid)?;
        let caller = Caller {
            account: user.arn.split(':').nth(4).unwrap_or_default().to_owned(),
            arn: user.arn.clone(),
            access_key: id.to_owned(),
            is_session: false,
            policies: user.policies.clone(),
            session_policy: None,
        };
        Ok(ActiveKey { secret: key.secret.clone(), caller })
    }
}

/// AWS's AdministratorAccess.
fn administrator() -> Value {
    json!({ "Version": "2012-10-17", "Statement": [{ "Effect": "Allow", "Action": "*", "Resource": "*" }] })
}

/// Letters and digits by chance.
pub(crate) fn random_text(length: usize) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    (0..length)
        .filter_map(|_| LETTERS.get(usize::from(rand::random::<u8>()) % LETTERS.len()))
        .map(|byte| char::from(*byte))
        .collect()
}
