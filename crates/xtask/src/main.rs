//! `cargo xtask …`: what developers and CI run. `test` is all there is to know for both.

mod bench;
mod install;
mod run;
mod test;
mod tidy;
mod windows;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks of this workspace")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything that CI checks: installs what the tests need, tidy, format, build, all tests.
    Test {
        /// Leave out what needs a broker, a database or Python.
        #[arg(long)]
        fast: bool,
        /// Passed on to nextest, such as a test's name.
        filter: Vec<String>,
    },
    /// Measures, beside the peer, and prints the tables of docs/performance.md. Takes about an hour; the peer is
    /// built first when it is not there.
    Bench {
        /// Parts to run: read, quota, put, hotadd (needs root), resume, backup, listing, incremental; all when none is given.
        parts: Vec<String>,
        /// Leave the peer out.
        #[arg(long)]
        without_peer: bool,
        /// Also build everything once more from nothing, and say how long it took.
        #[arg(long)]
        cold_build: bool,
    },
    /// Checks what no compiler checks: the arrows between crates, sizes of files, documents that must exist.
    Tidy,
    /// Clippy over everything, warnings are errors.
    Lint,
    /// Builds the agent for Windows into target/windows, or runs the tests of what is of Windows in it under wine.
    Windows {
        /// Run the tests in place of building the agent.
        #[arg(long)]
        tests: bool,
        /// Passed on to cargo.
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// Installs what the tests need, and nothing else.
    Setup,
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Test { fast, filter } => test::run(fast, &filter),
        Command::Bench { parts, without_peer, cold_build } => bench::run(&parts, without_peer, cold_build),
        Command::Tidy => tidy::run(),
        Command::Lint => run::cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        Command::Windows { tests, more } => windows::run(tests, &more),
        Command::Setup => install::all().map(|_| ()),
    }
}
