//! Volumes of access nodes as block devices of this machine: a loop device over the volume's file, and a link to it
//! under the name that AWS's udev rules give an EBS volume.
//!
//! Needs root and `losetup`; where they are missing, attaching to an access node fails and says so. Nothing here
//! knows accounts: which volume is attached to what is the world's.

mod losetup;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use losetup::DeviceError;

/// The devices over the volumes of one data folder. They go when this goes.
#[derive(Debug)]
pub(crate) struct Devices {
    volume_dir: PathBuf,
    is_used: AtomicBool,
    /// Links that were made here and are there still.
    links: Mutex<BTreeSet<PathBuf>>,
    turn: Mutex<()>,
}

impl Devices {
    /// Takes away what a killed process left over the volumes of this folder.
    pub(crate) fn open(volume_dir: &Path) -> Self {
        let volume_dir = volume_dir.canonicalize().unwrap_or_else(|_| volume_dir.to_owned());
        let devices = Self {
            volume_dir,
            is_used: AtomicBool::new(false),
            links: Mutex::default(),
            turn: Mutex::new(()),
        };
        // Most machines that run the simulator have no losetup, or no devices, and need neither.
        if let Err(error) = devices.clear() {
            tracing::debug!(%error, "loop devices are not looked at");
        }
        devices
    }

    /// For one who ends attachments: nobody else does meanwhile.
    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        lock(&self.turn)
    }

    /// Makes a device over the volume's file and the link to it.
    pub(crate) fn attach(&self, file: &Path, link: &Path) -> Result<(), DeviceError> {
        self.is_used.store(true, Ordering::Release);
        let device = losetup::set_up(file)?;
        let linked = unlink(link).and_then(|()| {
            std::os::unix::fs::symlink(&device, link).map_err(link_error("make the link", link))
        });
        match linked {
            Ok(()) => lock(&self.links).insert(link.to_owned()),
            Err(error) => {
                losetup::let_go(&device)?;
                return Err(error);
            }
        };
        Ok(())
    }

    /// Takes the link away and lets the device go. A program that has it open keeps it until it closes it, as a
    /// mounted volume stays `detaching`; see [`Self::is_there`].
    pub(crate) fn detach(&self, file: &Path, link: &Path) -> Result<(), DeviceError> {
        unlink(link)?;
        lock(&self.links).remove(link);
        losetup::over(file)?.iter().try_for_each(|device| let_go(device))
    }

    /// Whether there is still a device over the file.
    pub(crate) fn is_there(&self, file: &Path) -> Result<bool, DeviceError> {
        Ok(!losetup::over(file)?.is_empty())
    }

    /// Takes away every device over the volumes of this folder. The links go first: another program may have the
    /// device of that number next.
    pub(crate) fn clear(&self) -> Result<(), DeviceError> {
        std::mem::take(&mut *lock(&self.links)).iter().try_for_each(|link| unlink(link))?;
        for device in losetup::all()? {
            if device.file.is_some_and(|file| file.starts_with(&self.volume_dir)) {
                let_go(&device.name)?;
            }
        }
        Ok(())
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        if self.is_used.load(Ordering::Acquire)
            && let Err(error) = self.clear()
        {
            tracing::error!(%error, "loop devices are left");
        }
    }
}

// A panic under one of these locks can leave no half-made value behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where an access node finds a volume: udev's name has the volume's id without the dash.
pub(crate) fn link_of(device_dir: &Path, volume: &str) -> PathBuf {
    device_dir.join(format!("nvme-Amazon_Elastic_Block_Store_{}", volume.replace('-', "")))
}

/// Removes a link that may be gone already.
pub(crate) fn unlink(link: &Path) -> Result<(), DeviceError> {
    match std::fs::remove_file(link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(link_error("remove the link", link)(error))
        }
        _ => Ok(()),
    }
}

fn link_error(what: &'static str, link: &Path) -> impl FnOnce(std::io::Error) -> DeviceError {
    let path = link.to_owned();
    move |source| DeviceError::Link { what, path, source }
}

/// A device that went by itself in the meantime is let go.
fn let_go(device: &Path) -> Result<(), DeviceError> {
    match losetup::let_go(device) {
        Err(DeviceError::Refused { answer, .. }) if answer.contains("No such device") => Ok(()),
        other => other,
    }
}
