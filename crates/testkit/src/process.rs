//! A program of this workspace, built and started with its log in a file.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::child::Child;

/// A running program of the workspace. It has all that a [`Child`] has.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a built binary of the workspace, with the environment of the test and `environment` over it.
    ///
    /// # Errors
    /// When the binary is not built or cannot be started.
    pub fn spawn(binary: &str, arguments: &[&str], environment: &[(&str, &str)], log: &Path) -> Result<Self> {
        let mut command = Command::new(workspace_binary(binary)?);
        command.args(arguments).envs(environment.iter().copied());
        Ok(Self { child: Child::spawn(binary, command, log)? })
    }
}

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}

/// Where Cargo put a binary of this workspace: beside the folder of the running test or example.
///
/// # Errors
/// Says how to build it, when it is not there.
pub fn workspace_binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("find the running test")?;
    let profile = test
        .ancestors()
        .find(|folder| folder.file_name().is_some_and(|name| name == "deps" || name == "examples"))
        .and_then(Path::parent)
        .with_context(|| format!("{} is not in a Cargo target folder", test.display()))?;
    let path = profile.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if path.exists() {
        return Ok(path);
    }
    bail!("{} is not built: run `cargo build --bin {name}` with the test's profile", path.display())
}
