//! The agent on Linux: its composition and its devices. The service manager will live here; what the agent does is in
//! `snapferry-agent`.

mod devices;

use std::sync::Arc;

use snapferry_agent::{AgentFile, BuildError};
use tokio_util::sync::CancellationToken;

pub use devices::DeviceFolder;

/// Builds the agent over RabbitMQ and runs it until `stop`.
///
/// # Errors
/// As [`AgentFile::build`].
pub async fn run(config: AgentFile, stop: CancellationToken) -> Result<(), BuildError> {
    let devices = DeviceFolder::of(&config.agent);
    config.build(Arc::new(devices)).await?.run(stop).await;
    Ok(())
}
