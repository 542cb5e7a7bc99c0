//! Discovery and the reaper against the simulated AWS.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod suite;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use awssim::store::SyntheticSpec;
use awssim::{Config, Running, Server};
use prometheus::Registry;
use serde_json::json;
use snapferry_api::hypervisor::{AdminSignIn, CreateRole};
use snapferry_api::job::{TaskError, Work};
use snapferry_api::ledger::Reap;
use snapferry_aws::ec2::{self, ImageVolume, NewImage, NewInstance, NewVolume};
use snapferry_aws::{Account, AwsError, SessionPurpose, SessionScope};
use snapferry_scheduler::clock::Clock as _;
use snapferry_scheduler::config::{ReaperConfig, ReconcileConfig};
use snapferry_scheduler::discovery::{AwsDiscovery, Discovery as _};
use snapferry_scheduler::metrics::Metrics;
use snapferry_scheduler::reaper::{Reaped, Reaper};
use snapferry_scheduler::reconcile::{AwsSnapshots, Reconciler};
use snapferry_scheduler::store::{FinishOutcome, Step};
use snapferry_types::aws::Tag;
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind, Purpose, ownership_tags};
use snapferry_types::spec::TaskSpec;
use snapferry_types::{AccountAccess, HypervisorId, InstanceId, LedgerId, VolumeId};
use suite::world::{LIMITS, SECRET, World, admin, source_entry, tenant};
use tokio_util::sync::CancellationToken;

const SERVICE: &str = "111111111111";
const TENANT: &str = "222222222222";
const REGION: &str = "eu-central-1";

/// The world of the store suite, and its accounts in a simulated AWS.
struct Sim {
    world: World,
    server: Running,
    hypervisor: HypervisorId,
    _folder: tempfile::TempDir,
}

async fn sim() -> Sim {
    let folder = tempfile::tempdir().unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::start(Config { listen, data_dir: folder.path().join("aws") }).await.unwrap();
    let aws = &server.context().world;
    let key = aws.create_user(SERVICE, "service", Vec::new());
    aws.create_user(TENANT, "owner", Vec::new());
    let trust = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Principal": { "AWS": format!("arn:aws:iam::{SERVICE}:root") },
        "Action": "sts:AssumeRole",
        "Condition": { "StringEquals": { "sts:ExternalId": SECRET } }
    }] });
    aws.create_role(TENANT, "snapferry", trust, Vec::new());

    let mut world = World::new(format!("sqlite:{}", folder.path().join("db").display())).await;
    let mut service = admin();
    service.name = "simulated".to_owned();
    service.endpoint_url = Some(server.endpoint());
    service.role = CreateRole::Admin {
        sign_in: AdminSignIn::AccessKey {
            access_key_id: key.access_key_id.clone(),
            secret_access_key: key.secret_access_key.clone().into(),
        },
        roles: Vec::new(),
    };
    let service = world.store.create_hypervisor(&service).await.unwrap();
    let mut account = tenant("simulated-tenant", &service);
    account.endpoint_url = Some(server.endpoint());
    world.tenant = world.store.create_hypervisor(&account).await.unwrap();
    let hypervisor = world.tenant.id;
    Sim { world, server, hypervisor, _folder: folder }
}

impl Sim {
    async fn access(&self) -> AccountAccess {
        self.world.store.account_access(self.hypervisor, &REGION.parse().unwrap()).await.unwrap()
    }

    async fn account(&self) -> Account {
        let purpose = SessionPurpose::named("test", SessionScope::Unrestricted);
        Account::open(&self.access().await, purpose).await.unwrap()
    }

    async fn instance(&self, account: &Account) -> InstanceId {
        let context = self.server.context();
        context.store.create_synthetic("snap-0a", &empty_disk()).unwrap();
        context.world.register_snapshot(TENANT, REGION, "snap-0a", 1);
        let image = NewImage {
            name: "golden".to_owned(),
            architecture: "x86_64".to_owned(),
            boot_mode: None,
            virtualization_type: None,
            ena_support: true,
            root_device_name: "/dev/xvda".to_owned(),
            volumes: vec![ImageVolume {
                device_name: "/dev/xvda".to_owned(),
                snapshot: "snap-0a".parse().unwrap(),
                size_gib: 1,
                volume_type: "gp3".to_owned(),
                iops: None,
                throughput_mibps: None,
                delete_on_termination: true,
            }],
            tags: Vec::new(),
        };
        let image_id = ec2::register_image(account, &image).await.unwrap();
        let instance = NewInstance {
            image_id,
            instance_type: "m6i.large".to_owned(),
            network_interfaces: Vec::new(),
            private_ip: None,
            keep_private_ips: false,
            key_name: None,
            iam_instance_profile: None,
            volume_keys: Vec::new(),
            availability_zone: None,
            tenancy: None,
            placement_group: None,
            ebs_optimized: false,
            tags: vec![Tag::new("Name", "web-1")],
            client_token: LedgerId::generate().to_string(),
        };
        let id = ec2::run_instance(account, &instance).await.unwrap();
        ec2::wait_instance_running(account, &id, &CancellationToken::new()).await.unwrap();
        id
    }
}

