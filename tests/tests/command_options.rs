//! Options of the command line that change what is done: each is seen in AWS or in the job, not only taken.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::Value;
use snapferry_api::job::Job;
use snapferry_tests::{
    ACCOUNT, CommandLine, ELSEWHERE, REGION, Rig, RigOptions, TestInstance, says, write_data,
};
use snapferry_types::JobId;

/// The operator and what there is to do it on.
struct Desk {
    rig: Rig,
    shell: CommandLine,
    tenant: String,
}

impl Desk {
    async fn new(options: RigOptions) -> Self {
        let rig = Rig::start(options).await.unwrap();
        let shell = CommandLine { server: rig.api_url(), token: None };
        let tenant = rig.tenant.to_string();
        Self { rig, shell, tenant }
    }

    async fn done(&self, arguments: &[&str]) -> Job {
        self.shell.done(arguments).await.unwrap()
    }

    /// The recovery point that a command made.
    async fn point(&self, arguments: &[&str]) -> String {
        Rig::recovery_point(&self.done(arguments).await).unwrap().to_string()
    }
}

fn id_of(job: &Value) -> JobId {
    job["id"].as_str().unwrap_or_else(|| panic!("no job: {job:#}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restore_is_told_is_what_it_does() {
    let options = RigOptions { n_agents: 1, with_service_resources: true, ..RigOptions::default() };
    let desk = Desk::new(options).await;
    let sim = desk.rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "web", 8).unwrap();
    let content = instance.content(&sim).unwrap();
    let (tenant, id) = (desk.tenant.as_str(), instance.id.as_str());

    let vaulted =
        desk.point(&["intelli-snap", tenant, id, "--vault-to", "tenant", "--vault-region", ELSEWHERE]).await;
    assert_eq!(desk.rig.snapshots_of(ACCOUNT, ELSEWHERE).await.unwrap().len(), 2);
    let job = desk.done(&["backup", tenant, id, "--transport", "hot-add"]).await;
    assert!(says(&job, "blocks are moved by hot_add, as asked for"), "{job:#?}");
    let point = Rig::recovery_point(&job).unwrap().to_string();

    let key = sim.world.create_key(ACCOUNT, REGION, None);
    let restore = ["restore", "volumes", &point, "--from", "media-agent"];
    let job = desk.done(&[&restore[..], &["--transport", "import", "--kms-key", &key]].concat()).await;
    assert!(says(&job, "blocks are moved by import, as asked for"), "{job:#?}");
    instance.check(&sim, &job, &content).unwrap();
    for made in &job.tasks[0].made {
        assert_eq!(desk.rig.key_of_volume(&made.id).await.unwrap().as_ref(), Some(&key));
    }
    let refused = desk.shell.run(&[&restore[..], &["--transport", "tape"]].concat()).await.unwrap();
    assert!(refused.code == 2 && refused.stderr.contains("hot_add"), "{refused:#?}");

    let other = TestInstance::place(&sim, "other", 1).unwrap();
    let device = format!("{}=/dev/sdk", instance.volumes[1]);
    let attach = ["--attach-to", other.id.as_str(), "--device", &device, "--volume", &instance.volumes[1]];
    let job = desk.done(&[&restore[..], &attach].concat()).await;
    let [made] = job.tasks[0].made.as_slice() else { panic!("only one was asked for: {job:#?}") };
    assert_eq!(desk.rig.attached(&other.id).await.unwrap()["/dev/sdk"], made.id);

    for volume in &instance.volumes {
        write_data(&sim, volume, 3, 4, 77).unwrap();
    }
    let in_place = ["restore", "in-place", &vaulted, "--delete-old-volumes", "--leave-stopped"];
    let job = desk.done(&in_place).await;
    instance.check(&sim, &job, &content).unwrap();
    assert_eq!(desk.rig.describe(&instance.id).await.unwrap().state, "stopped");
    // The instance's own in place of those before, the other's, what came under a key and what was attached.
    desk.rig.only_these_are_left(2 * 3, 2 + 2 + 2 + 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_moved_up_begins_before_one_that_was_asked_for_earlier() {
    let desk = Desk::new(RigOptions { n_agents: 1, ..RigOptions::default() }).await;
    let sim = desk.rig.sim.context().clone();
    desk.rig.hold_reads(20);
    let mut ids = Vec::new();
    // One is worked at, one is offered to the agent for when it is free; the other two wait for that.
    for name in ["one", "two", "three", "four"] {
        let instance = TestInstance::place(&sim, name, 3).unwrap();
        let asked = ["backup", &desk.tenant, instance.id.as_str(), "--priority", "low"];
        ids.push(id_of(&desk.shell.json(&asked).await.unwrap()));
        if name == "one" {
            desk.rig.wait(ids[0], "it is begun", |job| job.tasks[0].attempts == 1).await.unwrap();
        }
    }
    desk.shell.succeed(&["job", "priority", &ids[3].to_string(), "high"]).await.unwrap();
    desk.rig.let_go();
    let mut begun = Vec::new();
    for id in &ids {
        begun.push(desk.rig.succeed(*id).await.unwrap().tasks[0].history[0].started_at);
    }
    assert!(begun[0] < begun[3] && begun[3] < begun[2], "{begun:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_suspended_resumed_and_moved_up_by_commands() {
    let desk = Desk::new(RigOptions { n_agents: 1, ..RigOptions::default() }).await;
    let sim = desk.rig.sim.context().clone();
    let instances = ["one", "two", "three"].map(|name| TestInstance::place(&sim, name, 30).unwrap());
    let shell = &desk.shell;
    let submitted = async |instance: &TestInstance, options: &[&str]| {
        let asked = ["backup", &desk.tenant, instance.id.as_str()];
        id_of(&shell.json(&[&asked[..], options].concat()).await.unwrap())
    };
    let state = async |id: JobId| {
        let shown = shell.json(&["job", "show", &id.to_string()]).await.unwrap();
        shown["state"].as_str().unwrap().to_owned()
    };
    desk.rig.hold_reads(20);
    let first = submitted(&instances[0], &[]).await;
    desk.rig.wait(first, "blocks are read", |job| job.tasks[0].progress.bytes_read > 0).await.unwrap();
    // The only agent is busy: both others wait.
    let later = submitted(&instances[1], &["--priority", "low"]).await;
    let sooner = submitted(&instances[2], &["--priority", "low"]).await;
    let priority = async |id: JobId| {
        shell.json(&["job", "show", &id.to_string()]).await.unwrap()["priority"].as_str().unwrap().to_owned()
    };
    assert_eq!((priority(first).await, priority(sooner).await), ("normal".to_owned(), "low".to_owned()));
    shell.succeed(&["job", "priority", &sooner.to_string(), "high"]).await.unwrap();
    assert_eq!((priority(later).await, priority(sooner).await), ("low".to_owned(), "high".to_owned()));

    shell.succeed(&["job", "suspend", &later.to_string()]).await.unwrap();
    assert_eq!(state(later).await, "suspended", "nobody works at it: it is suspended at once");
    shell.succeed(&["job", "suspend", &first.to_string()]).await.unwrap();
    let is_suspended = |job: &Job| job.summary.state.as_str() == "suspended";
    desk.rig.wait(first, "the first is suspended", is_suspended).await.unwrap();
    desk.rig.let_go();
    desk.rig.succeed(sooner).await.unwrap();
    assert_eq!((state(first).await, state(later).await), ("suspended".to_owned(), "suspended".to_owned()));
    for id in [first, later] {
        shell.succeed(&["job", "resume", &id.to_string()]).await.unwrap();
        desk.rig.succeed(id).await.unwrap();
    }
    desk.rig.left(6, 6).await.unwrap();
}
