//! The command `losetup`: ioctls of loop devices are unsafe code, a process is not. Blocking.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

/// A loop device that could not be had, found or let go.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    /// The command is not there.
    #[error("run {command}: {source}; block devices need losetup of util-linux, and root")]
    Run {
        /// The command.
        command: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The command said no.
    #[error("run {command} for {path}: {answer}; block devices need root and free loop devices", path = path.display())]
    Refused {
        /// The command.
        command: &'static str,
        /// The volume's file or the device.
        path: PathBuf,
        /// What it printed.
        answer: String,
    },
    /// The name that programs look for could not be given or taken away.
    #[error("{what} {path}: {source}", path = path.display())]
    Link {
        /// What was tried.
        what: &'static str,
        /// The link.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// One loop device in use.
#[derive(Debug, Deserialize)]
pub(super) struct Loop {
    /// Such as `/dev/loop0`.
    pub(super) name: PathBuf,
    /// Its file; followed by ` (deleted)` when that is gone.
    #[serde(rename = "back-file")]
    pub(super) file: Option<PathBuf>,
}

/// How often a device is asked for: another process may take the one that was free.
const ATTEMPTS: usize = 5;

/// Sets up a loop device over a file, past the page cache where the file system can do that.
pub(super) fn set_up(file: &Path) -> Result<PathBuf, DeviceError> {
    for _ in 1..ATTEMPTS {
        make_node()?;
        if let Ok(name) = losetup(&["--find", "--show", "--direct-io=on"], Some(file)) {
            return Ok(PathBuf::from(name.trim()));
        }
    }
    make_node()?;
    let name = losetup(&["--find", "--show"], Some(file))?;
    Ok(PathBuf::from(name.trim()))
}

/// Containers have no udev: the kernel's next free device may lack its file.
fn make_node() -> Result<(), DeviceError> {
    let free = losetup(&["--find"], None)?;
    let name = Path::new(free.trim());
    let number = free.trim().trim_start_matches("/dev/loop");
    if name.exists() || number.parse::<u32>().is_err() {
        return Ok(());
    }
    match run("mknod", Command::new("mknod").arg(name).args(["b", "7", number]), name) {
        // Another call was faster.
        Err(_) if name.exists() => Ok(()),
        other => other.map(drop),
    }
}

/// Lets a device go: at once, or when the last program that has it open closes it.
pub(super) fn let_go(device: &Path) -> Result<(), DeviceError> {
    losetup(&["--detach"], Some(device)).map(drop)
}

/// The loop devices over a file.
pub(super) fn over(file: &Path) -> Result<Vec<PathBuf>, DeviceError> {
    let names = losetup(&["--noheadings", "--output", "NAME", "--associated"], Some(file))?;
    Ok(names
        .lines()
        .map(|line| PathBuf::from(line.trim()))
        .filter(|name| !name.as_os_str().is_empty())
        .collect())
}

/// Every loop device in use.
pub(super) fn all() -> Result<Vec<Loop>, DeviceError> {
    #[derive(Deserialize)]
    struct Answer {
        loopdevices: Vec<Loop>,
    }
    let text = losetup(&["--list", "--json", "--output", "NAME,BACK-FILE"], None)?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let answer: Answer = serde_json::from_str(&text).map_err(|error| DeviceError::Refused {
        command: "losetup",
        path: PathBuf::from("/dev"),
        answer: format!("it printed no list: {error}"),
    })?;
    Ok(answer.loopdevices)
}

fn losetup(arguments: &[&str], path: Option<&Path>) -> Result<String, DeviceError> {
    let mut command = Command::new("losetup");
    command.args(arguments).args(path);
    run("losetup", &mut command, path.unwrap_or(Path::new("/dev")))
}

fn run(name: &'static str, command: &mut Command, path: &Path) -> Result<String, DeviceError> {
    let output = command.output().map_err(|source| DeviceError::Run { command: name, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let answer = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(DeviceError::Refused { command: name, path: path.to_owned(), answer })
}
