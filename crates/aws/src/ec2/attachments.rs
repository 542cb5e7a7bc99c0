//! Attaching volumes to instances and detaching them, and the device names that are free for it.

use std::time::Duration;

use snapferry_types::instance::OsFamily;
use snapferry_types::{InstanceId, VolumeId};
use tokio_util::sync::CancellationToken;

use crate::ec2::volumes::{VolumeAttachment, describe_volume, volume_state};
use crate::ec2::wait::Wait;
use crate::error::{Asked, AwsError};
use crate::session::Account;

const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// Attaches a volume; returns when the order is accepted, before the device appears.
///
/// # Errors
/// [`AwsError`]; `Busy` when it is attached elsewhere.
pub async fn attach_volume(
    account: &Account,
    volume: &VolumeId,
    instance: &InstanceId,
    device_name: &str,
) -> Result<(), AwsError> {
    let asked = Asked::new("ec2:AttachVolume", "volume", volume.as_str());
    account
        .call(|| async {
            let call = account.ec2().attach_volume().volume_id(volume.as_str());
            let call = call.instance_id(instance.as_str()).device(device_name);
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await
        .map(|_| ())
}

/// Detaches a volume; one that is not attached, or gone, is done. Returns when the order is accepted. `by_force` takes
/// it from a system that does not let go, which may then lose what it has not written.
///
/// # Errors
/// [`AwsError`].
pub async fn detach_volume(account: &Account, volume: &VolumeId, by_force: bool) -> Result<(), AwsError> {
    detach(account, volume, None, by_force).await
}

/// As [`detach_volume`], from this instance only: one that is attached elsewhere stays there, and that is done, too.
///
/// # Errors
/// [`AwsError`].
pub async fn detach_volume_from(
    account: &Account,
    volume: &VolumeId,
    instance: &InstanceId,
    by_force: bool,
) -> Result<(), AwsError> {
    detach(account, volume, Some(instance), by_force).await
}

async fn detach(
    account: &Account,
    volume: &VolumeId,
    from: Option<&InstanceId>,
    by_force: bool,
) -> Result<(), AwsError> {
    let asked = Asked::new("ec2:DetachVolume", "volume", volume.as_str());
    let detached = account
        .call(|| async {
            let call = account.ec2().detach_volume().volume_id(volume.as_str());
            let call = call.set_instance_id(from.map(ToString::to_string));
            let call = call.set_force(by_force.then_some(true));
            call.send().await.map_err(|error| asked.sort(&error))
        })
        .await;
    match detached {
        Ok(_) | Err(AwsError::NotFound { .. }) => Ok(()),
        Err(AwsError::Busy { .. }) if volume_state(account, volume).await? == "available" => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits until the volume is attached to the instance. The system on it may see the device a moment later.
///
/// # Errors
/// [`AwsError::Failed`] when the volume is gone, in error, or was accepted but not attached.
pub async fn wait_volume_attached(
    account: &Account,
    volume: &VolumeId,
    instance: &InstanceId,
    stop: &CancellationToken,
) -> Result<(), AwsError> {
    let mut wait = Wait::new("volume", volume.as_str(), LONGEST_WAIT);
    loop {
        let state = match describe_volume(account, volume).await {
            Ok(described) => {
                let ours = described.attachments.iter().find(|one| one.instance.as_ref() == Some(instance));
                match ours {
                    Some(one) if one.state == "attached" => return Ok(()),
                    Some(one) => one.state.clone(),
                    None if wait.is_young() && described.state != "error" => described.state,
                    None => {
                        return Err(AwsError::Failed {
                            what: "volume",
                            id: volume.to_string(),
                            state: described.state,
                            message: format!(
                                "it is not attached to {instance}, though that was accepted; the device name may be \
                                 in use there"
                            ),
                        });
                    }
                }
            }
            Err(error) => wait.passing(error)?,
        };
        wait.pause(state, stop).await?;
    }
}

/// Waits until the volume is attached to nothing; one that is gone is done.
///
/// # Errors
/// [`AwsError::TooSlow`] when the system on the instance does not let go of it.
pub async fn wait_volume_detached(
    account: &Account,
    volume: &VolumeId,
    stop: &CancellationToken,
) -> Result<(), AwsError> {
    wait_off(account, volume, None, stop).await
}

/// Waits until the volume is not attached to this instance; one that is gone is done.
///
/// # Errors
/// [`AwsError::TooSlow`] when the system on the instance does not let go of it.
pub async fn wait_volume_off(
    account: &Account,
    volume: &VolumeId,
    instance: &InstanceId,
    stop: &CancellationToken,
) -> Result<(), AwsError> {
    wait_off(account, volume, Some(instance), stop).await
}

async fn wait_off(
    account: &Account,
    volume: &VolumeId,
    from: Option<&InstanceId>,
    stop: &CancellationToken,
) -> Result<(), AwsError> {
    let is_it = |one: &VolumeAttachment| one.instance.as_ref() == from;
    let mut wait = Wait::new("volume", volume.as_str(), LONGEST_WAIT);
    loop {
        let state = match describe_volume(account, volume).await {
            Ok(described) if from.is_some() && !described.attachments.iter().any(is_it) => return Ok(()),
            Ok(described) => described.state,
            Err(AwsError::NotFound { .. }) => return Ok(()),
            Err(error) => wait.passing(error)?,
        };
        match state.as_str() {
            "available" | "deleting" | "deleted" | "error" => return Ok(()),
            _ => wait.pause(state, stop).await?,
        }
    }
}

/// A device name that none of `existing` takes, such as `/dev/sdf`; `None` when all are taken. On Linux `sdf` and
/// `xvdf` are one device.
#[must_use]
pub fn free_device_name(existing: &[String], os: OsFamily) -> Option<String> {
    let taken: Vec<&str> = existing.iter().map(|name| letters(name)).collect();
    let (first, last) = match os {
        // Those that AWS recommends for data volumes of each.
        OsFamily::Linux => ("/dev/sd", 'p'),
        OsFamily::Windows => ("xvd", 'z'),
    };
    // Past them EC2 knows names of two letters, only as xvd, and their last one only up to x.
    let second = if os == OsFamily::Linux { "/dev/xvd" } else { "xvd" };
    let singles = ('f'..=last).map(|letter| (first, letter.to_string()));
    let doubles = ('b'..='c').flat_map(|one| ('a'..='x').map(move |two| (second, format!("{one}{two}"))));
    singles
        .chain(doubles)
        .find(|(_, letters)| !taken.contains(&letters.as_str()))
        .map(|(prefix, letters)| format!("{prefix}{letters}"))
}

/// The letters of a device name: of `/dev/sda1`, `/dev/xvda` and `xvda` it is `a`.
fn letters(name: &str) -> &str {
    let name = name.strip_prefix("/dev/").unwrap_or(name);
    let name = name.strip_prefix("xvd").or_else(|| name.strip_prefix("sd")).unwrap_or(name);
    name.trim_end_matches(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_name_is_taken_whatever_its_spelling() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let free = |existing: &[&str], os| free_device_name(&names(existing), os);
        assert_eq!(free(&["/dev/xvda"], OsFamily::Linux).as_deref(), Some("/dev/sdf"));
        assert_eq!(
            free(&["/dev/sda1", "/dev/xvdf", "/dev/sdg"], OsFamily::Linux).as_deref(),
            Some("/dev/sdh")
        );
        assert_eq!(free(&["/dev/sda1", "xvdf"], OsFamily::Windows).as_deref(), Some("xvdg"));
    }

    #[test]
    fn names_end_and_are_never_given_twice() {
        for (os, n_names) in [(OsFamily::Linux, 11 + 48), (OsFamily::Windows, 21 + 48)] {
            let mut taken = vec!["/dev/sda1".to_owned()];
            while let Some(name) = free_device_name(&taken, os) {
                assert!(!taken.contains(&name), "{name}");
                taken.push(name);
            }
            assert_eq!(taken.len(), n_names + 1);
        }
        let past_p: Vec<String> = ('f'..='p').map(|letter| format!("/dev/sd{letter}")).collect();
        assert_eq!(free_device_name(&past_p, OsFamily::Linux).as_deref(), Some("/dev/xvdba"));
    }
}
