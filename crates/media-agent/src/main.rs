//! `snapferry-media-agent --config FILE`: the storage daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use snapferry_media_agent::{MediaAgent, MediaAgentConfig};
use snapferry_service::{Exit, config, in_one_line, shutdown, telemetry};

/// Buffers of half a MiB come and go with every block; this allocator hands them out again without asking the kernel
/// for fresh pages each time. See docs/decisions/0009.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The storage daemon of Snapferry: a deduplicating library behind gRPC.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// TOML file; variables SNAPFERRY_MEDIA_AGENT_… lie over it.
    #[arg(long)]
    config: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config: MediaAgentConfig = match config::load(Some(&arguments.config), "SNAPFERRY_MEDIA_AGENT_") {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return Exit::Usage.into();
        }
    };
    telemetry::init(config.log, "info");
    match serve(config).await {
        Ok(()) => Exit::Success.into(),
        Err(error) => {
            tracing::error!("{}", in_one_line(error.as_ref()));
            Exit::Failed.into()
        }
    }
}

async fn serve(config: MediaAgentConfig) -> anyhow::Result<()> {
    let stop = shutdown::on_signals()?;
    MediaAgent::build(config).await?.run(stop).await?;
    Ok(())
}
