//! The set-up of the README: the four programs with the configuration files that are shipped, driven by the command line.
//! Instances with real file systems come back as somebody finds who knows nothing of Snapferry: boto3, unmodified.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use awssim::disks::{self, Disk, FileSystem};
use awssim::{Config, Running, Server};
use serde_json::Value;
use snapferry_api::job::Job;
use snapferry_testkit::{Child, eventually, free_port, workspace_binary};
use snapferry_tests::{ACCOUNT, CommandLine, REGION, TestBroker, write_data};

const BOUND: Duration = Duration::from_secs(60);
const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Variables that lie over addresses in a file, each with which of the test's ports it gets.
type Addresses = &'static [(&'static str, usize)];

/// The programs, each with its file of `deploy/sample` and the addresses in it that must be free ones here.
const PROGRAMS: [(&str, &str, Addresses); 4] = [
    (
        "snapferry-scheduler",
        "scheduler",
        &[("SNAPFERRY_SCHEDULER_HTTP__LISTEN", 0), ("SNAPFERRY_SCHEDULER_LEASE__LISTEN", 1)],
    ),
    (
        "snapferry-media-agent",
        "media-agent",
        &[
            ("SNAPFERRY_MEDIA_AGENT_LISTEN", 2),
            ("SNAPFERRY_MEDIA_AGENT_SCHEDULER", 1),
            ("SNAPFERRY_MEDIA_AGENT_METRICS", 3),
        ],
    ),
    (
        "snapferry-agent",
        "agent-1",
        &[("SNAPFERRY_AGENT_AGENT__SCHEDULER", 1), ("SNAPFERRY_AGENT_AGENT__METRICS_LISTEN", 4)],
    ),
    (
        "snapferry-agent",
        "agent-2",
        &[("SNAPFERRY_AGENT_AGENT__SCHEDULER", 1), ("SNAPFERRY_AGENT_AGENT__METRICS_LISTEN", 5)],
    ),
];

/// Starts the four; their data is in the folder that they are started in.
fn start(dir: &Path, broker: &TestBroker, ports: &[u16]) -> Vec<Child> {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/sample");
    let programs = PROGRAMS.iter().map(|(program, file, addresses)| {
        let mut command = Command::new(workspace_binary(program).unwrap());
        command
            .arg("--config")
            .arg(samples.join(format!("{file}.toml")))
            .current_dir(dir)
            .env("SNAPFERRY_AMQP_URL", broker.url());
        for (name, port) in *addresses {
            let scheme = if name.ends_with("SCHEDULER") { "http://" } else { "" };
            command.env(name, format!("{scheme}127.0.0.1:{}", ports[*port]));
        }
        Child::spawn(file, command, &dir.join(format!("{file}.log"))).unwrap()
    });
    programs.collect()
}

/// An instance, its volumes, and the disks that they were made of.
struct Instance {
    id: String,
    volumes: Vec<String>,
    disks: Vec<Disk>,
}

/// An instance with two GPT disks of a file system each.
fn place(sim: &Running, dir: &Path, name: &str, file_system: FileSystem, seed: u64) -> Instance {
    let disks = ["root", "data"].map(|role| {
        let label = format!("{name}-{role}");
        Disk::make(dir, &label, file_system, GIB, 24 * MIB, seed).unwrap()
    });
    let platform = (file_system == FileSystem::Ntfs).then_some("windows");
    let placed = sim.context().place_instance(ACCOUNT, REGION, name, platform, &[1, 1]).unwrap();
    for (volume, disk) in placed.volumes.iter().zip(&disks) {
        disks::fill(&sim.context().store, volume, disk.image()).unwrap();
    }
    Instance { id: placed.instance, volumes: placed.volumes, disks: disks.into() }
}

/// What boto3 says of pairs of volumes: whether all are equal, and its words.
struct Boto3 {
    python: PathBuf,
    key: awssim::world::AccessKey,
    endpoint: String,
}

