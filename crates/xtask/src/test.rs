//! `cargo xtask test`: everything that CI checks, the fast parts first.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::{install, run, tidy};

/// Tests that need a broker, a database, Python or processes of their own.
const SLOW: &str = "binary(~rabbit) | binary(~postgres) | binary(~boto3) | package(snapferry-tests)";

pub(crate) fn run(fast: bool, filter: &[String]) -> Result<()> {
    tidy::run()?;
    run::cargo(&["fmt", "--all", "--check"])?;
    if fast {
        install::nextest()?;
        return nextest(&format!("not ({SLOW})"), filter, &[]);
    }
    let python = install::all()?;
    // Tests of whole processes start the programs from the target folder. All targets at once: one set of features,
    // so that no dependency is built twice.
    run::cargo(&["build", "--workspace", "--all-targets"])?;
    let mut broker = Broker::start()?;
    let python = python.to_string_lossy();
    let environment = [("SNAPFERRY_TEST_PYTHON", &*python), ("SNAPFERRY_TEST_BROKER", &broker.addresses)];
    let tested = nextest("all()", filter, &environment);
    let stopped = broker.stop();
    tested.and(stopped)
}

/// The broker that the tests of whole processes share; it ends when it is stopped, and with this process.
struct Broker {
    child: Child,
    addresses: String,
}

impl Broker {
    fn start() -> Result<Self> {
        let mut command = Command::new(run::target_dir().join("debug/examples/shared_broker"));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut broker =
            Self { child: child.context("start a broker for the tests")?, addresses: String::new() };
        let output = broker.child.stdout.take().context("the broker's output")?;
        BufReader::new(output).read_line(&mut broker.addresses).context("ask where the broker is")?;
        broker.addresses.truncate(broker.addresses.trim_end().len());
        ensure!(!broker.addresses.is_empty(), "the broker for the tests did not start");
        Ok(broker)
    }

    /// Fails when it had ended before.
    fn stop(&mut self) -> Result<()> {
        // It ends when its input does.
        drop(self.child.stdin.take());
        let status = self.child.wait().context("wait for the broker of the tests")?;
        ensure!(status.success(), "the broker of the tests ended with {status} before they did");
        Ok(())
    }
}

fn nextest(set: &str, filter: &[String], environment: &[(&str, &str)]) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["nextest", "run", "--workspace", "-E", set]).args(filter);
    // A failure says what and where. The frames of a runtime below it would bury that.
    command.env("RUST_BACKTRACE", "0");
    command.envs(environment.iter().copied());
    run::run(&mut command)
}
