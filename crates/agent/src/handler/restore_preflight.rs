//! What a restore needs in the tenant's account, asked before anything is made: the calls of its target, and the keys of
//! what it makes.
//!
//! Runs twice: only asks.

use std::sync::Arc;

use snapferry_aws::ec2::{self, DescribedInstance};
use snapferry_aws::{Account, KeyUse, Probe};
use snapferry_transfer::TransferError;
use snapferry_types::instance::{InstanceConfig, VolumeConfig};

use super::preflight::{Preflight, keys_of, stand_in};
use super::restore_check::{Place, Zone};
use super::restore_source::{Chosen, Origin};
use crate::context::TaskContext;

/// A device name that hardly any instance has: only the permission is asked about.
const FREE_DEVICE: &str = "/dev/sdz";

/// What is to come of the blocks.
#[derive(Debug)]
pub(super) enum To<'a> {
    /// Volumes, attached where an instance is given.
    Volumes(&'a Zone),
    /// A new instance like the one of old.
    Instance(&'a Place, &'a InstanceConfig),
    /// The volumes of this instance; those before are deleted unless they are kept.
    InPlace {
        /// As it is.
        seen: &'a DescribedInstance,
        /// Whether the volumes before are left.
        keep_old_volumes: bool,
    },
}

/// Asks for all of it.
///
/// # Errors
/// [`TransferError`] of a class that is not tried again, with everything that is missing.
pub(super) async fn run(
    context: &Arc<TaskContext>,
    account: &Account,
    origin: &Origin,
    chosen: &[Chosen],
    to: To<'_>,
) -> Result<(), TransferError> {
    let mut ask = Preflight::new(context);
    if ask.is_late() {
        return Ok(());
    }
    reading(&mut ask, account, origin, chosen);
    say_encrypted(context, account, chosen).await?;
    let volumes: Vec<VolumeConfig> = chosen.iter().map(|one| one.config.clone()).collect();
    for (key, volume) in keys_of(&volumes) {
        let way = "allow it in the key's policy and in the role's (there without kms:ViaService: it is asked directly), \
                   enable the key, or choose another one for the restore (--kms-key)";
        ask.key(account, (key, KeyUse::GenerateDataKeyWithoutPlaintext), volume, way);
    }
    match to {
        To::Volumes(zone) => {
            create_volume(&mut ask, account, &zone.name, chosen);
            if let Some(to) = &zone.attach_to {
                attach(&mut ask, account, to, chosen);
            }
        }
        To::Instance(place, original) => instance(&mut ask, account, place, original, chosen).await,
        To::InPlace { seen, keep_old_volumes } => {
            create_volume(&mut ask, account, &seen.config.availability_zone, chosen);
            in_place(&mut ask, account, seen, chosen, keep_old_volumes);
        }
    }
    ask.run().await
}

/// Says that what was plain comes back encrypted, where the tenant has AWS do so.
async fn say_encrypted(
    context: &TaskContext,
    account: &Account,
    chosen: &[Chosen],
) -> Result<(), TransferError> {
    let plain = chosen.iter().filter(|one| !one.config.encrypted).map(|one| one.volume.volume_id.as_str());
    let plain: Vec<&str> = plain.collect();
    // Who may not look is not told.
    if plain.is_empty() || !ec2::encrypts_by_default(account).await.unwrap_or(false) {
        return Ok(());
    }
    let text = format!(
        "account {} encrypts all new volumes of {} by default: what was not encrypted comes back under its default key ({})",
        account.account(),
        account.region(),
        plain.join(", ")
    );
    context.note(true, text).await
}

/// As [`run`], for a restore that makes nothing in AWS.
///
/// # Errors
/// As [`run`].
pub(super) async fn of_images(
    context: &Arc<TaskContext>,
    account: &Account,
    origin: &Origin,
    chosen: &[Chosen],
) -> Result<(), TransferError> {
    let mut ask = Preflight::new(context);
    reading(&mut ask, account, origin, chosen);
    ask.run().await
}

