//! The devices of a Nitro instance on Linux: udev links each EBS volume by its id.

use std::path::PathBuf;

use snapferry_agent::{AgentConfig, NoDevice, VolumeDevices};
use snapferry_types::VolumeId;

/// A folder of links that udev keeps.
#[derive(Debug, Clone)]
pub struct DeviceFolder(PathBuf);

impl DeviceFolder {
    /// The folder that the configuration names, else `/dev/disk/by-id`.
    #[must_use]
    pub fn of(config: &AgentConfig) -> Self {
        let named = config.hot_add.as_ref().and_then(|hot_add| hot_add.device_dir.clone());
        Self(named.unwrap_or_else(|| PathBuf::from("/dev/disk/by-id")))
    }

    /// The name that udev gives an EBS volume.
    fn path(&self, volume: &VolumeId) -> PathBuf {
        self.0.join(format!("nvme-Amazon_Elastic_Block_Store_{}", volume.as_str().replace('-', "")))
    }
}

impl VolumeDevices for DeviceFolder {
    fn find(&self, volume: &VolumeId) -> Result<PathBuf, NoDevice> {
        let path = self.path(volume);
        if path.try_exists().unwrap_or(false) {
            return Ok(path);
        }
        let path = path.display();
        Err(NoDevice(format!(
            "{path} did not appear: is this process running on that instance, and is device_dir right?"
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn volume() -> VolumeId {
        "vol-0123456789abcdef0".parse().unwrap()
    }

    #[test]
    fn a_volume_is_found_by_the_name_that_udev_gives_it() {
        let path = DeviceFolder(PathBuf::from("/dev/disk/by-id")).path(&volume());
        assert_eq!(path, Path::new("/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0"));
    }

    #[test]
    fn a_volume_is_missing_by_name_until_its_link_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let devices = DeviceFolder(folder.path().to_path_buf());
        let missing = devices.find(&volume()).unwrap_err();
        let name = "nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0";
        assert!(missing.0.contains(name) && missing.0.contains("device_dir"), "{missing}");
        let link = folder.path().join(name);
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert_eq!(devices.find(&volume()), Ok(link));
    }
}
