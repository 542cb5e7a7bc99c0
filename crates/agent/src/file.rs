//! The file of an agent that runs alone.

use std::sync::Arc;

use secrecy::ExposeSecret as _;
use serde::Deserialize;
use snapferry_queue::{BrokerUrl, RabbitConfig, RabbitQueue};
use snapferry_service::SecretRef;
use snapferry_service::telemetry::LogFormat;

use crate::app::{Agent, BuildError};
use crate::config::AgentConfig;
use crate::devices::VolumeDevices;

/// `agent.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentFile {
    /// The worker.
    pub agent: AgentConfig,
    /// Where offers come from.
    pub queue: QueueSection,
    /// Shape of the log lines.
    #[serde(default)]
    pub log: LogFormat,
}

impl AgentFile {
    /// The agent over RabbitMQ, with the devices of its system.
    ///
    /// # Errors
    /// What the configuration names cannot be used: broker address, identity, certificates, listeners.
    pub async fn build(self, devices: Arc<dyn VolumeDevices>) -> Result<Agent, BuildError> {
        let url = self.queue.url.read()?;
        let url: BrokerUrl = url.expose_secret().parse().map_err(BuildError::BrokerUrl)?;
        let queue = RabbitQueue::new(&url, &self.queue.client).map_err(BuildError::Queue)?;
        Agent::build(self.agent, Arc::new(queue), devices).await
    }
}

/// RabbitMQ.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSection {
    /// `amqp[s]://user:password@host:port/vhost`, by file or variable.
    pub url: SecretRef,
    /// The rest.
    #[serde(default)]
    pub client: RabbitConfig,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_samples_can_be_read() {
        for name in ["sample/agent-1.toml", "sample/agent-2.toml", "compose/agent.toml"] {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name);
            snapferry_service::config::load_from::<AgentFile>(Some(&file), "SNAPFERRY_AGENT_", Vec::new())
                .unwrap();
        }
    }
}
