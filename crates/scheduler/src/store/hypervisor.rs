//! Registered accounts. Their secrets are sealed by the vault; the tenant's two keys are made with the row.

use snapferry_api::Page;
use snapferry_api::hypervisor::{
    AdminSignIn, CreateHypervisor, CreateRole, Hypervisor, HypervisorQuery, ReadAs, Role, SignInKind,
    TenantSignIn,
};
use snapferry_types::HypervisorId;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::row::{Read as _, to_json};
use super::{Store, StoreError, timestamp};
use crate::vault::random32;

const COLUMNS: &str = "SELECT id, name, account, regions, endpoint_url, read_as, role, admin_id, sign_in, \
                       role_arns, created_ms FROM hypervisor";

impl Store {
    /// Registers an account, whose request was checked.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken, [`StoreError::Invalid`] when the admin hypervisor is none.
    pub async fn create_hypervisor(&self, request: &CreateHypervisor) -> Result<Hypervisor, StoreError> {
        let id = HypervisorId::generate();
        let mut tx = self.begin().await?;
        let taken = sqlx::query("SELECT id FROM hypervisor WHERE name = $1")
            .bind(request.name.clone())
            .fetch_optional(&mut *tx)
            .await?;
        if taken.is_some() {
            return Err(StoreError::Conflict(format!(
                "there is a hypervisor named {:?} already; choose another name",
                request.name
            )));
        }
        let admin = match &request.role {
            CreateRole::Admin { .. } => None,
            CreateRole::Tenant { use_admin_account_resources, .. } => {
                let admin = load(&mut tx, *use_admin_account_resources).await?;
                if !matches!(admin.role, Role::Admin { .. }) {
                    return Err(StoreError::Invalid(format!(
                        "use_admin_account_resources names {}, which is a tenant; name an admin hypervisor",
                        admin.id
                    )));
                }
                Some(admin.id.to_string())
            }
        };
        let (role, sign_in, role_arns) = facts(&request.role);
        let access = self.vault.seal(&sealed_for(id), to_json(&request.role).as_bytes())?;
        sqlx::query(
            "INSERT INTO hypervisor (id, name, account, regions, endpoint_url, read_as, role, admin_id, sign_in, \
             role_arns, access, created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(id.to_string())
        .bind(request.name.clone())
        .bind(request.account.to_string())
        .bind(to_json(&request.regions))
        .bind(request.endpoint_url.clone())
        .bind(match request.read_as {
            ReadAs::Tenant => "tenant",
            ReadAs::Service => "service",
        })
        .bind(role)
        .bind(admin)
        .bind(match sign_in {
            SignInKind::AccessKey => "access_key",
            SignInKind::Ambient => "ambient",
            SignInKind::AssumeRole => "assume_role",
        })
        .bind(to_json(&role_arns))
        .bind(access)
        .bind(self.clock.wall_ms())
        .execute(&mut *tx)
        .await?;
        if role == "tenant" {
            let mut keys = zeroize::Zeroizing::new(random32()?.to_vec());
            keys.extend_from_slice(&random32()?);
            let wrapped = self.vault.seal(&keys_of(id), &keys)?;
            sqlx::query("INSERT INTO tenant_key (hypervisor_id, wrapped) VALUES ($1, $2)")
                .bind(id.to_string())
                .bind(wrapped)
                .execute(&mut *tx)
                .await?;
        }
        let made = load(&mut tx, id).await?;
        tx.commit().await?;
        Ok(made)
    }

    /// A registered account.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn hypervisor(&self, id: HypervisorId) -> Result<Hypervisor, StoreError> {
        load(&mut *self.reader().await?, id).await
    }

