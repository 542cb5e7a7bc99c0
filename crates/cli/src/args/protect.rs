//! Commands that make recovery points, and those that cross to another account or vendor.

use clap::{Args as ClapArgs, ValueEnum};
use snapferry_api::protect::{Retention, VaultTo};
use snapferry_types::rules::Vendor;
use snapferry_types::{HypervisorId, InstanceId, MediaAgentId, RecoveryPointId, Region, TransportWish};

use super::Submit;

#[derive(Debug, ClapArgs)]
pub(crate) struct Backup {
    /// The tenant.
    pub(crate) hypervisor: HypervisorId,
    /// The instances.
    #[arg(required = true)]
    pub(crate) instances: Vec<InstanceId>,
    /// Where they are, when the tenant has more than one region.
    #[arg(long)]
    pub(crate) region: Option<Region>,
    /// Where to store; chosen by the scheduler when absent.
    #[arg(long)]
    pub(crate) media_agent: Option<MediaAgentId>,
    /// Read everything, even if only changes would do.
    #[arg(long)]
    pub(crate) full: bool,
    #[command(flatten)]
    pub(crate) transport: TransportArg,
    #[command(flatten)]
    pub(crate) keep: Keep,
    #[command(flatten)]
    pub(crate) submit: Submit,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct IntelliSnap {
    /// The tenant.
    pub(crate) hypervisor: HypervisorId,
    /// The instances.
    #[arg(required = true)]
    pub(crate) instances: Vec<InstanceId>,
    /// Where they are, when the tenant has more than one region.
    #[arg(long)]
    pub(crate) region: Option<Region>,
    /// Have the snapshots elsewhere, too.
    #[arg(long, value_enum)]
    pub(crate) vault_to: Option<Whose>,
    /// Region of the copies.
    #[arg(long, requires = "vault_to")]
    pub(crate) vault_region: Option<Region>,
    /// Key of the copies, of the account that owns them.
    #[arg(long, requires = "vault_to")]
    pub(crate) vault_kms_key: Option<String>,
    #[command(flatten)]
    pub(crate) keep: Keep,
    #[command(flatten)]
    pub(crate) submit: Submit,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct BackupCopy {
    /// The tenant.
    pub(crate) hypervisor: HypervisorId,
    /// The recovery points.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) recovery_points: Vec<RecoveryPointId>,
    /// All that were not copied yet, oldest first.
    #[arg(long)]
    pub(crate) all: bool,
    /// Where to store; chosen by the scheduler when absent.
    #[arg(long)]
    pub(crate) media_agent: Option<MediaAgentId>,
    /// Read everything, even if only changes would do.
    #[arg(long)]
    pub(crate) full: bool,
    #[command(flatten)]
    pub(crate) transport: TransportArg,
    #[command(flatten)]
    pub(crate) keep: Keep,
    #[command(flatten)]
    pub(crate) submit: Submit,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Crossing {
    /// The tenant whose account gets them.
    pub(crate) hypervisor: HypervisorId,
    /// The machines, as their vendor names them.
    #[arg(required = true)]
    pub(crate) machines: Vec<String>,
    /// Whose machines they are.
    #[arg(long, value_parser = parse_vendor, value_name = "amazon|vmware")]
    pub(crate) from: Vendor,
    #[command(flatten)]
    pub(crate) transport: TransportArg,
    #[command(flatten)]
    pub(crate) submit: Submit,
}

/// How blocks are moved.
#[derive(Debug, Clone, Copy, ClapArgs)]
pub(crate) struct TransportArg {
    /// automatic, ebs_direct, hot_add or import. A wish that cannot be kept is refused.
    #[arg(long, value_parser = parse_transport, default_value = "automatic")]
    pub(crate) transport: TransportWish,
}

/// How long recovery points are kept; until they are deleted when nothing is said.
#[derive(Debug, Clone, Copy, ClapArgs)]
pub(crate) struct Keep {
    /// Keep them at least so many days.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    keep_days: Option<u32>,
    /// Keep the instance's newest so many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    keep_last: Option<u32>,
}

impl From<Keep> for Option<Retention> {
    fn from(keep: Keep) -> Self {
        let is_limited = keep.keep_days.is_some() || keep.keep_last.is_some();
        is_limited.then_some(Retention { days: keep.keep_days, last: keep.keep_last })
    }
}

/// Whose the copies of a recovery point's snapshots are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Whose {
    /// Copies in the tenant's account, in another region or under another key.
    Tenant,
    /// Shared with the service account.
    ServiceShare,
    /// Copies in the service account.
    ServiceCopy,
}

impl From<Whose> for VaultTo {
    fn from(whose: Whose) -> Self {
        match whose {
            Whose::Tenant => Self::Tenant,
            Whose::ServiceShare => Self::ServiceShare,
            Whose::ServiceCopy => Self::ServiceCopy,
        }
    }
}

fn parse_transport(text: &str) -> Result<TransportWish, String> {
    TransportWish::from_word(&text.replace('-', "_"))
        .ok_or_else(|| "expected automatic, ebs_direct, hot_add or import".to_owned())
}

fn parse_vendor(text: &str) -> Result<Vendor, String> {
    match text {
        "amazon" => Ok(Vendor::Amazon),
        "vmware" => Ok(Vendor::Vmware),
        _ => Err("expected amazon or vmware".to_owned()),
    }
}
