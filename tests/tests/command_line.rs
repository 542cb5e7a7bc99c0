//! The command line as an operator uses it: the four operations on separate processes and in one, what is printed, and
//! the exit codes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::Value;
use snapferry_api::Client;
use snapferry_testkit::free_port;
use snapferry_tests::{
    CommandLine, OneProcess, Rig, RigOptions, SERVICE, TOKENS, TestInstance, says, write_data,
};
use snapferry_types::{JobId, RecoveryPointId};

/// The newest recovery point of a kind.
async fn newest(shell: &CommandLine, kind: &str) -> String {
    let points = shell.json(&["recovery-point", "list"]).await.unwrap();
    let of_kind = points.as_array().unwrap().iter().find(|point| point["kind"] == kind);
    of_kind.unwrap_or_else(|| panic!("no {kind} in {points:#}"))["id"].as_str().unwrap().to_owned()
}

/// The newest job.
async fn newest_job(shell: &CommandLine) -> JobId {
    let jobs = shell.json(&["job", "list"]).await.unwrap();
    jobs[0]["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_does_the_four_operations_and_sees_what_they_did() {
    let rig = Rig::start(RigOptions { with_tokens: true, ..RigOptions::default() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "web", 8).unwrap();
    let content = instance.content(&sim).unwrap();
    let shell = CommandLine { server: rig.api_url(), token: Some(TOKENS.operator.to_owned()) };
    let (tenant, id) = (rig.tenant.to_string(), instance.id.to_string());

    let hypervisors = shell.json(&["hypervisor", "list"]).await.unwrap();
    assert!(
        hypervisors.as_array().unwrap().iter().any(|one| one["id"] == tenant.as_str()),
        "{hypervisors:#}"
    );
    let listed = shell.succeed(&["instance", "list", &tenant]).await.unwrap();
    assert!(listed.contains(&id) && listed.contains("web"), "{listed}");

    shell.succeed(&["backup", &tenant, &id, "--watch"]).await.unwrap();
    shell.succeed(&["intelli-snap", &tenant, &id, "--keep-days", "7", "--watch"]).await.unwrap();
    shell.succeed(&["backup-copy", &tenant, "--all", "--watch"]).await.unwrap();
    for (kind, from) in [("streamed", "media-agent"), ("snapshot", "snapshot"), ("copy", "media-agent")] {
        let point = newest(&shell, kind).await;
        let shown = shell.succeed(&["recovery-point", "show", &point]).await.unwrap();
        assert!(shown.contains(&id), "{shown}");
        shell.succeed(&["restore", "volumes", &point, "--from", from, "--watch"]).await.unwrap();
        let job = rig.client.job(newest_job(&shell).await).await.unwrap();
        instance.check(&sim, &job, &content).unwrap();
    }
    let point = newest(&shell, "copy").await;
    shell.succeed(&["restore", "instance", &point, "--name", "restored", "--watch"]).await.unwrap();
    let listed = shell.succeed(&["instance", "list", &tenant]).await.unwrap();
    assert!(listed.contains("restored"), "{listed}");

    // What is not copied yet, oldest first; then there is nothing.
    let mut snapped = Vec::new();
    for seed in [1, 2] {
        write_data(&sim, &instance.volumes[0], 2, 1, seed).unwrap();
        shell.succeed(&["intelli-snap", &tenant, &id, "--watch"]).await.unwrap();
        snapped.push(newest(&shell, "snapshot").await);
    }
    let copied = shell.done(&["backup-copy", &tenant, "--all"]).await.unwrap();
    assert_eq!(copied.tasks.len(), 2, "{copied:#?}");
    let points = shell.json(&["recovery-point", "list"]).await.unwrap();
    let copies = points.as_array().unwrap().iter().filter(|point| point["kind"] == "copy").take(2);
    let copies: Vec<_> =
        copies.map(|copy| (copy["copy_of"].as_str(), copy["incremental"].as_bool())).collect();
    assert_eq!(copies, [(Some(&*snapped[1]), Some(true)), (Some(&*snapped[0]), Some(true))], "{points:#}");
    let nothing = shell.run(&["backup-copy", &tenant, "--all"]).await.unwrap();
    assert!(nothing.code != 0 && nothing.stderr.contains("nothing to copy"), "{nothing:#?}");

    // What there is and what would go.
    let job = newest_job(&shell).await.to_string();
    let shown = shell.succeed(&["job", "show", &job]).await.unwrap();
    assert!(shown.contains("succeeded"), "{shown}");
    assert_eq!(shell.json(&["job", "list", "--open"]).await.unwrap(), Value::Array(Vec::new()));
    let ledger = shell.json(&["ledger", "list"]).await.unwrap();
    assert!(ledger.as_array().unwrap().iter().any(|line| line["kind"] == "snapshot"), "{ledger:#}");
    shell.succeed(&["ledger", "reap", "--dry-run"]).await.unwrap();
    assert_eq!(shell.json(&["access-node", "list"]).await.unwrap().as_array().unwrap().len(), 2);
    let media_agent =
        shell.json(&["media-agent", "list"]).await.unwrap()[0]["id"].as_str().unwrap().to_owned();
    shell.succeed(&["media-agent", "scrub", &media_agent]).await.unwrap();
    shell.succeed(&["media-agent", "collect-garbage", &media_agent]).await.unwrap();
    shell.succeed(&["recovery-point", "reconcile", &tenant]).await.unwrap();
    shell.succeed(&["recovery-point", "delete", &point, "--watch"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_say_what_went_wrong_and_messages_name_it() {
    let rig =
        Rig::start(RigOptions { with_tokens: true, n_agents: 1, ..RigOptions::default() }).await.unwrap();
    let with =
        |token: Option<&str>| CommandLine { server: rig.api_url(), token: token.map(ToOwned::to_owned) };
    let operator = with(Some(TOKENS.operator));
    let tenant = rig.tenant.to_string();
    let unknown = RecoveryPointId::generate().to_string();
    let nowhere = format!("http://127.0.0.1:{}", free_port().unwrap());
    let elsewhere = CommandLine { server: nowhere.clone(), token: None };
    let cases: [(&CommandLine, &[&str], i32, &str); 8] = [
        (&operator, &["backup", &tenant], 2, "INSTANCES"),
        (&operator, &["restore", "volumes", "no-id"], 2, "no-id"),
        (&operator, &["recovery-point", "show", &unknown], 3, &unknown),
        (&operator, &["restore", "volumes", &unknown], 3, &unknown),
        (&elsewhere, &["job", "list"], 4, &nowhere),
        (&with(None), &["job", "list"], 5, "token"),
        (&with(Some(TOKENS.viewer)), &["ledger", "reap"], 5, "viewer"),
        (&operator, &["backup", &tenant, "i-0123456789abcdef0", "--watch"], 6, "i-0123456789abcdef0"),
    ];
    for (shell, arguments, code, says) in cases {
        let answer = shell.run(arguments).await.unwrap();
        assert_eq!(answer.code, code, "{arguments:?}: {answer:#?}");
        assert!(answer.stderr.contains(says), "{arguments:?}: {answer:#?}");
        assert_eq!(answer.stdout.is_empty(), code != 6, "only a watched job leaves data: {answer:#?}");
    }
    let n_jobs = rig.client.jobs(&Default::default()).await.unwrap().items.len();
    for (command, vendor) in [("replicate", "vmware"), ("replicate", "amazon"), ("convert", "vmware")] {
        for transport in ["hot_add", "import"] {
            let arguments = [command, "--from", vendor, "--transport", transport, &tenant, "vm-1"];
            let answer = operator.run(&arguments).await.unwrap();
            assert_eq!(answer.code, 2, "{arguments:?}: {answer:#?}");
            let says =
                ["another account's resources", "use EBS direct", "an access node in the target account"];
            assert!(says.iter().all(|part| answer.stderr.contains(part)), "{arguments:?}: {answer:#?}");
        }
    }
    assert_eq!(rig.client.jobs(&Default::default()).await.unwrap().items.len(), n_jobs);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_backs_up_and_restores_without_a_broker_and_keeps_its_state() {
    let mut one = OneProcess::start(false).await.unwrap();
    let instance = TestInstance::place(one.sim.context(), "one", 8).unwrap();
    let content = instance.content(one.sim.context()).unwrap();
    let id = instance.id.to_string();
    one.shell.succeed(&["backup", &one.tenant, &id, "--watch"]).await.unwrap();
    one.shell.succeed(&["intelli-snap", &one.tenant, &id, "--watch"]).await.unwrap();

    // What was made outlives the process.
    one.restart().await.unwrap();
    one.shell.succeed(&["backup-copy", &one.tenant, "--all", "--watch"]).await.unwrap();
    for kind in ["streamed", "copy", "snapshot"] {
        let point = newest(&one.shell, kind).await;
        one.shell.succeed(&["restore", "volumes", &point, "--watch"]).await.unwrap();
        let client = Client::new(&one.shell.server, None).unwrap();
        let job = client.job(newest_job(&one.shell).await).await.unwrap();
        instance.check(one.sim.context(), &job, &content).unwrap();
    }
    let point = newest(&one.shell, "streamed").await;
    let images = ["restore", "disk-image", &point, "--folder", "monday", "--format", "qcow2", "--watch"];
    one.shell.succeed(&images).await.unwrap();
    assert_eq!(std::fs::read_dir(one.dir.join("images/monday")).unwrap().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_uses_hot_add_import_and_vaults_and_restores_in_place() {
    let one = OneProcess::start(true).await.unwrap();
    let sim = one.sim.context();
    let instance = TestInstance::place(sim, "one", 8).unwrap();
    let content = instance.content(sim).unwrap();
    let (tenant, id) = (one.tenant.as_str(), instance.id.as_str());
    let node_has = sim.world.inventory(Some(SERVICE));

    let job = one.shell.done(&["backup", tenant, id, "--transport", "hot-add"]).await.unwrap();
    assert!(says(&job, "blocks are moved by hot_add"), "{job:#?}");
    let point = Rig::recovery_point(&job).unwrap().to_string();
    let from_library = [point.as_str(), "--from", "media-agent"];
    for transport in ["import", "hot-add"] {
        let by = ["--transport", transport];
        let restore = [&["restore", "volumes"], &from_library[..], &by].concat();
        let job = one.shell.done(&restore).await.unwrap();
        assert!(says(&job, &format!("blocks are moved by {}", transport.replace('-', "_"))), "{job:#?}");
        instance.check(sim, &job, &content).unwrap();
    }
    for volume in &instance.volumes {
        write_data(sim, volume, 3, 4, 77).unwrap();
    }
    let job = one.shell.done(&[&["restore", "in-place"], &from_library[..]].concat()).await.unwrap();
    instance.check(sim, &job, &content).unwrap();
    assert_eq!(sim.world.inventory(Some(SERVICE)), node_has, "something is left in the service account");

    let job = one.shell.done(&["intelli-snap", tenant, id, "--vault-to", "service-copy"]).await.unwrap();
    assert_eq!(sim.world.inventory(Some(SERVICE))["snapshots"].len(), 2);
    let point = Rig::recovery_point(&job).unwrap().to_string();
    one.shell.done(&["recovery-point", "delete", &point]).await.unwrap();
    assert_eq!(sim.world.inventory(Some(SERVICE)), node_has, "something is left in the service account");
}
