//! Scheduler, MediaAgent and agent in one process, without a broker, before a simulated AWS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use awssim::{Config, Running, Server};
use snapferry_testkit::{Process, eventually, free_port};

use crate::command::CommandLine;
use crate::rig::{REGION, SERVICE};
use crate::transports::{Machine, Resources};

const BOUND: Duration = Duration::from_secs(60);

/// The process, its AWS and both accounts registered with it. Everything ends when it is dropped.
pub struct OneProcess {
    /// The process.
    pub process: Process,
    /// AWS.
    pub sim: Running,
    /// The command line that asks it.
    pub shell: CommandLine,
    /// The tenant's id.
    pub tenant: String,
    /// Folder of everything.
    pub dir: PathBuf,
    _folder: tempfile::TempDir,
}

impl OneProcess {
    /// Starts it and registers the accounts; with service resources it can use HotAdd and Import, which needs root.
    ///
    /// # Errors
    /// What did not start, with its log.
    pub async fn start(with_service_resources: bool) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("snapferry-test-").tempdir()?;
        let dir = folder.path().to_owned();
        let listen = "127.0.0.1:0".parse()?;
        let sim = Server::start(Config { listen, data_dir: dir.join("aws") }).await?;
        sim.context().world.create_account(SERVICE);
        let of_agent = if with_service_resources {
            Resources::make(&sim)?.of_agent(&sim, &dir, "agent", Machine::default())?.1
        } else {
            String::new()
        };
        let (http, media) = (free_port()?, free_port()?);
        let up = format!(
            "[scheduler]\ndeployment = 'one'\ndatabase = 'sqlite:{dir}/scheduler.db'\n\
             master_key_file = '{dir}/master.key'\nhttp = {{ listen = '127.0.0.1:{http}' }}\n\
             lease = {{ listen = '127.0.0.1:0', lease_ms = 9000 }}\n\
             [media_agent]\nname = 'media'\nlisten = '127.0.0.1:{media}'\nlibrary = {{ dir = '{dir}/library' }}\n\
             [agent]\nname = 'agent'\ndata_dir = '{dir}/agent'\nregion = '{REGION}'\nimage_dir = '{dir}/images'\n\
             {of_agent}",
            dir = dir.display(),
        );
        std::fs::write(dir.join("up.toml"), up)?;
        let process = spawn(&dir)?;
        let shell = CommandLine { server: format!("http://127.0.0.1:{http}"), token: None };
        let mut one = Self { process, sim, shell, tenant: String::new(), dir, _folder: folder };
        one.wait().await?;
        one.tenant = one.shell.register(&one.sim, &one.dir).await?;
        Ok(one)
    }

    /// Ends it as a service manager does, and starts it again.
    ///
    /// # Errors
    /// When it does not end well, or does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// Ends it as a service manager does.
    ///
    /// # Errors
    /// When it does not end well.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.terminate()?;
        let status = self.process.wait(BOUND).await?;
        ensure!(status.success(), "it ended with {status}: {}", self.process.log()?);
        Ok(())
    }

    /// Starts it again, after it was stopped.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_again(&mut self) -> Result<()> {
        self.process = spawn(&self.dir)?;
        self.wait().await
    }

    async fn wait(&self) -> Result<()> {
        let is_up = || async { self.shell.succeed(&["media-agent", "list"]).await.is_ok() };
        eventually(BOUND, "it is up", is_up).await.with_context(|| self.process.log().unwrap_or_default())
    }
}

fn spawn(dir: &Path) -> Result<Process> {
    let config = dir.join("up.toml").display().to_string();
    Process::spawn("snapferry", &["up", "--config", &config], &[], &dir.join("up.log"))
}
