//! What goes wrong in AWS on purpose, and what is looked at afterwards.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use awssim::Running;
use awssim::faults::{Behaviour, Effect, Rule};
use serde_json::{Value, json};
use snapferry_api::fleet::{LastScrub, Maintenance};
use snapferry_api::hypervisor::{CreateHypervisor, CreateRole, ReadAs, TenantSignIn};
use snapferry_api::job::{Job, JobState, Task};
use snapferry_api::page::PageQuery;
use snapferry_testkit::eventually;
use snapferry_types::{HypervisorId, InstanceId, JobId, MediaAgentId, TaskState};

use crate::processes::BOUND;
use crate::rig::{ACCOUNT, EXTERNAL_ID, Rig, SERVICE};

/// The reaper's delay and some rounds.
const CLEAN_BOUND: Duration = Duration::from_secs(30);

/// So many blocks are read before the others wait: what is done then comes in the middle of the transfer.
const HELD_AFTER: u64 = 20;

/// Makes the tenant's role anew: what it asks for, and what it may do (everything, without policies).
pub fn set_role(sim: &Running, external_id: &str, policies: Vec<Value>) -> String {
    let trust = json!({ "Statement": [{
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": { "AWS": format!("arn:aws:iam::{SERVICE}:root") },
        "Condition": { "StringEquals": { "sts:ExternalId": external_id } },
    }] });
    sim.context().world.create_role(ACCOUNT, "snapferry", trust, policies)
}

impl Rig {
    /// Takes actions away from the tenant's role; it may do everything else.
    pub fn deny(&self, actions: &[&str]) {
        let all = json!({ "Effect": "Allow", "Action": "*", "Resource": "*" });
        let but = json!({ "Effect": "Deny", "Action": actions, "Resource": "*" });
        let statements = if actions.is_empty() { vec![all] } else { vec![all, but] };
        set_role(&self.sim, EXTERNAL_ID, vec![json!({ "Version": "2012-10-17", "Statement": statements })]);
    }

    /// Puts one rule in place of all others.
    pub fn hurt(&self, rule: Rule) {
        self.sim.context().faults.set_rules(vec![rule]);
    }

    /// Hurts so many block reads.
    pub fn hurt_reads(&self, effect: Effect, times: u64) {
        self.hurt(Rule::new(effect).on("ebs", "GetSnapshotBlock").times(times));
    }

    /// Lets so many blocks be read; the others wait, and the task with them, until [`Self::let_go`].
    pub fn hold_reads(&self, after: u64) {
        self.hurt(Rule {
            skip: after,
            ..Rule::new(Effect::Hang { seconds: None }).on("ebs", "GetSnapshotBlock")
        });
    }

    /// Starts a backup, and holds it in mid-transfer until [`Self::let_go`].
    ///
    /// # Errors
    /// The API's; when no block is read in time.
    pub async fn held_backup(&self, instance: &InstanceId) -> Result<JobId> {
        self.hold_reads(HELD_AFTER);
        let id = self.back_up(instance).await?;
        self.wait(id, "blocks are being read", |job| {
            job.tasks.iter().any(|task| task.progress.bytes_read > 0 && task.state == TaskState::Running)
        })
        .await?;
        Ok(id)
    }

    /// How long the copies take that AWS makes of snapshots from now on, in milliseconds.
    pub fn copies_take(&self, copy_millis: u64) {
        self.sim.context().faults.set_behaviour(Behaviour { copy_millis, ..Behaviour::default() });
    }

    /// Takes back all rules, and ends what waits by them.
    pub fn let_go(&self) {
        self.sim.context().faults.set_rules(Vec::new());
    }

    /// How often the rules in force took effect.
    #[must_use]
    pub fn fired(&self) -> u64 {
        self.sim.context().faults.rules().iter().map(|report| report.fired).sum()
    }

    /// Waits until no call hangs: whoever was killed in the middle of one is not served any more. Without that, a call that
    /// hung may be carried out when all are let go. Not for calls with a block in them: their connection is not read to its
    /// end, so nobody notices that it was closed.
    ///
    /// # Errors
    /// When a living client waits.
    pub async fn nobody_hangs(&self) -> Result<()> {
        let nobody = || async { self.sim.context().faults.n_held() == 0 };
        eventually(BOUND, "no call hangs", nobody).await
    }

    /// Calls of an action by all accounts, those refused included.
    #[must_use]
    pub fn calls(&self, service: &str, action: &str) -> u64 {
        self.sim.context().faults.counters().calls_of(service, action)
    }

    /// Waits until a job has failed; answers its one task, which has an error.
    ///
    /// # Errors
    /// When it ends otherwise, or not at all.
    pub async fn fail(&self, id: JobId) -> Result<(Job, Task)> {
        let job = self.wait(id, "the job ends", |job| job.summary.state.is_terminal()).await?;
        if job.summary.state != JobState::Failed {
            bail!("the job did not fail: {job:#?}\n{}", self.logs());
        }
        let task = job.tasks.first().cloned().context("the job has no task")?;
        task.error.as_ref().with_context(|| format!("the task has no error: {job:#?}"))?;
        Ok((job, task))
    }

    /// Has the MediaAgent's library scrubbed, which it was not since it was started; answers what that found.
    ///
    /// # Errors
    /// It does not end.
    pub async fn scrubbed(&self) -> Result<(MediaAgentId, LastScrub)> {
        let media_agent = async || {
            let all = self.client.media_agents(&PageQuery::default()).await?.items;
            all.into_iter().next().context("there is no MediaAgent")
        };
        let id = media_agent().await?.id;
        self.client.maintain(id, Maintenance::Scrub).await?;
        eventually(BOUND, "the library is scrubbed", || async {
            media_agent().await.is_ok_and(|one| one.last_scrub.is_some())
        })
        .await?;
        Ok((id, media_agent().await?.last_scrub.context("what the scrub found")?))
    }

    /// Registers the tenant's account once more, in another region.
    ///
    /// # Errors
    /// The API's.
    pub async fn tenant_in(&self, region: &str) -> Result<HypervisorId> {
        let sign_in = TenantSignIn::AssumeRole {
            role_arn: format!("arn:aws:iam::{ACCOUNT}:role/snapferry"),
            external_id: EXTERNAL_ID.into(),
        };
        let request = CreateHypervisor {
            name: format!("customer-{region}"),
            account: ACCOUNT.parse()?,
            regions: vec![region.parse()?],
            endpoint_url: Some(self.sim.endpoint()),
            read_as: ReadAs::Tenant,
            role: CreateRole::Tenant { use_admin_account_resources: self.provider, sign_in },
        };
        Ok(self.client.create_hypervisor(&request).await?.id)
    }

    /// Waits until the tenant has so many snapshots and volumes, and no image.
    ///
    /// # Errors
    /// Says what there is instead.
    pub async fn left(&self, snapshots: usize, volumes: usize) -> Result<()> {
        let waited = eventually(CLEAN_BOUND, "AWS has nothing but what is meant to stay", || async {
            (self.count("snapshots"), self.count("volumes"), self.count("images")) == (snapshots, volumes, 0)
        })
        .await;
        waited.with_context(|| {
            format!("{:?}\n{}", self.sim.context().world.inventory(Some(ACCOUNT)), self.logs())
        })
    }
}
