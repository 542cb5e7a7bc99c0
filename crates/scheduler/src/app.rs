//! The scheduler put together: built (everything is bound and opened, every address logged), then run until it is told
//! to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use snapferry_api::page::PageQuery;
use snapferry_queue::{BrokerUrl, RabbitConfigError, RabbitQueue, TaskQueue, TicketPublisher};
use snapferry_service::secret::SecretError;
use snapferry_service::tls::TlsError;
use snapferry_wire::v1::lease_server::LeaseServer;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::clock::{Clock, SystemClock};
use crate::config::{Config, DatabaseUrl, InvalidConfig, QueueConfig};
use crate::discovery::AwsDiscovery;
use crate::dispatch::Dispatcher;
use crate::dispatch::outbox::Outbox;
use crate::http::{Api, Tokens, TokensError};
use crate::lease::{LeaseService, LeaseWatch, Nodes};
use crate::metrics::Metrics;
use crate::reaper::Reaper;
use crate::reconcile::{AwsSnapshots, Reconciler};
use crate::retention::Retention;
use crate::store::{Store, StoreError};
use crate::vault::{Vault, VaultError};

/// A claim, a step or a recovery point's metadata on the lease listener is never larger.
const MAX_MESSAGE: usize = 8 << 20;
/// Once told to stop, calls under way get this long.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// A scheduler that cannot start.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each is the error it wraps")]
pub enum BuildError {
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Tokens(#[from] TokensError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Broker(#[from] RabbitConfigError),
    #[error("register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("listen for {what} on {address}: {source}")]
    Listen { what: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("use the TLS files of the lease listener: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// A scheduler that is ready to run.
pub struct Scheduler {
    config: Config,
    clock: Arc<dyn Clock>,
    store: Arc<Store>,
    publisher: Arc<dyn TicketPublisher>,
    tokens: Tokens,
    nodes: Nodes,
    metrics: Metrics,
    registry: prometheus::Registry,
    server: Server,
    http: TcpListener,
    http_address: SocketAddr,
    lease: TcpListener,
    lease_address: SocketAddr,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler")
            .field("http", &self.http_address)
            .field("lease", &self.lease_address)
            .finish_non_exhaustive()
    }
}

impl Scheduler {
    /// Opens the database and binds the listeners; offers go to `publisher`.
    ///
    /// # Errors
    /// [`BuildError`], naming what cannot be opened.
    pub async fn build(config: Config, publisher: Arc<dyn TicketPublisher>) -> Result<Self, BuildError> {
        Self::build_with(config, publisher, Arc::new(SystemClock::new())).await
    }

    /// [`Self::build`] with given clocks.
    ///
    /// # Errors
    /// [`BuildError`], naming what cannot be opened.
    pub async fn build_with(
        config: Config,
        publisher: Arc<dyn TicketPublisher>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, BuildError> {
        config.check()?;
        let vault = match (&config.master_key_file, &config.master_key) {
            (Some(path), _) => Vault::from_file(path)?,
            (None, Some(secret)) => Vault::from_secret(&secret.read()?, "master_key")?,
            (None, None) => {
                let reason = "give either master_key_file or master_key".to_owned();
                return Err(InvalidConfig { key: "master_key_file", reason }.into());
            }
        };
        let tokens = Tokens::read(&config.tokens)?;
        let url = match &config.database {
            DatabaseUrl::Text(url) => url.clone(),
            DatabaseUrl::Secret(secret) => secret.read()?.expose_secret().to_owned(),
        };
        let store = Arc::new(Store::open(&url, vault, clock.clone()).await?);
        let registry = snapferry_service::metrics::registry();
        let metrics = Metrics::register(&registry)?;
        let server = server(&config)?;
        let node_timeout = Duration::from_millis(config.lease.node_timeout_ms);
        let nodes = Nodes::new(clock.clone(), node_timeout, store.incarnations().await?);
        let (http, http_address) = bind("the API", config.http.listen).await?;
        let (lease, lease_address) = bind("leases", config.lease.listen).await?;
        let n_agents = store.media_agents(&PageQuery::default(), 1_000, 0).await?.items.len();
        tracing::info!(generation = store.generation(), known_media_agents = n_agents, "database is open");
        Ok(Self {
            config,
            clock,
            store,
            publisher,
            tokens,
            nodes,
            metrics,
            registry,
            server,
            http,
            http_address,
            lease,
            lease_address,
        })
    }

    /// Where the API listens.
    #[must_use]
    pub const fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Where agents and MediaAgents call.
    #[must_use]
    pub const fn lease_address(&self) -> SocketAddr {
        self.lease_address
    }

    /// The registry, for figures of other parts of the process.
    #[must_use]
    pub const fn registry(&self) -> &prometheus::Registry {
        &self.registry
    }

    /// The database; for tests and for embedding.
    #[must_use]
    pub const fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Raises the generation of the database before anything is served: every grant from before is void then. To be done
    /// after the database lost committed work, as a failover or a restored copy does.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn raise_generation(&mut self) -> Result<u64, StoreError> {
        match Arc::get_mut(&mut self.store) {
            Some(store) => store.raise_generation().await,
            None => Err(StoreError::Conflict("the database is in use already".to_owned())),
        }
    }

    /// Runs until `stop`: takes no more calls, lets those under way end, closes the database. Work under a lease goes on
    /// without the scheduler and finds it again when it is back.
    ///
    /// # Errors
    /// When a listener fails, or a part of the scheduler ends before it was told to.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), anyhow::Error> {
        let node_timeout = Duration::from_millis(self.config.lease.node_timeout_ms);
        let watch = Arc::new(LeaseWatch::new(
            self.store.clone(),
            self.clock.clone(),
            &self.config.lease,
            self.metrics.clone(),
        ));
        let service = LeaseService::new(
            self.store.clone(),
            self.clock.clone(),
            self.nodes,
            watch.clone(),
            self.metrics.clone(),
            self.config.deployment.clone(),
            self.config.lease.limits(),
            self.config.lease.lease_ms,
        );
        let service = LeaseServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let dispatcher = Dispatcher::new(
            self.store.clone(),
            self.clock.clone(),
            self.config.dispatch.clone(),
            node_timeout,
            self.metrics.clone(),
        );
        let outbox = Outbox::new(self.store.clone(), self.publisher, self.metrics.clone());
        let reap = self.config.reaper.enabled;
        let reaper =
            Reaper::new(self.store.clone(), self.clock.clone(), self.config.reaper, self.metrics.clone());
        let retention = self.config.retention.enabled.then(|| {
            let config = self.config.retention.clone();
            Retention::new(self.store.clone(), self.clock.clone(), config, self.metrics.clone())
        });
        let reconcile = self.config.reconcile.enabled;
        let reconciler = Arc::new(Reconciler::new(
            self.store.clone(),
            Arc::new(AwsSnapshots),
            self.config.reconcile,
            self.metrics.clone(),
        ));
        let api = Api {
            reaper: reaper.clone(),
            store: self.store.clone(),
            clock: self.clock,
            tokens: Arc::new(self.tokens),
            discovery: Arc::new(AwsDiscovery),
            reconciler: reconciler.clone(),
            metrics: self.metrics,
            node_timeout,
            stop: stop.clone(),
        };
        let http = axum::serve(self.http, crate::http::router(api, self.registry))
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        let grpc = self
            .server
            .add_service(service)
            .serve_with_incoming_shutdown(TcpIncoming::from(self.lease), stop.clone().cancelled_owned());

        let mut parts = JoinSet::new();
        parts.spawn(async move { ("API", http.await.map_err(anyhow::Error::from)) });
        parts.spawn(async move { ("lease service", grpc.await.map_err(anyhow::Error::from)) });
        parts.spawn(part("dispatcher", dispatcher.run(stop.clone())));
        parts.spawn(part("outbox", outbox.run(stop.clone())));
        let watching = stop.clone();
        parts.spawn(part("lease watch", async move { watch.run(watching).await }));
        if let Some(retention) = retention {
            parts.spawn(part("retention", retention.run(stop.clone())));
        }
        if reconcile {
            parts.spawn(part("reconciler", reconciler.run(stop.clone())));
        }
        if reap {
            parts.spawn(part("reaper", reaper.run(stop.clone())));
        }
        let outcome = supervise(&mut parts, &stop).await;
        self.store.close().await;
        outcome
    }
}

async fn part(
    name: &'static str,
    run: impl Future<Output = ()>,
) -> (&'static str, Result<(), anyhow::Error>) {
    run.await;
    (name, Ok(()))
}

/// Waits until all parts have ended; the first that ends on its own takes the others with it.
async fn supervise(
    parts: &mut JoinSet<(&'static str, Result<(), anyhow::Error>)>,
    stop: &CancellationToken,
) -> Result<(), anyhow::Error> {
    let mut outcome = Ok(());
    let mut late = None;
    loop {
        let grace = async {
            match late {
                Some(until) => tokio::time::sleep_until(until).await,
                None => stop.cancelled().await,
            }
        };
        tokio::select! {
            ended = parts.join_next() => {
                let failure = match ended {
                    None => return outcome,
                    Some(Ok((name, Err(error)))) => Some(error.context(format!("the {name} failed"))),
                    Some(Ok((name, Ok(())))) if !stop.is_cancelled() => {
                        Some(anyhow::anyhow!("the {name} ended on its own"))
                    }
                    Some(Ok((_, Ok(())))) => None,
                    Some(Err(error)) => Some(anyhow::Error::from(error).context("a part of the scheduler")),
                };
                if let Some(failure) = failure {
                    stop.cancel();
                    if outcome.is_ok() {
                        outcome = Err(failure);
                    }
                }
            }
            () = grace => match late {
                None => late = Some(tokio::time::Instant::now() + STOP_GRACE),
                Some(_) => {
                    tracing::warn!("calls under way did not end in time; ending anyway");
                    parts.shutdown().await;
                    return outcome;
                }
            }
        }
    }
}

/// The publisher of the configuration's broker; `None` for the embedded queue, which the embedding process has.
///
/// # Errors
/// [`BuildError`] when the broker's address or settings are unusable.
pub fn publisher(config: &QueueConfig) -> Result<Option<Arc<dyn TicketPublisher>>, BuildError> {
    match config {
        QueueConfig::Embedded => Ok(None),
        QueueConfig::Rabbitmq { url, client } => {
            let url: BrokerUrl = url.read()?.expose_secret().parse()?;
            Ok(Some(RabbitQueue::new(&url, client)?.publisher()))
        }
    }
}

fn server(config: &Config) -> Result<Server, BuildError> {
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)));
    let Some(files) = &config.lease.tls else { return Ok(server) };
    let material = files.read()?;
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(material.cert, material.key))
        .client_ca_root(Certificate::from_pem(material.ca));
    let mut server = server;
    server = server.tls_config(tls)?;
    Ok(server)
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), BuildError> {
    let refuse = |source| BuildError::Listen { what, address, source };
    let listener = TcpListener::bind(address).await.map_err(refuse)?;
    let bound = listener.local_addr().map_err(refuse)?;
    tracing::info!(address = %bound, "{what} listen");
    Ok((listener, bound))
}
