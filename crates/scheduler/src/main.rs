//! `snapferry-scheduler --config FILE`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use snapferry_scheduler::{Config, Scheduler, publisher};
use snapferry_service::{Exit, config, in_one_line, shutdown, telemetry};

#[derive(Parser)]
#[command(version, about = "The Snapferry scheduler: jobs, leases, catalogue and the HTTP API")]
struct Arguments {
    /// Configuration file (TOML); variables SNAPFERRY_SCHEDULER_… lie over it.
    #[arg(long)]
    config: PathBuf,
    /// Voids every grant from before this start: for a database that lost committed work (failover, restored copy).
    #[arg(long)]
    raise_generation: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match config::load::<Config>(Some(&arguments.config), "SNAPFERRY_SCHEDULER_") {
        Ok(config) => config,
        Err(error) => return end(Exit::Usage, &error.into()),
    };
    telemetry::init(config.log, "info");
    match run(config, arguments.raise_generation).await {
        Ok(()) => Exit::Success.into(),
        Err(error) => end(Exit::Failed, &error),
    }
}

async fn run(config: Config, raise_generation: bool) -> Result<(), anyhow::Error> {
    let stop = shutdown::on_signals()?;
    let publisher = publisher(&config.queue)?.ok_or_else(|| {
        anyhow::anyhow!(
            "queue.kind is \"embedded\": agents in other processes need a broker; set queue.kind = \"rabbitmq\", \
             or run everything in one process with `snapferry up`"
        )
    })?;
    let mut scheduler = Scheduler::build(config, publisher).await?;
    if raise_generation {
        let generation = scheduler.raise_generation().await?;
        tracing::warn!(generation, "every grant from before is void");
    }
    scheduler.run(stop).await
}

fn end(exit: Exit, error: &anyhow::Error) -> ExitCode {
    eprintln!("snapferry-scheduler: {}", in_one_line(error.as_ref()));
    exit.into()
}
