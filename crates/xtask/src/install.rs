//! What the tests need besides a Rust toolchain and a C compiler. With root and apt it is installed; otherwise
//! what is missing is said, with the command that mends it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::run;

/// A program, where it may be, and the Debian package that brings it.
struct Need {
    what: &'static str,
    any_of: &'static [&'static str],
    package: &'static str,
}

const NEEDS: &[Need] = &[
    Need { what: "RabbitMQ", any_of: &["/usr/lib/rabbitmq/bin/rabbitmq-server"], package: "rabbitmq-server" },
    Need {
        what: "PostgreSQL",
        any_of: &[
            "/usr/lib/postgresql/15/bin/postgres",
            "/usr/lib/postgresql/16/bin/postgres",
            "/usr/lib/postgresql/17/bin/postgres",
        ],
        package: "postgresql",
    },
    Need { what: "ext4 tools", any_of: &["/sbin/mke2fs", "/usr/sbin/mke2fs"], package: "e2fsprogs" },
    Need {
        what: "qemu-img",
        any_of: &["/usr/bin/qemu-img", "/usr/local/bin/qemu-img"],
        package: "qemu-utils",
    },
    Need { what: "OpenSSL", any_of: &["/usr/bin/openssl", "/usr/local/bin/openssl"], package: "openssl" },
    Need { what: "losetup", any_of: &["/sbin/losetup", "/usr/sbin/losetup"], package: "mount" },
    Need { what: "NTFS tools", any_of: &["/sbin/mkntfs", "/usr/sbin/mkntfs"], package: "ntfs-3g" },
];

/// Installs everything; answers the Python of the tests' virtual environment.
pub(crate) fn all() -> Result<PathBuf> {
    packages()?;
    nextest()?;
    python()
}

fn packages() -> Result<()> {
    let missing: Vec<&Need> =
        NEEDS.iter().filter(|need| !need.any_of.iter().any(|path| Path::new(path).exists())).collect();
    let mut names: Vec<&str> = missing.iter().map(|need| need.package).collect();
    if !run::succeeds(Command::new("python3").args(["-c", "import venv, ensurepip"])) {
        names.push("python3-venv");
    }
    if names.is_empty() {
        return Ok(());
    }
    let is_root = run::succeeds(Command::new("sh").args(["-c", "test $(id -u) = 0"]));
    let has_apt = run::succeeds(Command::new("apt-get").arg("--version"));
    if !(is_root && has_apt) {
        let what: Vec<&str> = missing.iter().map(|need| need.what).collect();
        bail!(
            "the tests need {}: run `sudo apt-get install {}` and start again, or use `cargo xtask test --fast`",
            if what.is_empty() { "python3-venv".to_owned() } else { what.join(", ") },
            names.join(" ")
        );
    }
    run::run(Command::new("apt-get").args(["update", "-qq"]))?;
    run::run(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(&names),
    )
}

/// The test runner.
pub(crate) fn nextest() -> Result<()> {
    if run::succeeds(Command::new("cargo").args(["nextest", "--version"])) {
        return Ok(());
    }
    run::cargo(&["install", "--locked", "cargo-nextest"])
}

fn python() -> Result<PathBuf> {
    let venv = run::target_dir().join("venv");
    let python = venv.join("bin/python");
    let ready = run::succeeds(Command::new(&python).args(["-c", "import awscli, boto3, pytest, yaml"]));
    if !ready {
        run::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        let packages = ["awscli", "boto3", "pytest", "pyyaml"];
        run::run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages))?;
    }
    Ok(python)
}
