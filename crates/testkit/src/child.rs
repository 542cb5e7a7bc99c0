//! A child process with its output in a file. It is ended by its own id, at the latest when dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::wait::eventually;

const PAUSE: Duration = Duration::from_millis(25);

/// A running program.
#[derive(Debug)]
pub struct Child {
    name: String,
    inner: std::process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts the command, its standard output and error appended to `log`.
    ///
    /// # Errors
    /// When the program cannot be started or the log cannot be opened.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open the log {}", log.display()))?;
        let error = out.try_clone().context("share the log")?;
        let inner = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(error)
            .spawn()
            .with_context(|| format!("start {name}: {}", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), inner, log: log.to_owned() })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.inner.id()
    }

    /// What it wrote so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes = std::fs::read(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Its status, if it has ended.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        self.inner.try_wait().with_context(|| format!("ask for the status of {}", self.name))
    }

    /// Waits for a line that contains `text` and answers it.
    ///
    /// # Errors
    /// With the log's end, when the line does not come within the bound or the process ends before.
    pub async fn wait_for_line(&mut self, text: &str, bound: Duration) -> Result<String> {
        let start = Instant::now();
        loop {
            let has_ended = self.status()?.is_some();
            let log = self.log()?;
            if let Some(line) = log.lines().find(|line| line.contains(text)) {
                return Ok(line.to_owned());
            }
            if has_ended {
                bail!("{} ended before it wrote {text:?}; its log ends with\n{}", self.name, tail(&log));
            }
            if start.elapsed() >= bound {
                bail!(
                    "{} did not write {text:?} within {bound:?}; its log ends with\n{}",
                    self.name,
                    tail(&log)
                );
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// With the log's end, when it runs longer than the bound.
    pub async fn wait(&mut self, bound: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.status()? {
                return Ok(status);
            }
            if start.elapsed() >= bound {
                bail!("{} still runs after {bound:?}; its log ends with\n{}", self.name, tail(&self.log()?));
            }
            sleep(PAUSE).await;
        }
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Interrupts it (SIGINT).
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn interrupt(&mut self) -> Result<()> {
        self.signal(Signal::INT)
    }

    /// Ends it at once (SIGKILL) and waits until it is gone. Also when it is stopped or has ended.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn kill9(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.status()? {
            return Ok(status);
        }
        self.inner.kill().with_context(|| format!("kill {}", self.name))?;
        self.inner.wait().with_context(|| format!("wait for {}", self.name))
    }

    /// Freezes it (SIGSTOP) and waits until the kernel says that it is.
    ///
    /// # Errors
    /// When it does not stop within five seconds.
    pub async fn sigstop(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let id = self.id();
        let what = format!("{} stopped by SIGSTOP", self.name);
        eventually(Duration::from_secs(5), &what, || async move { state(id) == Some('T') }).await
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn sigcont(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.status()? {
            bail!("{} has ended already, with {status}", self.name);
        }
        kill_process(Pid::from_child(&self.inner), signal)
            .with_context(|| format!("send {signal:?} to {}", self.name))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.kill9().is_err() {
            tracing::warn!(name = self.name, id = self.id(), "could not end a child process");
        }
    }
}

/// The state letter of `/proc/<id>/stat`, which follows the name in parentheses.
fn state(id: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(30)).map(|line| format!("  {line}\n")).collect()
}
