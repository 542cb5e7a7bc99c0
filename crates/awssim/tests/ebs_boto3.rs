//! boto3, unmodified, against a whole simulator: signatures, EC2 and the six EBS direct calls.
//!
//! Needs a Python that has boto3 and pytest, named by `SNAPFERRY_TEST_PYTHON`; `cargo xtask test` makes one.

use std::path::Path;
use std::process::Command;

use awssim::{Config, Server};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boto3_uses_the_six_calls_unmodified() {
    let python = std::env::var_os("SNAPFERRY_TEST_PYTHON")
        .expect("SNAPFERRY_TEST_PYTHON names a Python with boto3 and pytest: run `cargo xtask test`");
    let dir = tempfile::tempdir().unwrap();
    let config = Config { listen: "127.0.0.1:0".parse().unwrap(), data_dir: dir.path().to_owned() };
    let server = Server::start(config).await.unwrap();
    let accounts = format!("{}/_awssim/accounts", server.endpoint());
    let request = reqwest::Client::new().post(accounts).body(r#"{"account":"111122223333"}"#);
    let key: Value = request.send().await.unwrap().json().await.unwrap();
    let endpoint = server.endpoint();
    let output = tokio::task::spawn_blocking(move || {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boto3/test_ebs.py");
        Command::new(python)
            .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
            .arg(tests)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("AWSSIM_ENDPOINT", endpoint)
            .env("AWS_ACCESS_KEY_ID", key["access_key_id"].as_str().unwrap())
            .env("AWS_SECRET_ACCESS_KEY", key["secret_access_key"].as_str().unwrap())
            .env("AWS_REGION", "us-east-1")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .output()
    });
    let output = output.await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("3 passed"), "{text}");
    let counters = server.context().faults.counters();
    for action in [
        "ListSnapshotBlocks",
        "ListChangedBlocks",
        "GetSnapshotBlock",
        "StartSnapshot",
        "PutSnapshotBlock",
        "CompleteSnapshot",
    ] {
        assert!(counters.calls_of("ebs", action) > 0, "boto3 never called {action}");
    }
    server.stop().await;
}