impl Boto3 {
    fn compare(&self, pairs: &[String]) -> (bool, String) {
        let output = Command::new(&self.python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compare_volumes.py"))
            .args(pairs)
            .env("AWS_ENDPOINT_URL", &self.endpoint)
            .env("AWS_ACCESS_KEY_ID", &self.key.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &self.key.secret_access_key)
            .env("AWS_REGION", REGION)
            .env("AWS_DEFAULT_REGION", REGION)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

/// The recovery point of an instance that a backup made.
fn point_of(job: &Job, instance: &str) -> String {
    let mut made = job.tasks.iter().flat_map(|task| &task.made);
    made.find(|made| made.kind == "recovery_point" && made.source == instance).unwrap().id.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_set_up_of_the_readme_brings_real_file_systems_back_as_boto3_finds() {
    let python = std::env::var_os("SNAPFERRY_TEST_PYTHON")
        .expect("SNAPFERRY_TEST_PYTHON names a Python that has boto3: run `cargo xtask test`");
    let folder = tempfile::Builder::new().prefix("snapferry-test-").tempdir().unwrap();
    let dir = folder.path();
    let sim = Server::start(Config { listen: "127.0.0.1:0".parse().unwrap(), data_dir: dir.join("aws") });
    let sim = sim.await.unwrap();
    let key = sim.context().world.create_user(ACCOUNT, "owner", Vec::new());
    let boto3 = Boto3 { python: python.into(), key, endpoint: sim.endpoint() };
    let broker = TestBroker::start(false).await.unwrap();
    let ports: Vec<u16> = (0..6).map(|_| free_port().unwrap()).collect();
    let programs = start(dir, &broker, &ports);
    let shell = CommandLine { server: format!("http://127.0.0.1:{}", ports[0]), token: None };
    let online = async |what: &str| {
        let all = shell.json(&[what, "list"]).await.unwrap_or_default();
        all.as_array().into_iter().flatten().filter(|one| one["online"] == Value::Bool(true)).count()
    };
    let are_up = async || online("access-node").await == 2 && online("media-agent").await == 1;
    let logs = || programs.iter().map(|one| one.log().unwrap()).collect::<Vec<_>>().join("\n---\n");
    let up = eventually(BOUND, "two agents and a MediaAgent are online", are_up).await;
    up.unwrap_or_else(|error| panic!("{error}\n{}", logs()));

    let tenant = shell.register(&sim, dir).await.unwrap();
    let linux = place(&sim, dir, "linux", FileSystem::Ext4, 1);
    let windows = place(&sim, dir, "windows", FileSystem::Ntfs, 2);
    let instances = [&linux, &windows];
    let mut read = Vec::new();
    for day in ["monday", "tuesday"] {
        let job = shell.done(&["backup", &tenant, &linux.id, &windows.id]).await.unwrap();
        read.push(job.tasks.iter().map(|task| task.progress.bytes_read).sum::<u64>());
        let mut pairs = Vec::new();
        for instance in instances {
            let point = point_of(&job, &instance.id);
            let restored = shell.done(&["restore", "volumes", &point]).await.unwrap();
            let made = restored.tasks.iter().flat_map(|task| &task.made);
            pairs.extend(made.map(|made| format!("{}={}", made.source, made.id)));
        }
        assert_eq!(pairs.len(), 4, "{pairs:?}");
        let (is_equal, says) = boto3.compare(&pairs);
        assert!(is_equal && says.matches(" are equal: ").count() == 4, "{day}: {says}");

        // A day's work; and boto3 would tell.
        for instance in instances {
            for (volume, disk) in instance.volumes.iter().zip(&instance.disks) {
                disk.change(dir, &format!("{day}.bin"), MIB, 7).unwrap();
                disks::update(&sim.context().store, volume, disk.image()).unwrap();
            }
        }
        write_data(sim.context(), &linux.volumes[1], 700, 1, 99).unwrap();
        let (is_equal, says) = boto3.compare(&pairs);
        assert!(!is_equal && says.matches(" differ at block ").count() == 4, "{day}: {says}");
    }
    assert!(read[1] < read[0] / 3, "what changed was read, not all: {read:?} bytes");
}