    /// The account of a name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn hypervisor_named(&self, name: &str) -> Result<Option<Hypervisor>, StoreError> {
        let query = HypervisorQuery { name: Some(name.to_owned()), ..HypervisorQuery::default() };
        Ok(self.hypervisors(&query, 1).await?.items.pop())
    }

    /// A page of the accounts, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn hypervisors(
        &self,
        query: &HypervisorQuery,
        limit: u32,
    ) -> Result<Page<Hypervisor>, StoreError> {
        let statement = format!("{COLUMNS} WHERE id > $1 AND ($2 = '' OR name = $2) ORDER BY id LIMIT $3");
        let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
            .bind(query.after.clone().unwrap_or_default())
            .bind(query.name.clone().unwrap_or_default())
            .bind(i64::from(limit) + 1)
            .fetch_all(self.db.read())
            .await?;
        super::page_of(&rows, limit, read, |one| one.id.to_string())
    }

    /// Removes an account that nothing depends on.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] names what is still there.
    pub async fn delete_hypervisor(&self, id: HypervisorId) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        load(&mut tx, id).await?;
        let text = id.to_string();
        let uses = [
            (
                "tenant hypervisors that use its resources",
                "SELECT COUNT(*) AS n FROM hypervisor WHERE admin_id = $1",
            ),
            (
                "recovery points; delete them first",
                "SELECT COUNT(*) AS n FROM recovery_point WHERE hypervisor_id = $1 AND deleted_ms IS NULL",
            ),
            (
                "AWS objects in its ledger; the reaper removes those that nobody needs",
                "SELECT COUNT(*) AS n FROM ledger WHERE hypervisor_id = $1 \
                 AND state NOT IN ('gone', 'handed_over')",
            ),
            (
                "unfinished tasks; cancel their jobs first",
                "SELECT COUNT(*) AS n FROM task WHERE hypervisor_id = $1 \
                 AND state NOT IN ('succeeded', 'failed', 'cancelled', 'dead')",
            ),
        ];
        for (what, statement) in uses {
            let n = sqlx::query(statement).bind(text.clone()).fetch_one(&mut *tx).await?.int("n")?;
            if n > 0 {
                return Err(StoreError::Conflict(format!("hypervisor {id} still has {n} {what}")));
            }
        }
        for statement in [
            "DELETE FROM note WHERE job_id IN (SELECT id FROM job WHERE hypervisor_id = $1)",
            "DELETE FROM ledger WHERE hypervisor_id = $1",
            "DELETE FROM recovery_point WHERE hypervisor_id = $1",
            "DELETE FROM attempt_so_far WHERE task_id IN (SELECT id FROM task WHERE hypervisor_id = $1)",
            "DELETE FROM attempt WHERE task_id IN (SELECT id FROM task WHERE hypervisor_id = $1)",
            "DELETE FROM checkpoint WHERE task_id IN (SELECT id FROM task WHERE hypervisor_id = $1)",
            "DELETE FROM outbox WHERE task_id IN (SELECT id FROM task WHERE hypervisor_id = $1)",
            "DELETE FROM task WHERE hypervisor_id = $1",
            "DELETE FROM job WHERE hypervisor_id = $1",
            "DELETE FROM tenant_key WHERE hypervisor_id = $1",
            "DELETE FROM hypervisor WHERE id = $1",
        ] {
            sqlx::query(statement).bind(text.clone()).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

pub(super) fn sealed_for(id: HypervisorId) -> String {
    format!("access of hypervisor {id}")
}

pub(super) fn keys_of(id: HypervisorId) -> String {
    format!("keys of hypervisor {id}")
}

pub(super) async fn load(conn: &mut AnyConnection, id: HypervisorId) -> Result<Hypervisor, StoreError> {
    let statement = format!("{COLUMNS} WHERE id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(id.to_string()).fetch_optional(conn).await?;
    read(&row.ok_or_else(|| StoreError::not_found("hypervisor", id))?)
}

fn facts(role: &CreateRole) -> (&'static str, SignInKind, Vec<String>) {
    match role {
        CreateRole::Admin { sign_in, roles } => {
            let kind = match sign_in {
                AdminSignIn::AccessKey { .. } => SignInKind::AccessKey,
                AdminSignIn::Ambient => SignInKind::Ambient,
            };
            ("admin", kind, roles.iter().map(|role| role.role_arn.clone()).collect())
        }
        CreateRole::Tenant { sign_in: TenantSignIn::AccessKey { .. }, .. } => {
            ("tenant", SignInKind::AccessKey, Vec::new())
        }
        CreateRole::Tenant { sign_in: TenantSignIn::AssumeRole { role_arn, .. }, .. } => {
            ("tenant", SignInKind::AssumeRole, vec![role_arn.clone()])
        }
    }
}

fn read(row: &AnyRow) -> Result<Hypervisor, StoreError> {
    let sign_in = row.word("sign_in", |word| match word {
        "access_key" => Some(SignInKind::AccessKey),
        "ambient" => Some(SignInKind::Ambient),
        "assume_role" => Some(SignInKind::AssumeRole),
        _ => None,
    })?;
    let role_arns: Vec<String> = row.json("role_arns")?;
    let role = match row.text("role")?.as_str() {
        "admin" => Role::Admin { sign_in, roles: role_arns },
        _ => Role::Tenant {
            use_admin_account_resources: row.opt_parsed("admin_id")?,
            sign_in,
            role_arn: role_arns.into_iter().next(),
        },
    };
    Ok(Hypervisor {
        id: row.parsed("id")?,
        name: row.text("name")?,
        account: row.parsed("account")?,
        regions: row.json("regions")?,
        endpoint_url: row.opt_text("endpoint_url")?,
        read_as: if row.text("read_as")? == "service" { ReadAs::Service } else { ReadAs::Tenant },
        role,
        created_at: timestamp(row.int("created_ms")?),
    })
}
