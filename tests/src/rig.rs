//! A running set-up: broker, simulated AWS, scheduler, MediaAgent, agents.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use awssim::{Config as SimConfig, Running, Server};
use snapferry_api::Client;
use snapferry_api::hypervisor::{AdminSignIn, CreateHypervisor, CreateRole, ReadAs, TenantSignIn};
use snapferry_api::job::{CreateJob, Job, JobState, Priority, StreamingBackup, Work};
use snapferry_api::page::PageQuery;
use snapferry_api::restore::{Restore, RestoreFrom, RestoreTarget};
use snapferry_testkit::{Broker, Process, eventually, free_port};
use snapferry_types::{AccessNodeId, HypervisorId, InstanceId, JobId, RecoveryPointId, TransportWish};

use crate::config::{self, Ports, TOKENS};
use crate::disk::Disk;
use crate::faults::set_role;
use crate::transports::Resources;

/// The tenant's account.
pub const ACCOUNT: &str = "222222222222";
/// The region of everything.
pub const REGION: &str = "eu-central-1";
/// Another region that both accounts use, for copies.
pub const ELSEWHERE: &str = "eu-west-1";
/// The service provider's account.
pub const SERVICE: &str = "111111111111";
/// What the tenant's role asks for.
pub const EXTERNAL_ID: &str = "the-external-id";

/// Nothing in these tests takes longer unless it is broken.
const BOUND: Duration = Duration::from_secs(90);

/// How a set-up differs from the usual.
#[derive(Debug, Clone, Copy)]
pub struct RigOptions {
    /// Length of a lease; the real one is 90 s.
    pub lease_ms: u64,
    /// Agents at the start.
    pub n_agents: usize,
    /// Tasks that each agent runs at the same time.
    pub slots: u32,
    /// Whose credentials read the tenant's blocks.
    pub read_as: ReadAs,
    /// Size of the disk that the library lies on; the machine's own when absent. Needs root.
    pub library_mib: Option<u32>,
    /// Whether the API asks for one of the [`crate::TOKENS`].
    pub with_tokens: bool,
    /// Whether the agents are instances that volumes are attached to, and have a bucket to import from. Needs root.
    pub with_service_resources: bool,
}

impl Default for RigOptions {
    fn default() -> Self {
        Self {
            lease_ms: 3_000,
            n_agents: 2,
            slots: 1,
            read_as: ReadAs::Tenant,
            library_mib: None,
            with_tokens: false,
            with_service_resources: false,
        }
    }
}

/// A running set-up. Everything ends when it is dropped.
pub struct Rig {
    /// The scheduler's process.
    pub scheduler: Process,
    /// The MediaAgent's process.
    pub media_agent: Process,
    /// The agents' processes, in the order of their names.
    pub agents: Vec<Process>,
    /// RabbitMQ.
    pub broker: Broker,
    /// AWS.
    pub sim: Running,
    /// The API.
    pub client: Client,
    /// The service provider.
    pub provider: HypervisorId,
    /// The tenant.
    pub tenant: HypervisorId,
    /// The library's disk, where it has one of its own.
    pub disk: Option<Disk>,
    /// Folder of everything: configurations, logs, the library.
    pub dir: PathBuf,
    /// What HotAdd and Import use in the service account.
    pub transports: Option<Resources>,
    ports: Ports,
    slots: u32,
    amqp_url: String,
    _folder: tempfile::TempDir,
}

