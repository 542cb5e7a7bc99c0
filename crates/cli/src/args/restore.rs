//! `snapferry restore …`

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use snapferry_api::restore::{AttachDevice, RestoreFrom};
use snapferry_types::aws::Tag;
use snapferry_types::{ImageFormat, InstanceId, RecoveryPointId, VolumeId};

use super::Submit;
use super::protect::TransportArg;

#[derive(Debug, Subcommand)]
pub(crate) enum Restore {
    /// To new volumes.
    Volumes {
        #[command(flatten)]
        what: RestoreWhat,
        /// Zone of the new volumes; that of the original instance, or of the one they are attached to, when absent.
        #[arg(long)]
        availability_zone: Option<String>,
        /// Attach them to this instance.
        #[arg(long, value_name = "INSTANCE")]
        attach_to: Option<InstanceId>,
        /// Device name of a volume; free ones are found for the others; may be repeated.
        #[arg(long = "device", value_name = "VOLUME=DEVICE", value_parser = parse_device, requires = "attach_to")]
        devices: Vec<AttachDevice>,
    },
    /// To a new instance. What is not said comes from the recovery point.
    Instance {
        #[command(flatten)]
        what: RestoreWhat,
        /// Its Name tag.
        #[arg(long)]
        name: Option<String>,
        /// Its type.
        #[arg(long)]
        instance_type: Option<String>,
        /// Its subnet.
        #[arg(long)]
        subnet: Option<String>,
        /// Its security groups; may be repeated.
        #[arg(long = "security-group")]
        security_groups: Vec<String>,
        /// Its key pair.
        #[arg(long)]
        key_name: Option<String>,
        /// Its instance profile, by name or ARN.
        #[arg(long)]
        iam_instance_profile: Option<String>,
        /// Its primary private address.
        #[arg(long)]
        private_ip: Option<String>,
        /// Leave it stopped.
        #[arg(long)]
        stopped: bool,
    },
    /// Onto the original instance: it is stopped, gets the restored volumes in place of its own, and starts again.
    InPlace {
        #[command(flatten)]
        what: RestoreWhat,
        /// Delete the volumes it had, once it has the new ones; without it they are left, detached.
        #[arg(long)]
        delete_old_volumes: bool,
        /// Leave it stopped even if it ran.
        #[arg(long)]
        leave_stopped: bool,
    },
    /// To a disk image a volume, on the access node's disk.
    DiskImage {
        #[command(flatten)]
        what: RestoreWhat,
        /// Folder below the access node's image folder.
        #[arg(long)]
        folder: String,
        /// raw, qcow2, vmdk (stream-optimised) or vhd (dynamic).
        #[arg(long, value_parser = parse_format, default_value = "raw")]
        format: ImageFormat,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RestoreWhat {
    /// The recovery point.
    pub(crate) recovery_point: RecoveryPointId,
    /// From which copy of it.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) from: Copy,
    /// Only this volume; may be repeated.
    #[arg(long = "volume")]
    pub(crate) volumes: Vec<VolumeId>,
    /// A tag on what is restored, besides the tags that come back; may be repeated.
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_tag)]
    pub(crate) tags: Vec<Tag>,
    /// Encrypt the restored volumes with this key of the tenant; as they were when absent.
    #[arg(long, value_name = "KEY")]
    pub(crate) kms_key: Option<String>,
    #[command(flatten)]
    pub(crate) transport: TransportArg,
    #[command(flatten)]
    pub(crate) submit: Submit,
}

/// A copy of a recovery point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Copy {
    /// The fastest that exists.
    #[default]
    Automatic,
    /// Its snapshots, or copies of them in a vault.
    Snapshot,
    /// A MediaAgent's copy.
    MediaAgent,
}

impl From<Copy> for RestoreFrom {
    fn from(copy: Copy) -> Self {
        match copy {
            Copy::Automatic => Self::Automatic,
            Copy::Snapshot => Self::Snapshot,
            Copy::MediaAgent => Self::MediaAgent,
        }
    }
}

fn parse_tag(text: &str) -> Result<Tag, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok(Tag::new(key, value)),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

fn parse_device(text: &str) -> Result<AttachDevice, String> {
    let (volume, device) = text.split_once('=').ok_or("expected VOLUME=DEVICE")?;
    let volume =
        volume.parse().map_err(|error: snapferry_types::aws::ParseAwsNameError| error.to_string())?;
    Ok(AttachDevice { volume, device: device.to_owned() })
}

fn parse_format(text: &str) -> Result<ImageFormat, String> {
    ImageFormat::from_word(text).ok_or_else(|| "expected raw, qcow2, vmdk or vhd".to_owned())
}
