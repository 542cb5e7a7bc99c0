//! The user's own disk.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use snapferry_transfer::{ErrorClass, inspect_image};

const GIB: u64 = 1 << 30;

/// Whether the file is not raw: qcow2, VMDK, VHDX and VHD begin (or end) with their own marks.
pub(super) fn needs_conversion(image: &Path) -> bool {
    let mut head = [0_u8; 8];
    let read = File::open(image).and_then(|mut file| file.read(&mut head));
    let marks: [&[u8]; 5] = [b"QFI\xfb", b"KDMV", b"vhdxfile", b"conectix", b"# Disk D"];
    read.is_ok() && marks.iter().any(|mark| head.starts_with(mark))
}

/// A raw copy of the image in `folder`, grown to whole GiB. One that is cut off is refused: qemu-img takes what is absent
/// for zeroes.
pub(super) fn raw_copy(image: &Path, folder: &Path) -> Result<(PathBuf, u64)> {
    match inspect_image(image) {
        Err(error) if error.class == ErrorClass::Corrupt => {
            bail!("read the disk {}: {}: copy it anew, or name another", image.display(), error.message)
        }
        // Formats that only qemu-img knows are its to judge.
        Ok(_) | Err(_) => {}
    }
    let copy = folder.join("own.img");
    let output = if needs_conversion(image) {
        Command::new("qemu-img").args(["convert", "-O", "raw"]).arg(image).arg(&copy).output()
    } else {
        Command::new("cp").arg("--sparse=always").arg(image).arg(&copy).output()
    };
    let output = output.with_context(|| format!("copy {}", image.display()))?;
    if !output.status.success() {
        bail!("read the disk {}: {}", image.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    let file = File::options().write(true).open(&copy)?;
    let size = file.metadata()?.len().div_ceil(GIB).max(1) * GIB;
    file.set_len(size)?;
    Ok((copy, size))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use snapferry_transfer::{DiskImage, ImageFormat};
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn a_disk_that_is_cut_off_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.qcow2");
        let disk = DiskImage::open_or_create(&path, ImageFormat::Qcow2, 64).unwrap();
        disk.finish(std::sync::Arc::default(), CancellationToken::new()).await.unwrap();
        // Its tables lie behind.
        File::options().write(true).open(&path).unwrap().set_len(4_096).unwrap();
        let error = raw_copy(&path, folder.path()).unwrap_err().to_string();
        assert!(error.contains("disk.qcow2") && error.contains("copy it anew"), "{error}");
        let raw = folder.path().join("disk.img");
        fs::write(&raw, vec![7; 4_096]).unwrap();
        assert_eq!(raw_copy(&raw, folder.path()).unwrap().1, GIB);
    }
}
