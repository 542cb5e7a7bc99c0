//! The lease service: the only calls that come back from agents and MediaAgents. Everything here may be repeated; what
//! does not carry the current fence is refused.

use std::sync::Arc;
use std::time::Duration;

use snapferry_types::{TaskId, TaskState};
use snapferry_wire::convert::required;
use snapferry_wire::v1;
use tonic::{Request, Response, Status};

use super::{LeaseWatch, Nodes, read};
use crate::clock::Clock;
use crate::dispatch::millis;
use crate::metrics::Metrics;
use crate::store::{ClaimVerdict, Desired, Limits, OtherShares, Store, StoreError};

/// Serves agents and MediaAgents.
#[derive(Debug)]
pub struct LeaseService {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    nodes: Nodes,
    watch: Arc<LeaseWatch>,
    metrics: Metrics,
    deployment: String,
    limits: Limits,
    lease_ms: u64,
}

impl LeaseService {
    /// A service; `lease_ms` is what it promises with a grant or a renewal.
    #[allow(clippy::too_many_arguments, reason = "its collaborators, each once")]
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        clock: Arc<dyn Clock>,
        nodes: Nodes,
        watch: Arc<LeaseWatch>,
        metrics: Metrics,
        deployment: String,
        limits: Limits,
        lease_ms: u64,
    ) -> Self {
        Self { store, clock, nodes, watch, metrics, deployment, limits, lease_ms }
    }

    fn received(&self) -> Duration {
        self.clock.mono()
    }

    /// How a failure of the store is told to an agent.
    fn status(&self, error: &StoreError) -> Status {
        match error {
            StoreError::Database(_) => {
                self.watch.blind();
                tracing::warn!(%error, "a lease call failed");
                Status::unavailable(error.to_string())
            }
            StoreError::Stale(_) | StoreError::Refused(_) | StoreError::Conflict(_) => {
                Status::failed_precondition(error.to_string())
            }
            StoreError::NotFound { .. } => Status::not_found(error.to_string()),
            StoreError::Invalid(_) | StoreError::IdempotencyMismatch(_) => {
                Status::invalid_argument(error.to_string())
            }
            StoreError::Url { .. }
            | StoreError::NewerSchema { .. }
            | StoreError::Superseded
            | StoreError::Corrupt { .. }
            | StoreError::Vault(_) => {
                tracing::error!(%error, "a lease call failed");
                Status::internal("the scheduler failed; its log says more")
            }
        }
    }
}

#[tonic::async_trait]
impl v1::lease_server::Lease for LeaseService {
    async fn node_hello(
        &self,
        request: Request<v1::NodeHelloRequest>,
    ) -> Result<Response<v1::NodeHelloReply>, Status> {
        let request = request.into_inner();
        let (staged, with_images) = (read::staged(&request)?, read::with_images(&request)?);
        let node = read::node(request)?;
        if !self.nodes.hello(node.id, node.incarnation) {
            return Err(Status::already_exists(format!(
                "another living process runs as access node {}; give each machine its own id",
                node.id
            )));
        }
        self.store.node_seen(&node).await.map_err(|error| self.status(&error))?;
        if node.slots == 0 {
            // An agent that shuts down says so with no slots at all.
            self.nodes.farewell(node.id, node.incarnation);
        }
        let unstage =
            self.store.no_longer_staged(node.id, &staged).await.map_err(|error| self.status(&error))?;
        let images = self.store.images_of(&with_images).await.map_err(|error| self.status(&error))?;
        let words = |tasks: Vec<TaskId>| tasks.iter().map(ToString::to_string).collect();
        Ok(Response::new(v1::NodeHelloReply {
            queue: node.queue,
            accept_work: node.slots > 0,
            unstage_tasks: words(unstage),
            images_over: words(images.over),
            images_unknown: words(images.unknown),
            next_hello_ms: self.nodes.next_hello_ms(),
        }))
    }

