//! `snapferry`: the operator's command line, a whole set-up in one process (`up`), and a demonstration on simulated
//! accounts (`demo`). Operator commands use only the public HTTP API.

mod args;
mod command;
mod demo;
mod failure;
mod output;
mod tail;
mod up;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;
use snapferry_service::Exit;
use snapferry_service::telemetry::{self, LogFormat};

use crate::args::{Args, Command};

/// Buffers of half a MiB come and go with every block; this allocator hands them out again without asking the kernel
/// for fresh pages each time. See docs/decisions/0009.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    let default_filter = match args.command {
        Command::Up(_) => "info",
        // The demo's database waits for a busy disk, which is not worth a line.
        Command::Demo(_) => "warn,sqlx::query=error",
        _ => "warn",
    };
    telemetry::init(LogFormat::Text, default_filter);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failure::report(&anyhow::Error::from(error)).into(),
    };
    match runtime.block_on(command::run(args)) {
        Ok(exit) => exit.into(),
        Err(error) => failure::report(&error).into(),
    }
}

impl From<&failure::JobFailed> for Exit {
    fn from(_: &failure::JobFailed) -> Self {
        Self::JobFailed
    }
}