impl Sim {
    /// A new volume that the instance has at a device.
    async fn attached(&self, account: &Account, instance: &InstanceId, device: &str) -> VolumeId {
        let described = ec2::describe_instance(account, instance).await.unwrap();
        let new = NewVolume {
            snapshot: None,
            availability_zone: described.config.availability_zone,
            size_gib: Some(1),
            volume_type: "gp3".to_owned(),
            iops: None,
            throughput_mibps: None,
            encrypted: false,
            kms_key_id: None,
            tags: Vec::new(),
            client_token: LedgerId::generate().to_string(),
        };
        let (volume, stop) = (ec2::create_volume(account, &new).await.unwrap(), CancellationToken::new());
        ec2::wait_volume_available(account, &volume, &stop).await.unwrap();
        ec2::attach_volume(account, &volume, instance, device).await.unwrap();
        ec2::wait_volume_attached(account, &volume, instance, &stop).await.unwrap();
        volume
    }

    /// Records that a task has made an object.
    async fn made(&self, spec: &TaskSpec, kind: ObjectKind, purpose: Purpose, id: &str) -> LedgerEntry {
        let entry = LedgerEntry { kind, purpose, ..source_entry(spec, id) };
        self.world.record(spec, Step::Ledger(entry.clone())).await.unwrap();
        entry
    }

    /// A task fails, long ago.
    async fn failed(&self, spec: &TaskSpec) {
        let error = TaskError { class: "denied".to_owned(), message: String::new() };
        let failed = FinishOutcome::Failed { retryable: false, error };
        self.world.store.finish(spec.task, spec.fence, None, failed, &LIMITS).await.unwrap();
        self.world.clock.advance(Duration::from_secs(600));
    }

    fn reaper(&self, config: ReaperConfig) -> Reaper {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        Reaper::new(Arc::clone(&self.world.store), self.world.clock.clone(), config, metrics)
    }
}

fn empty_disk() -> SyntheticSpec {
    SyntheticSpec {
        volume_size_gib: 1,
        seed: 1,
        fraction_hole: 1.0,
        fraction_zero: 0.0,
        fraction_duplicate: 0.0,
        fraction_compressible: 0.0,
        fraction_random: 0.0,
        changed_from: None,
    }
}

#[tokio::test]
async fn a_tenants_instances_are_found_through_its_role() {
    let sim = sim().await;
    let id = sim.instance(&sim.account().await).await;
    let found = AwsDiscovery.instances(&sim.access().await).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].id, found[0].name.as_deref(), found[0].volumes.len()), (&id, Some("web-1"), 1));

    let mut stranger = sim.access().await;
    stranger.roles[0].external_id = Some("wrong".to_owned().into());
    let refused = AwsDiscovery.instances(&stranger).await.unwrap_err().to_string();
    assert!(refused.contains("external id") && !refused.contains(SECRET), "{refused}");
}

