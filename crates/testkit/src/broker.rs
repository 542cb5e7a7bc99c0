//! A private RabbitMQ node: its own home (and so its own Erlang cookie), name, ports, data and port mapper. It takes
//! about ten seconds to start and 150 MB.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::child::Child;
use crate::port::free_port;
use crate::tool::{Tool, require};
use crate::wait::eventually;

const START_BOUND: Duration = Duration::from_secs(120);
const STOP_BOUND: Duration = Duration::from_secs(60);
const CTL_BOUND: Duration = Duration::from_secs(60);
const WATCH_PERIOD: Duration = Duration::from_millis(500);

/// How a broker differs from the usual.
#[derive(Debug, Clone, Default)]
pub struct BrokerOptions {
    /// Longest time that a delivery may stay unsettled; 30 minutes when absent. Looked at twice a second.
    pub consumer_timeout: Option<Duration>,
    /// Lines of `rabbitmq.conf`.
    pub config: String,
    /// Plugins that are enabled.
    pub plugins: Vec<String>,
}

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    // Dropped before the port mapper and the folder.
    server: Option<Child>,
    _epmd: Child,
    node: String,
    port: u16,
    dist_port: u16,
    epmd_port: u16,
    folder: TempDir,
}

impl Broker {
    /// Starts a broker.
    ///
    /// # Errors
    /// When RabbitMQ is not installed or does not start within two minutes.
    pub async fn start() -> Result<Self> {
        Self::start_with(BrokerOptions::default()).await
    }

