//! The processes of a rig: started, ended, started again, and what they wrote.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use snapferry_api::page::PageQuery;
use snapferry_testkit::{Process, eventually};
use snapferry_types::AccessNodeId;

use crate::config;
use crate::rig::Rig;
use crate::transports::Machine;

/// Nothing in these tests takes longer unless it is broken.
pub(crate) const BOUND: Duration = Duration::from_secs(90);

impl Rig {
    /// Waits until all agents that were started, and the MediaAgent, have announced themselves.
    ///
    /// # Errors
    /// After a bound, with the ends of all logs.
    pub async fn wait_for_agents(&self) -> Result<()> {
        let n_agents = self.agents.len();
        eventually(BOUND, "agents and MediaAgent announce themselves", || self.is_ready(n_agents))
            .await
            .with_context(|| self.logs())
    }

    /// Starts one more agent.
    ///
    /// # Errors
    /// When its binary is not built.
    pub fn add_agent(&mut self) -> Result<()> {
        self.add_machine(Machine::default())
    }

    /// Starts one more agent on a machine like this.
    ///
    /// # Errors
    /// When its binary is not built.
    pub fn add_machine(&mut self, machine: Machine) -> Result<()> {
        let name = format!("agent-{}", self.agents.len() + 1);
        let extra = match &self.transports {
            Some(resources) => {
                let (instance, lines) = resources.of_agent(&self.sim, &self.dir, &name, machine)?;
                self.instances.push(instance);
                lines
            }
            None => String::new(),
        };
        let config = config::agent(&self.dir, self.ports, &name, self.slots, &extra)?;
        self.agents.push(spawn(&self.dir, "snapferry-agent", &name, &config, &self.amqp_url)?);
        Ok(())
    }

    /// How many tasks have disk images on an agent's machine; all agents have their images in folders of one.
    #[must_use]
    pub fn n_staged(&self, index: usize) -> usize {
        let id = self.dir.join(format!("agent-{}", index + 1)).join("node-id");
        let node = std::fs::read_to_string(&id).unwrap_or_default();
        assert!(!node.is_empty(), "{} names no node", id.display());
        std::fs::read_dir(self.dir.join("staging").join(node.trim())).map_or(0, Iterator::count)
    }

    /// Ends the first agent as a service manager does, and starts it again.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn restart_agent(&mut self) -> Result<()> {
        let agent = self.agents.first_mut().context("there is no agent")?;
        agent.terminate()?;
        agent.wait(BOUND).await?;
        let config = self.dir.join("agent-1.toml");
        *agent = spawn(&self.dir, "snapferry-agent", "agent-1-again", &config, &self.amqp_url)?;
        Ok(())
    }

    /// Starts the first agent again, after it was killed: it is the same access node.
    ///
    /// # Errors
    /// When its binary is not built.
    pub fn restart_killed_agent(&mut self) -> Result<()> {
        self.start_again(0)
    }

    /// Starts an agent again, after it was killed: it is the same access node.
    ///
    /// # Errors
    /// When its binary is not built.
    pub fn start_again(&mut self, index: usize) -> Result<()> {
        let agent = self.agents.get_mut(index).context("there is no such agent")?;
        let name = format!("agent-{}", index + 1);
        let (config, log) = (self.dir.join(format!("{name}.toml")), format!("{name}-again"));
        *agent = spawn(&self.dir, "snapferry-agent", &log, &config, &self.amqp_url)?;
        Ok(())
    }

    /// Starts the scheduler again, after it was killed.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart_scheduler(&mut self) -> Result<()> {
        let config = self.dir.join("scheduler.toml");
        self.scheduler = spawn(&self.dir, "snapferry-scheduler", "scheduler-2", &config, &self.amqp_url)?;
        eventually(BOUND, "the scheduler answers again", || async { self.client.health().await.is_ok() })
            .await
    }

    /// Starts the MediaAgent again, after it was killed.
    ///
    /// # Errors
    /// When its binary is not built.
    pub fn restart_media_agent(&mut self) -> Result<()> {
        let config = self.dir.join("media-agent.toml");
        self.media_agent =
            spawn(&self.dir, "snapferry-media-agent", "media-agent-2", &config, &self.amqp_url)?;
        Ok(())
    }

    async fn is_ready(&self, n_agents: usize) -> bool {
        let page = PageQuery::default();
        let nodes = self.client.access_nodes(&page).await.map(|page| page.items).unwrap_or_default();
        let media = self.client.media_agents(&page).await.map(|page| page.items).unwrap_or_default();
        nodes.iter().filter(|one| one.online).count() >= n_agents && media.iter().any(|one| one.online)
    }

    /// Which of [`Self::agents`] runs as an access node.
    ///
    /// # Errors
    /// When none does.
    pub async fn agent_of(&self, node: AccessNodeId) -> Result<usize> {
        let nodes = self.client.access_nodes(&PageQuery::default()).await?.items;
        let name = nodes.into_iter().find(|one| one.id == node).map(|one| one.name);
        let number = name.as_deref().and_then(|name| name.strip_prefix("agent-")?.parse::<usize>().ok());
        number.and_then(|number| number.checked_sub(1)).with_context(|| format!("no agent runs as {node}"))
    }

    /// The logs' last lines.
    pub(crate) fn logs(&self) -> String {
        let mut text = String::new();
        let processes = [("scheduler", &self.scheduler), ("media-agent", &self.media_agent)];
        let agents = self.agents.iter().map(|agent| ("agent", agent));
        for (name, process) in processes.into_iter().chain(agents) {
            text.push_str(&last_lines(name, process));
        }
        text
    }
}

/// Names of the files in a folder; none when there is no folder.
#[must_use]
pub fn files_in(folder: &Path) -> BTreeSet<String> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.map(|file| file.file_name().to_string_lossy().into_owned()).collect()
}

/// The end of a process's log.
pub(crate) fn last_lines(name: &str, process: &Process) -> String {
    let log = process.log().unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default();
    format!("--- {name} ---\n{}\n", last.join("\n"))
}

/// Starts a program of the workspace with its configuration and a log in the rig's folder.
pub(crate) fn spawn(dir: &Path, binary: &str, name: &str, config: &Path, amqp_url: &str) -> Result<Process> {
    let config = config.to_string_lossy();
    let levels = "info,snapferry_agent=debug";
    let environment = [("TEST_AMQP_URL", amqp_url), ("SNAPFERRY_LOG", levels), ("NO_COLOR", "1")];
    Process::spawn(binary, &["--config", &config], &environment, &dir.join(format!("{name}.log")))
}
