//! Publishing channels. A lane is a channel in confirm mode with one message under way: lapin attaches a returned
//! message to whichever confirmation comes next, so only alone is it certain which message came back. A lane whose
//! message had no clean answer is thrown away with its channel.

use std::sync::{Mutex, PoisonError};

use deadpool::managed;
use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection};

use crate::rabbit::config::{RabbitConfig, RabbitConfigError};
use crate::rabbit::connect::{ConnectError, Connector, connect};

/// One channel, in confirm mode.
pub(crate) struct Lane {
    pub(crate) channel: Channel,
    connection: lapin::ConnectionStatus,
}

impl Lane {
    pub(crate) fn is_open(&self) -> bool {
        self.connection.connected() && self.channel.status().connected()
    }

    /// A memory or disk alarm holds back what this lane would send.
    pub(crate) fn is_blocked(&self) -> bool {
        self.connection.blocked()
    }
}

/// Lanes that wait for a message, and the connections to make more on.
pub(crate) struct Lanes {
    connector: Connector,
    pool: ConnectionPool,
    idle: Mutex<Vec<Lane>>,
}

/// deadpool-lapin's pool knows the platform's certificate authorities only, so a private authority gets a pool with a
/// manager of our own.
enum ConnectionPool {
    Platform(deadpool_lapin::Pool),
    PrivateCa(managed::Pool<PrivateCaManager>),
}

impl Lanes {
    pub(crate) fn new(connector: Connector, config: &RabbitConfig) -> Result<Self, RabbitConfigError> {
        let pool = ConnectionPool::new(&connector, config.publish_connections)?;
        Ok(Self { connector, pool, idle: Mutex::default() })
    }

    /// A lane that waits, or a new one.
    pub(crate) async fn take(&self) -> Result<Lane, ConnectError> {
        while let Some(lane) = self.pop() {
            if lane.is_open() {
                return if lane.is_blocked() {
                    self.give_back(lane);
                    Err(ConnectError::Blocked)
                } else {
                    Ok(lane)
                };
            }
        }
        self.connector.guarded(self.pool.open_lane()).await
    }

    /// For the next message. Only after a clean answer.
    pub(crate) fn give_back(&self, lane: Lane) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
    }

    fn pop(&self) -> Option<Lane> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl ConnectionPool {
    fn new(connector: &Connector, n_connections: usize) -> Result<Self, RabbitConfigError> {
        let unusable = |error: &dyn std::fmt::Display| RabbitConfigError::Runtime(error.to_string());
        if connector.tls().cert_chain.is_some() {
            let manager = PrivateCaManager {
                uri: connector.uri().clone(),
                tls: connector.tls().clone(),
                name: connector.name(),
            };
            let pool = managed::Pool::builder(manager).max_size(n_connections).build();
            return pool.map(Self::PrivateCa).map_err(|error| unusable(&error));
        }
        let config = deadpool_lapin::Config {
            url: Some(connector.uri().to_string()),
            pool: Some(deadpool_lapin::PoolConfig::new(n_connections)),
        };
        let name = connector.name();
        config
            .create_pool(move || Connector::properties(name), deadpool_lapin::Runtime::Tokio1)
            .map(Self::Platform)
            .map_err(|error| unusable(&error))
    }

    async fn open_lane(&self) -> Result<Lane, ConnectError> {
        match self {
            Self::Platform(pool) => lane_on(&*pool.get().await.map_err(refused)?).await,
            Self::PrivateCa(pool) => lane_on(&*pool.get().await.map_err(refused)?).await,
        }
    }
}

/// The pool's limits in time are the caller's, so only the broker's own errors come out of it.
fn refused(error: managed::PoolError<lapin::Error>) -> ConnectError {
    match error {
        managed::PoolError::Backend(error) => ConnectError::Amqp(error),
        managed::PoolError::Timeout(_)
        | managed::PoolError::Closed
        | managed::PoolError::NoRuntimeSpecified
        | managed::PoolError::PostCreateHook(_) => ConnectError::Pool(error.to_string()),
    }
}

async fn lane_on(connection: &Connection) -> Result<Lane, ConnectError> {
    if connection.status().blocked() {
        return Err(ConnectError::Blocked);
    }
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(Lane { channel, connection: connection.status().clone() })
}

struct PrivateCaManager {
    uri: lapin::uri::AMQPUri,
    tls: lapin::tcp::OwnedTLSConfig,
    name: &'static str,
}

impl managed::Manager for PrivateCaManager {
    type Type = Connection;
    type Error = lapin::Error;

    async fn create(&self) -> lapin::Result<Connection> {
        connect(self.uri.clone(), self.name, self.tls.clone()).await
    }

    async fn recycle(
        &self,
        connection: &mut Connection,
        _: &managed::Metrics,
    ) -> managed::RecycleResult<lapin::Error> {
        if connection.status().connected() {
            return Ok(());
        }
        Err(managed::RecycleError::message("the connection is closed"))
    }
}
