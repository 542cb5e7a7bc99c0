//! The agent's configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use snapferry_aws::QuotaSettings;
use snapferry_service::TlsFiles;
use snapferry_types::{InstanceId, Region};

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
    /// Whether blocks are compressed before they are sealed; not where the processor is slower than the way to the
    /// MediaAgent.
    #[serde(default = "default_compress")]
    pub compress: bool,
    /// Folder that restores to disk images write below, of this agent alone; without it the node refuses them.
    #[serde(default)]
    pub image_dir: Option<PathBuf>,
    /// This node as an EC2 instance of the service account, which HotAdd attaches volumes to; without it the node moves
    /// blocks otherwise.
    #[serde(default)]
    pub hot_add: Option<HotAddConfig>,
    /// The bucket for disk images; without it the node does not import.
    #[serde(default)]
    pub import: Option<ImportConfig>,
    /// Key of the service account, usable by the tenants, for what HotAdd and Import put into the service account of
    /// encrypted volumes, and for copies of what AWS does not share; without it those are not moved that way. All agents of a
    /// region are to have the same.
    #[serde(default)]
    pub transit_kms_key_id: Option<String>,
    /// Prices that the transport is chosen by.
    #[serde(default)]
    pub prices: Prices,
    /// Where `/metrics` listens; nowhere when absent.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// Certificates for the scheduler and the MediaAgents.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    /// Request rates to stay at, where AWS has granted other quotas than its defaults.
    #[serde(default)]
    pub quotas: Quotas,
}

/// A node that volumes can be attached to. `availability_zone` has to be set, too.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HotAddConfig {
    /// This machine's instance id in the service account.
    pub instance_id: InstanceId,
    /// On Linux, where the system shows EBS volumes by their ids; `/dev/disk/by-id` when absent.
    #[serde(default)]
    pub device_dir: Option<PathBuf>,
    /// Volumes that tasks attach at the same time, all together; an instance takes about 28, with its own volumes and
    /// network interfaces. When they are too many, those that no task here works with are taken off: one agent has the
    /// instance to itself.
    #[serde(default = "default_attachments")]
    pub max_attachments: u8,
}

/// How disk images are imported.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportConfig {
    /// A bucket of the service account, in the node's region.
    pub bucket: String,
    /// Role by which EC2 reads it; `vmimport` when absent.
    #[serde(default)]
    pub role: Option<String>,
    /// Folder for the images before they are uploaded; needs room for the data of the volumes that are restored. Each
    /// agent has a folder of its own in it.
    pub staging_dir: PathBuf,
}

/// US dollars, by which Automatic weighs transports. The defaults are us-east-1's list prices.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prices {
    /// 1,000 calls of GetSnapshotBlock.
    pub get_per_thousand: f64,
    /// 1,000 calls of PutSnapshotBlock.
    pub put_per_thousand: f64,
    /// A GiB of a gp3 volume for a month.
    pub volume_gib_month: f64,
    /// A GiB in S3 for a month.
    pub s3_gib_month: f64,
    /// What an hour of waiting is worth.
    pub hour: f64,
}

impl Default for Prices {
    fn default() -> Self {
        Self {
            get_per_thousand: 0.003,
            put_per_thousand: 0.006,
            volume_gib_month: 0.08,
            s3_gib_month: 0.023,
            hour: 1.0,
        }
    }
}

const fn default_attachments() -> u8 {
    16
}

/// Requests a second for each account-region (block calls: for each snapshot, too). What is absent stays just below
/// AWS's default; throttles slow a rate down whatever is said here.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quotas {
    /// GetSnapshotBlock.
    #[serde(default)]
    pub get_per_second: Option<f64>,
    /// PutSnapshotBlock.
    #[serde(default)]
    pub put_per_second: Option<f64>,
    /// ListSnapshotBlocks and ListChangedBlocks together.
    #[serde(default)]
    pub list_per_second: Option<f64>,
    /// StartSnapshot and CompleteSnapshot together.
    #[serde(default)]
    pub start_per_second: Option<f64>,
}

impl Quotas {
    /// The rates for the governor; `Err` names the key that is not a positive number.
    pub(crate) fn settings(&self) -> Result<QuotaSettings, &'static str> {
        let default = QuotaSettings::default();
        let rate = |key, wanted: Option<f64>, default: f64| match wanted {
            None => Ok(default),
            Some(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
            Some(_) => Err(key),
        };
        Ok(QuotaSettings {
            get_per_second: rate("get_per_second", self.get_per_second, default.get_per_second)?,
            put_per_second: rate("put_per_second", self.put_per_second, default.put_per_second)?,
            list_per_second: rate("list_per_second", self.list_per_second, default.list_per_second)?,
            start_per_second: rate("start_per_second", self.start_per_second, default.start_per_second)?,
        })
    }
}

fn default_group() -> String {
    "default".to_owned()
}

const fn default_slots() -> u32 {
    2
}

const fn default_compress() -> bool {
    true
}

/// 192 blocks, of which the quota of 1,000 calls a second takes 150 at 150 ms. The program and the buffers of its
/// connections come on top: docs/performance.md has what a backup was seen to take in all.
const fn default_budget() -> u64 {
    96
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_that_are_no_rates_are_named() {
        let quotas = Quotas { get_per_second: Some(2_000.0), ..Quotas::default() };
        let settings = quotas.settings().unwrap();
        assert!(settings.get_per_second > 1_999.0 && settings.put_per_second < 1_000.0);
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let quotas = Quotas { list_per_second: Some(rate), ..Quotas::default() };
            assert_eq!(quotas.settings(), Err("list_per_second"));
        }
    }
}
