//! A running set-up: broker, simulated AWS, scheduler, MediaAgent, agents.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use awssim::{Config as SimConfig, Running, Server};
use snapferry_api::Client;
use snapferry_api::hypervisor::{AdminSignIn, CreateHypervisor, CreateRole, ReadAs, TenantSignIn};
use snapferry_api::job::{CreateJob, Job, JobState, Priority, Work};
use snapferry_api::restore::{RestoreFrom, RestoreTarget};
use snapferry_testkit::{Postgres, Process, eventually, free_port};
use snapferry_types::{HypervisorId, InstanceId, JobId, RecoveryPointId, TransportWish};

use crate::broker::TestBroker;
use crate::config::{self, Ports, TOKENS};
use crate::disk::Disk;
use crate::faults::set_role;
use crate::processes::{BOUND, last_lines, spawn};
use crate::transports::{Machine, Resources};

/// The tenant's account.
pub const ACCOUNT: &str = "222222222222";
/// The region of everything.
pub const REGION: &str = "eu-central-1";
/// Another region that both accounts use, for copies.
pub const ELSEWHERE: &str = "eu-west-1";
/// The service provider's account.
pub const SERVICE: &str = "111111111111";
/// Restores to new volumes that are attached to nothing.
pub const VOLUMES: RestoreTarget = RestoreTarget::Volumes { availability_zone: None, attach: None };
/// What the tenant's role asks for.
pub const EXTERNAL_ID: &str = "the-external-id";

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
    /// Whether it has a broker of its own, which a test may stop.
    pub own_broker: bool,
    /// Whether the library lies in a bucket of the service account.
    pub library_in_bucket: bool,
    /// Whether the scheduler keeps its state in PostgreSQL.
    pub postgres: bool,
    /// Whether the API asks for one of the [`crate::TOKENS`].
    pub with_tokens: bool,
    /// Whether the agents are instances that volumes are attached to, and have a bucket to import from. Needs root.
    pub with_service_resources: bool,
    /// The machines of the agents at the start, where they have service resources.
    pub machine: Machine,
    /// How long the reaper leaves alone what nobody owns any more.
    pub reaper_delay_ms: u64,
    /// Between the scheduler's own looks for snapshots that somebody else deleted; without, it looks only when it is asked.
    pub reconcile_ms: Option<u64>,
}

impl Default for RigOptions {
    fn default() -> Self {
        Self {
            lease_ms: 3_000,
            n_agents: 2,
            slots: 1,
            read_as: ReadAs::Tenant,
            library_mib: None,
            own_broker: false,
            library_in_bucket: false,
            postgres: false,
            with_tokens: false,
            with_service_resources: false,
            machine: Machine::default(),
            reaper_delay_ms: 1_000,
            reconcile_ms: None,
        }
    }
}

impl RigOptions {
    /// The usual with one agent.
    #[must_use]
    pub fn one_agent() -> Self {
        Self { n_agents: 1, ..Self::default() }
    }

    /// The usual with one agent on an instance that volumes are attached to. Needs root.
    #[must_use]
    pub fn one_node() -> Self {
        Self { with_service_resources: true, ..Self::one_agent() }
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
    pub broker: TestBroker,
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
    /// The instances of the agents, where they have service resources.
    pub instances: Vec<String>,
    pub(crate) ports: Ports,
    pub(crate) slots: u32,
    pub(crate) amqp_url: String,
    // Dropped after the scheduler.
    _database: Option<Postgres>,
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
        let broker = TestBroker::start(options.own_broker).await?;
        let amqp_url = broker.url();
        let database = if options.postgres { Some(Postgres::start().await?) } else { None };
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let sim = Server::start(SimConfig { listen, data_dir: dir.join("aws") }).await?;
        let ports = Ports { http: free_port()?, lease: free_port()?, media: free_port()? };
        let scheduler = spawn(
            &dir,
            "snapferry-scheduler",
            "scheduler",
            &config::scheduler(&dir, ports, &options, database.as_ref())?,
            &amqp_url,
        )?;
        let library = dir.join("library");
        std::fs::create_dir_all(&library)?;
        let disk = options.library_mib.map(|mib| Disk::mount(&library, mib)).transpose()?;
        let bucket = options.library_in_bucket.then(|| config::Bucket::make(&sim, &dir)).transpose()?;
        let media_agent = spawn(
            &dir,
            "snapferry-media-agent",
            "media-agent",
            &config::media_agent(&dir, ports, &options, bucket.as_ref())?,
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
            instances: Vec::new(),
            ports,
            slots: options.slots,
            amqp_url,
            _database: database,
            _folder: folder,
        };
        if options.with_service_resources {
            rig.transports = Some(Resources::make(&rig.sim)?);
        }
        for _ in 0..options.n_agents {
            rig.add_machine(options.machine)?;
        }
        rig.wait_for_agents().await?;
        Ok(rig)
    }

    /// Where the API is.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.http)
    }

    /// Asks for a backup.
    ///
    /// # Errors
    /// The API's.
    pub async fn back_up(&self, instance: &InstanceId) -> Result<JobId> {
        self.back_up_by(instance, TransportWish::default()).await
    }

    /// Asks for a restore to volumes.
    ///
    /// # Errors
    /// The API's.
    pub async fn restore(&self, recovery_point: RecoveryPointId) -> Result<JobId> {
        self.restore_to(recovery_point, VOLUMES).await
    }

    /// Asks for a restore to a target.
    ///
    /// # Errors
    /// The API's.
    pub async fn restore_to(&self, recovery_point: RecoveryPointId, target: RestoreTarget) -> Result<JobId> {
        self.restore_with(recovery_point, RestoreFrom::MediaAgent, target, TransportWish::default(), None)
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
