//! The agent on Linux: its composition and its devices. The service manager will live here; what the agent does is in
//! `snapferry-agent`.

mod devices;

use std::sync::Arc;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use snapferry_agent::{Agent, AgentFile};
use snapferry_queue::{BrokerUrl, RabbitQueue};
use tokio_util::sync::CancellationToken;

pub use devices::DeviceFolder;

/// Builds the agent over RabbitMQ and runs it until `stop`.
///
/// # Errors
/// What the configuration names cannot be used: broker address, identity, certificates, listeners.
pub async fn run(config: AgentFile, stop: CancellationToken) -> anyhow::Result<()> {
    let url = config.queue.url.read()?;
    let url: BrokerUrl = url.expose_secret().parse()?;
    let queue = RabbitQueue::new(&url, &config.queue.client).context("prepare the RabbitMQ client")?;
    let devices = DeviceFolder::of(&config.agent);
    let agent = Agent::build(config.agent, Arc::new(queue), Arc::new(devices)).await?;
    agent.run(stop).await;
    Ok(())
}
