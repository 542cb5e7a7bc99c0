//! docker-compose.yml and `deploy/`, as far as they can be checked without an engine: the files fit one another, and the
//! programs take them. The checks are `deployment.py`, because YAML is Python's.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use snapferry_testkit::{Tool, require, workspace_binary};

#[test]
fn what_is_shipped_fits_together_and_our_programs_take_it() {
    let python = std::env::var_os("SNAPFERRY_TEST_PYTHON")
        .expect("SNAPFERRY_TEST_PYTHON names a Python that has pytest and PyYAML: run `cargo xtask test`");
    // The certificates are made with it.
    require(Tool::Openssl).unwrap();
    let scheduler = workspace_binary("snapferry-scheduler").unwrap();
    let output = Command::new(python)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deployment.py"))
        .env("SNAPFERRY_TEST_BINARIES", scheduler.parent().unwrap())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(" passed"), "{text}");
}
