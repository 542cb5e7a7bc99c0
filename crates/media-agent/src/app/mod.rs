//! The daemon's life: [`MediaAgent::build`] opens and binds everything, [`App::run`] serves until it is told to
//! stop. Every task it starts is its own, and one that fails ends the daemon with its error.

mod asked;
mod hello;
mod identity;
mod jobs;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use snapferry_library::{Backend, BackendError, DiskBackend, Library, LibraryConfig};
use snapferry_service::metrics::{self, MetricsServer};
use snapferry_service::tls::TlsError;
use snapferry_service::{TlsFiles, TlsMaterial};
use snapferry_types::MediaAgentId;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::config::{BackendConfig, JobsConfig, MediaAgentConfig};
use crate::s3::{S3Backend, S3Error};
use crate::server::{Figures, Service};
use hello::Hello;

/// Streams of one connection at a time.
const MAX_STREAMS: u32 = 256;

/// HTTP/2 windows: what a connection or a stream may have on its way unread. A stream's holds several blocks, so
/// that one stream fills a link of 10 Gbit/s at 2 ms.
const CONNECTION_WINDOW: u32 = 16 * 1_024 * 1_024;
const STREAM_WINDOW: u32 = 4 * 1_024 * 1_024;

/// Calls under way get so long to end when the daemon is told to stop.
const GRACE: Duration = Duration::from_secs(20);

