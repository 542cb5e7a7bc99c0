//! The agent's configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use snapferry_service::TlsFiles;
use snapferry_types::Region;

/// Everything an agent has to be told. Unknown keys are errors.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Name for people; the host's name is a good one.
    pub name: String,
    /// Keeps the access node's id over restarts.
    pub data_dir: PathBuf,
    /// The scheduler's lease service, such as `https://scheduler:7481`; may be absent in `snapferry up`.
    #[serde(default)]
    pub scheduler: String,
    /// Region the node works in.
    pub region: Region,
    /// Zone the node runs in, where it is known.
    #[serde(default)]
    pub availability_zone: String,
    /// Which group of nodes it belongs to.
    #[serde(default = "default_group")]
    pub group: String,
    /// Tasks at the same time.
    #[serde(default = "default_slots")]
    pub slots: u32,
    /// Bytes of blocks in memory at the same time, in MiB, over all tasks.
    #[serde(default = "default_budget")]
    pub memory_budget_mib: u64,
    /// Threads that compress and seal; the number of cores when absent.
    #[serde(default)]
    pub cpu_threads: Option<usize>,
    /// Where `/metrics` listens; nowhere when absent.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// Certificates for the scheduler and the MediaAgents.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
}

fn default_group() -> String {
    "default".to_owned()
}

const fn default_slots() -> u32 {
    2
}

/// 128 MiB keeps the whole process below 256 MiB: 240 blocks in flight, which at 20 to 100 ms a call is the
/// quota of 1,000 calls a second and more.
const fn default_budget() -> u64 {
    128
}
