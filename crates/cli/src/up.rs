//! `snapferry up`: scheduler, MediaAgent and agent in one process, over the same protocols that they speak apart. The
//! queue is the embedded one; everything else is as in the distributed set-up.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use snapferry_agent::{Agent, AgentConfig};
use snapferry_agent_linux::DeviceFolder;
use snapferry_media_agent::{MediaAgent, MediaAgentConfig};
use snapferry_queue::{EmbeddedQueue, TaskQueue as _};
use snapferry_scheduler::{Config as SchedulerConfig, Scheduler};
use snapferry_service::{config, shutdown};
use tokio_util::sync::CancellationToken;

use crate::args::Up;

/// Offers that the embedded queue holds; the dispatcher keeps it nearly empty.
const QUEUE_CAPACITY: usize = 10_000;

/// All roles.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpConfig {
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) media_agent: MediaAgentConfig,
    pub(crate) agent: AgentConfig,
}

/// Where a running set-up listens.
pub(crate) struct Endpoints {
    pub(crate) http: String,
}

/// Reads the file and runs until a signal.
pub(crate) async fn run(args: &Up) -> Result<()> {
    let config: UpConfig = config::load(Some(&args.config), "SNAPFERRY_UP_")?;
    let stop = shutdown::on_signals()?;
    let all = All::build(config).await?;
    eprintln!("snapferry is up: {}", all.endpoints().http);
    Box::pin(all.run(stop)).await
}

/// All roles, built and bound.
pub(crate) struct All {
    scheduler: Scheduler,
    media_agent: snapferry_media_agent::App,
    agent: Agent,
    endpoints: Endpoints,
}

impl All {
    /// Builds every role; the scheduler first, because the others need its address.
    pub(crate) async fn build(config: UpConfig) -> Result<Self> {
        let UpConfig { scheduler, mut media_agent, mut agent } = config;
        for folder in folders(&scheduler, &media_agent, &agent) {
            std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let queue = Arc::new(EmbeddedQueue::new(QUEUE_CAPACITY));
        let scheduler =
            Scheduler::build(scheduler, queue.publisher()).await.context("start the scheduler")?;
        let lease = format!("http://{}", scheduler.lease_address());
        let endpoints = Endpoints { http: format!("http://{}", scheduler.http_address()) };
        media_agent.scheduler.get_or_insert_with(|| lease.clone());
        if agent.scheduler.is_empty() {
            agent.scheduler = lease;
        }
        let media_agent = MediaAgent::build(media_agent).await.context("start the MediaAgent")?;
        let devices = Arc::new(DeviceFolder::of(&agent));
        let agent = Agent::build(agent, queue, devices).await.context("start the agent")?;
        Ok(Self { scheduler, media_agent, agent, endpoints })
    }

    pub(crate) const fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Runs until `stop`. The agent ends first, so that it can still say what became of its tasks.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<()> {
        let rest = CancellationToken::new();
        let agent_is_done = rest.clone();
        let agent = async {
            self.agent.run(stop.clone()).await;
            agent_is_done.cancel();
        };
        let media_agent = async { self.media_agent.run(rest.clone()).await.context("the MediaAgent ended") };
        let scheduler = async { self.scheduler.run(rest.clone()).await.context("the scheduler ended") };
        let servers = async {
            let ended = tokio::try_join!(media_agent, scheduler);
            // A server that ends by itself takes the others with it.
            stop.cancel();
            ended
        };
        let ((), ended) = tokio::join!(agent, servers);
        ended.map(|_| ())
    }
}

fn folders(scheduler: &SchedulerConfig, media_agent: &MediaAgentConfig, agent: &AgentConfig) -> Vec<PathBuf> {
    let key = scheduler.master_key_file.as_ref().and_then(|file| file.parent().map(PathBuf::from));
    let folders = [Some(media_agent.library.dir.clone()), Some(agent.data_dir.clone()), key];
    folders.into_iter().flatten().filter(|folder| !folder.as_os_str().is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_can_be_read() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/sample/up.toml");
        let read: UpConfig = config::load_from(Some(file.as_ref()), "SNAPFERRY_UP_", Vec::new()).unwrap();
        read.scheduler.check().unwrap();
    }
}
