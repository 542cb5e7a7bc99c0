//! What HotAdd and Import need of the service account: an instance for each agent whose volumes appear on this machine,
//! a bucket, the role by which EC2 reads it, and a key for what lies in between.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use awssim::Running;
use serde_json::json;

use crate::rig::{ACCOUNT, REGION, SERVICE};

/// The bucket for disk images.
pub const BUCKET: &str = "snapferry-test-images";

/// Resources of the service account.
#[derive(Debug)]
pub struct Resources {
    /// A key that the tenant may use.
    pub transit_key: String,
}

impl Resources {
    /// Makes bucket, role and key.
    ///
    /// # Errors
    /// The simulator's.
    pub fn make(sim: &Running) -> Result<Self> {
        let world = &sim.context().world;
        world.create_bucket(SERVICE, REGION, BUCKET)?;
        let trust = json!({"Statement": [{
            "Effect": "Allow", "Principal": {"Service": "vmie.amazonaws.com"}, "Action": "sts:AssumeRole"
        }]});
        world.create_role(SERVICE, "vmimport", trust, Vec::new());
        let policy = json!({"Statement": [{
            "Effect": "Allow",
            "Principal": {"AWS": [format!("arn:aws:iam::{SERVICE}:root"), format!("arn:aws:iam::{ACCOUNT}:root")]},
            "Action": "kms:*",
            "Resource": "*"
        }]});
        Ok(Self { transit_key: world.create_key(SERVICE, REGION, Some(policy)) })
    }

    /// An instance for an agent, and the lines of its configuration.
    ///
    /// # Errors
    /// The simulator's.
    pub(crate) fn of_agent(&self, sim: &Running, dir: &Path, name: &str) -> Result<String> {
        let placed = sim.context().place_instance(SERVICE, REGION, name, None, &[1])?;
        let devices = dir.join(format!("{name}-devices"));
        std::fs::create_dir_all(&devices)?;
        sim.context()
            .world
            .add_access_node(SERVICE, REGION, &placed.instance, &devices)
            .map_err(|error| anyhow!(error))
            .context("declare the access node")?;
        Ok(format!(
            r#"
availability_zone = "{REGION}a"
transit_kms_key_id = "{key}"
hot_add = {{ instance_id = "{instance}", device_dir = "{devices}", max_attachments = 2 }}
import = {{ bucket = "{BUCKET}", staging_dir = "{dir}/{name}-staging" }}
"#,
            key = self.transit_key,
            instance = placed.instance,
            devices = devices.display(),
            dir = dir.display(),
        ))
    }
}
