//! A disk image that is being made: `NAME.partial` until it is whole, then `NAME`.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::fixed::FixedTarget;
use super::qcow2::Qcow2Layout;
use super::vhd::VhdLayout;
use super::{ImageFormat, convert_to_stream_vmdk};
use crate::error::{ErrorClass, TransferError};
use crate::file::{FileTarget, blocking, failed};
use crate::progress::TransferProgress;
use crate::sink::BlockTarget;

/// A disk image under way. Dropped unfinished, its partial file stays, and a later attempt goes on with it.
///
/// Which blocks are in a partial file is for the caller's high-water mark to say. It counts only while the file is
/// the one that was written then: see [`is_new`](Self::is_new).
pub struct DiskImage {
    path: PathBuf,
    partial: PathBuf,
    format: ImageFormat,
    is_new: bool,
    target: Arc<dyn BlockTarget>,
}

impl DiskImage {
    /// A new image of `n_blocks` at `path`; what an earlier attempt left is emptied. Opens files: not for a thread
    /// that runs futures, if the disk may be slow.
    ///
    /// # Errors
    /// The volume does not fit into the format or the file system, or the file cannot be made.
    pub fn create(
        path: impl Into<PathBuf>,
        format: ImageFormat,
        n_blocks: u32,
    ) -> Result<Self, TransferError> {
        let path = path.into();
        let partial = beside(&path, "partial");
        match std::fs::remove_file(&partial) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("remove", &partial, &cause))
            }
            _ => Self::open_or_create(path, format, n_blocks),
        }
    }

    /// Every file that an image at `path` may be in, from its beginning on.
    #[must_use]
    pub fn files_of(path: &Path) -> [PathBuf; 3] {
        [path.to_owned(), beside(path, "partial"), beside(path, "converting")]
    }

    /// As [`create`](Self::create), but goes on with the partial file of an earlier attempt of the same format and
    /// size.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn open_or_create(
        path: impl Into<PathBuf>,
        format: ImageFormat,
        n_blocks: u32,
    ) -> Result<Self, TransferError> {
        let path = path.into();
        if n_blocks == 0 || path.file_name().is_none() || path.is_dir() {
            let message = format!("{} cannot be an image of {n_blocks} blocks", path.display());
            return Err(TransferError::new(ErrorClass::Invalid, message));
        }
        let partial = beside(&path, "partial");
        let (target, is_resumed): (Arc<dyn BlockTarget>, bool) = match format {
            ImageFormat::Raw | ImageFormat::Vmdk => {
                let (target, is_resumed) = FileTarget::create_or_resume(&partial, n_blocks)?;
                (Arc::new(target), is_resumed)
            }
            ImageFormat::Qcow2 => {
                let layout = Qcow2Layout::new(n_blocks);
                let (target, is_resumed) = FixedTarget::open_or_create(partial.clone(), layout, n_blocks)?;
                (Arc::new(target), is_resumed)
            }
            ImageFormat::Vhd => {
                let layout = VhdLayout::new(n_blocks, new_id()?)?;
                let (target, is_resumed) = FixedTarget::open_or_create(partial.clone(), layout, n_blocks)?;
                (Arc::new(target), is_resumed)
            }
        };
        Ok(Self { path, partial, format, is_new: !is_resumed, target })
    }

    /// Whether there was no partial file to go on with: then nothing is in it, whatever an earlier attempt's
    /// high-water mark says, and the transfer must begin at block 0.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// What takes the blocks.
    #[must_use]
    pub fn target(&self) -> Arc<dyn BlockTarget> {
        Arc::clone(&self.target)
    }

    /// Puts the image at its path, which it returns; a file of that name is replaced. Called once the transfer has
    /// completed the target. For a VMDK this is the conversion, and `progress` counts it from the start; for the
    /// others a rename. What runs twice, or dies in between, is done anew from the partial file.
    ///
    /// # Errors
    /// The disk refuses; `Cancelled` when `stop` was.
    pub async fn finish(
        self,
        progress: Arc<TransferProgress>,
        stop: CancellationToken,
    ) -> Result<PathBuf, TransferError> {
        let Self { path, partial, format, target, .. } = self;
        drop(target);
        if format == ImageFormat::Vmdk {
            convert_to_stream_vmdk(partial.clone(), path.clone(), progress, stop).await?;
            return blocking(move || {
                std::fs::remove_file(&partial).map_err(|cause| failed("remove", &partial, &cause))?;
                Ok(path)
            })
            .await;
        }
        blocking(move || {
            put_in_place(&partial, &path)?;
            Ok(path)
        })
        .await
    }
}

/// `NAME.ending` for `NAME`.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

/// Renames a file whose bytes are on the disk, so that the new name is on the disk too.
pub(super) fn put_in_place(from: &Path, to: &Path) -> Result<(), TransferError> {
    std::fs::rename(from, to)
        .map_err(|cause| failed("rename", from, &cause).context(format!("to {}", to.display())))?;
    sync_folder(to)
}

#[cfg(unix)]
fn sync_folder(of: &Path) -> Result<(), TransferError> {
    let folder = of.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|cause| failed("sync the folder", folder, &cause))
}

/// Windows keeps no names back, and opens no folder as a file.
#[cfg(not(unix))]
fn sync_folder(of: &Path) -> Result<(), TransferError> {
    File::open(of).map(|_| ()).map_err(|cause| failed("open", of, &cause))
}

fn new_id() -> Result<[u8; 16], TransferError> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id)
        .map_err(|_| TransferError::new(ErrorClass::Internal, "the system gave no random bytes"))?;
    Ok(id)
}
