//! A private PostgreSQL server: its own data folder, port and socket folder, without fsync.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::child::Child;
use crate::port::free_port;
use crate::tool::{Tool, require};
use crate::wait::eventually;

const USER: &str = "snapferry";
const START_BOUND: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    // Dropped before the folder that it writes to.
    server: Option<Child>,
    port: u16,
    n_databases: u32,
    runner: Runner,
    folder: TempDir,
}

/// PostgreSQL refuses to run as root: then it runs as the user of Debian's package, or as nobody.
#[derive(Debug, Clone)]
enum Runner {
    Myself,
    Other { uid: u32, gid: u32 },
}

impl Postgres {
    /// Makes a cluster and starts its server, with an empty database `snapferry`.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start within a minute.
    pub async fn start() -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("snapferry-postgres").tempdir().context("make a folder")?;
        let runner = Runner::choose()?;
        runner.give(folder.path())?;
        let data = folder.path().join("data");
        let mut initdb = runner.command(&require(Tool::Initdb)?)?;
        initdb.arg("-D").arg(&data).args([
            "-U",
            USER,
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
        ]);
        run(initdb.current_dir(folder.path()))?;
        let mut postgres = Self { server: None, port: free_port()?, n_databases: 0, runner, folder };
        postgres.launch().await?;
        postgres.create_database("snapferry")?;
        Ok(postgres)
    }

    /// Address of the database `snapferry`, as sqlx reads it.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("snapferry")
    }

    /// Address of a new, empty database.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn new_database(&mut self) -> Result<String> {
        self.n_databases += 1;
        let name = format!("test_{}", self.n_databases);
        self.create_database(&name)?;
        Ok(self.url_of(&name))
    }

    /// The server's port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Stops it in an orderly way; connections are ended.
    ///
    /// # Errors
    /// When it does not stop within 30 seconds.
    pub async fn stop(&mut self) -> Result<()> {
        let mut server = self.server.take().context("PostgreSQL is not running")?;
        server.interrupt()?;
        server.wait(Duration::from_secs(30)).await.map(drop)
    }

    /// Ends the server at once; what it had not written is lost. Its workers see that it is gone and end on their own:
    /// one that had just been forked still holds the listening socket for a moment, so the end is waited for.
    ///
    /// # Errors
    /// When it does not run, or its workers do not end.
    pub async fn kill9(&mut self) -> Result<()> {
        let mut server = self.server.take().context("PostgreSQL is not running")?;
        server.kill9()?;
        let port = self.port;
        eventually(Duration::from_secs(10), "nobody listens on the killed server's port", || async move {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err()
        })
        .await
    }

    /// Starts it again on the same port and data.
    ///
    /// # Errors
    /// When it runs or does not start.
    pub async fn launch(&mut self) -> Result<()> {
        if self.server.is_some() {
            bail!("PostgreSQL runs already");
        }
        let mut command = self.runner.command(&require(Tool::Postgres)?)?;
        command
            .arg("-D")
            .arg(self.folder.path().join("data"))
            .args(["-p", &self.port.to_string(), "-k"])
            .arg(self.folder.path())
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200"])
            .current_dir(self.folder.path());
        // The log is ours, not the server's: each start has a new one, so that its lines are this start's.
        let log = tempfile::Builder::new()
            .prefix("start")
            .suffix(".log")
            .tempfile_in(self.folder.path())
            .context("make a log")?
            .into_temp_path()
            .keep()
            .context("keep the log")?;
        let mut server = Child::spawn("PostgreSQL", command, &log)?;
        server.wait_for_line("database system is ready to accept connections", START_BOUND).await?;
        self.server = Some(server);
        Ok(())
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    fn create_database(&self, name: &str) -> Result<()> {
        let mut psql = Command::new(require(Tool::Psql)?);
        psql.args(["-X", "-q", "-d", &self.url_of("postgres"), "-c", &format!("CREATE DATABASE {name}")]);
        run(&mut psql)
    }
}

impl Runner {
    fn choose() -> Result<Self> {
        if !rustix::process::getuid().is_root() {
            return Ok(Self::Myself);
        }
        let users = std::fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
        let find = |name: &str| {
            users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| {
                let [user, _, uid, gid, ..] = fields.as_slice() else { return None };
                (*user == name).then_some(()).and_then(|()| uid.parse().ok().zip(gid.parse().ok()))
            })
        };
        match find("postgres").or_else(|| find("nobody")) {
            Some((uid, gid)) => Ok(Self::Other { uid, gid }),
            None => bail!("PostgreSQL refuses to run as root, and there is no user postgres or nobody"),
        }
    }

    fn give(&self, folder: &Path) -> Result<()> {
        if let Self::Other { uid, gid } = *self {
            chown(folder, Some(uid), Some(gid)).with_context(|| format!("give {} away", folder.display()))?;
        }
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
            .with_context(|| format!("close {}", folder.display()))
    }

    fn command(&self, program: &PathBuf) -> Result<Command> {
        let Self::Other { uid, gid } = *self else { return Ok(Command::new(program)) };
        let mut command = Command::new(require(Tool::Setpriv)?);
        command
            .args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()])
            .arg(program);
        Ok(command)
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr))
}
