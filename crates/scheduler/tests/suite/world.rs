//! A store with an admin, a tenant, a node and a MediaAgent.

use std::sync::Arc;
use std::time::Duration;

use snapferry_api::hypervisor::{
    AdminSignIn, CreateHypervisor, CreateRole, Hypervisor, ReadAs, TenantSignIn,
};
use snapferry_api::job::{CreateJob, Priority, StreamingBackup, Work};
use snapferry_api::protect::{BackupCopy, IntelliSnap};
use snapferry_api::restore::{Restore, RestoreFrom, RestoreTarget};
use snapferry_scheduler::clock::{Clock as _, ManualClock};
use snapferry_scheduler::store::{
    ClaimBy, ClaimVerdict, FinishOutcome, Limits, Lost, MediaAgentFigures, NodeFigures, Offer, OtherShares,
    SealedPoint, Step, Store, StoreError, Submission,
};
use snapferry_scheduler::vault::Vault;
use snapferry_types::catalogue::{RecoveryPointKind, RecoveryPointMeta, VolumeMeta};
use snapferry_types::instance::{InstanceConfig, OsFamily};
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind, Purpose};
use snapferry_types::spec::{Operation, TaskSpec};
use snapferry_types::{
    AccessNodeId, IncarnationId, JobId, LedgerId, MediaAgentId, RecoveryPointId, TaskId, TransportWish,
};

pub(crate) const QUEUE: &str = "snapferry.task.v1.eu-central-1.linux.default";
pub(crate) const SECRET: &str = "a-secret-that-is-nowhere-in-the-clear";

pub(crate) const LIMITS: Limits = Limits {
    max_attempts: 3,
    max_crashes: 3,
    retry_base: Duration::from_secs(10),
    retry_max: Duration::from_secs(60),
};

pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) admin: Hypervisor,
    pub(crate) tenant: Hypervisor,
    pub(crate) node: NodeFigures,
    pub(crate) media_agent: MediaAgentId,
}

pub(crate) fn vault() -> Vault {
    Vault::new(&[7; 32]).unwrap()
}

impl World {
    pub(crate) async fn new(url: String) -> Self {
        let clock = Arc::new(ManualClock::new());
        let store = Arc::new(Store::open(&url, vault(), clock.clone()).await.unwrap());
        let admin = store.create_hypervisor(&admin()).await.unwrap();
        let tenant = store.create_hypervisor(&tenant("acme", &admin)).await.unwrap();
        let node = node();
        let media_agent = MediaAgentId::generate();
        let world = Self { url, store, clock, admin, tenant, node, media_agent };
        world.hello().await;
        world
    }

    /// The same database, opened by the next process.
    pub(crate) async fn reopen(&mut self) {
        self.store.close().await;
        self.store = Arc::new(Store::open(&self.url, vault(), self.clock.clone()).await.unwrap());
    }

    pub(crate) async fn hello(&self) {
        self.store.node_seen(&self.node).await.unwrap();
        self.store.media_agent_seen(&media_agent(self.media_agent)).await.unwrap();
    }

    pub(crate) fn backup(&self, instance: &str) -> CreateJob {
        CreateJob {
            work: Work::StreamingBackup(StreamingBackup {
                hypervisor: self.tenant.id,
                instances: vec![instance.parse().unwrap()],
                region: None,
                media_agent: None,
                full: false,
                transport: TransportWish::default(),
                retention: None,
            }),
            priority: Priority::Normal,
        }
    }

    pub(crate) async fn submit(&self, request: &CreateJob) -> JobId {
        let submission = Submission { request, idempotency_key: None, only: None };
        self.store.submit(&submission).await.unwrap().job
    }

    pub(crate) async fn only_task(&self, job: JobId) -> TaskId {
        let tasks = self.store.job(job).await.unwrap().tasks;
        assert_eq!(tasks.len(), 1);
        tasks[0].id
    }

    /// Offers whatever is next.
    pub(crate) async fn try_offer(&self) -> Option<Offer> {
        for group in self.store.waiting().await.unwrap() {
            let since_ms = self.clock.wall_ms() - 60_000;
            if let Some(offer) = self.store.offer(&group, QUEUE, since_ms).await.unwrap() {
                return Some(offer);
            }
        }
        None
    }

    pub(crate) async fn offer(&self) -> Offer {
        self.try_offer().await.expect("something can be offered")
    }

    pub(crate) fn by(&self, offer: Offer) -> ClaimBy {
        ClaimBy {
            task: offer.task,
            dispatch: offer.dispatch,
            node: self.node.id,
            incarnation: self.node.incarnation,
            heard_since_ms: self.clock.wall_ms() - 60_000,
        }
    }

