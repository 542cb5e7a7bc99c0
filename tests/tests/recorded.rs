//! Every snapshot, volume, image, instance, share, import task and S3 object is in the ledger before AWS is asked to make
//! it: each call that makes one is held, and the ledger looked at meanwhile.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use awssim::faults::{Effect, Rule};
use snapferry_api::job::{Job, JobState};
use snapferry_api::ledger::LedgerQuery;
use snapferry_api::protect::VaultTo;
use snapferry_api::restore::{RestoreFrom, RestoreTarget};
use snapferry_testkit::eventually;
use snapferry_tests::{ACCOUNT, ELSEWHERE, Rig, RigOptions, SERVICE, TestInstance, vault};
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind};
use snapferry_types::{JobId, RecoveryPointId, TransportWish};

const BOUND: Duration = Duration::from_secs(60);

/// What there is to work with.
struct World {
    rig: Rig,
    instance: TestInstance,
    copy: RecoveryPointId,
}

impl World {
    async fn restore(&self, transport: TransportWish, target: RestoreTarget) -> JobId {
        let from = RestoreFrom::MediaAgent;
        self.rig.restore_with(self.copy, from, target, transport, None).await.unwrap()
    }

    async fn volumes(&self, transport: TransportWish) -> JobId {
        self.restore(transport, RestoreTarget::Volumes { availability_zone: None, attach: None }).await
    }

    /// What the ledger has of a job and AWS may not have yet.
    async fn intended(&self, job: &Job) -> Vec<LedgerEntry> {
        let lines = self.rig.client.ledger(&LedgerQuery::default()).await.unwrap().items;
        let entries = lines.into_iter().map(|line| line.entry);
        let is_one = |entry: &LedgerEntry| {
            entry.state == LedgerState::Intended && job.tasks.iter().any(|task| task.id == entry.task)
        };
        entries.filter(is_one).collect()
    }

    /// How often the agent was told to stop a task.
    fn n_told(&self) -> usize {
        self.rig.agents[0].log().unwrap().matches("told to stop").count()
    }

    /// Holds the first call of an action, submits what makes it, and checks what the ledger says meanwhile. The job is
    /// cancelled then, and ends.
    async fn recorded(
        &self,
        (service, action): (&str, &str),
        (kind, account): (ObjectKind, &str),
        job: impl Future<Output = JobId>,
    ) {
        let what = format!("{action} in {account}");
        self.rig.hurt(Rule::new(Effect::Hang { seconds: None }).on(service, action));
        let job = job.await;
        eventually(BOUND, &what, || async { self.rig.fired() > 0 }).await.unwrap();
        let running = self.rig.client.job(job).await.unwrap();
        let intended = self.intended(&running).await;
        let is_recorded = intended.iter().any(|one| one.kind == kind && one.account.as_str() == account);
        assert!(is_recorded, "{what}: {intended:#?}");
        let before = self.n_told();
        self.rig.client.cancel_job(job).await.unwrap();
        eventually(BOUND, "the agent knows", || async { self.n_told() > before }).await.unwrap();
        self.rig.let_go();
        let ends = |job: &Job| job.summary.state.is_terminal();
        let ended = self.rig.wait(job, "the job ends", ends).await.unwrap();
        assert_eq!(ended.summary.state, JobState::Cancelled, "{what}: {ended:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_made_is_in_the_ledger_before() {
    let options = RigOptions { n_agents: 1, with_service_resources: true, ..RigOptions::default() };
    let rig = Rig::start(options).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 3).unwrap();
    let copy = rig.backed_up(&instance).await.unwrap();
    let world = World { rig, instance, copy };
    let (rig, id) = (&world.rig, &world.instance.id);
    let back_up = |transport| async move { rig.back_up_by(id, transport).await.unwrap() };
    let snap = |to| async move { rig.snap(id, to).await.unwrap() };
    let (direct, hot_add, import) = (TransportWish::EbsDirect, TransportWish::HotAdd, TransportWish::Import);
    let new = || RestoreTarget::Instance(Box::default());

    let snapshot = (ObjectKind::Snapshot, ACCOUNT);
    world.recorded(("ec2", "CreateSnapshots"), snapshot, back_up(direct)).await;
    world.recorded(("ec2", "ModifySnapshotAttribute"), (ObjectKind::Share, ACCOUNT), back_up(hot_add)).await;
    world.recorded(("ec2", "CreateVolume"), (ObjectKind::Volume, SERVICE), back_up(hot_add)).await;

    world.recorded(("ebs", "StartSnapshot"), snapshot, world.volumes(direct)).await;
    world.recorded(("ec2", "CreateVolume"), (ObjectKind::Volume, ACCOUNT), world.volumes(direct)).await;
    world.recorded(("ec2", "CreateVolume"), (ObjectKind::Volume, SERVICE), world.volumes(hot_add)).await;
    world.recorded(("ec2", "CreateSnapshot"), (ObjectKind::Snapshot, SERVICE), world.volumes(hot_add)).await;
    let object = (ObjectKind::S3Object, SERVICE);
    world.recorded(("s3", "CreateMultipartUpload"), object, world.volumes(import)).await;
    world.recorded(("ec2", "ImportSnapshot"), (ObjectKind::ImportTask, SERVICE), world.volumes(import)).await;
    world
        .recorded(("ec2", "ModifySnapshotAttribute"), (ObjectKind::Share, SERVICE), world.volumes(import))
        .await;
    world.recorded(("ec2", "CopySnapshot"), snapshot, world.volumes(hot_add)).await;
    world
        .recorded(("ec2", "RegisterImage"), (ObjectKind::Image, ACCOUNT), world.restore(direct, new()))
        .await;
    world
        .recorded(("ec2", "RunInstances"), (ObjectKind::Instance, ACCOUNT), world.restore(direct, new()))
        .await;

    world.recorded(("ec2", "CreateSnapshots"), snapshot, snap(None)).await;
    let elsewhere = Some(vault(VaultTo::Tenant, Some(ELSEWHERE)));
    world.recorded(("ec2", "CopySnapshot"), snapshot, snap(elsewhere)).await;
    let given = Some(vault(VaultTo::ServiceCopy, None));
    world.recorded(("ec2", "CopySnapshot"), (ObjectKind::Snapshot, SERVICE), snap(given)).await;
    let shared = Some(vault(VaultTo::ServiceShare, None));
    world.recorded(("ec2", "ModifySnapshotAttribute"), (ObjectKind::Share, ACCOUNT), snap(shared)).await;
    rig.only_these_are_left(2, 2).await.unwrap();
}
