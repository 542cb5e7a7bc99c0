//! A small disk in memory, so that a full one can be had without filling the machine's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// A mounted tmpfs; unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    place: PathBuf,
}

impl Disk {
    /// Mounts a disk of a size at an empty folder.
    ///
    /// # Errors
    /// When this user may not mount.
    pub fn mount(place: &Path, mib: u32) -> Result<Self> {
        let size = format!("size={mib}m");
        as_root(&["mount", "-t", "tmpfs", "-o", &format!("{size},mode=1777"), "tmpfs"], place)?;
        Ok(Self { place: place.to_owned() })
    }

    /// Makes it larger or smaller; its files stay.
    ///
    /// # Errors
    /// When this user may not mount.
    pub fn resize(&self, mib: u32) -> Result<()> {
        as_root(&["mount", "-o", &format!("remount,size={mib}m")], &self.place)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = as_root(&["umount", "--lazy"], &self.place) {
            eprintln!("{error:#}");
        }
    }
}

/// Runs a command on the folder; other users than root by way of a `sudo` that asks nothing.
fn as_root(command: &[&str], place: &Path) -> Result<()> {
    let user = Command::new("id").arg("-u").output().context("run id")?;
    let is_root = user.stdout.trim_ascii() == b"0";
    let sudo: &[&str] = if is_root { &[] } else { &["sudo", "-n"] };
    let whole = [sudo, command].concat();
    let (program, arguments) = whole.split_first().context("an empty command")?;
    let status = Command::new(program).args(arguments).arg(place).status();
    let status = status.with_context(|| format!("run {program}"))?;
    ensure!(
        status.success(),
        "{whole:?} {} ended with {status}: this test mounts a small disk; run it as root or allow sudo without a password",
        place.display()
    );
    Ok(())
}
