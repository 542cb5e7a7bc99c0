//! The agent on Windows: its composition and its devices. It is a console process that Ctrl-C stops; it does not speak
//! with the service manager yet. What the agent does is in `snapferry-agent`.
//!
//! All of it compiles on every system. Elsewhere it finds no drives.

mod drives;

use std::sync::Arc;

use anyhow::bail;
use snapferry_agent::AgentFile;
use tokio_util::sync::CancellationToken;

pub use drives::PhysicalDrives;

/// Builds the agent over RabbitMQ and runs it until `stop`.
///
/// # Errors
/// As [`AgentFile::build`], and a folder of devices.
pub async fn run(config: AgentFile, stop: CancellationToken) -> anyhow::Result<()> {
    if config.agent.hot_add.as_ref().is_some_and(|hot_add| hot_add.device_dir.is_some()) {
        bail!(
            "hot_add.device_dir is for Linux: leave it out, on Windows volumes are found by their serial numbers"
        );
    }
    config.build(Arc::new(PhysicalDrives)).await?.run(stop).await;
    Ok(())
}