    async fn media_agent_hello(
        &self,
        request: Request<v1::MediaAgentHelloRequest>,
    ) -> Result<Response<v1::MediaAgentHelloReply>, Status> {
        let agent = read::media_agent(request.into_inner())?;
        let asked = self.store.media_agent_seen(&agent).await.map_err(|error| self.status(&error))?;
        Ok(Response::new(v1::MediaAgentHelloReply {
            scrub_asked: asked.scrub,
            collect_asked: asked.collect,
            next_hello_ms: self.nodes.next_hello_ms(),
        }))
    }

    async fn claim(&self, request: Request<v1::ClaimRequest>) -> Result<Response<v1::ClaimReply>, Status> {
        let received = self.received();
        let heard_since_ms = self.clock.wall_ms().saturating_sub(millis(self.nodes.timeout()));
        let by = read::claim(&request.into_inner(), heard_since_ms)?;
        let verdict = self.store.claim(by, &self.deployment).await.map_err(|error| self.status(&error))?;
        let (word, verdict) = match verdict {
            ClaimVerdict::Granted(grant) => {
                self.watch.renewed(grant.spec.task, grant.spec.fence.epoch, received);
                tracing::info!(task = %by.task, node = %by.node, epoch = grant.spec.fence.epoch, "granted");
                let mut granted = v1::Granted::from(grant.spec);
                granted.lease_ms = self.lease_ms;
                granted.desired = wanted(grant.desired).into();
                ("granted", v1::claim_reply::Verdict::Granted(granted))
            }
            ClaimVerdict::Gone(reason) => ("gone", v1::claim_reply::Verdict::Gone(v1::Gone { reason })),
            ClaimVerdict::NotYou(reason) => {
                ("not_you", v1::claim_reply::Verdict::NotYou(v1::NotYou { reason }))
            }
        };
        self.metrics.claims.with_label_values(&[word]).inc();
        Ok(Response::new(v1::ClaimReply { verdict: Some(verdict) }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewReply>, Status> {
        let received = self.received();
        let request = request.into_inner();
        let (task, fence) = read::right(&request.task_id, request.fence)?;
        let so_far = read::report(request.progress, request.phases, request.log_excerpt);
        let desired = self.store.renew(task, fence, so_far).await.map_err(|error| self.status(&error))?;
        self.watch.renewed(task, fence.epoch, received);
        Ok(Response::new(v1::RenewReply { lease_ms: self.lease_ms, desired: wanted(desired).into() }))
    }

    async fn record(&self, request: Request<v1::RecordRequest>) -> Result<Response<v1::RecordReply>, Status> {
        let request = request.into_inner();
        let (task, fence) = read::right(&request.task_id, request.fence)?;
        let step = read::step(required("step", request.step)?)?;
        let others = self.store.record(task, fence, step).await.map_err(|error| self.status(&error))?;
        let OtherShares { any, being_taken_back } = others;
        Ok(Response::new(v1::RecordReply { shared_by_others: any, being_taken_back }))
    }

    async fn finish(&self, request: Request<v1::FinishRequest>) -> Result<Response<v1::FinishReply>, Status> {
        let request = request.into_inner();
        let (task, fence) = read::right(&request.task_id, request.fence)?;
        let report = read::report(request.progress, request.phases, request.log_excerpt);
        let outcome = read::outcome(required("outcome", request.outcome)?)?;
        let word = outcome.as_str();
        let state = self
            .store
            .finish(task, fence, report, outcome, &self.limits)
            .await
            .map_err(|error| self.status(&error))?;
        self.metrics.finished.with_label_values(&[word]).inc();
        tracing::info!(%task, epoch = fence.epoch, outcome = word, state = TaskState::as_str(state), "attempt ended");
        Ok(Response::new(v1::FinishReply {}))
    }
}

const fn wanted(desired: Desired) -> v1::Desired {
    match desired {
        Desired::Run => v1::Desired::Run,
        Desired::Suspend => v1::Desired::Suspend,
        Desired::Cancel => v1::Desired::Cancel,
    }
}
