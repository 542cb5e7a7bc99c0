//! What HotAdd and Import need of the service account: an instance for each agent whose volumes appear on this machine,
//! a bucket, the role by which EC2 reads it, and a key for what lies in between.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use awssim::Running;
use serde_json::json;

use crate::policies::key_for_both;
use crate::rig::{REGION, SERVICE};

/// The bucket for disk images.
pub const BUCKET: &str = "snapferry-test-images";

/// What the machine of an agent is and can do.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// The letter of its zone.
    pub zone: char,
    /// Whether volumes can be attached to it.
    pub can_hot_add: bool,
    /// Whether it has a bucket to import from.
    pub can_import: bool,
    /// Volumes that its tasks may have attached at the same time.
    pub max_attachments: u8,
}

impl Default for Machine {
    fn default() -> Self {
        Self { zone: 'a', can_hot_add: true, can_import: true, max_attachments: 2 }
    }
}

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
        Ok(Self { transit_key: world.create_key(SERVICE, REGION, Some(key_for_both())) })
    }

    /// An instance for an agent, and the lines of its configuration.
    ///
    /// # Errors
    /// The simulator's.
    pub(crate) fn of_agent(
        &self,
        sim: &Running,
        dir: &Path,
        name: &str,
        machine: Machine,
    ) -> Result<(String, String)> {
        let zone = format!("{REGION}{}", machine.zone);
        let placed = sim.context().place_instance_in(SERVICE, &zone, name, None, &[1])?;
        let devices = dir.join(format!("{name}-devices"));
        std::fs::create_dir_all(&devices)?;
        sim.context()
            .world
            .add_access_node(SERVICE, REGION, &placed.instance, &devices)
            .map_err(|error| anyhow!(error))
            .context("declare the access node")?;
        let mut lines = format!(
            "availability_zone = \"{zone}\"\ntransit_kms_key_id = \"{key}\"\n",
            key = self.transit_key
        );
        if machine.can_hot_add {
            lines.push_str(&format!(
                "hot_add = {{ instance_id = \"{instance}\", device_dir = \"{devices}\", max_attachments = {most} }}\n",
                instance = placed.instance,
                devices = devices.display(),
                most = machine.max_attachments,
            ));
        }
        if machine.can_import {
            lines.push_str(&format!(
                "import = {{ bucket = \"{BUCKET}\", staging_dir = \"{dir}/staging\" }}\n",
                dir = dir.display(),
            ));
        }
        Ok((placed.instance, lines))
    }
}
