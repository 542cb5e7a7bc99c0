//! The heartbeat: tells the scheduler as often as it wants that this daemon is there, and its figures. A scheduler that
//! does not answer is asked again with back-off; the daemon serves on meanwhile.

use std::time::Duration;

use snapferry_service::{Backoff, TlsMaterial};
use snapferry_types::MediaAgentId;
use snapferry_wire::v1::lease_client::LeaseClient;
use snapferry_wire::{next_hello, v1};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::BuildError;
use super::asked::Asked;
use crate::client::endpoint;
use crate::server::Service;

/// Between two failed announcements, at most.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// An announcement that is not answered for so long has failed.
const DEADLINE: Duration = Duration::from_secs(10);

/// What is announced, and where.
pub(super) struct Hello {
    lease: LeaseClient<Channel>,
    scheduler: String,
    id: MediaAgentId,
    name: String,
    endpoint: String,
}

impl Hello {
    /// Connects lazily: a scheduler that starts later is found later.
    pub(super) fn new(
        scheduler: &str,
        tls: Option<&TlsMaterial>,
        id: MediaAgentId,
        name: &str,
        own: &str,
    ) -> Result<Self, BuildError> {
        let channel = endpoint(scheduler, tls)
            .map_err(|source| BuildError::Transport {
                what: format!("the scheduler endpoint {scheduler}"),
                source,
            })?
            .connect_lazy();
        Ok(Self {
            lease: LeaseClient::new(channel),
            scheduler: scheduler.to_owned(),
            id,
            name: name.to_owned(),
            endpoint: own.to_owned(),
        })
    }

    /// Announces until `stop`.
    pub(super) async fn run(
        mut self,
        service: &Service,
        scrub_bytes_per_second: u64,
        stop: &CancellationToken,
    ) {
        let mut asked = Asked::new(service.clone(), scrub_bytes_per_second);
        let mut backoff = Backoff::new(Duration::from_millis(500), LONGEST_WAIT);
        let mut known = false;
        loop {
            let wait = match self.announce(service, &asked).await {
                Ok(reply) => {
                    asked.begin(&reply, stop);
                    if !known {
                        tracing::info!(scheduler = self.scheduler, "the scheduler knows this MediaAgent");
                    }
                    known = true;
                    backoff.reset();
                    next_hello(reply.next_hello_ms)
                }
                Err(reason) => {
                    tracing::warn!(scheduler = self.scheduler, reason, "announcing this MediaAgent failed");
                    known = false;
                    backoff.next_delay()
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        asked.wait().await;
    }

    async fn announce(
        &mut self,
        service: &Service,
        asked: &Asked,
    ) -> Result<v1::MediaAgentHelloReply, String> {
        let (stats, free_bytes) = service.measured().await.map_err(|error| error.to_string())?;
        let mut request = v1::MediaAgentHelloRequest {
            media_agent_id: self.id.to_string(),
            name: self.name.clone(),
            endpoint: self.endpoint.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            stored_bytes: stats.pack_bytes,
            free_bytes: free_bytes.unwrap_or(0),
            recovery_points: stats.recovery_points,
            ..v1::MediaAgentHelloRequest::default()
        };
        asked.tell(&mut request);
        match tokio::time::timeout(DEADLINE, self.lease.media_agent_hello(request)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(format!("{:?}: {}", status.code(), status.message())),
            Err(_) => Err(format!("no answer in {} seconds", DEADLINE.as_secs())),
        }
    }
}
