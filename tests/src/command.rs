//! The operator's command line.

use std::ffi::OsStr;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use snapferry_api::Client;
use snapferry_api::job::Job;
use snapferry_testkit::workspace_binary;
use tokio::process::Command;

/// The command line with the server that it asks.
#[derive(Debug, Clone)]
pub struct CommandLine {
    /// URL of the scheduler.
    pub server: String,
    /// Token for it.
    pub token: Option<String>,
}

/// What a command left.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its exit code.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

impl CommandLine {
    /// Runs `snapferry` to its end.
    ///
    /// # Errors
    /// When it is not built, or a signal ended it.
    pub async fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Answer> {
        let mut command = Command::new(workspace_binary("snapferry")?);
        command.args(arguments).env("SNAPFERRY_SERVER", &self.server).env_remove("SNAPFERRY_TOKEN");
        if let Some(token) = &self.token {
            command.env("SNAPFERRY_TOKEN", token);
        }
        let output = command.kill_on_drop(true).output().await.context("start snapferry")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Answer {
            code: output.status.code().with_context(|| format!("{:?}", output.status))?,
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }

    /// Runs a command that must succeed; answers its data.
    ///
    /// # Errors
    /// With both outputs, when it does not.
    pub async fn succeed(&self, arguments: &[&str]) -> Result<String> {
        let answer = self.run(arguments).await?;
        ensure!(answer.code == 0, "snapferry {}: {answer:#?}", arguments.join(" "));
        Ok(answer.stdout)
    }

    /// As [`Self::succeed`], with the API's own JSON.
    ///
    /// # Errors
    /// Also when the data is no JSON.
    pub async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--output", "json"]).collect();
        let text = self.succeed(&arguments).await?;
        serde_json::from_str(&text).with_context(|| format!("{arguments:?} answered {text:?}"))
    }

    /// Runs a command that asks for a job, and watches that to its end.
    ///
    /// # Errors
    /// When it does not succeed.
    pub async fn done(&self, arguments: &[&str]) -> Result<Job> {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--watch"]).collect();
        let shown = self.json(&arguments).await?;
        let id = shown.get("id").and_then(Value::as_str).with_context(|| format!("no job: {shown:#}"))?;
        Ok(Client::new(&self.server, self.token.as_deref().map(Into::into))?.job(id.parse()?).await?)
    }
}
