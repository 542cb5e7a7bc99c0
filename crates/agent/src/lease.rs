//! The only call that goes back: hello, claim, renew, record, finish.
//!
//! The agent counts a lease's validity from when it *sent* the renewal, the scheduler from when it *received* it
//! plus a grace, so the agent always stops first.

use std::time::Duration;

use snapferry_service::TlsMaterial;
use snapferry_transfer::{ErrorClass, TransferError};
use snapferry_types::spec::TaskSpec;
use snapferry_types::{Fence, TaskId};
use snapferry_wire::v1::lease_client::LeaseClient as Client;
use snapferry_wire::{Ticket, v1};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as TlsIdentity};
use tonic::{Code, Status};

use crate::identity::Identity;

/// A call that has no answer by then has failed; the lease is nine times as long.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to the scheduler's lease service; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LeaseClient {
    client: Client<Channel>,
    identity: Identity,
}

/// What the scheduler says to a claim.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The task is ours until the lease runs out.
    Granted {
        /// What to do.
        spec: Box<TaskSpec>,
        /// For how long, from when the claim was sent.
        lease: Duration,
        /// What is wanted of it.
        desired: Desired,
    },
    /// The offer is void: acknowledge it and forget it.
    Gone(String),
    /// Open, but not for this node: return it.
    NotYou(String),
}

/// What a running attempt did until now.
#[derive(Debug)]
pub(crate) struct SoFar {
    /// Its figures.
    pub progress: v1::Progress,
    /// Its phases, the one that goes on included.
    pub phases: Vec<v1::Phase>,
    /// The last lines that it logged; empty while there are no new ones.
    pub log_excerpt: String,
}

/// What the scheduler wants of a running task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Desired {
    /// Go on.
    Run,
    /// Stop at a safe point, keep the progress.
    Suspend,
    /// Stop and clean up.
    Cancel,
}

impl From<v1::Desired> for Desired {
    fn from(desired: v1::Desired) -> Self {
        match desired {
            v1::Desired::Run => Self::Run,
            v1::Desired::Suspend => Self::Suspend,
            v1::Desired::Cancel => Self::Cancel,
        }
    }
}

