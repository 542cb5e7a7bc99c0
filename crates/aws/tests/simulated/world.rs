//! A simulated AWS of two accounts: a tenant with an instance, and the service account that may assume a role in it.

use std::net::SocketAddr;
use std::time::Duration;

use awssim::faults::{Effect, Quotas, Rule};
use awssim::store::{ChangedFrom, SyntheticSpec};
use awssim::{Config, Running, Server};
use secrecy::SecretString;
use serde_json::json;
use snapferry_aws::ec2::{self, ImageVolume, NewImage, NewInstance};
use snapferry_aws::{Account, Clients, QuotaSettings, SessionPurpose, SessionScope};
use snapferry_types::access::{AssumeRole, SignIn};
use snapferry_types::aws::Tag;
use snapferry_types::ledger::{Purpose, ownership_tags};
use snapferry_types::{AccountAccess, Credentials, InstanceId, LedgerId, Region, SnapshotId, TaskId};
use tokio_util::sync::CancellationToken;

pub(crate) const TENANT: &str = "111122223333";
pub(crate) const SERVICE: &str = "999900001111";
pub(crate) const REGION: &str = "eu-central-1";
pub(crate) const EXTERNAL_ID: &str = "only-for-snapferry";

/// Nothing waits longer than this.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) struct TestWorld {
    pub(crate) server: Running,
    pub(crate) clients: Clients,
    tenant_key: Credentials,
    service_key: Credentials,
    _dir: tempfile::TempDir,
}

