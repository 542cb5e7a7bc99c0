//! The file-system tools that the demo needs. As root on Debian they are installed; otherwise the error says what is
//! missing.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

/// Programs and the packages that bring them.
const NEEDS: &[(&str, &str)] =
    &[("mke2fs", "e2fsprogs"), ("debugfs", "e2fsprogs"), ("mkntfs", "ntfs-3g"), ("ntfscp", "ntfs-3g")];

/// Installs what is missing, or says it.
pub(super) fn ensure(image: Option<&Path>) -> Result<()> {
    let mut packages: Vec<&str> =
        NEEDS.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    if image.is_some_and(super::image::needs_conversion) && !is_there("qemu-img") {
        packages.push("qemu-utils");
    }
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let is_root = rustix::process::getuid().is_root();
    if !is_root || !is_there("apt-get") {
        bail!(
            "the demo makes real file systems and needs: run `sudo apt-get install {}`",
            packages.join(" ")
        );
    }
    eprintln!("• installing {}", packages.join(", "));
    apt(&["update", "-qq"])?;
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(&packages);
    apt(&install)
}

fn apt(args: &[&str]) -> Result<()> {
    let output = Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(args).output()?;
    if !output.status.success() {
        bail!("apt-get {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn is_there(program: &str) -> bool {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/bin", "/usr/local/sbin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists())
}
