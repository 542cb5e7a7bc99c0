//! Opening connections, with a bound, and without leaving threads behind when the broker is silent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use thiserror::Error;
use tokio::time::timeout;

use crate::rabbit::config::{BrokerUrl, RabbitConfig, RabbitConfigError};
use crate::rabbit::probe;

/// No connection or no channel. None of these holds the address's password.
#[derive(Debug, Error)]
pub(crate) enum ConnectError {
    #[error("{0}")]
    Amqp(#[from] lapin::Error),
    #[error("no answer: {0}")]
    Silent(#[source] std::io::Error),
    #[error("{what} took longer than {} s", bound.as_secs())]
    Timeout { what: &'static str, bound: Duration },
    #[error("the broker blocks publishers: a memory or disk alarm is on")]
    Blocked,
    #[error("the pool of connections: {0}")]
    Pool(String),
}

pub(crate) struct Connector {
    uri: AMQPUri,
    tls: OwnedTLSConfig,
    name: &'static str,
    timeout: Duration,
    max_backoff: Duration,
    /// The last attempt ended in silence.
    suspect: AtomicBool,
}

impl Connector {
    pub(crate) fn new(
        url: &BrokerUrl,
        tls: OwnedTLSConfig,
        name: &'static str,
        config: &RabbitConfig,
    ) -> Result<Self, RabbitConfigError> {
        tokio::runtime::Handle::try_current()
            .map_err(|error| RabbitConfigError::Runtime(error.to_string()))?;
        Ok(Self {
            uri: url.uri(config.heartbeat_seconds),
            tls,
            name,
            timeout: config.connect_timeout(),
            max_backoff: config.max_backoff(),
            suspect: AtomicBool::new(false),
        })
    }

    pub(crate) const fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) const fn max_backoff(&self) -> Duration {
        self.max_backoff
    }

    pub(crate) const fn uri(&self) -> &AMQPUri {
        &self.uri
    }

    pub(crate) const fn tls(&self) -> &OwnedTLSConfig {
        &self.tls
    }

    pub(crate) fn properties(name: &'static str) -> ConnectionProperties {
        ConnectionProperties::default().with_connection_name(name.into())
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// A connection of its own.
    pub(crate) async fn open(&self) -> Result<Connection, ConnectError> {
        self.guarded(async { Ok(connect(self.uri.clone(), self.name, self.tls.clone()).await?) }).await
    }

    /// Runs an attempt to connect within the time limit, after asking first when the last one met silence.
    pub(crate) async fn guarded<T>(
        &self,
        attempt: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        if self.suspect.load(Ordering::Relaxed) {
            let authority = &self.uri.authority;
            probe::answers(&authority.host, authority.port, self.timeout)
                .await
                .map_err(ConnectError::Silent)?;
            self.suspect.store(false, Ordering::Relaxed);
        }
        match timeout(self.timeout, attempt).await {
            Ok(result) => result,
            Err(_) => {
                self.suspect.store(true, Ordering::Relaxed);
                Err(ConnectError::Timeout { what: "connecting", bound: self.timeout })
            }
        }
    }
}

pub(crate) async fn connect(
    uri: AMQPUri,
    name: &'static str,
    tls: OwnedTLSConfig,
) -> lapin::Result<Connection> {
    let runtime = lapin::runtime::default_runtime()?;
    Connection::connect_uri_with_config(uri, Connector::properties(name), tls, runtime).await
}