impl LeaseClient {
    /// Prepares the connection; it is made with the first call and again after every loss.
    ///
    /// # Errors
    /// [`TransferError`] of class `Invalid` when the endpoint or the certificates are no use.
    pub(crate) fn new(
        endpoint: &str,
        tls: Option<&TlsMaterial>,
        identity: Identity,
    ) -> Result<Self, TransferError> {
        let invalid = |error: tonic::transport::Error| {
            TransferError::new(ErrorClass::Invalid, format!("scheduler endpoint {endpoint}: {error}"))
        };
        let mut channel = Endpoint::from_shared(endpoint.to_owned())
            .map_err(invalid)?
            .connect_timeout(Duration::from_secs(5))
            .timeout(CALL_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(15))
            .keep_alive_timeout(Duration::from_secs(10))
            .tcp_nodelay(true);
        if let Some(tls) = tls {
            let config = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(&tls.ca))
                .identity(TlsIdentity::from_pem(&tls.cert, &tls.key));
            channel = channel.tls_config(config).map_err(invalid)?;
        }
        Ok(Self { client: Client::new(channel.connect_lazy()), identity })
    }

    /// The identity that goes with every claim.
    #[must_use]
    pub(crate) const fn identity(&self) -> Identity {
        self.identity
    }

    /// Announces the node.
    ///
    /// # Errors
    /// [`TransferError`]; `Invalid` when another living process has this node's id.
    pub(crate) async fn hello(
        &self,
        request: v1::NodeHelloRequest,
    ) -> Result<v1::NodeHelloReply, TransferError> {
        let reply = self.client.clone().node_hello(request).await;
        reply.map(tonic::Response::into_inner).map_err(|status| error_of("announce this node", &status))
    }

    /// Claims an offer.
    ///
    /// # Errors
    /// [`TransferError`] when there is no verdict; the delivery goes back then.
    pub(crate) async fn claim(&self, ticket: &Ticket) -> Result<Verdict, TransferError> {
        let request = v1::ClaimRequest {
            task_id: ticket.task.to_string(),
            dispatch_id: ticket.dispatch.to_string(),
            node_id: self.identity.node.to_string(),
            incarnation: self.identity.incarnation.to_string(),
        };
        let reply = self.client.clone().claim(request).await;
        let reply = reply.map_err(|status| error_of("claim the task", &status))?.into_inner();
        match reply.verdict {
            Some(v1::claim_reply::Verdict::Granted(granted)) => {
                let lease = Duration::from_millis(granted.lease_ms);
                let desired = granted.desired().into();
                let spec = TaskSpec::try_from(granted).map_err(|error| {
                    TransferError::new(ErrorClass::Invalid, format!("read the granted task: {error}"))
                })?;
                Ok(Verdict::Granted { spec: Box::new(spec), lease, desired })
            }
            Some(v1::claim_reply::Verdict::Gone(gone)) => Ok(Verdict::Gone(gone.reason)),
            Some(v1::claim_reply::Verdict::NotYou(not_you)) => Ok(Verdict::NotYou(not_you.reason)),
            None => Err(TransferError::new(ErrorClass::Internal, "claim the task: the reply has no verdict")),
        }
    }

    /// Renews a lease, and tells what was done until now.
    ///
    /// # Errors
    /// [`TransferError`]; `StaleFence` when the task has another owner.
    pub(crate) async fn renew(
        &self,
        task: TaskId,
        fence: Fence,
        so_far: SoFar,
    ) -> Result<(Duration, Desired), TransferError> {
        let request = v1::RenewRequest {
            task_id: task.to_string(),
            fence: Some(fence.into()),
            progress: Some(so_far.progress),
            phases: so_far.phases,
            log_excerpt: so_far.log_excerpt,
        };
        let reply = self.client.clone().renew(request).await;
        let reply = reply.map_err(|status| error_of("renew the lease", &status))?.into_inner();
        Ok((Duration::from_millis(reply.lease_ms), reply.desired().into()))
    }

    /// Records a step that commits.
    ///
    /// # Errors
    /// [`TransferError`]; `StaleFence` when the task has another owner.
    pub(crate) async fn record(
        &self,
        task: TaskId,
        fence: Fence,
        step: v1::record_request::Step,
    ) -> Result<v1::RecordReply, TransferError> {
        let request =
            v1::RecordRequest { task_id: task.to_string(), fence: Some(fence.into()), step: Some(step) };
        let reply = self.client.clone().record(request).await;
        reply.map(tonic::Response::into_inner).map_err(|status| error_of("record a step", &status))
    }

    /// Ends the attempt.
    ///
    /// # Errors
    /// [`TransferError`]; `StaleFence` when the task has another owner.
    pub(crate) async fn finish(&self, request: v1::FinishRequest) -> Result<(), TransferError> {
        let reply = self.client.clone().finish(request).await;
        reply.map(|_| ()).map_err(|status| error_of("finish the task", &status))
    }
}

/// The scheduler's refusal in our words.
fn error_of(doing: &str, status: &Status) -> TransferError {
    let class = match status.code() {
        Code::FailedPrecondition | Code::Aborted => ErrorClass::StaleFence,
        Code::InvalidArgument | Code::AlreadyExists | Code::OutOfRange => ErrorClass::Invalid,
        Code::NotFound => ErrorClass::NotFound,
        Code::PermissionDenied | Code::Unauthenticated => ErrorClass::AccessDenied,
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Unavailable
        | Code::ResourceExhausted
        | Code::Unknown => ErrorClass::Unavailable,
        Code::Ok | Code::Unimplemented | Code::Internal | Code::DataLoss => ErrorClass::Internal,
    };
    TransferError::new(class, format!("{doing}: {}", status.message()))
}
