//! Where an attached volume is found as a device: what differs between systems. Who composes an agent brings it.

use std::fmt::Debug;
use std::path::PathBuf;

use snapferry_types::VolumeId;
use thiserror::Error;

/// The devices of this machine, by the ids of EBS volumes.
pub trait VolumeDevices: Debug + Send + Sync {
    /// The device of an attached volume, as a path that can be opened. May block; is called again until the volume has
    /// appeared, for a minute.
    ///
    /// # Errors
    /// [`NoDevice`]: the volume is not there, or not there yet.
    fn find(&self, volume: &VolumeId) -> Result<PathBuf, NoDevice>;
}

/// What was looked for and not found, and what to look at: goes on after "vol-… is attached to i-… but".
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct NoDevice(pub String);