#[tokio::test]
async fn the_reaper_removes_what_a_failed_task_left_and_nothing_else() {
    let sim = sim().await;
    let account = sim.account().await;
    let instance = sim.instance(&account).await;
    let spec = sim.world.running(instance.as_str()).await;

    // Two objects: one whose making was recorded, one whose reply was lost.
    let mut known = source_entry(&spec, "snap-0");
    let mut lost = source_entry(&spec, "snap-0");
    let mut made = Vec::new();
    for entry in [&known, &lost] {
        let tags = ownership_tags("test", spec.task, entry.purpose, entry.id);
        let snapshots =
            ec2::create_snapshots(&account, &instance, &ec2::Exclude::default(), &tags).await.unwrap();
        assert_eq!(snapshots.len(), 1);
        made.push(snapshots[0].1.clone());
    }
    known.object_ids = vec![made[0].to_string()];
    lost.object_ids.clear();
    lost.state = LedgerState::Intended;
    for entry in [&known, &lost] {
        sim.world.store.record(spec.task, spec.fence, Step::Ledger(entry.clone())).await.unwrap();
    }
    ec2::wait_snapshots_completed(&account, &made, |_| {}, &CancellationToken::new()).await.unwrap();

    let metrics = Metrics::register(&Registry::new()).unwrap();
    let clock = sim.world.clock.clone();
    let reaper = Reaper::new(Arc::clone(&sim.world.store), clock, ReaperConfig::default(), metrics);
    let stop = CancellationToken::new();
    sim.world.clock.advance(Duration::from_secs(600));
    assert_eq!(reaper.round(&stop).await.unwrap(), Reaped::default(), "the task is at work");

    let error = TaskError { class: "denied".to_owned(), message: String::new() };
    let failed = FinishOutcome::Failed { retryable: false, error };
    sim.world.store.finish(spec.task, spec.fence, None, failed, &LIMITS).await.unwrap();
    assert!(!sim.world.store.reapable(sim.world.clock.wall_ms(), 10).await.unwrap().is_empty());
    let listed = reaper.reap(&Reap { hypervisor: None, dry_run: true }, &stop).await.unwrap();
    let listed: BTreeSet<_> = listed.iter().map(|one| (one.line.entry.id, one.removed)).collect();
    assert_eq!(
        listed,
        BTreeSet::from([(known.id, false), (lost.id, false)]),
        "a dry run shows what would go"
    );
    for entry in [&known, &lost] {
        let kept = ec2::find_by_ledger_tag(&account, ObjectKind::Snapshot, entry.id).await.unwrap();
        assert_eq!(kept.len(), 1, "and leaves it");
    }
    assert_eq!(reaper.round(&stop).await.unwrap(), Reaped { n_removed: 2, n_failed: 0 });
    for entry in [&known, &lost] {
        let left = ec2::find_by_ledger_tag(&account, ObjectKind::Snapshot, entry.id).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
    assert_eq!(reaper.round(&stop).await.unwrap(), Reaped::default(), "twice is once");
    let states = ec2::snapshot_states(&account, &["snap-0a".parse().unwrap()]).await.unwrap();
    assert_eq!(states.len(), 1, "the tenant's own snapshot is untouched");
}

#[tokio::test]
async fn a_volume_is_not_torn_off_a_tenants_instance() {
    let sim = sim().await;
    let account = sim.account().await;
    let instance = sim.instance(&account).await;
    let devices = tempfile::tempdir().unwrap();
    let aws = &sim.server.context().world;
    aws.add_access_node(TENANT, REGION, instance.as_str(), devices.path()).unwrap();
    let volume = sim.attached(&account, &instance, "/dev/sdf").await;
    // A program of the tenant has it open.
    let device = std::fs::read_dir(devices.path()).unwrap().next().unwrap().unwrap().path();
    let open = std::fs::File::open(&device).unwrap();
    let spec = sim.world.running(instance.as_str()).await;
    sim.made(&spec, ObjectKind::Volume, Purpose::RestoreResult, volume.as_str()).await;
    sim.failed(&spec).await;

    let reaper = sim.reaper(ReaperConfig { removal_ms: 1_000, ..ReaperConfig::default() });
    let stop = CancellationToken::new();
    let asked = Reap { hypervisor: None, dry_run: false };
    let reaped = reaper.reap(&asked, &stop).await.unwrap();
    assert_eq!((reaped.len(), reaped[0].removed), (1, false));
    let error = reaped[0].error.as_ref().unwrap();
    assert!(error.contains("does not let go of it"), "{error}");
    assert!(aws.volumes(TENANT).iter().any(|one| one.id == volume.as_str()), "it is there, and whole");
    drop(open);
    sim.world.clock.advance(Duration::from_secs(600));
    assert_eq!(reaper.round(&stop).await.unwrap(), Reaped { n_removed: 1, n_failed: 0 });
    assert!(!aws.volumes(TENANT).iter().any(|one| one.id == volume.as_str()));
}

#[tokio::test]
async fn what_was_restored_for_an_instance_goes_with_it_and_nothing_else() {
    let sim = sim().await;
    let account = sim.account().await;
    let instance = sim.instance(&account).await;
    let root = ec2::describe_instance(&account, &instance).await.unwrap().config.volumes.remove(0);
    ec2::modify_delete_on_termination(&account, &instance, &[(root.device_name, false)]).await.unwrap();
    let somebodys = sim.attached(&account, &instance, "/dev/sdf").await;
    let spec = sim.world.running("i-0a").await;
    // The snapshot that the volume was made of is not needed any more.
    let staged = sim.made(&spec, ObjectKind::Snapshot, Purpose::RestoreStaging, "snap-0a").await;
    let gone = LedgerEntry { state: LedgerState::Gone, ..staged };
    sim.world.record(&spec, Step::Ledger(gone)).await.unwrap();
    sim.made(&spec, ObjectKind::Instance, Purpose::RestoreResult, instance.as_str()).await;
    sim.failed(&spec).await;

    let reaper = sim.reaper(ReaperConfig::default());
    let done = reaper.round(&CancellationToken::new()).await.unwrap();
    assert_eq!(done, Reaped { n_removed: 1, n_failed: 0 });
    let left = sim.server.context().world.volumes(TENANT);
    assert_eq!(left.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), [somebodys.as_str()]);
}

