//! Jobs followed and cancelled by commands, with a terminal and without; accounts shown and forgotten; what needs no
//! scheduler.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use awssim::faults::{Effect, Rule};
use snapferry_api::Client;
use snapferry_api::job::Job;
use snapferry_testkit::{Process, eventually, free_port, workspace_binary};
use snapferry_tests::{ACCOUNT, CommandLine, EXTERNAL_ID, OneProcess, REGION, Rig, TestInstance};
use snapferry_types::JobId;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

const BOUND: Duration = Duration::from_secs(60);
const NOWHERE: &str = "i-0123456789abcdef0";

/// What only a bar has.
const BAR: [char; 3] = ['\u{1b}', '█', '░'];

/// What the control key and C send.
const CONTROL_C: &[u8] = b"\x03";

/// A backup that has read some blocks and waits for the others until [`let_go`].
async fn held_backup(one: &OneProcess, instance: &TestInstance) -> JobId {
    let hang = Rule::new(Effect::Hang { seconds: None }).on("ebs", "GetSnapshotBlock");
    one.sim.context().faults.set_rules(vec![Rule { skip: 20, ..hang }]);
    let asked = one.shell.json(&["backup", &one.tenant, instance.id.as_str()]).await.unwrap();
    let id: JobId = asked["id"].as_str().unwrap().parse().unwrap();
    let is_reading = || async { job(one, id).await.tasks[0].progress.bytes_read > 0 };
    eventually(BOUND, "blocks are read", is_reading).await.unwrap();
    id
}

fn let_go(one: &OneProcess) {
    one.sim.context().faults.set_rules(Vec::new());
}

async fn job(one: &OneProcess, id: JobId) -> Job {
    Client::new(&one.shell.server, None).unwrap().job(id).await.unwrap()
}

/// `snapferry job watch` in the background, without a terminal.
fn watcher(one: &OneProcess, id: JobId) -> Process {
    let arguments = ["--server", &one.shell.server, "job", "watch", &id.to_string()];
    Process::spawn("snapferry", &arguments, &[], &one.dir.join(format!("watch-{id}.log"))).unwrap()
}

/// `snapferry job watch` on a terminal.
struct Terminal {
    script: Child,
    screen: PathBuf,
}