/// A daemon that could not be started.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The library does not open.
    #[error("open the library: {0}")]
    Library(#[from] snapferry_library::Error),
    /// The objects' place cannot be used.
    #[error("open the library's objects: {0}")]
    Backend(#[from] BackendError),
    /// The bucket's settings cannot be used.
    #[error(transparent)]
    S3(#[from] S3Error),
    /// The identity cannot be kept.
    #[error("keep the MediaAgent's id in {path}: {reason}")]
    Identity {
        /// Its file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// An address is taken or not ours.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A TLS file does not read.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// TLS or an endpoint is not usable.
    #[error("use {what}: {source}")]
    Transport {
        /// The listener's TLS, or an endpoint.
        what: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The figures clash.
    #[error("register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Opening panicked.
    #[error("opening the library panicked; see the log, and report it")]
    Panicked,
}

/// A daemon that ended otherwise than by being told to.
#[derive(Debug, Error)]
pub enum RunError {
    /// The gRPC listener failed.
    #[error("serve gRPC: {0}")]
    Grpc(#[from] tonic::transport::Error),
    /// The metrics listener failed.
    #[error("serve metrics: {0}")]
    Metrics(#[from] std::io::Error),
}

/// Where daemons are made.
#[derive(Debug, Clone, Copy)]
pub struct MediaAgent;

/// A daemon that is bound and opened, and not yet serving.
pub struct App {
    id: MediaAgentId,
    address: SocketAddr,
    endpoint: String,
    listener: TcpListener,
    tls: Option<TlsMaterial>,
    metrics: Option<MetricsServer>,
    service: Service,
    hello: Option<Hello>,
    jobs: JobsConfig,
    /// Ends calls that run long; cancelled when the daemon stops.
    stop_calls: CancellationToken,
}

impl MediaAgent {
    /// Opens the library and binds the listeners.
    ///
    /// # Errors
    /// [`BuildError`], naming the file, address or setting.
    pub async fn build(config: MediaAgentConfig) -> Result<App, BuildError> {
        let backend = backend(&config).await?;
        Self::build_on(config, backend).await
    }

    /// [`MediaAgent::build`] on a given place for the objects: for tests of faults, and for embedding.
    ///
    /// # Errors
    /// As [`MediaAgent::build`].
    pub async fn build_on(config: MediaAgentConfig, backend: Arc<dyn Backend>) -> Result<App, BuildError> {
        let tls = config.tls.as_ref().map(TlsFiles::read).transpose()?;
        let dir = config.library.dir.clone();
        let mut settings = LibraryConfig::new(&dir, Arc::clone(&backend));
        settings.pack_bytes = config.library.pack_bytes.unwrap_or(settings.pack_bytes);
        settings.reserve_bytes = config.library.reserve_bytes.unwrap_or(settings.reserve_bytes);
        let library = blocking(move || Library::open(settings)).await??;
        let given = config.id;
        let id = blocking(move || identity::keep(&dir, given)).await??;

        let listen = |address| move |source| BuildError::Listen { address, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen(config.listen))?;
        let address = listener.local_addr().map_err(listen(config.listen))?;
        let registry = metrics::registry();
        let figures = Arc::new(Figures::new(&registry)?);
        let metrics = match config.metrics {
            Some(address) => Some(MetricsServer::bind(address, registry).await.map_err(listen(address))?),
            None => None,
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = config.advertise.clone().unwrap_or_else(|| format!("{scheme}://{address}"));
        let hello = match &config.scheduler {
            Some(scheduler) => Some(Hello::new(scheduler, tls.as_ref(), id, &config.name, &endpoint)?),
            None => None,
        };
        let stop_calls = CancellationToken::new();
        let service = Service::new(Arc::new(library), backend, config.workers, figures, stop_calls.clone());
        tracing::info!(%id, %address, %endpoint, tls = tls.is_some(), "MediaAgent listens");
        Ok(App {
            id,
            address,
            endpoint,
            listener,
            tls,
            metrics,
            service,
            hello,
            jobs: config.jobs,
            stop_calls,
        })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, BuildError> {
    tokio::task::spawn_blocking(work).await.map_err(|_panic| BuildError::Panicked)
}

async fn backend(config: &MediaAgentConfig) -> Result<Arc<dyn Backend>, BuildError> {
    match &config.library.backend {
        BackendConfig::Disk => {
            let dir = config.library.dir.clone();
            Ok(Arc::new(blocking(move || DiskBackend::open(dir)).await??))
        }
        BackendConfig::S3(s3) => Ok(Arc::new(S3Backend::open(s3, tokio::runtime::Handle::current())?)),
    }
}

impl App {
    /// The daemon's id.
    #[must_use]
    pub fn id(&self) -> MediaAgentId {
        self.id
    }

    /// Where gRPC is bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What agents connect to.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Serves until `shutdown`: then no call is taken, those under way get 20 seconds, long ones (collection,
    /// scrub) end at their next step, and the library is closed.
    ///
    /// # Errors
    /// [`RunError`], when a listener fails.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let stop = shutdown.child_token();
        let grpc = async {
            let result = serve(self.listener, self.tls, self.service.clone(), stop.clone()).await;
            stop.cancel();
            result
        };
        let metrics = async {
            let Some(server) = self.metrics else { return Ok(()) };
            let result = server.run(stop.clone()).await;
            stop.cancel();
            result
        };
        let scrub_bytes_per_second = self.jobs.scrub_bytes_per_second;
        let jobs = jobs::run(self.service.clone(), self.jobs, stop.clone());
        let hello = async {
            if let Some(hello) = self.hello {
                hello.run(&self.service, scrub_bytes_per_second, &stop).await;
            }
        };
        let end_calls = async {
            stop.cancelled().await;
            self.stop_calls.cancel();
        };
        let (grpc, metrics, (), (), ()) = tokio::join!(grpc, metrics, jobs, hello, end_calls);
        tracing::info!(id = %self.id, "MediaAgent stopped");
        grpc?;
        metrics?;
        Ok(())
    }
}

async fn serve(
    listener: TcpListener,
    tls: Option<TlsMaterial>,
    service: Service,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let mut server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .http2_max_header_list_size(16 * 1_024)
        .tcp_nodelay(true);
    if let Some(tls) = tls {
        let identity = Identity::from_pem(&tls.cert, &tls.key);
        let config = ServerTlsConfig::new().identity(identity).client_ca_root(Certificate::from_pem(&tls.ca));
        server = server.tls_config(config)?;
    }
    let stopped = stop.clone();
    let serving = server
        .add_service(service.into_server())
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped.cancelled_owned());
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = serving => result,
        () = overdue => {
            tracing::warn!("calls under way did not end in {} seconds and are cut off", GRACE.as_secs());
            Ok(())
        }
    }
}
