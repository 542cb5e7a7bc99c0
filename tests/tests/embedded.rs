//! Scheduler, MediaAgent and agent in one process, without a broker: what an operator does there besides what
//! command_line.rs has, with the same results as with processes of their own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use awssim::faults::Rule;
use snapferry_api::Client;
use snapferry_api::job::{Job, JobState};
use snapferry_testkit::eventually;
use snapferry_tests::breaking::{hang, reads};
use snapferry_tests::{ACCOUNT, OneProcess, REGION, Rig, SERVICE, TestInstance, key_for_both, says};
use snapferry_types::JobId;
use snapferry_types::instance::OsFamily;

const BOUND: Duration = Duration::from_secs(60);
const GET: (&str, &str) = ("ebs", "GetSnapshotBlock");

fn point_of(job: &Job) -> String {
    Rig::recovery_point(job).unwrap().to_string()
}

/// What a job made of a kind.
fn made<'a>(job: &'a Job, kind: &str) -> Vec<&'a str> {
    let all = job.tasks.iter().flat_map(|task| &task.made);
    all.filter(|made| made.kind == kind).map(|made| made.id.as_str()).collect()
}

async fn job(one: &OneProcess, id: JobId) -> Job {
    Client::new(&one.shell.server, None).unwrap().job(id).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_restores_to_a_new_instance_and_to_one_that_is_there_and_copies_by_hot_add() {
    let one = OneProcess::start(true).await.unwrap();
    let sim = one.sim.context();
    let instance = TestInstance::place(sim, "web", 8).unwrap();
    let content = instance.content(sim).unwrap();
    let (tenant, id) = (one.tenant.as_str(), instance.id.as_str());
    let node_has = sim.world.inventory(Some(SERVICE));
    let backed_up = point_of(&one.shell.done(&["backup", tenant, id]).await.unwrap());

    let restore = ["restore", "instance", &backed_up, "--from", "media-agent", "--name", "restored"];
    let job = one.shell.done(&restore).await.unwrap();
    instance.check(sim, &job, &content).unwrap();
    let [new] = made(&job, "instance")[..] else { panic!("not one instance: {job:#?}") };
    assert_ne!(new, id);
    let mut has = sim.world.attached_to(new);
    has.sort();
    let mut volumes = made(&job, "volume");
    volumes.sort_unstable();
    assert_eq!(has, volumes, "the new instance has what was restored and no more");
    let listed = one.shell.succeed(&["instance", "list", tenant]).await.unwrap();
    let is_named = |line: &str| line.contains(new) && line.contains("restored");
    assert!(listed.lines().any(is_named), "{listed}");

    let other = TestInstance::place(sim, "other", 1).unwrap();
    let attach = ["--from", "media-agent", "--attach-to", other.id.as_str()];
    let restore = [&["restore", "volumes", &backed_up], &attach[..]].concat();
    let job = one.shell.done(&restore).await.unwrap();
    instance.check(sim, &job, &content).unwrap();
    let attached = sim.world.attached_to(other.id.as_str());
    assert_eq!(attached.len(), 2 + 2, "{attached:?}");
    for volume in made(&job, "volume") {
        assert!(attached.iter().any(|one| one == volume), "{volume} is not among {attached:?}");
    }

    let snapped = point_of(&one.shell.done(&["intelli-snap", tenant, id]).await.unwrap());
    let copy = ["backup-copy", tenant, &snapped, "--full", "--transport", "hot-add"];
    let job = one.shell.done(&copy).await.unwrap();
    assert!(says(&job, "blocks are moved by hot_add, as asked for"), "{job:#?}");
    let copied = point_of(&job);
    let restore = ["restore", "volumes", &copied, "--from", "media-agent"];
    let job = one.shell.done(&restore).await.unwrap();
    instance.check(sim, &job, &content).unwrap();
    assert_eq!(sim.world.inventory(Some(SERVICE)), node_has, "something is left in the service account");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_backs_up_an_encrypted_windows_instance_and_restores_it_under_its_key() {
    let one = OneProcess::start(true).await.unwrap();
    let sim = one.sim.context();
    let key = sim.world.create_key(ACCOUNT, REGION, Some(key_for_both()));
    let instance = TestInstance::place_as(sim, "desk", 8, OsFamily::Windows, Some(&key)).unwrap();
    let content = instance.content(sim).unwrap();
    let (tenant, id) = (one.tenant.as_str(), instance.id.as_str());
    let node_has = sim.world.inventory(Some(SERVICE));
    for transport in ["ebs-direct", "hot-add"] {
        let back_up = ["backup", tenant, id, "--full", "--transport", transport];
        let backed_up = one.shell.done(&back_up).await.unwrap();
        let words = format!("blocks are moved by {}, as asked for", transport.replace('-', "_"));
        assert!(says(&backed_up, &words), "{backed_up:#?}");
        let point = point_of(&backed_up);
        let restore = ["restore", "volumes", &point, "--from", "media-agent", "--transport", transport];
        let job = one.shell.done(&restore).await.unwrap();
        assert!(says(&job, &words), "{job:#?}");
        instance.check(sim, &job, &content).unwrap();
        let lies_there = sim.world.at_rest(ACCOUNT);
        for volume in made(&job, "volume") {
            let found = lies_there.iter().find(|one| one.id == volume).unwrap();
            assert_eq!(found.key.as_ref(), Some(&key), "{transport}: the key of {volume}");
        }
    }
    assert_eq!(sim.world.inventory(Some(SERVICE)), node_has, "something is left in the service account");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_suspends_a_backup_in_the_middle_and_goes_on_with_it() {
    let one = OneProcess::start(false).await.unwrap();
    let sim = one.sim.context();
    let instance = TestInstance::place(sim, "web", 30).unwrap();
    let content = instance.content(sim).unwrap();
    // Some blocks are read; the others wait.
    sim.faults.set_rules(vec![Rule { skip: 20, ..Rule::new(hang()).on(GET.0, GET.1) }]);
    let asked = one.shell.json(&["backup", &one.tenant, instance.id.as_str()]).await.unwrap();
    let name = asked["id"].as_str().unwrap();
    let id: JobId = name.parse().unwrap();
    let is_reading = || async { reads(&job(&one, id).await) };
    eventually(BOUND, "blocks are read", is_reading).await.unwrap();

    one.shell.succeed(&["job", "suspend", name]).await.unwrap();
    let is_suspended = || async { job(&one, id).await.summary.state == JobState::Suspended };
    eventually(BOUND, "it is suspended", is_suspended).await.unwrap();
    sim.faults.set_rules(Vec::new());
    let n_read = || sim.faults.counters().calls_of(GET.0, GET.1);
    let before = n_read();
    // The only agent is free meanwhile, and leaves it alone.
    let other = TestInstance::place(sim, "other", 2).unwrap();
    one.shell.done(&["intelli-snap", &one.tenant, other.id.as_str()]).await.unwrap();
    assert!(is_suspended().await, "it went on by itself");
    assert_eq!(n_read(), before, "blocks are read while it is suspended");

    one.shell.succeed(&["job", "resume", name]).await.unwrap();
    one.shell.succeed(&["job", "watch", name]).await.unwrap();
    let done = job(&one, id).await;
    assert_eq!(done.summary.state, JobState::Succeeded, "{done:#?}");
    let outcomes: Vec<&str> = done.tasks[0].history.iter().map(|one| one.outcome.as_str()).collect();
    assert_eq!(outcomes, ["yielded", "succeeded"], "{done:#?}");
    assert!(n_read() > before, "all was read before it was suspended");
    assert_eq!(sim.faults.counters().calls_of("ec2", "CreateSnapshots"), 1 + 1, "it was begun anew");
    let point = point_of(&done);
    let restore = ["restore", "volumes", &point, "--from", "media-agent"];
    let restored = one.shell.done(&restore).await.unwrap();
    instance.check(sim, &restored, &content).unwrap();
}
