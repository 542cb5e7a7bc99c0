//! The user's own disk.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

const GIB: u64 = 1 << 30;

/// Whether the file is not raw: qcow2, VMDK, VHDX and VHD begin (or end) with their own marks.
pub(super) fn needs_conversion(image: &Path) -> bool {
    let mut head = [0_u8; 8];
    let read = File::open(image).and_then(|mut file| file.read(&mut head));
    let marks: [&[u8]; 5] = [b"QFI\xfb", b"KDMV", b"vhdxfile", b"conectix", b"# Disk D"];
    read.is_ok() && marks.iter().any(|mark| head.starts_with(mark))
}

/// A raw copy of the image in `folder`, grown to whole GiB.
pub(super) fn raw_copy(image: &Path, folder: &Path) -> Result<(PathBuf, u64)> {
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
