//! The node's hello: announces the machine, what it can do and its free slots, and learns whether to take work, when
//! to say it again, and what became of the tasks that have files here.

use std::time::Duration;

use snapferry_transfer::ErrorClass;
use snapferry_types::{TaskId, Transport};
use snapferry_wire::v1;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::AgentConfig;
use crate::images::Images;
use crate::lease::LeaseClient;
use crate::staging::Staging;

/// After a failed hello.
const RETRY: Duration = Duration::from_secs(2);

/// How long the end of the process waits for the farewell to get through.
const FAREWELL: Duration = Duration::from_secs(2);

/// Files on this node that are of no use once their tasks are over.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// What waits to be uploaded for an import.
    pub(crate) staging: Option<Staging>,
    /// What restores to disk images have begun.
    pub(crate) images: Images,
}

impl Files {
    /// Says which tasks have files here.
    async fn tell(&self, hello: &mut v1::NodeHelloRequest) {
        let words = |tasks: Vec<TaskId>| tasks.iter().map(ToString::to_string).collect();
        if let Some(staging) = &self.staging {
            hello.staged_tasks = words(staging.idle_tasks().await);
        }
        hello.image_tasks = words(self.images.idle_tasks().await);
    }

    /// Does what the scheduler has said of them.
    async fn heed(self, reply: v1::NodeHelloReply) {
        let tasks = |words: &[String]| words.iter().filter_map(|id| id.parse().ok()).collect();
        if let Some(staging) = &self.staging {
            staging.remove(tasks(&reply.unstage_tasks)).await;
        }
        self.images.settle(tasks(&reply.images_over), tasks(&reply.images_unknown)).await;
    }
}

/// Announces until `stop`.
pub(crate) async fn announce(
    config: &AgentConfig,
    lease: &LeaseClient,
    slots: &Semaphore,
    files: &Files,
    stop: &CancellationToken,
) {
    // Beside the hellos: a large file, or a file system that hangs, must not make the node count as gone.
    let mut tidying = JoinSet::new();
    loop {
        let mut hello = request(config, lease, config.slots, slots.available_permits());
        files.tell(&mut hello).await;
        let wait = match lease.hello(hello).await {
            Ok(reply) => {
                let wait = snapferry_wire::next_hello(reply.next_hello_ms);
                while tidying.try_join_next().is_some() {}
                if tidying.is_empty() {
                    tidying.spawn(files.clone().heed(reply));
                }
                wait
            }
            Err(error) if error.class == ErrorClass::Invalid => {
                tracing::error!(%error, "this node is refused: another process runs under its id, its folder was copied, or it was killed and the scheduler does not know yet");
                RETRY
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

/// Says that the process ends, so that the next one under this id is taken at once. Without it the scheduler waits
/// for the node's timeout.
pub(crate) async fn farewell(config: &AgentConfig, lease: &LeaseClient) {
    let said = tokio::time::timeout(FAREWELL, lease.hello(request(config, lease, 0, 0))).await;
    match said {
        Ok(Ok(_reply)) => tracing::info!("said goodbye to the scheduler"),
        Ok(Err(error)) => tracing::warn!(%error, "the scheduler was not told that this node ends"),
        Err(_elapsed) => tracing::warn!("the scheduler was not told in time that this node ends"),
    }
}

fn request(config: &AgentConfig, lease: &LeaseClient, slots: u32, n_free: usize) -> v1::NodeHelloRequest {
    let identity = lease.identity();
    v1::NodeHelloRequest {
        node_id: identity.node.to_string(),
        incarnation: identity.incarnation.to_string(),
        name: config.name.clone(),
        region: config.region.to_string(),
        availability_zone: config.availability_zone.clone(),
        os: std::env::consts::OS.to_owned(),
        group: config.group.clone(),
        slots,
        free_slots: u32::try_from(n_free).unwrap_or(u32::MAX),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        transports: transports(config).iter().map(|one| one.as_str().to_owned()).collect(),
        staged_tasks: Vec::new(),
        image_tasks: Vec::new(),
    }
}

/// How this node can move blocks.
fn transports(config: &AgentConfig) -> Vec<Transport> {
    let can = |transport: &Transport| match transport {
        Transport::EbsDirect => true,
        Transport::HotAdd => config.hot_add.is_some(),
        Transport::Import => config.import.is_some(),
    };
    Transport::ALL.into_iter().filter(can).collect()
}
