//! The file of an agent that runs alone.

use serde::Deserialize;
use snapferry_queue::RabbitConfig;
use snapferry_service::SecretRef;
use snapferry_service::telemetry::LogFormat;

use crate::config::AgentConfig;

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
