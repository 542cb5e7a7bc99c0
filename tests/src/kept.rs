//! What a restored instance keeps of the one that was backed up: every field of its configuration and of its volumes', the
//! ids aside, compared with what was.

use anyhow::{Context as _, Result, ensure};
use snapferry_types::instance::{InstanceConfig, OsFamily, VolumeConfig};

/// Checks that an instance has all that it had, in other volumes, which are under `key` where one is given. A new one has
/// also another id, another image and other addresses.
///
/// # Errors
/// Says what it has, and what it had.
pub fn check_kept(before: &InstanceConfig, after: &InstanceConfig, key: Option<&str>) -> Result<()> {
    check_volumes_kept(before, after, key)?;
    let mut expected = InstanceConfig { volumes: after.volumes.clone(), ..before.clone() };
    if after.instance_id != before.instance_id {
        expected.instance_id = after.instance_id.clone();
        expected.image_id = after.image_id.clone();
        // An image that is registered over snapshots has no platform.
        expected.os = OsFamily::Linux;
        for (old, new) in expected.network_interfaces.iter_mut().zip(&after.network_interfaces) {
            ensure!(new.private_ip.is_some(), "an interface has no address: {new:?}");
            ensure!(new.private_ip != old.private_ip, "the original still has the address of {new:?}");
            old.private_ip.clone_from(&new.private_ip);
        }
    }
    ensure!(*after == expected, "the instance is {after:#?}\nand should be {expected:#?}");
    Ok(())
}

/// Checks that at each device there is another volume that has all that the one before had.
///
/// # Errors
/// Says what a volume has, and what the one before had.
pub fn check_volumes_kept(before: &InstanceConfig, after: &InstanceConfig, key: Option<&str>) -> Result<()> {
    let (n_old, n_new) = (before.volumes.len(), after.volumes.len());
    ensure!(n_old == n_new, "it has {n_new} volumes, and had {n_old}");
    for (old, new) in before.volumes.iter().zip(&after.volumes) {
        ensure!(new.volume_id != old.volume_id, "{} is still the old volume", new.volume_id);
        let key = key.or(old.kms_key_id.as_deref().filter(|_| old.encrypted));
        let expected = VolumeConfig {
            volume_id: new.volume_id.clone(),
            encrypted: key.is_some(),
            kms_key_id: key.map(ToOwned::to_owned),
            ..old.clone()
        };
        ensure!(*new == expected, "the volume is {new:#?}\nand should be {expected:#?}");
    }
    Ok(())
}

/// Checks that an instance has something of all that is kept: of one that has nothing, [`check_kept`] would say little.
///
/// # Errors
/// Names what it lacks.
pub fn check_has_all(config: &InstanceConfig) -> Result<()> {
    let primary = config.network_interfaces.first().context("no network interface")?;
    let of_any = |is: fn(&VolumeConfig) -> bool| config.volumes.iter().any(is);
    let has = [
        ("tenancy", config.tenancy.is_some()),
        ("boot mode", config.boot_mode.is_some()),
        ("virtualization type", config.virtualization_type.is_some()),
        ("enhanced networking", config.ena_support),
        ("key pair", config.key_name.is_some()),
        ("instance profile", config.iam_instance_profile_arn.is_some()),
        ("EBS optimisation", config.ebs_optimized),
        ("VPC", primary.vpc_id.is_some()),
        ("address", primary.private_ip.is_some()),
        ("security group", !primary.security_group_ids.is_empty()),
        ("interface that goes with it", primary.delete_on_termination),
        ("tags", config.tags.len() > 1),
        ("tagged volumes", config.volumes.iter().all(|volume| volume.tags.len() > 1)),
        ("gp2 volume", of_any(|volume| volume.volume_type == "gp2")),
        ("volume with throughput", of_any(|volume| volume.throughput_mibps.is_some())),
        ("volume that goes with it", of_any(|volume| volume.delete_on_termination)),
        ("volume that stays", of_any(|volume| !volume.delete_on_termination)),
    ];
    let lacks: Vec<&str> = has.into_iter().filter(|(_, has)| !has).map(|(what, _)| what).collect();
    ensure!(lacks.is_empty(), "{} has no {}", config.instance_id, lacks.join(", no "));
    Ok(())
}
