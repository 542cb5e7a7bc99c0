//! The queue on RabbitMQ, through lapin and deadpool-lapin.
//!
//! lapin's own recovery is not used: it gives up after 16 tries and leaves a channel that the broker closed (406, 404,
//! 403) closed. Instead each consumer rebuilds connection → channel → subscription for ever, and a publisher replaces
//! whatever channel or connection failed. Publishing and consuming never share a connection, because a memory or
//! disk alarm blocks a connection that publishes, acknowledgements included.

pub mod config;
mod connect;
mod consumer;
mod lanes;
mod probe;
mod publisher;
mod session;
mod supervisor;
pub mod topology;

use std::num::NonZeroU16;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use config::{BrokerUrl, RabbitConfig, RabbitConfigError};

use crate::name::QueueName;
use crate::rabbit::connect::Connector;
use crate::rabbit::consumer::RabbitConsumer;
use crate::rabbit::publisher::RabbitPublisher;
use crate::seam::{TaskQueue, TicketConsumer, TicketPublisher};
use crate::stats::QueueStats;

/// A [`TaskQueue`] on a RabbitMQ broker (3.10 or newer).
pub struct RabbitQueue {
    publisher: Arc<RabbitPublisher>,
    connector: Arc<Connector>,
    stats: Arc<QueueStats>,
}

impl RabbitQueue {
    /// A client of the broker. It connects to nothing before its first use. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// [`RabbitConfigError`] when the CA file cannot be read or there is no runtime.
    pub fn new(url: &BrokerUrl, config: &RabbitConfig) -> Result<Self, RabbitConfigError> {
        config.check()?;
        let stats = Arc::<QueueStats>::default();
        let tls = config.tls()?;
        let connector = Arc::new(Connector::new(url, tls.clone(), "snapferry consume", config)?);
        let publishing = Connector::new(url, tls, "snapferry publish", config)?;
        let publisher = Arc::new(RabbitPublisher::new(publishing, config, Arc::clone(&stats))?);
        Ok(Self { publisher, connector, stats })
    }
}

impl TaskQueue for RabbitQueue {
    fn publisher(&self) -> Arc<dyn TicketPublisher> {
        Arc::<RabbitPublisher>::clone(&self.publisher)
    }

    fn consume(
        &self,
        queue: &QueueName,
        prefetch: NonZeroU16,
        stop: CancellationToken,
    ) -> Box<dyn TicketConsumer> {
        let connector = Arc::clone(&self.connector);
        Box::new(RabbitConsumer::new(connector, queue.clone(), prefetch, stop, Arc::clone(&self.stats)))
    }

    fn stats(&self) -> Arc<QueueStats> {
        Arc::clone(&self.stats)
    }
}
