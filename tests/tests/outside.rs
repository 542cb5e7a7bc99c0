//! What Snapferry restores, seen by somebody who knows nothing of it: boto3, unmodified, reads the volumes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;

use snapferry_tests::{ACCOUNT, REGION, Rig, RigOptions, TestInstance, write_data};
use snapferry_types::instance::OsFamily;

#[tokio::test(flavor = "multi_thread")]
async fn boto3_finds_restored_volumes_equal_to_what_was_backed_up() {
    let python = std::env::var_os("SNAPFERRY_TEST_PYTHON")
        .expect("SNAPFERRY_TEST_PYTHON names a Python that has boto3: run `cargo xtask test`");
    let rig = Rig::start(RigOptions::default()).await.unwrap();
    let sim = rig.sim.context().clone();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compare_volumes.py");
    let owner = sim.world.create_user(ACCOUNT, "owner", Vec::new());
    let compare = async |pairs: &[String]| {
        let mut command = tokio::process::Command::new(&python);
        command
            .arg(&script)
            .args(pairs)
            .env("AWS_ENDPOINT_URL", rig.sim.endpoint())
            .env("AWS_ACCESS_KEY_ID", &owner.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &owner.secret_access_key)
            .env("AWS_REGION", REGION)
            .env("AWS_DEFAULT_REGION", REGION)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let output = command.output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    for os in [OsFamily::Linux, OsFamily::Windows] {
        let instance = TestInstance::place_as(&sim, "one", 20, os, None).unwrap();
        let point = rig.backed_up(&instance).await.unwrap();
        let job = rig.restore_copy(point).await.unwrap();
        let made = job.tasks.iter().flat_map(|task| &task.made);
        let pairs: Vec<String> = made.map(|made| format!("{}={}", made.source, made.id)).collect();
        assert_eq!(pairs.len(), 2);
        let (is_equal, stdout, stderr) = compare(&pairs).await;
        assert!(is_equal && stdout.matches("equal").count() == 2, "{stdout}{stderr}");
        // It would tell.
        write_data(&sim, &instance.volumes[1], 7, 1, 99).unwrap();
        let (is_equal, stdout, _) = compare(&pairs).await;
        assert!(!is_equal && stdout.contains("differ at block"), "{stdout}");
    }
}
