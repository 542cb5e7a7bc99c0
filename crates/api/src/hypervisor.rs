//! Hypervisors: registered AWS accounts, `admin` (the service account) or `tenant`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use snapferry_types::{AccountId, HypervisorId, Region};
use utoipa::ToSchema;

use crate::secret::Secret;

/// `POST /v1/hypervisors`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateHypervisor {
    /// Unique, 1 to 64 characters: letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Twelve digits.
    #[schema(value_type = String, example = "111122223333")]
    pub account: AccountId,
    /// At least one; the first is the default.
    #[schema(value_type = Vec<String>, example = json!(["eu-central-1"]))]
    pub regions: Vec<Region>,
    /// Overrides the endpoint of every AWS service (simulators, private endpoints).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_url: Option<String>,
    /// Whose credentials read the blocks of a backup; for tenants.
    #[serde(default)]
    pub read_as: ReadAs,
    /// What the account is for and how it is reached.
    pub role: CreateRole,
}

/// What an account is for, with its secrets.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CreateRole {
    /// A service account, whose resources do the work.
    Admin {
        /// The first signature.
        sign_in: AdminSignIn,
        /// Roles to assume after it, in order; at most 4.
        #[serde(default)]
        roles: Vec<RoleToAssume>,
    },
    /// A tenant account, whose instances are protected.
    Tenant {
        /// "Use admin account backup resources": the admin hypervisor whose resources do the work.
        #[schema(value_type = String)]
        use_admin_account_resources: HypervisorId,
        /// How the tenant signs in: never by an instance role.
        sign_in: TenantSignIn,
    },
}

/// How a service account signs in.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdminSignIn {
    /// By a long-lived key.
    AccessKey {
        /// `AKIA…`.
        access_key_id: String,
        /// Write-only.
        #[schema(value_type = String, write_only)]
        secret_access_key: Secret,
    },
    /// By what the machine has: environment, profile, instance role.
    Ambient,
}

/// How a tenant account signs in.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TenantSignIn {
    /// By a long-lived key of its own.
    AccessKey {
        /// `AKIA…`.
        access_key_id: String,
        /// Write-only.
        #[schema(value_type = String, write_only)]
        secret_access_key: Secret,
    },
    /// By a role that the service account assumes.
    AssumeRole {
        /// `arn:aws:iam::<account>:role/<name>`.
        role_arn: String,
        /// Guards against the confused deputy; write-only.
        #[schema(value_type = String, write_only)]
        external_id: Secret,
    },
}

/// A role to assume.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleToAssume {
    /// `arn:aws:iam::<account>:role/<name>`.
    pub role_arn: String,
    /// Write-only.
    #[schema(value_type = Option<String>, write_only)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<Secret>,
}

/// With whose credentials blocks are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadAs {
    /// The tenant's.
    #[default]
    Tenant,
    /// The service account's, after sharing the snapshot.
    Service,
}

/// A registered account, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hypervisor {
    /// Its id.
    #[schema(value_type = String)]
    pub id: HypervisorId,
    /// Its name.
    pub name: String,
    /// Twelve digits.
    #[schema(value_type = String)]
    pub account: AccountId,
    /// Regions; the first is the default.
    #[schema(value_type = Vec<String>)]
    pub regions: Vec<Region>,
    /// Endpoint override.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_url: Option<String>,
    /// Whose credentials read.
    pub read_as: ReadAs,
    /// What for.
    pub role: Role,
    /// When it was registered.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// What an account is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Role {
    /// A service account.
    Admin {
        /// `access_key` or `ambient`.
        sign_in: SignInKind,
        /// ARNs of the roles assumed after it.
        roles: Vec<String>,
    },
    /// A tenant account.
    Tenant {
        /// The admin hypervisor; absent for tenants' tokens.
        #[schema(value_type = Option<String>)]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        use_admin_account_resources: Option<HypervisorId>,
        /// `access_key` or `assume_role`.
        sign_in: SignInKind,
        /// The assumed role.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role_arn: Option<String>,
    },
}

impl Role {
    /// `admin` or `tenant`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Admin { .. } => "admin",
            Self::Tenant { .. } => "tenant",
        }
    }
}

/// How an account signs in, without the secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignInKind {
    /// A long-lived key.
    AccessKey,
    /// What the machine has.
    Ambient,
    /// A role that the service account assumes.
    AssumeRole,
}

/// `GET /v1/hypervisors`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HypervisorQuery {
    /// Only the one with this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Cursor of the last page's `next`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// 1 to 1,000; 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}
