//! boto3, unmodified, against the simulator. The test command's virtual environment has it; the variable
//! SNAPFERRY_TEST_PYTHON names its Python.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;

use awssim::{Config, Server};

#[tokio::test(flavor = "multi_thread")]
async fn boto3_works_unmodified() {
    let python = std::env::var_os("SNAPFERRY_TEST_PYTHON")
        .expect("SNAPFERRY_TEST_PYTHON names a Python that has boto3 and pytest: run `cargo xtask test`");
    let data = tempfile::tempdir().unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(Config { listen, data_dir: data.path().to_owned() }).await.unwrap();
    let key = server.context().world.create_user("333333333333", "tester", Vec::new());
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boto3");
    let output = tokio::process::Command::new(python)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .arg(tests)
        .env("AWSSIM_ENDPOINT", server.endpoint())
        .env("AWSSIM_BINARY", env!("CARGO_BIN_EXE_awssim"))
        .env("AWS_ACCESS_KEY_ID", key.access_key_id)
        .env("AWS_SECRET_ACCESS_KEY", key.secret_access_key)
        .env("AWS_REGION", "eu-central-1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(" passed"), "{text}");
    server.stop().await;
}