/// What is read: copies in a vault, or the tenant's own snapshots.
fn reading(ask: &mut Preflight<'_>, account: &Account, origin: &Origin, chosen: &[Chosen]) {
    if let Some((reader, key)) = origin.key_of_copies(account) {
        let way =
            "allow it in the policy of the copies' key and in the role's, or restore from a MediaAgent copy";
        ask.key(reader, (key, KeyUse::Decrypt), "the vault's copies", way);
    }
    if origin.is_of_own_snapshots() {
        let is_chosen =
            |volume: &&VolumeConfig| chosen.iter().any(|one| one.volume.volume_id == volume.volume_id);
        let then: Vec<VolumeConfig> =
            origin.meta.instance.volumes.iter().filter(is_chosen).cloned().collect();
        for (key, volume) in keys_of(&then) {
            let way = "enable the key of the snapshots, let the tenant's role use it, or restore from a MediaAgent copy";
            ask.key(account, (key, KeyUse::Decrypt), volume, way);
        }
    }
}

fn create_volume(ask: &mut Preflight<'_>, account: &Account, zone: &str, chosen: &[Chosen]) {
    // A policy may demand encryption: a plain volume is asked about only where one will be made.
    let plain = chosen.iter().find(|one| !one.config.encrypted);
    let Some(one) = plain.or_else(|| chosen.first()) else { return };
    let probe = Probe::CreateVolume {
        zone: zone.to_owned(),
        snapshot: one.found.here().cloned(),
        kms_key_id: one.config.kms_key_id.clone().filter(|_| one.config.encrypted),
    };
    ask.call(account, probe);
}

fn attach(ask: &mut Preflight<'_>, account: &Account, to: &DescribedInstance, chosen: &[Chosen]) {
    let instance = &to.config.instance_id;
    let Some(own) = to.config.volumes.first() else { return };
    let probe = Probe::AttachVolume {
        volume: own.volume_id.clone(),
        instance: instance.clone(),
        device: FREE_DEVICE.to_owned(),
    };
    ask.call_with(account, probe, "volume");
    if chosen.iter().any(|one| one.config.delete_on_termination) {
        let device = own.device_name.clone();
        ask.call(account, Probe::ModifyInstance { instance: instance.clone(), device });
    }
}

async fn instance(
    ask: &mut Preflight<'_>,
    account: &Account,
    place: &Place,
    original: &InstanceConfig,
    chosen: &[Chosen],
) {
    let root = &original.root_device_name;
    let of_root = chosen.iter().find(|one| one.config.device_name == *root);
    let snapshot = match of_root.and_then(|one| one.found.here().cloned()) {
        Some(snapshot) => Some(snapshot),
        None => stand_in(account).await,
    };
    if let Some(snapshot) = snapshot {
        ask.call(account, Probe::RegisterImage { snapshot, root_device: root.clone() });
    }
    // The image of old stands for the one that will be made. Where it is gone, the launch itself will tell.
    let Some(image) = &original.image_id else { return };
    let primary = place.interfaces.first();
    let wanted = &place.wanted;
    let profile = wanted.iam_instance_profile.as_ref().or(original.iam_instance_profile_arn.as_ref());
    let probe = Probe::RunInstance {
        image: image.clone(),
        instance_type: wanted.instance_type.as_ref().unwrap_or(&original.instance_type).clone(),
        subnet: primary.map(|one| one.subnet_id.clone()),
        security_groups: primary.map(|one| one.security_group_ids.clone()).unwrap_or_default(),
        profile: profile.cloned(),
    };
    ask.call_with(account, probe, "image");
}

/// The volumes that the instance has now are taken off, and attached again when it is taken back.
fn in_place(
    ask: &mut Preflight<'_>,
    account: &Account,
    seen: &DescribedInstance,
    chosen: &[Chosen],
    keep_old_volumes: bool,
) {
    let instance = &seen.config.instance_id;
    ask.call(account, Probe::StopInstance(instance.clone()));
    ask.call(account, Probe::StartInstance(instance.clone()));
    let is_replaced = |volume: &&VolumeConfig| {
        chosen.iter().any(|one| {
            one.volume.volume_id == volume.volume_id || one.config.device_name == volume.device_name
        })
    };
    let Some(old) = seen.config.volumes.iter().find(is_replaced) else { return };
    let (volume, device) = (old.volume_id.clone(), old.device_name.clone());
    ask.call(account, Probe::DetachVolume(volume.clone()));
    if !keep_old_volumes {
        ask.call(account, Probe::DeleteVolume(volume.clone()));
    }
    let attach = Probe::AttachVolume { volume, instance: instance.clone(), device: device.clone() };
    ask.call(account, attach);
    ask.call(account, Probe::ModifyInstance { instance: instance.clone(), device });
}
