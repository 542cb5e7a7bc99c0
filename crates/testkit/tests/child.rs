//! A child process: its lines, its signals, its end.

#![allow(clippy::unwrap_used, reason = "a helper's failure is its test's")]

use std::process::Command;
use std::time::Duration;

use snapferry_testkit::{Child, eventually};

const BOUND: Duration = Duration::from_secs(20);

fn shell(script: &str, folder: &std::path::Path) -> Child {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    Child::spawn("shell", command, &folder.join("log")).unwrap()
}

#[tokio::test]
async fn lines_are_waited_for_and_their_absence_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = shell("echo ready; exit 3", folder.path());
    assert_eq!(child.wait_for_line("ready", BOUND).await.unwrap(), "ready");
    assert_eq!(child.wait(BOUND).await.unwrap().code(), Some(3));
    let error = child.wait_for_line("never", BOUND).await.unwrap_err().to_string();
    assert!(error.contains("ended before it wrote \"never\"") && error.contains("ready"), "{error}");
}

#[tokio::test]
async fn a_child_is_frozen_thawed_and_gone_when_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = shell("while :; do echo tick; sleep 0.01; done", folder.path());
    child.wait_for_line("tick", BOUND).await.unwrap();
    child.sigstop().await.unwrap();
    let n_ticks = child.log().unwrap().len();
    child.sigcont().unwrap();
    let child = &child;
    eventually(BOUND, "it ticks again", || async move { child.log().unwrap().len() > n_ticks })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_frozen_child_can_be_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = shell("echo up; exec sleep 1000", folder.path());
    child.wait_for_line("up", BOUND).await.unwrap();
    child.sigstop().await.unwrap();
    assert!(!child.kill9().unwrap().success());
    let stat = format!("/proc/{}/stat", child.id());
    assert!(!std::path::Path::new(&stat).exists());
}

#[tokio::test]
async fn what_never_holds_is_told() {
    let error = eventually(Duration::from_millis(60), "pigs fly", || async { false }).await.unwrap_err();
    assert!(error.to_string().ends_with("in vain: pigs fly"), "{error}");
}

#[test]
fn a_binary_that_is_not_built_is_told_with_the_way_to_build_it() {
    let error = snapferry_testkit::process::workspace_binary("no-such-program").unwrap_err().to_string();
    assert!(error.contains("run `cargo build --bin no-such-program`"), "{error}");
}
