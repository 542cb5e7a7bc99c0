//! The node's hello: announces the machine and its free slots every 20 s, and learns whether to take work.

use std::sync::Arc;
use std::time::Duration;

use snapferry_transfer::ErrorClass;
use snapferry_wire::v1;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::AgentConfig;
use crate::lease::LeaseClient;

/// A third of what the scheduler waits before it takes a node for gone.
const PERIOD: Duration = Duration::from_secs(20);

/// After a failed hello.
const RETRY: Duration = Duration::from_secs(2);

/// Announces until `stop`.
pub(crate) async fn announce(
    config: AgentConfig,
    lease: LeaseClient,
    slots: Arc<Semaphore>,
    stop: CancellationToken,
) {
    loop {
        let wait = match lease.hello(request(&config, &lease, &slots)).await {
            Ok(_reply) => PERIOD,
            Err(error) if error.class == ErrorClass::Invalid => {
                tracing::error!(%error, "this node is refused; another process runs under its id, or its folder was copied");
                PERIOD
            }
            Err(error) => {
                tracing::warn!(%error, "the scheduler does not answer; trying again");
                RETRY
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn request(config: &AgentConfig, lease: &LeaseClient, slots: &Semaphore) -> v1::NodeHelloRequest {
    let identity = lease.identity();
    v1::NodeHelloRequest {
        node_id: identity.node.to_string(),
        incarnation: identity.incarnation.to_string(),
        name: config.name.clone(),
        region: config.region.to_string(),
        availability_zone: config.availability_zone.clone(),
        os: std::env::consts::OS.to_owned(),
        group: config.group.clone(),
        slots: config.slots,
        free_slots: u32::try_from(slots.available_permits()).unwrap_or(u32::MAX),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