impl Rig {
    /// Starts everything and waits until agents and MediaAgent are known.
    ///
    /// # Errors
    /// What did not start, with its log.
    pub async fn start(options: RigOptions) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("snapferry-test-").tempdir()?;
        let dir = folder.path().to_owned();
        let broker = Broker::start().await?;
        let amqp_url = broker.url();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let sim = Server::start(SimConfig { listen, data_dir: dir.join("aws") }).await?;
        let ports = Ports { http: free_port()?, lease: free_port()?, media: free_port()? };
        let scheduler = spawn(
            &dir,
            "snapferry-scheduler",
            "scheduler",
            &config::scheduler(&dir, ports, &options)?,
            &amqp_url,
        )?;
        let library = dir.join("library");
        std::fs::create_dir_all(&library)?;
        let disk = options.library_mib.map(|mib| Disk::mount(&library, mib)).transpose()?;
        let media_agent = spawn(
            &dir,
            "snapferry-media-agent",
            "media-agent",
            &config::media_agent(&dir, ports, &options)?,
            &amqp_url,
        )?;
        let operator = options.with_tokens.then(|| TOKENS.operator.into());
        let client = Client::new(&format!("http://127.0.0.1:{}", ports.http), operator)?;
        eventually(BOUND, "the scheduler answers", || async { client.health().await.is_ok() })
            .await
            .with_context(|| last_lines("scheduler", &scheduler))?;
        let (provider, tenant) = register(&client, &sim, options.read_as).await?;
        let mut rig = Self {
            scheduler,
            media_agent,
            agents: Vec::new(),
            broker,
            sim,
            client,
            provider,
            tenant,
            disk,
            dir,
            transports: None,
            ports,
            slots: options.slots,
            amqp_url,
            _folder: folder,
        };
        if options.with_service_resources {
            rig.transports = Some(Resources::make(&rig.sim)?);
        }
        for _ in 0..options.n_agents {
            rig.add_agent()?;
        }
        let n_agents = options.n_agents;
        eventually(BOUND, "agents and MediaAgent announce themselves", || rig.is_ready(n_agents))
            .await
            .with_context(|| rig.logs())?;
        Ok(rig)
    }

    /// Starts one more agent.
    ///
    /// # Errors
    /// When its binary is not built.
    pub fn add_agent(&mut self) -> Result<()> {
        let name = format!("agent-{}", self.agents.len() + 1);
        let extra = match &self.transports {
            Some(resources) => resources.of_agent(&self.sim, &self.dir, &name)?,
            None => String::new(),
        };
        let config = config::agent(&self.dir, self.ports, &name, self.slots, &extra)?;
        self.agents.push(spawn(&self.dir, "snapferry-agent", &name, &config, &self.amqp_url)?);
        Ok(())
    }

    /// Ends the first agent as a service manager does, and starts it again.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn restart_agent(&mut self) -> Result<()> {
        let agent = self.agents.first_mut().context("there is no agent")?;
        agent.terminate()?;
        agent.wait(BOUND).await?;
        let config = self.dir.join("agent-1.toml");
        *agent = spawn(&self.dir, "snapferry-agent", "agent-1-again", &config, &self.amqp_url)?;
        Ok(())
    }

    /// Starts the first agent again, after it was killed: it is the same access node.
    ///
    /// # Errors
    /// When its binary is not built.
    pub fn restart_killed_agent(&mut self) -> Result<()> {
        let agent = self.agents.first_mut().context("there is no agent")?;
        let config = self.dir.join("agent-1.toml");
        *agent = spawn(&self.dir, "snapferry-agent", "agent-1-again", &config, &self.amqp_url)?;
        Ok(())
    }

    /// Starts the scheduler again, after it was killed.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart_scheduler(&mut self) -> Result<()> {
        let config = self.dir.join("scheduler.toml");
        self.scheduler = spawn(&self.dir, "snapferry-scheduler", "scheduler-2", &config, &self.amqp_url)?;
        eventually(BOUND, "the scheduler answers again", || async { self.client.health().await.is_ok() })
            .await
    }

    /// Starts the MediaAgent again, after it was killed.
    ///
    /// # Errors
    /// When its binary is not built.
    pub fn restart_media_agent(&mut self) -> Result<()> {
        let config = self.dir.join("media-agent.toml");
        self.media_agent =
            spawn(&self.dir, "snapferry-media-agent", "media-agent-2", &config, &self.amqp_url)?;
        Ok(())
    }

    /// Where the API is.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.http)
    }

    async fn is_ready(&self, n_agents: usize) -> bool {
        let page = PageQuery::default();
        let nodes = self.client.access_nodes(&page).await.map(|page| page.items).unwrap_or_default();
        let media = self.client.media_agents(&page).await.map(|page| page.items).unwrap_or_default();
        nodes.iter().filter(|one| one.online).count() >= n_agents && media.iter().any(|one| one.online)
    }

    /// Which of [`Self::agents`] runs as an access node.
    ///
    /// # Errors
    /// When none does.
    pub async fn agent_of(&self, node: AccessNodeId) -> Result<usize> {
        let nodes = self.client.access_nodes(&PageQuery::default()).await?.items;
        let name = nodes.into_iter().find(|one| one.id == node).map(|one| one.name);
        let number = name.as_deref().and_then(|name| name.strip_prefix("agent-")?.parse::<usize>().ok());
        number.and_then(|number| number.checked_sub(1)).with_context(|| format!("no agent runs as {node}"))
    }

    /// Asks for a backup.
    ///
    /// # Errors
    /// The API's.
    pub async fn back_up(&self, instance: &InstanceId) -> Result<JobId> {
        self.submit(Work::StreamingBackup(StreamingBackup {
            hypervisor: self.tenant,
            instances: vec![instance.clone()],
            region: None,
            media_agent: None,
            full: false,
            transport: TransportWish::default(),
            retention: None,
        }))
        .await
    }

    /// Asks for a restore to volumes.
    ///
    /// # Errors
    /// The API's.
    pub async fn restore(&self, recovery_point: RecoveryPointId) -> Result<JobId> {
        self.restore_to(recovery_point, RestoreTarget::Volumes { availability_zone: None, attach: None })
            .await
    }

    /// Asks for a restore to a target.
    ///
    /// # Errors
    /// The API's.
    pub async fn restore_to(&self, recovery_point: RecoveryPointId, target: RestoreTarget) -> Result<JobId> {
        self.submit(Work::Restore(Restore {
            recovery_point,
            from: RestoreFrom::MediaAgent,
            volumes: Vec::new(),
            target,
            tags: Vec::new(),
            transport: TransportWish::default(),
            kms_key_id: None,
        }))
        .await
    }

    /// Asks for work.
    ///
    /// # Errors
    /// The API's.
    pub async fn submit(&self, work: Work) -> Result<JobId> {
        let body = CreateJob { work, priority: Priority::default() };
        Ok(self.client.create_job(&body, None).await?.summary.id)
    }

    /// Waits until a job has a condition.
    ///
    /// # Errors
    /// After a bound, with the job and the ends of all logs.
    pub async fn wait(&self, id: JobId, what: &str, condition: impl Fn(&Job) -> bool) -> Result<Job> {
        let seen: Arc<std::sync::Mutex<Option<Job>>> = Arc::default();
        let waited = eventually(BOUND, what, || async {
            let Ok(job) = self.client.job(id).await else { return false };
            let holds = condition(&job);
            *seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(job);
            holds
        })
        .await;
        let job = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match (waited, job) {
            (Ok(()), Some(job)) => Ok(job),
            (Ok(()), None) => bail!("{what}: the job was never seen"),
            (Err(error), job) => bail!("{error}\n{job:#?}\n{}", self.logs()),
        }
    }

    /// Waits until a job has succeeded.
    ///
    /// # Errors
    /// When it ends otherwise, or not at all.
    pub async fn succeed(&self, id: JobId) -> Result<Job> {
        let job = self.wait(id, "the job ends", |job| job.summary.state.is_terminal()).await?;
        if job.summary.state != JobState::Succeeded {
            bail!("the job did not succeed: {job:#?}\n{}", self.logs());
        }
        Ok(job)
    }

    /// The recovery point that a backup job made.
    ///
    /// # Errors
    /// When it made none.
    pub fn recovery_point(job: &Job) -> Result<RecoveryPointId> {
        let mut made = job.tasks.iter().flat_map(|task| &task.made);
        let made =
            made.find(|made| made.kind == "recovery_point").context("the job made no recovery point")?;
        Ok(made.id.parse()?)
    }

    /// How many live resources of a kind the tenant has.
    #[must_use]
    pub fn count(&self, kind: &str) -> usize {
        self.sim.context().world.inventory(Some(ACCOUNT)).get(kind).map_or(0, Vec::len)
    }

    /// The logs' last lines.
    pub(crate) fn logs(&self) -> String {
        let mut text = String::new();
        let processes = [("scheduler", &self.scheduler), ("media-agent", &self.media_agent)];
        let agents = self.agents.iter().map(|agent| ("agent", agent));
        for (name, process) in processes.into_iter().chain(agents) {
            text.push_str(&last_lines(name, process));
        }
        text
    }
}