impl TestWorld {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::start(Config { listen, data_dir: dir.path().to_path_buf() }).await.unwrap();
        let world = &server.context().world;
        let tenant_key = credentials(&world.create_user(TENANT, "backup", Vec::new()));
        let service_key = credentials(&world.create_user(SERVICE, "agent", Vec::new()));
        let trust_service = json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": "Allow",
            "Principal": { "AWS": format!("arn:aws:iam::{SERVICE}:root") },
            "Action": "sts:AssumeRole",
            "Condition": { "StringEquals": { "sts:ExternalId": EXTERNAL_ID } }
        }] });
        world.create_role(TENANT, "snapferry", trust_service, Vec::new());
        let trust_own = json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": "Allow",
            "Principal": { "AWS": format!("arn:aws:iam::{SERVICE}:root") },
            "Action": "sts:AssumeRole"
        }] });
        world.create_role(SERVICE, "agents", trust_own, Vec::new());
        let clients = Clients::new(QuotaSettings::default());
        Self { server, clients, tenant_key, service_key, _dir: dir }
    }

    /// The tenant by its access key.
    pub(crate) fn tenant_access(&self) -> AccountAccess {
        self.access(TENANT, &self.tenant_key, Vec::new())
    }

    /// The tenant through the service account's key, its role, and the tenant's role.
    pub(crate) fn tenant_by_roles(&self, external_id: Option<&str>) -> AccountAccess {
        let own = AssumeRole { role_arn: format!("arn:aws:iam::{SERVICE}:role/agents"), external_id: None };
        let tenants = AssumeRole {
            role_arn: format!("arn:aws:iam::{TENANT}:role/snapferry"),
            external_id: external_id.map(SecretString::from),
        };
        self.access(TENANT, &self.service_key, vec![own, tenants])
    }

    fn access(&self, account: &str, key: &Credentials, roles: Vec<AssumeRole>) -> AccountAccess {
        AccountAccess {
            account: account.parse().unwrap(),
            region: region(),
            sign_in: SignIn::AccessKey(key.clone()),
            roles,
            endpoint_url: Some(self.server.endpoint()),
        }
    }

    pub(crate) async fn tenant(&self) -> Account {
        self.open(&self.tenant_access()).await
    }

    pub(crate) async fn open(&self, access: &AccountAccess) -> Account {
        Account::open_with(&self.clients, access, purpose(SessionScope::Unrestricted)).await.unwrap()
    }

    /// A snapshot of the tenant with every kind of block.
    pub(crate) fn synthetic(&self, id: &str, size_gib: u64, changed_from: Option<(&str, f64)>) -> SnapshotId {
        let spec = SyntheticSpec {
            volume_size_gib: size_gib,
            seed: if changed_from.is_some() { 8 } else { 7 },
            fraction_hole: 0.4,
            fraction_zero: 0.1,
            fraction_duplicate: 0.1,
            fraction_compressible: 0.2,
            fraction_random: 0.2,
            changed_from: changed_from
                .map(|(base, per_mille)| ChangedFrom { snapshot_id: base.to_owned(), per_mille }),
        };
        let context = self.server.context();
        context.store.create_synthetic(id, &spec).unwrap();
        context.world.register_snapshot(TENANT, REGION, id, size_gib);
        id.parse().unwrap()
    }

    /// An instance of the tenant with a root and a data volume, running.
    pub(crate) async fn instance(&self, account: &Account) -> InstanceId {
        let (root, data) = (self.synthetic("snap-0a", 1, None), self.synthetic("snap-0b", 2, None));
        let volume = |device: &str, snapshot: &SnapshotId, size_gib| ImageVolume {
            device_name: device.to_owned(),
            snapshot: snapshot.clone(),
            size_gib,
            volume_type: "gp3".to_owned(),
            iops: Some(3_000),
            throughput_mibps: Some(125),
            delete_on_termination: device == "/dev/xvda",
        };
        let image = NewImage {
            name: format!("image-{}", LedgerId::generate()),
            architecture: "x86_64".to_owned(),
            boot_mode: Some("uefi".to_owned()),
            virtualization_type: None,
            ena_support: true,
            root_device_name: "/dev/xvda".to_owned(),
            volumes: vec![volume("/dev/xvda", &root, 1), volume("/dev/sdf", &data, 2)],
            tags: vec![Tag::new("Name", "golden")],
        };
        let image_id = ec2::register_image(account, &image).await.unwrap();
        let instance = NewInstance {
            image_id,
            instance_type: "m6i.large".to_owned(),
            network_interfaces: Vec::new(),
            private_ip: None,
            keep_private_ips: false,
            key_name: Some("ops".to_owned()),
            iam_instance_profile_arn: None,
            availability_zone: None,
            tenancy: None,
            placement_group: None,
            ebs_optimized: false,
            tags: vec![Tag::new("Name", "web-1"), Tag::new("owner", "team é")],
            client_token: LedgerId::generate().to_string(),
        };
        let id = ec2::run_instance(account, &instance).await.unwrap();
        let again = ec2::run_instance(account, &instance).await.unwrap();
        assert_eq!(id, again, "the same token is the same instance");
        ec2::wait_instance_running(account, &id, &CancellationToken::new()).await.unwrap();
        id
    }

    pub(crate) fn hurt(&self, action: &str, effect: Effect, count: Option<u64>, probability: f64) {
        let faults = &self.server.context().faults;
        let seed = 5 + u64::try_from(faults.rules().len()).unwrap();
        faults.add_rule(Rule {
            service: None,
            action: Some(action.to_owned()),
            account: None,
            snapshot: None,
            block: None,
            effect,
            probability,
            skip: 0,
            count,
            seconds: None,
            seed,
        });
    }

    pub(crate) fn quotas(&self, quotas: Quotas) {
        self.server.context().faults.set_quotas(quotas);
    }

    /// How often faults of a kind really fired.
    pub(crate) fn fired(&self, effect: &str) -> u64 {
        self.server.context().faults.counters().faults_of(effect)
    }
}

pub(crate) fn region() -> Region {
    REGION.parse().unwrap()
}

pub(crate) fn purpose(scope: SessionScope) -> SessionPurpose {
    SessionPurpose::named("test", scope)
}

/// Tags of ours, and the ledger entry in them.
pub(crate) fn our_tags(purpose: Purpose) -> (LedgerId, Vec<Tag>) {
    let entry = LedgerId::generate();
    (entry, ownership_tags("test", TaskId::generate(), purpose, entry))
}

fn credentials(key: &awssim::world::AccessKey) -> Credentials {
    Credentials {
        access_key_id: key.access_key_id.clone(),
        secret_access_key: SecretString::from(key.secret_access_key.clone()),
    }
}
