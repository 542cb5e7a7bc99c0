//! How an account is reached. The service account signs in by access key, instance role or assume-role; a tenant
//! by access key or assume-role only. These values carry secrets: they have no `Serialize`, and their `Debug`
//! shows none.

use secrecy::SecretString;

use crate::aws::Region;

/// A long-lived access key.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The public half, `AKIA…`.
    pub access_key_id: String,
    /// The secret half; never printed.
    pub secret_access_key: SecretString,
}

/// Where the first signature comes from.
#[derive(Debug, Clone)]
pub enum SignIn {
    /// A long-lived key.
    AccessKey(Credentials),
    /// What the machine has: the SDK's own chain (environment, profile, container or instance role).
    Ambient,
}

/// A role to assume after signing in.
#[derive(Debug, Clone)]
pub struct AssumeRole {
    /// `arn:aws:iam::<account>:role/<name>`.
    pub role_arn: String,
    /// Guards against the confused deputy; required for tenants.
    pub external_id: Option<SecretString>,
}

/// Credentials for one account, as an agent receives them inside a granted specification.
#[derive(Debug, Clone)]
pub struct AccountAccess {
    /// Twelve digits; checked against GetCallerIdentity before the first change.
    pub account: crate::aws::AccountId,
    /// Region of the calls.
    pub region: Region,
    /// The first signature.
    pub sign_in: SignIn,
    /// Roles to assume, in order; a tenant reached through the service account's role has two. A chained session
    /// lives one hour at most.
    pub roles: Vec<AssumeRole>,
    /// Overrides the endpoint of every AWS service (simulators, private endpoints).
    pub endpoint_url: Option<String>,
}
