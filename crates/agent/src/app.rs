//! Config → build → run: what an agent is made of.

use std::sync::Arc;

use futures::future::BoxFuture;
use snapferry_aws::Clients;
use snapferry_queue::{QueueName, TaskQueue};
use snapferry_service::metrics::MetricsServer;
use snapferry_transfer::{ByteBudget, WorkPool};
use snapferry_types::Region;
use snapferry_types::instance::OsFamily;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::AgentConfig;
use crate::context::Shared;
use crate::devices::VolumeDevices;
use crate::figures::Figures;
use crate::handler::HotAddNode;
use crate::identity::{Identity, IdentityError};
use crate::images::Images;
use crate::lease::LeaseClient;
use crate::node::{self, Files};
use crate::staging::Staging;
use crate::worker::{Running, Worker};

/// The system whose instances this build can work on.
const OS: OsFamily = if cfg!(windows) { OsFamily::Windows } else { OsFamily::Linux };

/// An agent that cannot start.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The identity file.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A certificate.
    #[error(transparent)]
    Tls(#[from] snapferry_service::tls::TlsError),
    /// The scheduler's endpoint.
    #[error(transparent)]
    Lease(#[from] snapferry_transfer::TransferError),
    /// The group does not make a queue's name.
    #[error(transparent)]
    QueueName(#[from] snapferry_queue::QueueNameError),
    /// The file or variable with the broker's address.
    #[error(transparent)]
    Secret(#[from] snapferry_service::secret::SecretError),
    /// The broker's address.
    #[error(transparent)]
    BrokerUrl(snapferry_queue::RabbitConfigError),
    /// How the broker is spoken with.
    #[error("prepare the RabbitMQ client")]
    Queue(#[source] snapferry_queue::RabbitConfigError),
    /// A number that makes no sense.
    #[error("slots is {0}: an agent needs between 1 and 256")]
    Slots(u32),
    /// A rate that makes no sense; its key.
    #[error("quotas.{0} has to be a positive number of requests a second")]
    Quota(&'static str),
    /// A node without a place.
    #[error("hot_add needs availability_zone, a zone of {0}")]
    HotAddZone(Region),
    /// A number of attachments that makes no sense.
    #[error("hot_add.max_attachments is 0: allow at least one volume")]
    NoAttachments,
    /// The metrics address.
    #[error("listen for metrics: {0}")]
    Metrics(std::io::Error),
    /// A figure that cannot be shown.
    #[error("register the metrics: {0}")]
    Figures(#[from] prometheus::Error),
}

/// An agent, ready to run.
pub struct Agent {
    config: AgentConfig,
    lease: LeaseClient,
    worker: Worker,
    slots: Arc<Semaphore>,
    images: Images,
    metrics: Option<MetricsServer>,
}

impl Agent {
    /// Reads the identity, prepares connections, binds the metrics listener. What HotAdd attaches it looks for in
    /// `devices`.
    ///
    /// # Errors
    /// [`BuildError`]; nothing runs then.
    pub async fn build(
        mut config: AgentConfig,
        queue: Arc<dyn TaskQueue>,
        devices: Arc<dyn VolumeDevices>,
    ) -> Result<Self, BuildError> {
        let n_slots = usize::try_from(config.slots).unwrap_or(0);
        if !(1..=256).contains(&n_slots) {
            return Err(BuildError::Slots(config.slots));
        }
        let identity = Identity::load(&config.data_dir)?;
        if let Some(import) = &mut config.import {
            // Each agent removes what no task of its own needs: two may be given one folder.
            import.staging_dir.push(identity.node.to_string());
        }
        let tls = config.tls.as_ref().map(snapferry_service::TlsFiles::read).transpose()?;
        let lease = LeaseClient::new(&config.scheduler, tls.as_ref(), identity)?;
        let queue_name = QueueName::new(&config.region, OS, &config.group)?;
        let threads = config
            .cpu_threads
            .or_else(|| std::thread::available_parallelism().ok().map(std::num::NonZero::get))
            .unwrap_or(2);
        let running = Running::default();
        let images = Images::new(&config.data_dir, running.clone());
        let shared = Arc::new(Shared {
            budget: ByteBudget::new(config.memory_budget_mib.saturating_mul(1 << 20)),
            workers: WorkPool::new(threads),
            clients: Clients::new(config.quotas.settings().map_err(BuildError::Quota)?),
            tls,
            compress: config.compress,
            image_dir: config.image_dir.clone(),
            images: images.clone(),
            region: config.region.clone(),
            hot_add: hot_add(&config, devices)?,
            import: config.import.clone(),
            transit_kms_key_id: config.transit_kms_key_id.clone(),
            prices: config.prices,
        });
        let registry = snapferry_service::metrics::registry();
        let figures = Figures::register(&registry, shared.budget.clone(), n_slots)?;
        let metrics = match config.metrics_listen {
            Some(address) => Some(MetricsServer::bind(address, registry).await.map_err(BuildError::Metrics)?),
            None => None,
        };
        let slots = Arc::new(Semaphore::new(n_slots));
        tracing::info!(node = %identity.node, queue = %queue_name, slots = n_slots, scheduler = %config.scheduler, "agent");
        let worker = Worker {
            queue,
            queue_name,
            lease: lease.clone(),
            shared,
            slots: Arc::clone(&slots),
            attempts: TaskTracker::new(),
            running,
            figures,
        };
        Ok(Self { config, lease, worker, slots, images, metrics })
    }

    /// Works until `stop`; running attempts then yield at a safe point. Boxed, so that who composes an agent does not
    /// compile the AWS clients' futures again.
    pub fn run(self, stop: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let import = self.config.import.as_ref();
            let staging =
                import.map(|import| Staging::new(import.staging_dir.clone(), self.worker.running.clone()));
            let files = Files { staging, images: self.images };
            let hello = node::announce(&self.config, &self.lease, &self.slots, &files, &stop);
            let work = self.worker.run(stop.clone());
            let metrics = async {
                if let Some(server) = self.metrics
                    && let Err(error) = server.run(stop.clone()).await
                {
                    tracing::error!(%error, "the metrics listener ended");
                }
            };
            tokio::join!(hello, work, metrics);
            node::farewell(&self.config, &self.lease).await;
        })
    }
}

/// The node for HotAdd, where it is one.
fn hot_add(config: &AgentConfig, devices: Arc<dyn VolumeDevices>) -> Result<Option<HotAddNode>, BuildError> {
    let Some(hot_add) = config.hot_add.clone() else { return Ok(None) };
    let zone = config.availability_zone.clone();
    if !zone.starts_with(config.region.as_str()) || zone == config.region.as_str() {
        return Err(BuildError::HotAddZone(config.region.clone()));
    }
    if hot_add.max_attachments == 0 {
        return Err(BuildError::NoAttachments);
    }
    Ok(Some(HotAddNode::new(hot_add, zone, OS, devices)))
}
