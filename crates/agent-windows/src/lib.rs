//! The agent on Windows: its composition and its devices. It is a console process that Ctrl-C stops; it does not speak
//! with the service manager yet. What the agent does is in `snapferry-agent`.
//!
//! All of it compiles on every system. Elsewhere it finds no drives.

mod drives;

use std::sync::Arc;

use anyhow::{Context as _, bail};
use secrecy::ExposeSecret as _;
use snapferry_agent::{Agent, AgentFile};
use snapferry_queue::{BrokerUrl, RabbitQueue};
use tokio_util::sync::CancellationToken;

pub use drives::PhysicalDrives;

/// Builds the agent over RabbitMQ and runs it until `stop`.
///
/// # Errors
/// What the configuration names cannot be used: broker address, identity, certificates, listeners, a folder of devices.
pub async fn run(config: AgentFile, stop: CancellationToken) -> anyhow::Result<()> {
    if config.agent.hot_add.as_ref().is_some_and(|hot_add| hot_add.device_dir.is_some()) {
        bail!(
            "hot_add.device_dir is for Linux: leave it out, on Windows volumes are found by their serial numbers"
        );
    }
    let url = config.queue.url.read()?;
    let url: BrokerUrl = url.expose_secret().parse()?;
    let queue = RabbitQueue::new(&url, &config.queue.client).context("prepare the RabbitMQ client")?;
    let agent = Agent::build(config.agent, Arc::new(queue), Arc::new(PhysicalDrives)).await?;
    agent.run(stop).await;
    Ok(())
}
