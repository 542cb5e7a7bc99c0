//! The server `awssim`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use awssim::{Config, Server};
use clap::Parser;

/// A simulated AWS: EC2, EBS direct APIs and STS for any AWS client.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where to listen; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:4566")]
    listen: SocketAddr,
    /// Where volumes, snapshots and accounts are kept.
    #[arg(long)]
    data: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(args: Args) -> anyhow::Result<()> {
    let running = Server::start(Config { listen: args.listen, data_dir: args.data }).await?;
    println!("awssim listens on {}", running.endpoint());
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt?,
        _ = terminate.recv() => {}
    }
    running.stop().await;
    Ok(())
}
