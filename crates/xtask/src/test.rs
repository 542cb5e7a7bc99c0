//! `cargo xtask test`: everything that CI checks, the fast parts first.

use std::process::Command;

use anyhow::Result;

use crate::{install, run, tidy};

/// Tests that need a broker, a database, Python or processes of their own.
const SLOW: &str = "binary(~rabbit) | binary(~postgres) | binary(~boto3) | package(snapferry-tests)";

pub(crate) fn run(fast: bool, filter: &[String]) -> Result<()> {
    tidy::run()?;
    run::cargo(&["fmt", "--all", "--check"])?;
    if fast {
        install::nextest()?;
        return nextest(&format!("not ({SLOW})"), filter, None);
    }
    let python = install::all()?;
    // Tests of whole processes start the programs from the target folder. All targets at once: one set of features,
    // so that no dependency is built twice.
    run::cargo(&["build", "--workspace", "--all-targets"])?;
    nextest("all()", filter, Some(&python))
}

fn nextest(set: &str, filter: &[String], python: Option<&std::path::Path>) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["nextest", "run", "--workspace", "-E", set]).args(filter);
    // A failure says what and where. The frames of a runtime below it would bury that.
    command.env("RUST_BACKTRACE", "0");
    if let Some(python) = python {
        command.env("SNAPFERRY_TEST_PYTHON", python);
    }
    run::run(&mut command)
}
