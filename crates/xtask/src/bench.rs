//! `cargo xtask bench`: builds everything in release mode and runs the parts of `tests/examples/bench`, each in a
//! process of its own, the peer beside ours.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::run;

/// The peer of the reading and writing parts, and the version that was measured.
const COLDSNAP: &str = "0.12.0";
/// Parts with the processor cores of the simulator (the measured program is given the second one), and rounds.
const PARTS: &[(&str, Option<&str>, &str)] = &[
    ("read", Some("0"), "5"),
    ("quota", Some("0"), "1"),
    ("put", Some("0"), "5"),
    ("hotadd", None, "5"),
    ("resume", None, "3"),
    ("backup", None, "3"),
    ("listing", None, "1"),
    ("incremental", None, "1"),
];

pub(crate) fn run(parts: &[String], without_peer: bool, cold_build: bool) -> Result<()> {
    if let Some(unknown) = parts.iter().find(|part| !PARTS.iter().any(|(name, ..)| name == part)) {
        let names: Vec<&str> = PARTS.iter().map(|(name, ..)| *name).collect();
        bail!("there is no part {unknown:?}: {}", names.join(", "));
    }
    let coldsnap = if without_peer { None } else { Some(coldsnap()?) };
    run::cargo(&["build", "--release", "--workspace", "--bins", "--examples"])?;
    let program = run::target_dir().join("release/examples/bench");
    for (part, core, rounds) in PARTS {
        if !parts.is_empty() && !parts.iter().any(|wanted| wanted == part) {
            continue;
        }
        let mut command = match core {
            Some(core) => {
                let mut command = Command::new("taskset");
                command.args(["-c", core]).arg(&program);
                command
            }
            None => Command::new(&program),
        };
        command.args([part, "--rounds", rounds]);
        if let Some(coldsnap) = &coldsnap {
            command.arg("--coldsnap").arg(coldsnap);
        }
        // Quotas are out of the way where the speed of reading is measured; the parts `quota` and `put` set
        // their own rates, and `resume` writes at the default one.
        command.env("SNAPFERRY_AGENT_AGENT__QUOTAS__GET_PER_SECOND", "5000");
        command.env("SNAPFERRY_AGENT_AGENT__QUOTAS__LIST_PER_SECOND", "200");
        println!("\n## {part}\n");
        run::run(&mut command)?;
    }
    if cold_build {
        println!("\n## cold build\n\n{:.0} s for `cargo build --release`", build_cold()?);
    }
    Ok(())
}

/// The peer's program; built once, apart from ours.
fn coldsnap() -> Result<PathBuf> {
    let root = run::target_dir().join("peers");
    let program = root.join("bin/coldsnap");
    if !program.exists() {
        let mut install = Command::new("cargo");
        install.args(["install", "coldsnap", "--locked", "--version", COLDSNAP, "--root"]).arg(&root);
        run::run(&mut install)?;
    }
    Ok(program)
}

fn build_cold() -> Result<f64> {
    let target = run::target_dir().join("cold");
    if target.exists() {
        std::fs::remove_dir_all(&target)?;
    }
    let started = Instant::now();
    run::run(Command::new("cargo").args(["build", "--release"]).env("CARGO_TARGET_DIR", &target))?;
    let took = started.elapsed().as_secs_f64();
    std::fs::remove_dir_all(&target)?;
    Ok(took)
}
