//! `snapferry-agent --config FILE`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use snapferry_agent::AgentFile;
use snapferry_service::{Exit, config, in_one_line, shutdown, telemetry};

/// Buffers of half a MiB come and go with every block; this allocator hands them out again without asking the kernel
/// for fresh pages each time. See docs/decisions/0009.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The Snapferry agent of an access node.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file (TOML); variables SNAPFERRY_AGENT_… lie over it.
    #[arg(long)]
    config: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config: AgentFile = match config::load(Some(&arguments.config), "SNAPFERRY_AGENT_") {
        Ok(config) => config,
        Err(error) => {
            eprintln!("snapferry-agent: {error}");
            return Exit::Usage.into();
        }
    };
    telemetry::init(config.log, "info");
    match run(config).await {
        Ok(()) => Exit::Success.into(),
        Err(error) => {
            eprintln!("snapferry-agent: {}", in_one_line(error.as_ref()));
            Exit::Failed.into()
        }
    }
}

async fn run(config: AgentFile) -> anyhow::Result<()> {
    let stop = shutdown::on_signals()?;
    Ok(snapferry_agent_linux::run(config, stop).await?)
}
