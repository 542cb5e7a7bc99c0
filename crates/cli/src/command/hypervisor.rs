//! `snapferry hypervisor …`

use anyhow::{Result, bail};
use snapferry_api::Client;
use snapferry_api::hypervisor::{
    AdminSignIn, CreateHypervisor, CreateRole, Hypervisor as Shown, HypervisorQuery, ReadAs, Role,
    RoleToAssume, TenantSignIn,
};

use super::secret_of;
use crate::args::{AddAdmin, AddTenant, Hypervisor, NewHypervisor};
use crate::output::{self, Format};
use crate::tail;

pub(super) async fn run(client: &Client, format: Format, verb: &Hypervisor) -> Result<()> {
    match verb {
        Hypervisor::AddAdmin(add) => show(format, &client.create_hypervisor(&admin(add)?).await?),
        Hypervisor::AddTenant(add) => show(format, &client.create_hypervisor(&tenant(add)?).await?),
        Hypervisor::List => {
            let items = tail::all(|after| async move {
                client.hypervisors(&HypervisorQuery { after, ..HypervisorQuery::default() }).await
            })
            .await?;
            output::list(format, &items, &["id", "name", "role", "account", "regions"], |one| {
                vec![
                    one.id.to_string(),
                    one.name.clone(),
                    one.role.as_str().to_owned(),
                    one.account.to_string(),
                    regions(one),
                ]
            })
        }
        Hypervisor::Show { id } => show(format, &client.hypervisor(*id).await?),
        Hypervisor::Remove { id } => {
            client.delete_hypervisor(*id).await?;
            eprintln!("{id} is forgotten");
            Ok(())
        }
    }
}

fn show(format: Format, one: &Shown) -> Result<()> {
    let role = match &one.role {
        Role::Admin { .. } => "admin".to_owned(),
        Role::Tenant { use_admin_account_resources: Some(admin), .. } => format!("tenant of {admin}"),
        Role::Tenant { .. } => "tenant".to_owned(),
    };
    let reader = match (&one.role, one.read_as) {
        (Role::Admin { .. }, _) => "",
        (Role::Tenant { .. }, ReadAs::Tenant) => "the tenant",
        (Role::Tenant { .. }, ReadAs::Service) => "the service account",
    };
    output::one(
        format,
        one,
        &[
            ("id", one.id.to_string()),
            ("name", one.name.clone()),
            ("role", role),
            ("account", one.account.to_string()),
            ("regions", regions(one)),
            ("blocks read as", reader.to_owned()),
            ("endpoint", one.endpoint_url.clone().unwrap_or_default()),
            ("created", output::time(one.created_at)),
        ],
    )
}

fn regions(one: &Shown) -> String {
    one.regions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn admin(add: &AddAdmin) -> Result<CreateHypervisor> {
    let sign_in = match &add.access_key_id {
        Some(id) => AdminSignIn::AccessKey {
            access_key_id: id.clone(),
            secret_access_key: secret_of(add.secret_file.as_deref(), "--secret-file")?,
        },
        None => AdminSignIn::Ambient,
    };
    let roles = add
        .role_arns
        .iter()
        .map(|role_arn| RoleToAssume { role_arn: role_arn.clone(), external_id: None })
        .collect();
    Ok(create(&add.new, ReadAs::Tenant, CreateRole::Admin { sign_in, roles }))
}

fn tenant(add: &AddTenant) -> Result<CreateHypervisor> {
    let sign_in = match (&add.role_arn, &add.access_key_id) {
        (Some(role_arn), _) => TenantSignIn::AssumeRole {
            role_arn: role_arn.clone(),
            external_id: secret_of(add.external_id_file.as_deref(), "--external-id-file")?,
        },
        (None, Some(id)) => TenantSignIn::AccessKey {
            access_key_id: id.clone(),
            secret_access_key: secret_of(add.secret_file.as_deref(), "--secret-file")?,
        },
        (None, None) => bail!(
            "a tenant signs in by --role-arn with --external-id-file, or by --access-key-id with --secret-file"
        ),
    };
    let read_as = if add.read_as_service { ReadAs::Service } else { ReadAs::Tenant };
    let use_admin_account_resources = add.use_admin_account_resources;
    Ok(create(&add.new, read_as, CreateRole::Tenant { use_admin_account_resources, sign_in }))
}

fn create(new: &NewHypervisor, read_as: ReadAs, role: CreateRole) -> CreateHypervisor {
    CreateHypervisor {
        name: new.name.clone(),
        account: new.account.clone(),
        regions: new.regions.clone(),
        endpoint_url: new.endpoint_url.clone(),
        read_as,
        role,
    }
}