fn last_lines(name: &str, process: &Process) -> String {
    let log = process.log().unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default();
    format!("--- {name} ---\n{}\n", last.join("\n"))
}

fn spawn(
    dir: &std::path::Path,
    binary: &str,
    name: &str,
    config: &std::path::Path,
    amqp_url: &str,
) -> Result<Process> {
    let config = config.to_string_lossy();
    let levels = "info,snapferry_agent=debug";
    let environment = [("TEST_AMQP_URL", amqp_url), ("SNAPFERRY_LOG", levels), ("NO_COLOR", "1")];
    Process::spawn(binary, &["--config", &config], &environment, &dir.join(format!("{name}.log")))
}

/// Makes both accounts in AWS and registers them.
async fn register(client: &Client, sim: &Running, read_as: ReadAs) -> Result<(HypervisorId, HypervisorId)> {
    let world = &sim.context().world;
    let key = world.create_user(SERVICE, "snapferry", Vec::new());
    world.create_account(ACCOUNT);
    let role_arn = set_role(sim, EXTERNAL_ID, Vec::new());
    let new = |name: &str, account: &str, role| -> Result<CreateHypervisor> {
        Ok(CreateHypervisor {
            name: name.to_owned(),
            account: account.parse()?,
            regions: vec![REGION.parse()?, ELSEWHERE.parse()?],
            endpoint_url: Some(sim.endpoint()),
            read_as,
            role,
        })
    };
    let sign_in = AdminSignIn::AccessKey {
        access_key_id: key.access_key_id,
        secret_access_key: key.secret_access_key.into(),
    };
    let admin = new("provider", SERVICE, CreateRole::Admin { sign_in, roles: Vec::new() })?;
    let admin = client.create_hypervisor(&admin).await?;
    let sign_in = TenantSignIn::AssumeRole { role_arn, external_id: EXTERNAL_ID.into() };
    let role = CreateRole::Tenant { use_admin_account_resources: admin.id, sign_in };
    let tenant = client.create_hypervisor(&new("customer", ACCOUNT, role)?).await?;
    Ok((admin.id, tenant.id))
}
