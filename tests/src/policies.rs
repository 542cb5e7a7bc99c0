//! What the accounts let us do: the policies that are shipped, alone, and single permissions taken away; and what both
//! accounts hold.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use awssim::world::AccessKey;
use serde_json::{Value, json};
use snapferry_aws::{Account, ec2};
use snapferry_types::aws::Tag;

use crate::rig::{ACCOUNT, EXTERNAL_ID, REGION, Rig, SERVICE};
use crate::transports::BUCKET;

/// By which the shipped policy knows access nodes.
const ACCESS_NODE: &str = "snapferry:access-node";
/// Instances of this name can be restored with their role under the shipped policies.
pub const RESTORABLE: &str = "restorable";

/// A key policy that lets these accounts do everything.
#[must_use]
pub fn key_for(accounts: &[&str]) -> Value {
    let roots: Vec<String> = accounts.iter().map(|account| format!("arn:aws:iam::{account}:root")).collect();
    json!({ "Statement": [{
        "Effect": "Allow", "Principal": { "AWS": roots }, "Action": "kms:*", "Resource": "*",
    }] })
}

/// [`key_for`] the tenant and the service account.
#[must_use]
pub fn key_for_both() -> Value {
    key_for(&[ACCOUNT, SERVICE])
}

impl Rig {
    /// Leaves both accounts' principals the policies of `deploy/iam` and nothing else, and tags the access nodes. Answers
    /// the service account under them.
    ///
    /// # Errors
    /// When a policy does not read, or AWS's.
    pub async fn use_shipped_policies(&self) -> Result<Account> {
        let transit = self.transports.as_ref().context("no service resources")?.transit_key.clone();
        let names = [
            ("SERVICE_ACCOUNT_ID", SERVICE),
            ("EXTERNAL_ID", EXTERNAL_ID),
            ("IMPORT_BUCKET", BUCKET),
            ("RESTORABLE_ROLE_*", RESTORABLE),
            ("TRANSIT_KEY_ARN", &transit),
            // The rig's service account signs in as a user.
            (":role/snapferry\" }", ":user/snapferry\" }"),
        ];
        let world = &self.sim.context().world;
        world.create_role(
            ACCOUNT,
            "snapferry",
            shipped("tenant-trust.json", &names)?,
            vec![shipped("tenant-role.json", &names)?],
        );
        let key = self.set_service_policies(vec![shipped("service-role.json", &names)?]);
        let owner = self.owner(SERVICE, REGION).await?;
        for node in world.inventory(Some(SERVICE)).remove("instances").unwrap_or_default() {
            ec2::create_tags(&owner, &node, &[Tag::new(ACCESS_NODE, "true")]).await?;
        }
        self.sign_in(SERVICE, REGION, key).await
    }

    /// Takes actions away from the service account's user, who may do everything else.
    pub fn deny_service(&self, actions: &[&str]) {
        let all = json!({ "Effect": "Allow", "Action": "*", "Resource": "*" });
        let but = json!({ "Effect": "Deny", "Action": actions, "Resource": "*" });
        let statements = if actions.is_empty() { vec![all] } else { vec![all, but] };
        let _another_key =
            self.set_service_policies(vec![json!({ "Version": "2012-10-17", "Statement": statements })]);
    }

    /// The key that the scheduler knows stays good: the policies are its user's. Answers another one of that.
    fn set_service_policies(&self, policies: Vec<Value>) -> AccessKey {
        self.sim.context().world.create_user(SERVICE, "snapferry", policies)
    }

    /// Everything that both accounts hold.
    #[must_use]
    pub fn holdings(&self) -> BTreeMap<String, Vec<String>> {
        let world = &self.sim.context().world;
        let of = |account: &'static str| {
            let kinds = world.inventory(Some(account)).into_iter();
            kinds.map(move |(kind, ids)| (format!("{account} {kind}"), ids))
        };
        of(ACCOUNT).chain(of(SERVICE)).collect()
    }

    /// Changes the configuration of the first agent and starts it again.
    ///
    /// # Errors
    /// When nothing was changed, or it does not end.
    pub async fn reconfigure_agent(&mut self, change: impl Fn(&str) -> String) -> Result<()> {
        let file = self.dir.join("agent-1.toml");
        let before = std::fs::read_to_string(&file)?;
        let after = change(&before);
        ensure!(before != after, "nothing was changed in {before}");
        std::fs::write(&file, after)?;
        self.restart_agent().await
    }
}

fn shipped(file: &str, names: &[(&str, &str)]) -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/iam").join(file);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let text = names.iter().fold(text, |text, (name, value)| text.replace(name, value));
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}
