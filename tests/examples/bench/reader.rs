//! The two programs that read a snapshot into a raw file.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::Bench;
use crate::meter::{self, Cost};
use crate::setup::{ACCOUNT, Access, REGION};

/// Who reads.
#[derive(Debug, Clone)]
pub(super) enum Reader {
    /// Our example `read_snapshot`, at a rate.
    Ours { requests_per_second: u32 },
    /// coldsnap with so many workers.
    Coldsnap { program: PathBuf, n_workers: u32 },
}

impl Reader {
    /// coldsnap, if it is measured.
    pub(super) fn coldsnap(bench: &Bench, n_workers: u32) -> Option<Self> {
        bench.coldsnap.clone().map(|program| Self::Coldsnap { program, n_workers })
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Ours { .. } => "snapferry".to_owned(),
            Self::Coldsnap { n_workers, .. } => format!("coldsnap, {n_workers} workers"),
        }
    }

    /// Reads `snapshot` into `file`, which is new; on the second core when `pinned`.
    pub(super) async fn read(
        &self,
        access: &Access,
        snapshot: &str,
        file: &Path,
        pinned: bool,
    ) -> Result<Cost> {
        if file.exists() {
            std::fs::remove_file(file)?;
        }
        let mut command = if pinned {
            let mut command = Command::new("taskset");
            command.args(["-c", "1"]).arg(self.program()?);
            command
        } else {
            Command::new(self.program()?)
        };
        self.tell(&mut command, access, snapshot, file);
        meter::run(command, &file.with_extension("log")).await
    }

    /// Reads `snapshot` onto a device, whatever lies on it.
    pub(super) async fn read_onto(
        &self,
        access: &Access,
        snapshot: &str,
        device: &Path,
        log: &Path,
    ) -> Result<Cost> {
        let mut command = Command::new(self.program()?);
        self.tell(&mut command, access, snapshot, device);
        if matches!(self, Self::Coldsnap { .. }) {
            command.arg("--force");
        }
        meter::run(command, log).await
    }

    fn program(&self) -> Result<PathBuf> {
        match self {
            Self::Ours { .. } => example("read_snapshot"),
            Self::Coldsnap { program, .. } => Ok(program.clone()),
        }
    }

    fn tell(&self, command: &mut Command, access: &Access, snapshot: &str, file: &Path) {
        match self {
            Self::Ours { requests_per_second } => {
                command.args([ACCOUNT, REGION, snapshot]).arg(file).arg(requests_per_second.to_string());
            }
            Self::Coldsnap { n_workers, .. } => {
                command.args(["--endpoint", &access.endpoint, "download", snapshot]).arg(file);
                command.args(["--no-progress", "--workers", &n_workers.to_string()]);
            }
        }
        access.tell(command);
    }
}

/// An example of this workspace, built beside this one.
pub(super) fn example(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let path = here.parent().context("the folder of examples")?.join(name);
    ensure!(path.exists(), "{} is not built: start with `cargo xtask bench`", path.display());
    Ok(path)
}

/// Where the two files have to be equal.
pub(super) fn ensure_equal(one: &Path, other: &Path) -> Result<()> {
    let status = Command::new("cmp").arg(one).arg(other).status()?;
    ensure!(status.success(), "{} and {} differ", one.display(), other.display());
    Ok(())
}
