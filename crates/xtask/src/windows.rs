//! `cargo xtask windows`: the agent for Windows, built on Linux; and the tests of what is of Windows in it, under wine.
//! docs/windows.md has what the machine needs. CI does neither.

use std::process::Command;

use anyhow::{Result, bail};

use crate::run;

const TARGET: &str = "x86_64-pc-windows-gnu";

/// The linker, and the C compiler of what is in C.
const COMPILER: &str = "x86_64-w64-mingw32-gcc";

/// Builds `snapferry-agent.exe`, or runs the tests. `more` goes to cargo as it is.
pub(crate) fn run(tests: bool, more: &[String]) -> Result<()> {
    if !run::succeeds(Command::new(COMPILER).arg("--version")) {
        bail!("{COMPILER} is needed: run `sudo apt-get install gcc-mingw-w64-x86-64` and start again");
    }
    if tests && !run::succeeds(Command::new("wine").arg("--version")) {
        bail!("wine is needed for the tests: run `sudo apt-get install wine64` and start again");
    }
    // A folder of its own: what the systems build for themselves stays as it is.
    let folder = run::target_dir().join("windows");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    if tests {
        // Not those of the agent, which call nothing of Windows: they would have all of the AWS clients built again.
        cargo.args(["test", "--lib", "-p", "snapferry-drive", "-p", "snapferry-transfer"]);
        cargo.env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER", "wine");
    } else {
        cargo.args(["build", "--release", "-p", "snapferry-agent-windows", "--features", "program"]);
    }
    cargo.args(["--target", TARGET, "--target-dir"]).arg(&folder).args(more);
    run::run(&mut cargo)?;
    if !tests {
        eprintln!("{}", folder.join(TARGET).join("release/snapferry-agent.exe").display());
    }
    Ok(())
}
