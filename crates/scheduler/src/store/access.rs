//! How an account is reached, opened from the vault: for a grant, and for the scheduler's own control-plane calls.

use snapferry_api::hypervisor::{AdminSignIn, CreateRole, ReadAs, TenantSignIn};
use snapferry_types::access::{AccountAccess, AssumeRole, Credentials, SignIn};
use snapferry_types::tenancy::TenantKeys;
use snapferry_types::{AccountId, HypervisorId, Region};
use sqlx::AnyConnection;

use super::row::Read as _;
use super::{Store, StoreError, hypervisor};

/// Both sides of a tenant's access.
pub(super) struct Accesses {
    pub(super) tenant: AccountAccess,
    pub(super) service: Option<AccountAccess>,
    pub(super) read_as: ReadAs,
}

impl Store {
    /// Access to the account of a hypervisor, admin or tenant.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn account_access(
        &self,
        id: HypervisorId,
        region: &Region,
    ) -> Result<AccountAccess, StoreError> {
        Ok(self.accesses(&mut *self.reader().await?, id, region).await?.tenant)
    }

    /// Access to the account that an object made in a tenant's name is in: the tenant's own, or that of its admin.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when it is neither.
    pub async fn object_access(
        &self,
        id: HypervisorId,
        account: &AccountId,
        region: &Region,
    ) -> Result<AccountAccess, StoreError> {
        let accesses = self.accesses(&mut *self.reader().await?, id, region).await?;
        let sides = std::iter::once(accesses.tenant).chain(accesses.service);
        sides.into_iter().find(|side| side.account == *account).ok_or_else(|| {
            StoreError::Invalid(format!(
                "account {account} is neither that of hypervisor {id} nor that of its admin hypervisor"
            ))
        })
    }

    pub(super) async fn accesses(
        &self,
        conn: &mut AnyConnection,
        id: HypervisorId,
        region: &Region,
    ) -> Result<Accesses, StoreError> {
        let own = hypervisor::load(conn, id).await?;
        let role = self.role(conn, id).await?;
        let access = |sign_in, roles| AccountAccess {
            account: own.account.clone(),
            region: region.clone(),
            sign_in,
            roles,
            endpoint_url: own.endpoint_url.clone(),
        };
        let (tenant, service) = match role {
            CreateRole::Admin { sign_in, roles } => {
                (access(admin_sign_in(sign_in), roles.into_iter().map(assume).collect()), None)
            }
            CreateRole::Tenant { use_admin_account_resources, sign_in } => {
                let admin = hypervisor::load(conn, use_admin_account_resources).await?;
                let CreateRole::Admin { sign_in: admin_in, roles } = self.role(conn, admin.id).await? else {
                    return Err(StoreError::Invalid(format!(
                        "hypervisor {} is no admin hypervisor",
                        admin.id
                    )));
                };
                let service = AccountAccess {
                    account: admin.account,
                    region: region.clone(),
                    sign_in: admin_sign_in(admin_in),
                    roles: roles.into_iter().map(assume).collect(),
                    endpoint_url: admin.endpoint_url,
                };
                let tenant = match sign_in {
                    TenantSignIn::AccessKey { access_key_id, secret_access_key } => access(
                        SignIn::AccessKey(Credentials {
                            access_key_id,
                            secret_access_key: secret_access_key.into(),
                        }),
                        Vec::new(),
                    ),
                    TenantSignIn::AssumeRole { role_arn, external_id } => {
                        let mut roles = service.roles.clone();
                        roles.push(AssumeRole { role_arn, external_id: Some(external_id.into()) });
                        access(service.sign_in.clone(), roles)
                    }
                };
                (tenant, Some(service))
            }
        };
        Ok(Accesses { tenant, service, read_as: own.read_as })
    }

    async fn role(&self, conn: &mut AnyConnection, id: HypervisorId) -> Result<CreateRole, StoreError> {
        let row = sqlx::query("SELECT access FROM hypervisor WHERE id = $1")
            .bind(id.to_string())
            .fetch_one(conn)
            .await?;
        let plain = self.vault.open(&hypervisor::sealed_for(id), &row.bytes("access")?)?;
        serde_json::from_slice(&plain)
            .map_err(|_| StoreError::Corrupt { column: "access", reason: "unknown layout".to_owned() })
    }

    pub(super) async fn tenant_keys(
        &self,
        conn: &mut AnyConnection,
        id: HypervisorId,
    ) -> Result<TenantKeys, StoreError> {
        let row = sqlx::query("SELECT wrapped FROM tenant_key WHERE hypervisor_id = $1")
            .bind(id.to_string())
            .fetch_optional(conn)
            .await?
            .ok_or_else(|| StoreError::not_found("key of hypervisor", id))?;
        let plain = self.vault.open(&hypervisor::keys_of(id), &row.bytes("wrapped")?)?;
        let corrupt = || StoreError::Corrupt { column: "wrapped", reason: format!("{} bytes", plain.len()) };
        let (id_key, data_key) = plain.split_at_checked(32).ok_or_else(corrupt)?;
        let key = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).map_err(|_| corrupt());
        Ok(TenantKeys::new(key(id_key)?, key(data_key)?))
    }
}

fn admin_sign_in(sign_in: AdminSignIn) -> SignIn {
    match sign_in {
        AdminSignIn::AccessKey { access_key_id, secret_access_key } => {
            SignIn::AccessKey(Credentials { access_key_id, secret_access_key: secret_access_key.into() })
        }
        AdminSignIn::Ambient => SignIn::Ambient,
    }
}

fn assume(role: snapferry_api::hypervisor::RoleToAssume) -> AssumeRole {
    AssumeRole { role_arn: role.role_arn, external_id: role.external_id.map(Into::into) }
}