#[tokio::test]
async fn the_reaper_removes_what_is_in_the_service_account() {
    let sim = sim().await;
    let context = sim.server.context();
    context.store.create_synthetic("snap-0b", &empty_disk()).unwrap();
    context.world.register_snapshot(SERVICE, REGION, "snap-0b", 1);
    let spec = sim.world.running("i-0a").await;
    let mut entry = source_entry(&spec, "snap-0b");
    (entry.purpose, entry.account) = (Purpose::Vault, SERVICE.parse().unwrap());
    sim.world.store.record(spec.task, spec.fence, Step::Ledger(entry)).await.unwrap();
    let error = TaskError { class: "denied".to_owned(), message: String::new() };
    let failed = FinishOutcome::Failed { retryable: false, error };
    sim.world.store.finish(spec.task, spec.fence, None, failed, &LIMITS).await.unwrap();
    sim.world.clock.advance(Duration::from_secs(600));

    let (account, region) = (SERVICE.parse().unwrap(), REGION.parse().unwrap());
    let access = sim.world.store.object_access(sim.hypervisor, &account, &region).await.unwrap();
    let purpose = SessionPurpose::named("test", SessionScope::Unrestricted);
    let service = Account::open(&access, purpose).await.unwrap();
    let id = ["snap-0b".parse().unwrap()];
    assert_eq!(ec2::snapshot_states(&service, &id).await.unwrap().len(), 1);
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let clock = sim.world.clock.clone();
    let reaper = Reaper::new(Arc::clone(&sim.world.store), clock, ReaperConfig::default(), metrics);
    let done = reaper.round(&CancellationToken::new()).await.unwrap();
    assert_eq!(done, Reaped { n_removed: 1, n_failed: 0 });
    assert!(matches!(ec2::snapshot_states(&service, &id).await, Err(AwsError::NotFound { .. })));
}

#[tokio::test]
async fn snapshots_that_were_deleted_outside_are_found_missing_and_no_others() {
    let sim = sim().await;
    let account = sim.account().await;
    let instance = sim.instance(&account).await;
    let mut made = Vec::new();
    for _ in 0..3 {
        let request = sim.world.snap_request(instance.as_str());
        let spec = sim.world.at_work(Work::IntelliSnap(request)).await;
        let mut entry = source_entry(&spec, "snap-0");
        entry.purpose = Purpose::RecoveryPoint;
        let tags = ownership_tags("test", spec.task, entry.purpose, entry.id);
        let snapshots =
            ec2::create_snapshots(&account, &instance, &ec2::Exclude::default(), &tags).await.unwrap();
        let snapshot = snapshots[0].1.clone();
        entry.object_ids = vec![snapshot.to_string()];
        sim.world.record(&spec, Step::Ledger(entry)).await.unwrap();
        let point = sim.world.sealed(&spec, instance.as_str(), snapshot.as_str(), None);
        sim.world.record(&spec, Step::Sealed(point.clone())).await.unwrap();
        sim.world.succeed(&spec).await;
        made.push((point.id, snapshot));
    }
    let snapshots = made.iter().map(|(_, snapshot)| snapshot.clone()).collect::<Vec<_>>();
    ec2::wait_snapshots_completed(&account, &snapshots, |_| {}, &CancellationToken::new()).await.unwrap();

    let metrics = Metrics::register(&Registry::new()).unwrap();
    let store = Arc::clone(&sim.world.store);
    let reconciler =
        Reconciler::new(store, Arc::new(AwsSnapshots), ReconcileConfig::default(), metrics.clone());
    let found = reconciler.tenant(sim.hypervisor).await.unwrap();
    assert_eq!((found.n_checked, found.missing.len()), (3, 0));
    let (point, snapshot) = made[1].clone();
    ec2::delete_snapshot(&account, &snapshot).await.unwrap();
    let found = reconciler.tenant(sim.hypervisor).await.unwrap();
    assert_eq!((found.n_checked, found.missing, found.recovery_points), (3, vec![snapshot], vec![point]));
    assert_eq!(metrics.snapshots_lost.get(), 1);
    let found = reconciler.tenant(sim.hypervisor).await.unwrap();
    assert_eq!((found.n_checked, found.missing.len()), (2, 0), "what is gone is not looked for");
}