    pub(crate) async fn claim(&self, offer: Offer) -> TaskSpec {
        match self.store.claim(self.by(offer), "test").await.unwrap() {
            ClaimVerdict::Granted(grant) => grant.spec,
            other => panic!("not granted: {other:?}"),
        }
    }

    /// Submits, offers and claims a backup.
    pub(crate) async fn running(&self, instance: &str) -> TaskSpec {
        self.submit(&self.backup(instance)).await;
        self.claim(self.offer().await).await
    }
}

impl World {
    pub(crate) fn job(work: Work) -> CreateJob {
        CreateJob { work, priority: Priority::Normal }
    }

    pub(crate) fn snap_request(&self, instance: &str) -> IntelliSnap {
        IntelliSnap {
            hypervisor: self.tenant.id,
            instances: vec![instance.parse().unwrap()],
            region: None,
            vault: None,
            retention: None,
        }
    }

    pub(crate) fn copy_request(&self, points: &[RecoveryPointId]) -> BackupCopy {
        BackupCopy {
            hypervisor: self.tenant.id,
            recovery_points: points.to_vec(),
            media_agent: None,
            full: false,
            transport: TransportWish::default(),
            retention: None,
        }
    }

    pub(crate) fn restore_request(point: RecoveryPointId, from: RestoreFrom) -> Restore {
        Restore {
            recovery_point: point,
            from,
            volumes: Vec::new(),
            target: RestoreTarget::Volumes { availability_zone: None, attach: None },
            tags: Vec::new(),
            transport: TransportWish::EbsDirect,
            kms_key_id: None,
        }
    }

