//! `cargo xtask tidy`: what no compiler checks. The arrows between our crates are written here once; a new one is
//! a commit of its own, with a sentence in docs/ARCHITECTURE.md.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::run;

/// Crate → crates it may use. `ANY` marks those that may use everything.
const ARROWS: &[(&str, &[&str])] = &[
    ("snapferry-types", &[]),
    ("snapferry-wire", &["snapferry-types"]),
    ("snapferry-service", &["snapferry-types"]),
    ("snapferry-drive", &[]),
    ("snapferry-queue", &["snapferry-types", "snapferry-wire"]),
    ("snapferry-transfer", &["snapferry-types", "snapferry-drive"]),
    ("snapferry-aws", &["snapferry-types", "snapferry-transfer"]),
    ("snapferry-library", &["snapferry-types"]),
    (
        "snapferry-media-agent",
        &[
            "snapferry-types",
            "snapferry-wire",
            "snapferry-transfer",
            "snapferry-library",
            "snapferry-service",
        ],
    ),
    (
        "snapferry-agent",
        &[
            "snapferry-types",
            "snapferry-wire",
            "snapferry-queue",
            "snapferry-transfer",
            "snapferry-aws",
            "snapferry-media-agent",
            "snapferry-service",
        ],
    ),
    ("snapferry-agent-linux", &["snapferry-agent", "snapferry-service", "snapferry-types"]),
    (
        "snapferry-agent-windows",
        &["snapferry-agent", "snapferry-service", "snapferry-types", "snapferry-drive"],
    ),
    ("snapferry-api", &["snapferry-types"]),
    (
        "snapferry-scheduler",
        &[
            "snapferry-types",
            "snapferry-wire",
            "snapferry-queue",
            "snapferry-api",
            "snapferry-service",
            "snapferry-aws",
        ],
    ),
    ("awssim", &["snapferry-types"]),
    ("snapferry-cli", ANY),
    ("snapferry-testkit", ANY),
    ("snapferry-tests", ANY),
    ("xtask", ANY),
];

const ANY: &[&str] = &["*"];

/// Lines that a source file may have before tidy asks for the second noun in it.
const MAX_LINES: usize = 600;

const DOCUMENTS: &[&str] = &[
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "docs/ARCHITECTURE.md",
    "docs/GLOSSARY.md",
    "docs/decisions",
    "crates/library/FORMAT.md",
    "docker-compose.yml",
    "deny.toml",
];

/// Names that say nothing about what is inside.
const VAGUE: &[&str] = &["common.rs", "utils.rs", "util.rs", "helpers.rs", "misc.rs"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<String>,
}

pub(crate) fn run() -> Result<()> {
    let mut findings = arrows()?;
    for document in DOCUMENTS {
        if !run::root().join(document).exists() {
            findings.push(format!("{document} does not exist"));
        }
    }
    for file in rust_files(&run::root())? {
        findings.extend(file_findings(&file)?);
    }
    if findings.is_empty() {
        return Ok(());
    }
    bail!("tidy found:\n  {}", findings.join("\n  "));
}

fn arrows() -> Result<Vec<String>> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(run::root())
        .output()
        .context("run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let Some(allowed) = allowed.get(package.name.as_str()) else {
            findings.push(format!("crate {} has no line in xtask's table of arrows", package.name));
            continue;
        };
        if *allowed == ANY {
            continue;
        }
        let ours = package.dependencies.iter().filter(|dependency| dependency.path.is_some());
        for dependency in ours.filter(|dependency| dependency.kind.as_deref() != Some("dev")) {
            if !allowed.contains(&dependency.name.as_str()) {
                findings.push(format!("crate {} may not depend on {}", package.name, dependency.name));
            }
        }
    }
    Ok(findings)
}

fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![root.join("crates"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn file_findings(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let name = path.strip_prefix(run::root()).unwrap_or(path).display();
    let mut findings = Vec::new();
    let n_lines = text.lines().count();
    if n_lines > MAX_LINES {
        findings.push(format!("{name} has {n_lines} lines: which second noun is in it?"));
    }
    if VAGUE.iter().any(|vague| path.ends_with(vague))
        && !path.components().any(|part| part.as_os_str() == "tests")
    {
        findings.push(format!("{name} is named for nothing in particular"));
    }
    // A file of tests belongs to the module that names it.
    if !path.ends_with("tests.rs") && !text.starts_with("//!") {
        findings.push(format!("{name} does not begin with a module doc"));
    }
    Ok(findings)
}