    /// Starts a broker that differs.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub async fn start_with(options: BrokerOptions) -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("snapferry-rabbit").tempdir().context("make a folder")?;
        let path = folder.path();
        std::fs::write(path.join("plugins"), format!("[{}].\n", options.plugins.join(",")))
            .context("write the list of plugins")?;
        std::fs::write(path.join("rabbitmq.conf"), &options.config).context("write rabbitmq.conf")?;
        let consumer_timeout = options.consumer_timeout.map_or_else(String::new, |limit| {
            format!("{{consumer_timeout,{}}},{{channel_tick_interval,500}}", limit.as_millis())
        });
        std::fs::write(path.join("advanced.config"), format!("[{{rabbit,[{consumer_timeout}]}}].\n"))
            .context("write advanced.config")?;
        let (port, dist_port, epmd_port) = (free_port()?, free_port()?, free_port()?);
        // In the foreground, so that it is our child and ends with us.
        let mut epmd = Command::new(require(Tool::Epmd)?);
        epmd.args(["-port", &epmd_port.to_string(), "-address", "127.0.0.1"]);
        let epmd = Child::spawn("epmd", epmd, &path.join("epmd.log"))?;
        let node = format!("snapferry{port}@localhost");
        let mut broker = Self { server: None, _epmd: epmd, node, port, dist_port, epmd_port, folder };
        broker.launch().await?;
        Ok(broker)
    }

    /// `amqp://guest:guest@127.0.0.1:<port>/%2f`.
    #[must_use]
    pub fn url(&self) -> String {
        Self::url_at(self.port)
    }

    /// The same broker's address behind another port, such as a proxy's.
    #[must_use]
    pub fn url_at(port: u16) -> String {
        format!("amqp://guest:guest@127.0.0.1:{port}/%2f")
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Runs `rabbitmqctl` on this node and answers its output.
    ///
    /// # Errors
    /// With both outputs, when it fails or takes over a minute.
    pub async fn ctl<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let mut command = self.command(require(Tool::Rabbitmqctl)?);
        command.args(["-q", "-n", &self.node]).args(arguments);
        let shown = format!("{command:?}");
        let mut command = tokio::process::Command::from(command);
        let output = timeout(CTL_BOUND, command.kill_on_drop(true).output())
            .await
            .with_context(|| format!("{shown} took over {CTL_BOUND:?}"))?
            .with_context(|| format!("start {shown}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        bail!("{shown} ended with {}: {}{}", output.status, text(&output.stdout), text(&output.stderr))
    }

    /// Sets a policy on queues by a pattern of their names.
    ///
    /// # Errors
    /// As [`Broker::ctl`].
    pub async fn set_policy(&self, name: &str, pattern: &str, definition: &str) -> Result<()> {
        self.ctl(&["set_policy", name, pattern, definition, "--apply-to", "queues"]).await.map(drop)
    }

    /// The policy of the task queues: what is no ticket goes to `snapferry.dead`, and a full queue refuses.
    ///
    /// # Errors
    /// As [`Broker::ctl`].
    pub async fn set_task_policy(&self) -> Result<()> {
        let definition = r#"{"dead-letter-exchange":"snapferry.dead","dead-letter-strategy":"at-least-once","overflow":"reject-publish","max-length":100000}"#;
        self.set_policy("snapferry-task", r"^snapferry\.task\.v1\.", definition).await
    }

    /// Messages of a queue, ready and unsettled; `None` when there is no such queue.
    ///
    /// # Errors
    /// As [`Broker::ctl`].
    pub async fn depth(&self, queue: &str) -> Result<Option<(u64, u64)>> {
        let columns =
            ["list_queues", "name", "messages_ready", "messages_unacknowledged", "--no-table-headers"];
        let table = self.ctl(&columns).await?;
        let row = table
            .lines()
            .map(|line| line.split('\t').collect::<Vec<_>>())
            .find(|row| row.first() == Some(&queue));
        let Some(row) = row else { return Ok(None) };
        let [_, ready, unsettled] = row.as_slice() else { bail!("unexpected columns: {row:?}") };
        Ok(Some((
            ready.parse().context("messages_ready")?,
            unsettled.parse().context("messages_unacknowledged")?,
        )))
    }

    /// Stops it in an orderly way.
    ///
    /// # Errors
    /// When it does not run or does not stop within a minute.
    pub async fn stop(&mut self) -> Result<()> {
        let mut server = self.server.take().context("the broker is not running")?;
        server.terminate()?;
        server.wait(STOP_BOUND).await.map(drop)
    }

    /// Ends it at once.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill9(&mut self) -> Result<()> {
        let mut server = self.server.take().context("the broker is not running")?;
        server.kill9().map(drop)
    }

    /// Freezes it: its connections stay, nothing answers.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn sigstop(&mut self) -> Result<()> {
        self.server.as_mut().context("the broker is not running")?.sigstop().await
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn sigcont(&mut self) -> Result<()> {
        self.server.as_mut().context("the broker is not running")?.sigcont()
    }

    /// Waits until it has ended by itself; answers the end of its log.
    ///
    /// # Errors
    /// When it was stopped, or its log cannot be read.
    pub async fn ended(&mut self) -> Result<String> {
        let server = self.server.as_mut().context("the broker is not running")?;
        while server.status()?.is_none() {
            tokio::time::sleep(WATCH_PERIOD).await;
        }
        let log = server.log()?;
        let from = log.len().saturating_sub(4 << 10);
        Ok(log.get(log.ceil_char_boundary(from)..).unwrap_or_default().to_owned())
    }

    /// Stops it in an orderly way and starts it again on the same port and data.
    ///
    /// # Errors
    /// As [`Broker::stop`] and [`Broker::launch`].
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.launch().await
    }

    /// Ends it at once, deletes all that it stored and starts it again.
    ///
    /// # Errors
    /// As [`Broker::kill9`] and [`Broker::launch`].
    pub async fn wipe(&mut self) -> Result<()> {
        self.kill9().await?;
        std::fs::remove_dir_all(self.folder.path().join("data")).context("delete the broker's data")?;
        self.launch().await
    }

    /// Starts a stopped broker and waits until it answers AMQP.
    ///
    /// # Errors
    /// When it runs already or does not start within two minutes.
    pub async fn launch(&mut self) -> Result<()> {
        if self.server.is_some() {
            bail!("the broker runs already");
        }
        let log = self.folder.path().join("server.log");
        let mut server = Child::spawn("RabbitMQ", self.command(require(Tool::RabbitmqServer)?), &log)?;
        let address = self.address();
        let answered = eventually(START_BOUND, "RabbitMQ answers", || async { speaks_amqp(address).await });
        tokio::select! {
            answered = answered => answered.with_context(|| server.log().unwrap_or_default())?,
            ended = server.wait(START_BOUND * 2) => bail!("RabbitMQ ended with {}:\n{}", ended?, server.log()?),
        }
        self.server = Some(server);
        Ok(())
    }

    fn command(&self, program: PathBuf) -> Command {
        let path = self.folder.path();
        let place = |name: &str| path.join(name).into_os_string();
        let mut command = Command::new(program);
        command
            .current_dir(path)
            .env("HOME", path)
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            // The start script then becomes the node itself, instead of a shell that waits for it.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env_remove("NOTIFY_SOCKET")
            .env("RABBITMQ_NODENAME", &self.node)
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", place("data"))
            .env("RABBITMQ_LOG_BASE", place("log"))
            .env("RABBITMQ_PID_FILE", place("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", place("plugins"))
            .env("RABBITMQ_CONF_ENV_FILE", Path::new("/dev/null"))
            .env("RABBITMQ_CONFIG_FILE", place("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", place("advanced.config"));
        command
    }
}

/// Whether a broker answers a client's first bytes with a frame.
async fn speaks_amqp(address: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        stream.read(&mut [0; 8]).await
    };
    matches!(timeout(Duration::from_secs(5), ask).await, Ok(Ok(1..)))
}