    /// What is refused, in a sentence.
    pub(crate) async fn refused(&self, work: Work) -> String {
        let request = Self::job(work);
        let submission = Submission { request: &request, idempotency_key: None, only: None };
        match self.store.submit(&submission).await {
            Err(StoreError::Invalid(why) | StoreError::Conflict(why)) => why,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Submits, offers and claims.
    pub(crate) async fn at_work(&self, work: Work) -> TaskSpec {
        self.submit(&Self::job(work)).await;
        self.claim(self.offer().await).await
    }

    pub(crate) async fn succeed(&self, spec: &TaskSpec) {
        let done = FinishOutcome::Succeeded(Vec::new());
        self.store.finish(spec.task, spec.fence, None, done, &LIMITS).await.unwrap();
        self.clock.advance(Duration::from_secs(1));
        self.hello().await;
    }

    pub(crate) async fn record(&self, spec: &TaskSpec, step: Step) -> Result<OtherShares, StoreError> {
        self.store.record(spec.task, spec.fence, step).await
    }

    /// What `spec` seals now; `source` is what it copies.
    pub(crate) fn sealed(
        &self,
        spec: &TaskSpec,
        instance: &str,
        snapshot: &str,
        source: Option<RecoveryPointId>,
    ) -> SealedPoint {
        let at_ms = match &spec.operation {
            Operation::BackupCopy(copy) => copy.meta.point_in_time_ms,
            _ => u64::try_from(self.clock.wall_ms()).unwrap(),
        };
        let mut meta = meta(spec, instance, snapshot, at_ms);
        meta.kind = match &spec.operation {
            Operation::IntelliSnap(_) => RecoveryPointKind::Snapshot,
            Operation::BackupCopy(_) => RecoveryPointKind::Copy,
            _ => RecoveryPointKind::Streamed,
        };
        meta.copy_of = source;
        SealedPoint {
            id: RecoveryPointId::generate(),
            metadata: serde_json::to_vec(&meta).unwrap(),
            logical_bytes: 1 << 30,
            read_bytes: 4_096,
            stored_bytes: 1_024,
        }
    }

    /// An IntelliSnap backup from request to end; answers its recovery point.
    pub(crate) async fn snapped(&self, request: IntelliSnap, snapshot: &str) -> RecoveryPointId {
        let instance = request.instances[0].to_string();
        let spec = self.at_work(Work::IntelliSnap(request)).await;
        let mut entry = source_entry(&spec, snapshot);
        entry.purpose = Purpose::RecoveryPoint;
        self.record(&spec, Step::Ledger(entry)).await.unwrap();
        let point = self.sealed(&spec, &instance, snapshot, None);
        self.record(&spec, Step::Sealed(point.clone())).await.unwrap();
        self.succeed(&spec).await;
        point.id
    }

    /// Seals what a claimed backup copy makes, and ends it; answers the copy.
    pub(crate) async fn copied(&self, spec: &TaskSpec) -> RecoveryPointId {
        let Operation::BackupCopy(copy) = &spec.operation else { panic!("{:?}", spec.operation) };
        let instance = copy.meta.instance.instance_id.to_string();
        let snapshot = copy.meta.volumes[0].snapshot_id.to_string();
        let point = self.sealed(spec, &instance, &snapshot, Some(copy.source));
        self.record(spec, Step::Sealed(point.clone())).await.unwrap();
        self.succeed(spec).await;
        point.id
    }

    /// Somebody deletes snapshots, and that is noticed.
    pub(crate) async fn lose(&self, snapshots: &[&str]) -> Lost {
        let mut all = Lost::default();
        for kept in self.store.kept_snapshots(self.tenant.id).await.unwrap() {
            let existing = kept.ids().into_iter().filter(|id| !snapshots.contains(&id.as_str())).collect();
            let lost = self.store.note_lost(&kept, &existing).await.unwrap();
            all.missing.extend(lost.missing);
            all.new.extend(lost.new);
            all.recovery_points.extend(lost.recovery_points);
        }
        all
    }
}

pub(crate) fn admin() -> CreateHypervisor {
    CreateHypervisor {
        name: "service".to_owned(),
        account: "111111111111".parse().unwrap(),
        regions: vec!["eu-central-1".parse().unwrap()],
        endpoint_url: None,
        read_as: ReadAs::Tenant,
        role: CreateRole::Admin {
            sign_in: AdminSignIn::AccessKey {
                access_key_id: "AKIAAAAAAAAAAAAAAAAA".to_owned(),
                secret_access_key: SECRET.into(),
            },
            roles: Vec::new(),
        },
    }
}

pub(crate) fn tenant(name: &str, admin: &Hypervisor) -> CreateHypervisor {
    CreateHypervisor {
        name: name.to_owned(),
        account: "222222222222".parse().unwrap(),
        regions: vec!["eu-central-1".parse().unwrap(), "eu-west-1".parse().unwrap()],
        endpoint_url: None,
        read_as: ReadAs::Tenant,
        role: CreateRole::Tenant {
            use_admin_account_resources: admin.id,
            sign_in: TenantSignIn::AssumeRole {
                role_arn: "arn:aws:iam::222222222222:role/snapferry".to_owned(),
                external_id: SECRET.into(),
            },
        },
    }
}

pub(crate) fn node() -> NodeFigures {
    NodeFigures {
        id: AccessNodeId::generate(),
        incarnation: IncarnationId::generate(),
        name: "node-1".to_owned(),
        region: "eu-central-1".to_owned(),
        availability_zone: String::new(),
        os: "linux".to_owned(),
        group: "default".to_owned(),
        queue: QUEUE.to_owned(),
        slots: 2,
        free_slots: 2,
        version: "0".to_owned(),
        transports: Vec::new(),
    }
}

pub(crate) fn media_agent(id: MediaAgentId) -> MediaAgentFigures {
    MediaAgentFigures {
        id,
        name: "store-1".to_owned(),
        endpoint: "http://127.0.0.1:7443".to_owned(),
        version: "0".to_owned(),
        stored_bytes: 0,
        free_bytes: 1 << 40,
        recovery_points: 0,
        scrub_done: 0,
        collect_done: 0,
        last_scrub: None,
    }
}

pub(crate) fn source_entry(spec: &TaskSpec, snapshot: &str) -> LedgerEntry {
    LedgerEntry {
        id: LedgerId::generate(),
        task: spec.task,
        kind: ObjectKind::Snapshot,
        purpose: Purpose::BackupSource,
        account: spec.tenant_access.account.clone(),
        region: spec.tenant_access.region.clone(),
        object_ids: vec![snapshot.to_owned()],
        state: LedgerState::Made,
    }
}

pub(crate) fn meta(spec: &TaskSpec, instance: &str, snapshot: &str, at_ms: u64) -> RecoveryPointMeta {
    RecoveryPointMeta {
        version: 1,
        account: spec.tenant_access.account.clone(),
        task: spec.task,
        point_in_time_ms: at_ms,
        instance: InstanceConfig {
            version: 1,
            instance_id: instance.parse().unwrap(),
            region: spec.tenant_access.region.clone(),
            availability_zone: "eu-central-1a".to_owned(),
            tenancy: None,
            placement_group: None,
            instance_type: "m6i.large".to_owned(),
            os: OsFamily::Linux,
            architecture: "x86_64".to_owned(),
            boot_mode: None,
            image_id: None,
            virtualization_type: None,
            ena_support: true,
            key_name: None,
            iam_instance_profile_arn: None,
            ebs_optimized: false,
            root_device_name: "/dev/xvda".to_owned(),
            network_interfaces: Vec::new(),
            product_codes: Vec::new(),
            outpost_arn: None,
            tags: Vec::new(),
            volumes: Vec::new(),
        },
        volumes: vec![VolumeMeta {
            volume_id: "vol-0a".parse().unwrap(),
            snapshot_id: snapshot.parse().unwrap(),
            n_blocks: 2_048,
            incremental: false,
        }],
        base: None,
        kind: RecoveryPointKind::Streamed,
        copy_of: None,
        vaults: Vec::new(),
        transport: None,
    }
}