impl Terminal {
    fn watch(one: &OneProcess, id: JobId, name: &str) -> Self {
        let screen = one.dir.join(name);
        let binary = workspace_binary("snapferry").unwrap();
        let typed = format!("exec '{}' --server {} job watch {id}", binary.display(), one.shell.server);
        let script = Command::new("script")
            .args(["-qec", &typed, "/dev/null"])
            .envs([("TERM", "xterm"), ("SHELL", "/bin/sh")])
            .stdin(Stdio::piped())
            .stdout(File::create(&screen).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { script, screen }
    }

    fn shows(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.screen).unwrap()).into_owned()
    }

    async fn press(&mut self, keys: &[u8]) {
        self.script.stdin.as_mut().unwrap().write_all(keys).await.unwrap();
    }

    /// Its exit code. The keyboard stays until then: without one, `script` ends what runs in it.
    async fn code(&mut self) -> i32 {
        let keyboard = self.script.stdin.take();
        let status = tokio::time::timeout(BOUND, self.script.wait()).await.unwrap().unwrap();
        drop(keyboard);
        status.code().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_shows_bars_and_an_interrupted_watch_leaves_the_job_alone() {
    let one = OneProcess::start(false).await.unwrap();
    let instance = TestInstance::place(one.sim.context(), "web", 30).unwrap();
    let id = held_backup(&one, &instance).await;

    let mut terminal = Terminal::watch(&one, id, "interrupted");
    let has_bar = || async {
        let screen = terminal.shows();
        [instance.id.as_str(), "%", " read ", " sent"].iter().all(|part| screen.contains(part))
            && BAR.iter().any(|part| screen.contains(*part))
    };
    eventually(BOUND, "the bar is drawn", has_bar).await.unwrap();
    terminal.press(CONTROL_C).await;
    assert_eq!(terminal.code().await, 130, "{}", terminal.shows());
    assert!(!job(&one, id).await.summary.state.is_terminal(), "the job was only watched");

    let mut terminal = Terminal::watch(&one, id, "to-the-end");
    let is_drawn = || async { terminal.shows().contains(instance.id.as_str()) };
    eventually(BOUND, "the bar is drawn again", is_drawn).await.unwrap();
    let_go(&one);
    assert_eq!(terminal.code().await, 0, "{}", terminal.shows());
    let screen = terminal.shows();
    assert!(screen.contains("100%") && screen.contains("succeeded"), "{screen}");

    // The same job without a terminal: the result, and beside it what was noted.
    let answer = one.shell.run(&["job", "watch", &id.to_string()]).await.unwrap();
    assert!(answer.code == 0 && answer.stdout.contains("succeeded"), "{answer:#?}");
    assert!(answer.stderr.contains("blocks are moved by ebs_direct"), "{answer:#?}");
    assert!(!answer.stdout.contains(BAR) && !answer.stderr.contains(BAR), "{answer:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watching_command_outlives_a_restart_of_the_scheduler() {
    let mut one = OneProcess::start(false).await.unwrap();
    let instance = TestInstance::place(one.sim.context(), "web", 30).unwrap();
    let id = held_backup(&one, &instance).await;
    let mut watcher = watcher(&one, id);
    watcher.wait_for_line("blocks are moved by", BOUND).await.unwrap();
    // A restart that is quicker than its next question goes unseen: the process is away until it was missed.
    one.stop().await.unwrap();
    watcher.wait_for_line("trying again", BOUND).await.unwrap();
    one.start_again().await.unwrap();
    assert_eq!(watcher.status().unwrap(), None, "it gave up: {}", watcher.log().unwrap());
    let_go(&one);
    assert!(watcher.wait(BOUND).await.unwrap().success(), "{}", watcher.log().unwrap());
    assert!(watcher.log().unwrap().contains("succeeded"), "{}", watcher.log().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_ends_its_watcher_with_another_code_and_leaves_nothing() {
    let one = OneProcess::start(false).await.unwrap();
    let sim = one.sim.context();
    let instance = TestInstance::place(sim, "web", 30).unwrap();
    let before = sim.world.inventory(Some(ACCOUNT));
    let held = held_backup(&one, &instance).await;
    let mut watcher = watcher(&one, held);
    watcher.wait_for_line("blocks are moved by", BOUND).await.unwrap();
    let id = held.to_string();
    let cancelled = one.shell.json(&["job", "cancel", &id]).await.unwrap();
    assert!(["cancelling", "cancelled"].contains(&cancelled["state"].as_str().unwrap()), "{cancelled:#}");
    assert_eq!(watcher.wait(BOUND).await.unwrap().code(), Some(6));
    let_go(&one);
    let log = watcher.log().unwrap();
    assert!(log.contains(&format!("error: job {id} cancelled")) && !log.contains(BAR), "{log}");
    let listed = one.shell.succeed(&["job", "list"]).await.unwrap();
    assert!(listed.lines().any(|line| line.contains(&id) && line.contains("cancelled")), "{listed}");
    let is_clean = || async { sim.world.inventory(Some(ACCOUNT)) == before };
    eventually(BOUND, "nothing of it is left in AWS", is_clean).await.unwrap();

    // What is done stays as it is, and what never was is not found.
    let done = one.shell.done(&["backup", &one.tenant, instance.id.as_str()]).await.unwrap();
    let done = one.shell.json(&["job", "cancel", &done.summary.id.to_string()]).await.unwrap();
    assert_eq!(done["state"], "succeeded");
    let unknown = JobId::generate().to_string();
    let of_unknown =
        [vec!["show"], vec!["watch"], vec!["cancel"], vec!["suspend"], vec!["resume"], vec!["priority"]];
    for mut verb in of_unknown {
        let new = (verb == ["priority"]).then_some("high");
        verb.insert(0, "job");
        verb.push(&unknown);
        verb.extend(new);
        let answer = one.shell.run(&verb).await.unwrap();
        assert!(answer.code == 3 && answer.stderr.contains(&unknown), "{verb:?}: {answer:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_failed_says_why_in_one_sentence_wherever_it_is_shown() {
    let one = OneProcess::start(false).await.unwrap();
    let instance = TestInstance::place(one.sim.context(), "web", 4).unwrap();
    let cases: [(&[&str], &str, &str); 2] = [
        (&[NOWHERE], "failed", ""),
        (&[instance.id.as_str(), NOWHERE], "partly_failed", "1 of 2 tasks failed: "),
    ];
    for (instances, state, begins) in cases {
        let asked = one.shell.json(&[&["backup", &one.tenant], instances].concat()).await.unwrap();
        let id = asked["id"].as_str().unwrap();
        let answer = one.shell.run(&["job", "watch", id]).await.unwrap();
        assert_eq!(answer.code, 6, "{answer:#?}");
        let shown = one.shell.json(&["job", "show", id]).await.unwrap();
        assert_eq!(shown["state"], state);
        let why = shown["error"].as_str().unwrap();
        assert!(why.starts_with(&format!("{begins}{NOWHERE}: ")), "{why}");
        let last = format!("error: job {id} {state}: {why}\n");
        assert!(answer.stderr.ends_with(&last), "{answer:#?}");
        let shown = one.shell.succeed(&["job", "show", id]).await.unwrap();
        let head = shown.lines().take_while(|line| !line.is_empty());
        let errors: Vec<&str> = head.filter_map(|line| line.strip_prefix("error")).map(str::trim).collect();
        assert_eq!(errors, [why], "{shown}");
        let listed = one.shell.succeed(&["job", "list"]).await.unwrap();
        let newest = listed.lines().nth(1).unwrap();
        assert!(newest.contains(id) && newest.contains(state), "{listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_shown_without_its_secrets_and_forgotten_when_nothing_refers_to_it() {
    let one = OneProcess::start(false).await.unwrap();
    let (shell, tenant) = (&one.shell, one.tenant.as_str());
    let instance = TestInstance::place(one.sim.context(), "web", 2).unwrap();
    let listed = shell.json(&["hypervisor", "list"]).await.unwrap();
    let admin = listed.as_array().unwrap().iter().find(|found| found["id"] != tenant).unwrap();
    let admin = admin["id"].as_str().unwrap();
    let shown = shell.succeed(&["hypervisor", "show", tenant]).await.unwrap();
    for part in [tenant, "customer", &format!("tenant of {admin}"), ACCOUNT, REGION, &one.sim.endpoint()] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let secret = std::fs::read_to_string(one.dir.join("service.secret")).unwrap();
    for id in [tenant, admin] {
        for format in ["table", "json"] {
            let shown = shell.succeed(&["hypervisor", "show", id, "--output", format]).await.unwrap();
            assert!(!shown.contains(EXTERNAL_ID) && !shown.contains(secret.trim()), "{shown}");
        }
    }

    let refused = async |id: &str, why: &str| {
        let answer = shell.run(&["hypervisor", "remove", id]).await.unwrap();
        assert!(answer.code == 1 && answer.stdout.is_empty(), "{answer:#?}");
        assert!(answer.stderr.contains(id) && answer.stderr.contains(why), "{answer:#?}");
    };
    refused(admin, "still has 1 tenant hypervisors").await;
    let job = shell.done(&["backup", tenant, instance.id.as_str()]).await.unwrap();
    refused(tenant, "still has 1 recovery points").await;
    shell.done(&["recovery-point", "delete", &Rig::recovery_point(&job).unwrap().to_string()]).await.unwrap();
    for id in [tenant, admin] {
        let is_removed = || async {
            // What another call is about at this moment cannot be removed, and is the next time.
            shell.run(&["ledger", "reap"]).await.unwrap();
            shell.succeed(&["hypervisor", "remove", id]).await.is_ok()
        };
        if eventually(BOUND, "what was made in the account is gone, and so is the account", is_removed)
            .await
            .is_err()
        {
            let (refused, left) =
                (shell.run(&["hypervisor", "remove", id]).await, shell.run(&["ledger", "list"]).await);
            panic!("{refused:#?} {left:#?}");
        }
        for verb in ["show", "remove"] {
            let answer = shell.run(&["hypervisor", verb, id]).await.unwrap();
            assert!(answer.code == 3 && answer.stderr.contains(id), "{verb}: {answer:#?}");
        }
    }
    assert_eq!(shell.json(&["hypervisor", "list"]).await.unwrap().as_array().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_scheduler_there_are_version_completions_and_plain_refusals() {
    let nowhere = format!("http://127.0.0.1:{}", free_port().unwrap());
    let shell = CommandLine { server: nowhere.clone(), token: None };
    let version = shell.succeed(&["--version"]).await.unwrap();
    assert_eq!(version, format!("snapferry {}\n", env!("CARGO_PKG_VERSION")));
    for name in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = shell.succeed(&["completions", name]).await.unwrap();
        assert!(["recovery-point", "intelli-snap"].iter().all(|noun| script.contains(noun)), "{name}");
    }
    let (tenant, job) =
        (snapferry_types::HypervisorId::generate().to_string(), JobId::generate().to_string());
    let cases: [(&[&str], i32, &str); 7] = [
        (&["nonsense"], 2, "nonsense"),
        (&["job", "nonsense"], 2, "nonsense"),
        (&["completions", "nonsense"], 2, "nonsense"),
        (&["job", "priority", &job, "nonsense"], 2, "nonsense"),
        (&["--server", "nonsense", "job", "list"], 2, "nonsense"),
        (&["hypervisor", "show", &tenant], 4, &nowhere),
        (&["backup", &tenant, NOWHERE, "--watch"], 4, &nowhere),
    ];
    for (arguments, code, says) in cases {
        let answer = shell.run(arguments).await.unwrap();
        assert_eq!(answer.code, code, "{arguments:?}: {answer:#?}");
        assert!(answer.stderr.contains(says) && answer.stdout.is_empty(), "{arguments:?}: {answer:#?}");
    }
}
