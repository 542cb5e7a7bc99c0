//! The command line's shape: noun, then verb.

mod protect;
mod restore;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use snapferry_api::job::Priority;
use snapferry_types::{AccountId, HypervisorId, InstanceId, JobId, MediaAgentId, RecoveryPointId, Region};

pub(crate) use self::protect::{Backup, BackupCopy, Crossing, IntelliSnap};
pub(crate) use self::restore::{Restore, RestoreWhat};
use crate::output::Format;

/// Backs up EC2 instances of tenant accounts with the machines of one service account, and restores them.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 scheduler unreachable, 5 not allowed, 6 the watched job
/// did not succeed, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "snapferry", version)]
pub(crate) struct Args {
    /// URL of the scheduler.
    #[arg(
        long,
        global = true,
        env = "SNAPFERRY_SERVER",
        default_value = "http://127.0.0.1:7480",
        help_heading = "Global options"
    )]
    pub(crate) server: String,
    /// File that holds the bearer token; the variable SNAPFERRY_TOKEN holds the token itself.
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) token_file: Option<PathBuf>,
    /// How data is printed.
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table, help_heading = "Global options")]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// AWS accounts: the service account (admin) and its tenants.
    #[command(subcommand)]
    Hypervisor(Hypervisor),
    /// Instances of a tenant, as they are in AWS now.
    #[command(subcommand)]
    Instance(Instance),
    /// Back up instances: snapshot, read, store (streaming backup).
    Backup(Backup),
    /// Take snapshots that stay in the tenant's account as the recovery point (IntelliSnap backup).
    IntelliSnap(IntelliSnap),
    /// Read IntelliSnap recovery points into a library.
    BackupCopy(BackupCopy),
    /// Restore a recovery point.
    #[command(subcommand)]
    Restore(Restore),
    /// Keep machines up to date in a tenant's account.
    Replicate(Crossing),
    /// Make instances of another vendor's machines.
    Convert(Crossing),
    /// What was asked for, and how far it is.
    #[command(subcommand)]
    Job(Job),
    /// What can be restored.
    #[command(subcommand)]
    RecoveryPoint(RecoveryPoint),
    /// Machines that run an agent.
    #[command(subcommand)]
    AccessNode(ListOnly),
    /// Storage daemons.
    #[command(subcommand)]
    MediaAgent(MediaAgent),
    /// AWS objects that Snapferry made.
    #[command(subcommand)]
    Ledger(Ledger),
    /// Run scheduler, agent and MediaAgent in this process.
    Up(Up),
    /// The main job on two simulated accounts: backup, incremental backup, restore, comparison.
    Demo(Demo),
    /// Print the completions of a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Hypervisor {
    /// Register the service account.
    AddAdmin(AddAdmin),
    /// Register a tenant's account that uses the service account's resources.
    AddTenant(AddTenant),
    /// List the registered accounts.
    List,
    /// Show one.
    Show {
        /// Which.
        id: HypervisorId,
    },
    /// Forget an account; its recovery points must be gone.
    Remove {
        /// Which.
        id: HypervisorId,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct NewHypervisor {
    /// Name for people.
    pub(crate) name: String,
    /// Account id, twelve digits.
    #[arg(long)]
    pub(crate) account: AccountId,
    /// Region; may be repeated.
    #[arg(long = "region", required = true)]
    pub(crate) regions: Vec<Region>,
    /// Endpoint of all AWS services (simulators, private endpoints).
    #[arg(long)]
    pub(crate) endpoint_url: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AddAdmin {
    #[command(flatten)]
    pub(crate) new: NewHypervisor,
    /// Sign in with this access key; its secret is read from --secret-file. Without it, the machine's own credentials
    /// are used.
    #[arg(long, requires = "secret_file")]
    pub(crate) access_key_id: Option<String>,
    /// File that holds the secret access key.
    #[arg(long)]
    pub(crate) secret_file: Option<PathBuf>,
    /// Role to assume after signing in; may be repeated, in order.
    #[arg(long = "role-arn")]
    pub(crate) role_arns: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AddTenant {
    #[command(flatten)]
    pub(crate) new: NewHypervisor,
    /// The admin hypervisor whose resources this tenant uses.
    #[arg(long, value_name = "HYPERVISOR")]
    pub(crate) use_admin_account_resources: HypervisorId,
    /// Role in the tenant's account.
    #[arg(long, requires = "external_id_file", conflicts_with = "access_key_id")]
    pub(crate) role_arn: Option<String>,
    /// File that holds the role's external id.
    #[arg(long)]
    pub(crate) external_id_file: Option<PathBuf>,
    /// Access key in the tenant's account, instead of a role.
    #[arg(long, requires = "secret_file")]
    pub(crate) access_key_id: Option<String>,
    /// File that holds the secret access key.
    #[arg(long)]
    pub(crate) secret_file: Option<PathBuf>,
    /// Read blocks with the service account's credentials over a shared snapshot, instead of the tenant's.
    #[arg(long)]
    pub(crate) read_as_service: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Instance {
    /// List them.
    List {
        /// The tenant.
        hypervisor: HypervisorId,
        /// Only this region.
        #[arg(long)]
        region: Option<Region>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Submit {
    /// Watch the job to its end.
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// Repeating the command with the same key is the same job.
    #[arg(long)]
    pub(crate) idempotency_key: Option<String>,
    /// Before or after which other work.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) priority: Band,
}

/// Bands of the dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Band {
    /// After everything else.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Before everything else.
    High,
}

impl From<Band> for Priority {
    fn from(band: Band) -> Self {
        match band {
            Band::Low => Self::Low,
            Band::Normal => Self::Normal,
            Band::High => Self::High,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// List jobs, newest first.
    List {
        /// Only this tenant's.
        #[arg(long)]
        hypervisor: Option<HypervisorId>,
        /// Only those that are not done.
        #[arg(long)]
        open: bool,
    },
    /// Show one with its tasks.
    Show {
        /// Which.
        id: JobId,
    },
    /// Follow one to its end.
    Watch {
        /// Which.
        id: JobId,
    },
    /// Stop one and clean up.
    Cancel {
        /// Which.
        id: JobId,
    },
    /// Stop one at a safe point and keep its progress.
    Suspend {
        /// Which.
        id: JobId,
    },
    /// Let a suspended one go on, on whatever access node is free.
    Resume {
        /// Which.
        id: JobId,
    },
    /// Change its priority.
    Priority {
        /// Which.
        id: JobId,
        /// The new one.
        #[arg(value_enum)]
        priority: Band,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RecoveryPoint {
    /// List recovery points, newest first.
    List {
        /// Only this tenant's.
        #[arg(long)]
        hypervisor: Option<HypervisorId>,
        /// Only this instance's.
        #[arg(long)]
        instance: Option<InstanceId>,
    },
    /// Show one with its configuration and volumes.
    Show {
        /// Which.
        id: RecoveryPointId,
    },
    /// Delete one; a job does it.
    Delete {
        /// Which.
        id: RecoveryPointId,
        /// Watch the job to its end.
        #[arg(long, short)]
        watch: bool,
    },
    /// Look which snapshots of a tenant's recovery points still exist in its account.
    Reconcile {
        /// The tenant.
        hypervisor: HypervisorId,
    },
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum MediaAgent {
    /// List them.
    List,
    /// Have one read and check all it stores.
    Scrub {
        /// Which.
        id: MediaAgentId,
    },
    /// Have one remove what no recovery point refers to.
    CollectGarbage {
        /// Which.
        id: MediaAgentId,
    },
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum ListOnly {
    /// List them.
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ledger {
    /// List the AWS objects that Snapferry made and that still exist.
    List {
        /// Only those that the reaper would remove.
        #[arg(long)]
        reapable: bool,
    },
    /// Remove now what no live task and no recovery point owns.
    Reap {
        /// Only say what would go, and why.
        #[arg(long)]
        dry_run: bool,
        /// Only this tenant's.
        #[arg(long)]
        hypervisor: Option<HypervisorId>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Up {
    /// Configuration of all roles.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Demo {
    /// A disk of yours as the Linux instance's root volume: raw, or qcow2 and the like through qemu-img.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// Where everything is kept; a temporary folder, removed at the end, when absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_shape_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn an_id_of_the_wrong_kind_is_refused_before_anything_is_asked() {
        let wrong = Args::try_parse_from(["snapferry", "job", "show", "rp-01ARZ3NDEKTSV4RRFFQ69G5FAV"]);
        assert!(wrong.unwrap_err().to_string().contains("is not a job id"));
    }
}
