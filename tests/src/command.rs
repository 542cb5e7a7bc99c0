//! The operator's command line.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use awssim::Running;
use serde_json::Value;
use snapferry_api::Client;
use snapferry_api::job::Job;
use snapferry_testkit::workspace_binary;
use tokio::process::Command;

use crate::faults::set_role;
use crate::rig::{ACCOUNT, ELSEWHERE, EXTERNAL_ID, REGION, SERVICE};

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

    /// Makes both accounts in AWS and registers them, with secrets in files of `dir`; answers the tenant's id.
    ///
    /// # Errors
    /// What was refused.
    pub async fn register(&self, sim: &Running, dir: &Path) -> Result<String> {
        let world = &sim.context().world;
        let key = world.create_user(SERVICE, "snapferry", Vec::new());
        world.create_account(ACCOUNT);
        let role = set_role(sim, EXTERNAL_ID, Vec::new());
        let file = |name: &str, text: &str| -> Result<String> {
            std::fs::write(dir.join(name), text)?;
            Ok(dir.join(name).display().to_string())
        };
        let secret = file("service.secret", &key.secret_access_key)?;
        let external_id = file("external-id", EXTERNAL_ID)?;
        let endpoint = sim.endpoint();
        let place = ["--region", REGION, "--region", ELSEWHERE, "--endpoint-url", &endpoint];
        let admin = ["hypervisor", "add-admin", "provider", "--account", SERVICE];
        let sign_in = ["--access-key-id", &key.access_key_id, "--secret-file", &secret];
        let admin = self.json(&[&admin[..], &place, &sign_in].concat()).await?;
        let admin = admin.get("id").and_then(Value::as_str).context("the service account has no id")?;
        let tenant = ["hypervisor", "add-tenant", "customer", "--account", ACCOUNT];
        let sign_in = ["--role-arn", &role, "--external-id-file", &external_id];
        let uses = ["--use-admin-account-resources", admin];
        let tenant = self.json(&[&tenant[..], &place, &sign_in, &uses].concat()).await?;
        Ok(tenant.get("id").and_then(Value::as_str).context("the tenant has no id")?.to_owned())
    }
}
