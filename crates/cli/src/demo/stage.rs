//! The set-up of the demo: simulated AWS, scheduler, MediaAgent and agent, and the API client that drives them.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use awssim::{Config as SimConfig, Running, Server};
use indicatif::MultiProgress;
use snapferry_api::Client;
use snapferry_api::hypervisor::{AdminSignIn, CreateHypervisor, CreateRole, ReadAs, TenantSignIn};
use snapferry_api::job::{CreateJob, Job, JobState, Priority, Work};
use snapferry_api::page::PageQuery;
use snapferry_types::{HypervisorId, InstanceId, RecoveryPointId};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::accounts::{self, EXTERNAL_ID, REGION, SERVICE, TENANT};
use super::instances::DemoInstance;
use crate::up::{All, UpConfig};
use crate::watch;

/// How long the roles may take to find each other.
const READY: Duration = Duration::from_secs(30);

/// Everything that runs.
pub(super) struct Stage {
    pub(super) sim: Running,
    pub(super) client: Client,
    pub(super) tenant: HypervisorId,
    stop: CancellationToken,
    roles: JoinHandle<Result<()>>,
}

impl Stage {
    /// Starts everything below `dir` and registers both accounts.
    pub(super) async fn start(dir: &Path) -> Result<Self> {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let sim = Server::start(SimConfig { listen, data_dir: dir.join("aws") }).await?;
        let keys = accounts::make(&sim.context().world);
        let all = All::build(config(dir)?).await?;
        let client = Client::new(&all.endpoints().http, None)?;
        let stop = CancellationToken::new();
        let roles = tokio::spawn(all.run(stop.clone()));
        let admin = client
            .create_hypervisor(&CreateHypervisor {
                name: "provider".to_owned(),
                account: SERVICE.parse()?,
                regions: vec![REGION.parse()?],
                endpoint_url: Some(sim.endpoint()),
                read_as: ReadAs::Tenant,
                role: CreateRole::Admin {
                    sign_in: AdminSignIn::AccessKey {
                        access_key_id: keys.service.access_key_id,
                        secret_access_key: keys.service.secret_access_key.into(),
                    },
                    roles: Vec::new(),
                },
            })
            .await?;
        let tenant = client
            .create_hypervisor(&CreateHypervisor {
                name: "customer".to_owned(),
                account: TENANT.parse()?,
                regions: vec![REGION.parse()?],
                endpoint_url: Some(sim.endpoint()),
                read_as: ReadAs::Tenant,
                role: CreateRole::Tenant {
                    use_admin_account_resources: admin.id,
                    sign_in: TenantSignIn::AssumeRole {
                        role_arn: keys.tenant_role,
                        external_id: EXTERNAL_ID.into(),
                    },
                },
            })
            .await?;
        let stage = Self { sim, client, tenant: tenant.id, stop, roles };
        tokio::time::timeout(READY, stage.ready())
            .await
            .context("no agent or MediaAgent announced itself")??;
        Ok(stage)
    }

    async fn ready(&self) -> Result<()> {
        let page = PageQuery::default();
        loop {
            let nodes = self.client.access_nodes(&page).await?.items;
            let media_agents = self.client.media_agents(&page).await?.items;
            if nodes.iter().any(|one| one.online) && media_agents.iter().any(|one| one.online) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Submits work and follows it to a good end.
    pub(super) async fn run(&self, work: Work, bars: &MultiProgress) -> Result<Job> {
        let body = CreateJob { work, priority: Priority::default() };
        let job = self.client.create_job(&body, None).await?;
        let job = watch::follow(&self.client, job.summary.id, bars).await?;
        if job.summary.state != JobState::Succeeded {
            let errors = job.tasks.iter().filter_map(|task| task.error.as_ref());
            let errors: Vec<&str> = errors.map(|error| error.message.as_str()).collect();
            bail!("job {} {}: {}", job.summary.id, job.summary.state.as_str(), errors.join("; "));
        }
        Ok(job)
    }

    /// What is in the tenant's account beyond originals, kept bases and restored results, and in the service account at all.
    pub(super) fn left_behind(&self, instances: &[DemoInstance]) -> Result<Vec<String>> {
        let inventory = self.sim.context().world.inventory(Some(TENANT));
        let count = |kind: &str| inventory.get(kind).map_or(0, Vec::len);
        let n_volumes: usize = instances.iter().map(|one| one.volumes.len()).sum();
        let expected = [
            // The originals' launch images and their snapshots are gone; a volume keeps one snapshot as the base of its
            // next backup and one as its IntelliSnap recovery point.
            ("snapshots", 2 * n_volumes),
            ("images", 0),
            ("instances", 2 * instances.len()),
            ("volumes", 5 * n_volumes),
        ];
        let differs = expected.iter().filter(|(kind, wanted)| count(kind) != *wanted);
        let differs = differs.map(|(kind, wanted)| format!("{} {kind} where {wanted} belong", count(kind)));
        let of_service = self.sim.context().world.inventory(Some(SERVICE)).into_iter();
        let of_service = of_service.filter(|(_, ids)| !ids.is_empty());
        let of_service =
            of_service.map(|(kind, ids)| format!("the service account's {kind} {}", ids.join(", ")));
        Ok(differs.chain(of_service).collect())
    }

    /// Stops everything in order.
    pub(super) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.roles.await??;
        self.sim.stop().await;
        Ok(())
    }
}

/// The recovery point that a backup job made of an instance.
pub(super) fn recovery_point_of(job: &Job, instance: &InstanceId) -> Result<RecoveryPointId> {
    let task = job.tasks.iter().find(|task| task.instance.as_ref() == Some(instance));
    let made = task.and_then(|task| task.made.iter().find(|made| made.kind == "recovery_point"));
    let made = made.with_context(|| format!("the backup of {instance} names no recovery point"))?;
    Ok(made.id.parse()?)
}

fn config(dir: &Path) -> Result<UpConfig> {
    let text = format!(
        r#"
        [scheduler]
        deployment = "demo"
        database = "sqlite:{dir}/scheduler.db"
        master_key_file = "{dir}/master.key"
        http = {{ listen = "127.0.0.1:0" }}
        lease = {{ listen = "127.0.0.1:0" }}
        dispatch = {{ tick_ms = 100 }}

        [media_agent]
        name = "demo"
        listen = "127.0.0.1:0"
        library = {{ dir = "{dir}/library" }}

        [agent]
        name = "demo"
        data_dir = "{dir}/agent"
        region = "{REGION}"
        "#,
        dir = dir.display()
    );
    toml::from_str(&text).context("the demo's own configuration")
}
