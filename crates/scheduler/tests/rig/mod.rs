//! A running scheduler on free ports, with the embedded queue.

use std::num::NonZeroU16;
use std::time::Duration;

use snapferry_api::Client;
use snapferry_api::job::{CreateJob, Priority, StreamingBackup, Work};
use snapferry_queue::{EmbeddedQueue, QueueName, TaskQueue as _};
use snapferry_scheduler::{Config, Scheduler};
use snapferry_types::spec::TaskSpec;
use snapferry_types::{AccessNodeId, HypervisorId, IncarnationId, MediaAgentId, RecoveryPointId};
use snapferry_wire::v1;
use snapferry_wire::v1::lease_client::LeaseClient;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::suite::world::{admin, meta, source_entry, tenant};

pub(crate) const OPERATOR: &str = "operator-token-0123456789";
pub(crate) const VIEWER: &str = "viewer-token-0123456789";
pub(crate) const TENANT: &str = "tenant-token-0123456789";
pub(crate) const ENDPOINT: &str = "http://127.0.0.1:7443";

pub(crate) struct Rig {
    pub(crate) url: String,
    pub(crate) media_agent: MediaAgentId,
    lease: String,
    queue: EmbeddedQueue,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
    _folder: tempfile::TempDir,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let mut text = format!(
            "deployment = 'test'\ndatabase = 'sqlite:{0}/db'\nmaster_key_file = '{0}/key'\n\
             [http]\nlisten = '127.0.0.1:0'\n[lease]\nlisten = '127.0.0.1:0'\n[dispatch]\ntick_ms = 50\n",
            path.display()
        );
        for (name, token, rest) in
            [("operator", OPERATOR, ""), ("viewer", VIEWER, ""), ("tenant", TENANT, "hypervisor = 'acme'\n")]
        {
            std::fs::write(path.join(name), token).unwrap();
            text.push_str(&format!(
                "[[tokens]]\nname = '{name}'\nrole = '{name}'\n{rest}secret = {{ file = '{}/{name}' }}\n",
                path.display()
            ));
        }
        let config: Config = toml::from_str(&text).unwrap();
        let queue = EmbeddedQueue::default();
        let scheduler = Scheduler::build(config, queue.publisher()).await.unwrap();
        let url = format!("http://{}", scheduler.http_address());
        let lease = format!("http://{}", scheduler.lease_address());
        let stop = CancellationToken::new();
        let running = tokio::spawn(scheduler.run(stop.clone()));
        Self { url, media_agent: MediaAgentId::generate(), lease, queue, stop, running, _folder: folder }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.running).await;
        ended.expect("ends in time").expect("does not panic").expect("ends well");
    }

    pub(crate) fn client(&self, token: &str) -> Client {
        Client::new(&self.url, Some(token.to_owned().into())).unwrap()
    }

    pub(crate) async fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::connect(self.lease.clone()).await.unwrap()
    }

    /// The service account and the tenant `acme`.
    pub(crate) async fn accounts(&self) -> (HypervisorId, HypervisorId) {
        let operator = self.client(OPERATOR);
        let service = operator.create_hypervisor(&admin()).await.unwrap();
        let acme = operator.create_hypervisor(&tenant("acme", &service)).await.unwrap();
        (service.id, acme.id)
    }

    pub(crate) fn backup(&self, hypervisor: &HypervisorId, instance: &str) -> CreateJob {
        let work = Work::StreamingBackup(StreamingBackup {
            hypervisor: *hypervisor,
            instances: vec![instance.parse().unwrap()],
            region: None,
            media_agent: None,
            full: false,
            transport: snapferry_types::TransportWish::default(),
            retention: None,
        });
        CreateJob { work, priority: Priority::Normal }
    }

    /// A node and a MediaAgent that say hello.
    pub(crate) async fn node(&self) -> v1::NodeHelloRequest {
        let mut lease = self.lease().await;
        let hello = v1::MediaAgentHelloRequest {
            media_agent_id: self.media_agent.to_string(),
            name: "ma".to_owned(),
            endpoint: ENDPOINT.to_owned(),
            ..Default::default()
        };
        lease.media_agent_hello(hello).await.unwrap();
        let node = v1::NodeHelloRequest {
            node_id: AccessNodeId::generate().to_string(),
            incarnation: IncarnationId::generate().to_string(),
            name: "n1".to_owned(),
            region: "eu-central-1".to_owned(),
            os: "linux".to_owned(),
            group: "default".to_owned(),
            slots: 2,
            free_slots: 2,
            ..Default::default()
        };
        let reply = lease.node_hello(node.clone()).await.unwrap().into_inner();
        assert!(reply.accept_work);
        reply.queue.parse::<QueueName>().unwrap();
        node
    }

    /// Takes the next ticket and claims it.
    pub(crate) async fn claim_next(&self, node: &v1::NodeHelloRequest) -> v1::Granted {
        let mut lease = self.lease().await;
        let queue: QueueName =
            lease.node_hello(node.clone()).await.unwrap().into_inner().queue.parse().unwrap();
        let one = NonZeroU16::new(1).unwrap();
        let mut consumer = self.queue.consume(&queue, one, self.stop.clone());
        loop {
            let delivery = tokio::time::timeout(Duration::from_secs(20), consumer.next())
                .await
                .expect("an offer comes")
                .expect("the queue is open");
            let ticket = delivery.ticket;
            let reply = lease
                .claim(v1::ClaimRequest {
                    task_id: ticket.task.to_string(),
                    dispatch_id: ticket.dispatch.to_string(),
                    node_id: node.node_id.clone(),
                    incarnation: node.incarnation.clone(),
                })
                .await
                .unwrap()
                .into_inner();
            delivery.ack().await;
            match reply.verdict.unwrap() {
                v1::claim_reply::Verdict::Granted(granted) => return granted,
                v1::claim_reply::Verdict::Gone(_) => {}
                v1::claim_reply::Verdict::NotYou(not_you) => panic!("{}", not_you.reason),
            }
        }
    }

    /// Records what a backup records.
    pub(crate) async fn seal(&self, spec: &TaskSpec, instance: &str, snapshot: &str) -> RecoveryPointId {
        let mut lease = self.lease().await;
        let point = RecoveryPointId::generate();
        let metadata = serde_json::to_vec(&meta(spec, instance, snapshot, 1_790_000_000_000)).unwrap();
        let steps = [
            v1::record_request::Step::Ledger(source_entry(spec, snapshot).into()),
            v1::record_request::Step::Sealed(v1::SealedRecoveryPoint {
                recovery_point_id: point.to_string(),
                metadata: metadata.into(),
                logical_bytes: 1 << 30,
                read_bytes: 4_096,
                stored_bytes: 1_024,
            }),
        ];
        for step in steps {
            let request = v1::RecordRequest {
                task_id: spec.task.to_string(),
                fence: Some(spec.fence.into()),
                step: Some(step),
            };
            lease.record(request).await.unwrap();
        }
        point
    }
}
