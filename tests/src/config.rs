//! The configuration files of the rig's processes.

use std::path::{Path, PathBuf};

use anyhow::Result;
use awssim::Running;
use snapferry_testkit::Postgres;

use crate::rig::{REGION, RigOptions, SERVICE};

/// Tokens of the API, by what they may do.
#[derive(Debug, Clone, Copy)]
pub struct Tokens {
    /// Everything.
    pub operator: &'static str,
    /// What the rig's tenant may.
    pub tenant: &'static str,
    /// What another tenant may, the hypervisor `stranger`.
    pub stranger: &'static str,
    /// Looking.
    pub viewer: &'static str,
}

/// The tokens of a rig that asks for them.
pub const TOKENS: Tokens = Tokens {
    operator: "operator-0123456789abcdef",
    tenant: "tenant-0123456789abcdef",
    stranger: "stranger-0123456789abcdef",
    viewer: "viewer-0123456789abcdef",
};

/// What the library keeps free of a small disk, in MiB.
const RESERVE_MIB: u32 = 8;

/// Ports that the processes agree on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) lease: u16,
    pub(crate) media: u16,
}

/// `scheduler.toml`.
pub(crate) fn scheduler(
    dir: &Path,
    ports: Ports,
    options: &RigOptions,
    postgres: Option<&Postgres>,
) -> Result<PathBuf> {
    let in_a_file = || format!("sqlite:{}/scheduler.db", dir.display());
    let mut text = format!(
        r#"
deployment = "test"
database = "{database}"
master_key_file = "{dir}/master.key"

[http]
listen = "127.0.0.1:{http}"

[lease]
listen = "127.0.0.1:{lease}"
lease_ms = {lease_ms}
grace_ms = 500
suspect_ms = 1000
retry_base_ms = 200
retry_max_ms = 1000
node_timeout_ms = 15000

[dispatch]
tick_ms = 100

[reconcile]
{reconcile}

[retention]
interval_ms = 500

[reaper]
interval_ms = 500
delay_ms = {reaper_delay_ms}

[queue]
kind = "rabbitmq"
url = {{ env = "TEST_AMQP_URL" }}
"#,
        database = postgres.map_or_else(in_a_file, Postgres::url),
        dir = dir.display(),
        http = ports.http,
        lease = ports.lease,
        lease_ms = options.lease_ms,
        reaper_delay_ms = options.reaper_delay_ms,
        reconcile = options
            .reconcile_ms
            .map_or("enabled = false".to_owned(), |every| format!("interval_ms = {every}")),
    );
    if options.with_tokens {
        for (name, role, hypervisor, secret) in [
            ("operator", "operator", None, TOKENS.operator),
            ("tenant", "tenant", Some("customer"), TOKENS.tenant),
            ("stranger", "tenant", Some("stranger"), TOKENS.stranger),
            ("viewer", "viewer", None, TOKENS.viewer),
        ] {
            let file = dir.join(format!("{name}.token"));
            std::fs::write(&file, secret)?;
            let hypervisor = hypervisor.map(|name| format!("hypervisor = \"{name}\"\n")).unwrap_or_default();
            text.push_str(&format!(
                "\n[[tokens]]\nname = \"{name}\"\nrole = \"{role}\"\n{hypervisor}secret = {{ file = \"{}\" }}\n",
                file.display()
            ));
        }
    }
    write(&dir.join("scheduler.toml"), &text)
}

/// `media-agent.toml`.
pub(crate) fn media_agent(
    dir: &Path,
    ports: Ports,
    options: &RigOptions,
    bucket: Option<&Bucket>,
) -> Result<PathBuf> {
    let mut text = format!(
        r#"
name = "media"
listen = "127.0.0.1:{media}"
scheduler = "http://127.0.0.1:{lease}"

[library]
dir = "{dir}/library"
"#,
        dir = dir.display(),
        media = ports.media,
        lease = ports.lease,
    );
    if options.library_mib.is_some() {
        text.push_str(&format!("reserve_bytes = {}\npack_bytes = 4194304\n", u64::from(RESERVE_MIB) << 20));
    }
    if let Some(bucket) = bucket {
        text.push_str(&bucket.lines);
    }
    write(&dir.join("media-agent.toml"), &text)
}

/// A bucket for the library.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// The lines of the configuration that name it.
    lines: String,
}

impl Bucket {
    /// Makes it in the service account, with a user who may do everything.
    pub(crate) fn make(sim: &Running, dir: &Path) -> Result<Self> {
        let world = &sim.context().world;
        world.create_bucket(SERVICE, REGION, "library")?;
        let key = world.create_user(SERVICE, "library", Vec::new());
        let secret = |name: &str, text: &str| -> Result<String> {
            std::fs::write(dir.join(name), text)?;
            Ok(dir.join(name).display().to_string())
        };
        let lines = format!(
            r#"
pack_bytes = 33554432

[library.backend.s3]
bucket = "library"
prefix = "here"
endpoint = "{endpoint}"
region = "{REGION}"
access_key_id = {{ file = "{id}" }}
secret_access_key = {{ file = "{secret}" }}
"#,
            endpoint = sim.endpoint(),
            id = secret("library.key", &key.access_key_id)?,
            secret = secret("library.secret", &key.secret_access_key)?,
        );
        Ok(Self { lines })
    }
}

/// `<name>.toml` of an agent.
pub(crate) fn agent(dir: &Path, ports: Ports, name: &str, slots: u32, resources: &str) -> Result<PathBuf> {
    let text = format!(
        r#"
[agent]
name = "{name}"
data_dir = "{dir}/{name}"
scheduler = "http://127.0.0.1:{lease}"
region = "{REGION}"
slots = {slots}
image_dir = "{dir}/{images}"
{resources}

[queue]
url = {{ env = "TEST_AMQP_URL" }}
"#,
        dir = dir.display(),
        lease = ports.lease,
        // Each machine has its own.
        images = if name == "agent-1" { "images".to_owned() } else { format!("{name}-images") },
    );
    write(&dir.join(format!("{name}.toml")), &text)
}

fn write(path: &Path, text: &str) -> Result<PathBuf> {
    std::fs::write(path, text)?;
    Ok(path.to_owned())
}
