//! Import: the volume's content as a disk image in S3, of which EC2 makes a snapshot of the service account.
//!
//! Runs twice, or dies at:
//! - the image: its partial file is gone on with from the mark on the node that began it; else begun anew.
//! - the whole image: it is looked at again before it is uploaded.
//! - the upload: parts of an upload that broke off are aborted, and it begins anew.
//! - ImportSnapshot: its client token makes the repeat find the same task; what that makes goes with the task's entry.
//! - afterwards: image file and object are removed, as often as needed. Files that a killed process or another node left
//!   go with [`crate::staging`].

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use snapferry_aws::ec2::{self, ImportFormat, ImportState, NewImport};
use snapferry_aws::{Account, AwsError, S3};
use snapferry_transfer::{DiskImage, ErrorClass, TransferError, TransferProgress, inspect_image};
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind, Purpose};
use snapferry_types::{Fence, ImageFormat};

use super::super::clean;
use super::super::marks::Marks;
use super::super::objects::{self, parse_one};
use super::super::stage::ToStage;
use super::super::store::bytes_in;
use super::write::{importer, write_to};
use crate::config::ImportConfig;
use crate::context::TaskContext;

/// Bytes of parts that are on their way at the same time.
const UPLOAD_IN_FLIGHT: u64 = 64 << 20;

/// Makes the snapshot; answers it with the session that owns it.
///
/// # Errors
/// [`TransferError`] that names bucket, file or import task.
pub(super) async fn run(
    context: &Arc<TaskContext>,
    what: &ToStage,
    marks: &Marks,
) -> Result<(Account, LedgerEntry), TransferError> {
    let config = context.shared.import.as_ref().ok_or_else(|| {
        TransferError::new(
            ErrorClass::Invalid,
            "there is no bucket for disk images ([agent.import] is not set)",
        )
    })?;
    let service = importer(context).await?;
    let label = format!("write {}", what.volume.volume_id);
    let snapshot = (ObjectKind::Snapshot, Purpose::Transport, label.as_str());
    if let Some(entry) = context.ledger.existing(snapshot.0, snapshot.1, snapshot.2).await
        && entry.state == LedgerState::Made
    {
        return Ok((service, entry));
    }
    let transit_key = context.shared.transit_kms_key_id.as_deref().filter(|_| what.config.encrypted);
    let bucket = S3::open_under(&service, &config.bucket, transit_key)?;
    bucket.check_region(service.region()).await?;
    let key = format!("{}/{}.vmdk", context.spec.task, what.volume.volume_id);
    let object_id = format!("{}/{key}", config.bucket);
    let object_what = (ObjectKind::S3Object, Purpose::Transport, object_id.as_str());
    let image = Image::of(context, config, what, marks);
    let object = objects::ensure_named(context, &service, object_what, &object_id, || async {
        image.write(context, what, marks).await?;
        context.enter("upload");
        bucket.abort_uploads(&key).await?;
        let awaiting = context.awaiting();
        let tell = |sent: u64, all: u64| {
            awaiting.is_at(u8::try_from(sent.saturating_mul(100) / all.max(1)).unwrap_or(100));
        };
        bucket.upload_file(&image.path, &key, UPLOAD_IN_FLIGHT, tell, context.stop.token()).await?;
        Ok(())
    })
    .await?;
    context.enter("import");
    let task = start(context, &service, config, &key, what, &label).await?;
    let task_id: String = parse_one(&task)?;
    let awaiting = context.awaiting();
    let tell = |state: &ImportState| awaiting.is_at(state.progress);
    let waited = ec2::wait_import(&service, &task_id, tell, context.stop.token()).await;
    drop(awaiting);
    let imported = match waited {
        Ok(imported) => imported,
        Err(error @ AwsError::Failed { .. }) => {
            // The task is over; the next attempt starts another one of the same object.
            context.ledger.moved(&task, LedgerState::Gone).await?;
            return Err(TransferError::new(ErrorClass::Unavailable, error.to_string()));
        }
        Err(error) => return Err(error.into()),
    };
    let tag = |entry: LedgerEntry| {
        let (service, imported, tags) = (&service, imported.clone(), context.ledger.tags(&entry));
        async move {
            // What an import makes carries no tags.
            ec2::create_tags(service, imported.as_str(), &tags).await?;
            Ok(vec![imported.into()])
        }
    };
    let entry = objects::ensure(context, &service, snapshot, tag).await?;
    clean::remove(context, &object, context.stop.token()).await?;
    context.ledger.moved(&task, LedgerState::Gone).await?;
    image.remove().await;
    Ok((service, entry))
}

async fn start(
    context: &TaskContext,
    service: &Account,
    config: &ImportConfig,
    key: &str,
    what: &ToStage,
    label: &str,
) -> Result<LedgerEntry, TransferError> {
    let create = |entry: LedgerEntry| {
        let encrypted = what.config.encrypted;
        let new = NewImport {
            bucket: config.bucket.clone(),
            key: key.to_owned(),
            format: ImportFormat::Vmdk,
            description: format!("Snapferry restore of {}", what.volume.volume_id),
            encrypted,
            kms_key_id: context.shared.transit_kms_key_id.clone().filter(|_| encrypted),
            role_name: config.role.clone(),
            tags: context.ledger.tags(&entry),
            client_token: entry.id.to_string(),
        };
        async move { Ok(vec![ec2::import_snapshot(service, &new).await?]) }
    };
    let doing = format!(
        "import the disk image of {} into account {}, where EC2 reads it by the role {} (which is to be there, to trust \
         vmie.amazonaws.com, and to read the bucket)",
        what.volume.volume_id,
        service.account(),
        config.role.as_deref().unwrap_or("vmimport"),
    );
    objects::ensure(context, service, (ObjectKind::ImportTask, Purpose::Transport, label), create)
        .await
        .map_err(|error| error.context(doing))
}

