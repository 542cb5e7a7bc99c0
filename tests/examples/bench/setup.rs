//! A simulated account with snapshots to read.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use awssim::store::SyntheticSpec;
use awssim::{Config, Running, Server};

pub(super) const ACCOUNT: &str = "222222222222";
pub(super) const REGION: &str = "eu-central-1";

/// How a program reaches the simulated account.
pub(super) struct Access {
    pub(super) endpoint: String,
    pub(super) access_key_id: String,
    pub(super) secret_access_key: String,
}

impl Access {
    /// A new key to the account.
    pub(super) fn new(running: &Running) -> Self {
        let key = running.context().world.create_user(ACCOUNT, "bench", Vec::new());
        Self {
            endpoint: running.endpoint(),
            access_key_id: key.access_key_id,
            secret_access_key: key.secret_access_key,
        }
    }

    /// Tells a program, by the variables that all AWS tools know.
    pub(super) fn tell(&self, command: &mut Command) {
        command
            .env("AWS_ACCESS_KEY_ID", &self.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &self.secret_access_key)
            .env("AWS_REGION", REGION)
            .env("AWS_ENDPOINT_URL", &self.endpoint)
            .env("AWS_EC2_METADATA_DISABLED", "true");
    }
}

/// The simulator and a key to its account.
pub(super) struct Sim {
    pub(super) running: Running,
    pub(super) access: Access,
}

impl Sim {
    pub(super) async fn start(dir: &Path) -> Result<Self> {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let running = Server::start(Config { listen, data_dir: dir.join("aws") }).await?;
        let access = Access::new(&running);
        Ok(Self { running, access })
    }

    /// A completed snapshot with computed blocks.
    pub(super) fn synthetic(&self, id: &str, spec: &SyntheticSpec) -> Result<()> {
        let context = self.running.context();
        context.store.create_synthetic(id, spec)?;
        context.world.register_snapshot(ACCOUNT, REGION, id, spec.volume_size_gib);
        Ok(())
    }
}