/// A disk image in the staging folder of this node. Its name has the epoch of the attempt that began it, so that a
/// mark never holds for another file.
struct Image {
    path: PathBuf,
    /// Its name in the marks.
    name: String,
}

impl Image {
    /// The image that an earlier attempt has begun on this node, or a new one.
    fn of(context: &TaskContext, config: &ImportConfig, what: &ToStage, marks: &Marks) -> Self {
        let volume = &what.volume.volume_id;
        let folder = config.staging_dir.join(context.spec.task.to_string());
        let node = context.lease.identity().node;
        let named = |file: &str| Self { path: folder.join(file), name: format!("{node}:{file}") };
        let begun = marks.written(volume).and_then(|written| {
            let (of, file) = written.target.split_once(':')?;
            (of == node.to_string()).then(|| named(file))
        });
        let begun = begun.filter(|image| image.path.exists() || partial(&image.path).exists());
        begun.unwrap_or_else(|| {
            let Fence { generation, epoch } = context.spec.fence;
            named(&format!("{volume}.{generation}-{epoch}.{}", ImageFormat::Vmdk.as_str()))
        })
    }

    /// Writes it, from where its mark is.
    async fn write(
        &self,
        context: &Arc<TaskContext>,
        what: &ToStage,
        marks: &Marks,
    ) -> Result<(), TransferError> {
        let n_blocks = what.volume.n_blocks;
        if tokio::fs::try_exists(&self.path).await.unwrap_or(false) {
            // Whole when it got its name; that was in an earlier attempt.
            return self.check(n_blocks).await;
        }
        if let Some(folder) = self.path.parent() {
            tokio::fs::create_dir_all(folder).await.map_err(|error| {
                let text = format!("make the staging folder {}: {error}", folder.display());
                TransferError::new(ErrorClass::StorageFull, text)
            })?;
        }
        let image = DiskImage::open_or_create(&self.path, ImageFormat::Vmdk, n_blocks)?;
        write_to(context, what, image.target(), &self.name, marks)
            .await
            .map_err(|error| error.context(format!("write the disk image {}", self.path.display())))?;
        image.finish(Arc::new(TransferProgress::default()), context.stop.token().clone()).await?;
        self.check(n_blocks).await
    }

    /// Looks whether the file is what its headers say, and has the volume's size: EC2 would find out only after the upload.
    /// One that is not is removed, and the next attempt writes it anew.
    async fn check(&self, n_blocks: u32) -> Result<(), TransferError> {
        let path = self.path.clone();
        let looked = tokio::task::spawn_blocking(move || inspect_image(path)).await.map_err(|died| {
            let text = format!("looking at the disk image {} died: {died}", self.path.display());
            TransferError::new(ErrorClass::Internal, text)
        })?;
        let wrong = match looked {
            Ok(info) if info.format == ImageFormat::Vmdk && info.virtual_size == bytes_in(n_blocks) => {
                return Ok(());
            }
            Ok(info) => format!(
                "{} holds a disk of {} bytes in {}, the volume has {}",
                self.path.display(),
                info.virtual_size,
                info.format.as_str(),
                bytes_in(n_blocks)
            ),
            Err(error) if matches!(error.class, ErrorClass::Corrupt | ErrorClass::Invalid) => error.message,
            Err(error) => return Err(error),
        };
        self.remove().await;
        let text = format!("the disk image is not uploaded, and written anew: {wrong}");
        Err(TransferError::new(ErrorClass::Unavailable, text))
    }

    /// Removes it, and the task's folder when that was the last.
    async fn remove(&self) {
        if let Err(error) = tokio::fs::remove_file(&self.path).await
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(file = %self.path.display(), %error, "staged disk image not removed");
        }
        if let Some(folder) = self.path.parent() {
            // Images of the task's other volumes may still be there.
            let _last_one_removes_it = tokio::fs::remove_dir(folder).await;
        }
    }
}

/// The name of an image that is not whole yet.
fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// Removes the image files of a task on this node.
///
/// # Errors
/// [`TransferError`] that names the folder.
pub(in super::super) async fn clean_up(context: &TaskContext) -> Result<(), TransferError> {
    let Some(config) = &context.shared.import else { return Ok(()) };
    let folder = config.staging_dir.join(context.spec.task.to_string());
    match tokio::fs::remove_dir_all(&folder).await {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            let text = format!("remove the staging folder {}: {error}", folder.display());
            Err(TransferError::new(ErrorClass::Unavailable, text))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn an_image_that_is_cut_off_or_of_another_size_is_not_uploaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("task").join("vol-1.vmdk");
        let image = || Image { path: path.clone(), name: "vol-1.vmdk".to_owned() };
        let write = || async {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let disk = DiskImage::open_or_create(&path, ImageFormat::Vmdk, 4).unwrap();
            disk.finish(Arc::default(), CancellationToken::new()).await.unwrap();
        };
        write().await;
        image().check(4).await.unwrap();
        let error = image().check(5).await.unwrap_err();
        assert!(error.retryable() && error.message.contains("2097152"), "{error}");
        assert!(!path.exists());
        write().await;
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1_024).unwrap();
        let error = image().check(4).await.unwrap_err();
        assert!(error.retryable() && error.message.contains("vol-1.vmdk"), "{error}");
        assert!(!path.exists());
    }
}
