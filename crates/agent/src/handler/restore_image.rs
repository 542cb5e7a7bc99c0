//! Disk images: each volume becomes a file `<image folder>/<folder>/<volume>.<format>` on the access node.
//!
//! Runs twice, or dies at:
//! - begin: which node began which images is recorded there and in the checkpoint before a file is made, so that a partial
//!   file of this task is known from one of another's, which is never touched.
//! - writing: on the same node the partial file is gone on with from its mark; another node begins at the start.
//! - finishing: an image is renamed when it is whole; one that was, but is not in the checkpoint yet, is written again.
//! - handing over: when all are whole the node notes that it removes none of them any more, then the results are kept.
//! - cancel, failure for good: the node that runs the clean-up removes its files, the finished ones too; every other node
//!   that began some removes them when it next announces itself.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use snapferry_aws::SessionScope;
use snapferry_transfer::{DiskImage, ErrorClass, HighWater, TransferError};
use snapferry_types::spec::{Operation, RestoreSpec, RestoreTarget};
use snapferry_types::{AccessNodeId, ImageFormat, VolumeId};
use snapferry_wire::v1;

use super::marks::Marks;
use super::restore_source::{Chosen, Origin};
use super::{made, restore_done, restore_preflight};
use crate::context::TaskContext;
use crate::images::class_of;

/// The most blocks of 512 KiB that the VHD format can hold: 2,040 GiB.
const MAX_VHD_BLOCKS: u32 = 2_040 * 2_048;

/// The target of the marks; they are cleared when another node begins.
const IMAGE: &str = "image";

/// The image files of a task, as kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageMarks {
    /// The node that writes them; the marks of what is written count there only.
    node: AccessNodeId,
    /// Nodes that began them, whose partial files are this task's.
    begun_on: BTreeSet<AccessNodeId>,
    /// Volumes whose image is whole on that node.
    #[serde(default)]
    done: BTreeSet<VolumeId>,
}

/// Writes the images one after the other.
///
/// # Errors
/// [`TransferError`] that names the file; `StorageFull` names the folder, and what was written stays for a next attempt.
pub(super) async fn run(
    context: &Arc<TaskContext>,
    spec: &RestoreSpec,
    folder: &str,
    format: ImageFormat,
    marks: &Marks,
) -> Result<Vec<v1::Made>, TransferError> {
    context.enter("plan");
    let folder = place(context.shared.image_dir.as_deref(), folder)?;
    let origin = Origin::open(context, spec).await?;
    let account = context.tenant(SessionScope::BackupCopy).await?;
    let chosen = origin.choose(context, &account, spec).await?;
    let files: Vec<PathBuf> =
        chosen.iter().map(|one| file_of(&folder, &one.volume.volume_id, format)).collect();
    check_sizes(format, &chosen)?;
    restore_preflight::of_images(context, &account, &origin, &chosen).await?;
    begin(context, marks, files).await?;
    make_folder(&folder).await?;

    let mut results = Vec::with_capacity(chosen.len());
    for one in chosen {
        let volume = one.volume.volume_id.clone();
        let path = file_of(&folder, &volume, format);
        if !marks.images().is_some_and(|images| images.done.contains(&volume)) || !path.is_file() {
            context.enter("write");
            let write = Box::pin(write(context, &origin, &one, &path, format, marks));
            marks.while_keeping(context, write).await.map_err(|error| in_folder(error, &folder))?;
            let saved = marks.save(context, |checkpoint| {
                if let Some(images) = &mut checkpoint.images {
                    images.done.insert(volume.clone());
                }
            });
            saved.await?;
        }
        results.push(made("disk_image", path.display(), &volume));
    }
    say_others(context, marks, &folder).await?;
    // Before the results are kept: no node removes what they name.
    context.shared.images.complete(context.spec.task).await?;
    restore_done::finish(context, marks, results).await
}

/// Where images go.
fn place(image_dir: Option<&Path>, folder: &str) -> Result<PathBuf, TransferError> {
    let image_dir = image_dir.ok_or_else(|| {
        let message = "this access node takes no disk images: set image_dir in its [agent] configuration to the \
                       folder they may be written below";
        TransferError::new(ErrorClass::Invalid, message)
    })?;
    let is_plain = !folder.is_empty()
        && !folder.contains(['\\', ':', '\0'])
        && Path::new(folder).components().all(|part| matches!(part, Component::Normal(_)));
    if !is_plain {
        let message = format!(
            "folder {folder:?}: give plain names with / between, below the access node's image folder"
        );
        return Err(TransferError::new(ErrorClass::Invalid, message));
    }
    Ok(image_dir.join(folder))
}

fn file_of(folder: &Path, volume: &VolumeId, format: ImageFormat) -> PathBuf {
    folder.join(format!("{volume}.{}", format.as_str()))
}

/// Refuses what cannot become an image of the format.
fn check_sizes(format: ImageFormat, chosen: &[Chosen]) -> Result<(), TransferError> {
    let too_large =
        chosen.iter().find(|one| format == ImageFormat::Vhd && one.volume.n_blocks > MAX_VHD_BLOCKS);
    too_large.map_or(Ok(()), |one| {
        let volume = &one.volume.volume_id;
        let message = format!("{volume} is larger than the 2,040 GiB of a VHD: choose raw, qcow2 or vmdk");
        Err(TransferError::new(ErrorClass::Invalid, message))
    })
}

fn node(context: &TaskContext) -> AccessNodeId {
    context.lease.identity().node
}

/// Makes the files this task's, which must be nobody else's, and forgets how far another node has come.
async fn begin(context: &TaskContext, marks: &Marks, files: Vec<PathBuf>) -> Result<(), TransferError> {
    context.shared.images.begin(context.spec.task, files).await?;
    let node = node(context);
    if marks.images().is_some_and(|images| images.node == node) {
        return Ok(());
    }
    marks
        .save(context, |checkpoint| {
            checkpoint.written.clear();
            let mut begun_on = checkpoint.images.take().map(|images| images.begun_on).unwrap_or_default();
            begun_on.insert(node);
            checkpoint.images = Some(ImageMarks { node, begun_on, done: BTreeSet::new() });
        })
        .await
}

async fn make_folder(folder: &Path) -> Result<(), TransferError> {
    tokio::fs::create_dir_all(folder).await.map_err(|cause| {
        TransferError::new(class_of(cause.kind()), format!("make the folder {}: {cause}", folder.display()))
    })
}

fn in_folder(error: TransferError, folder: &Path) -> TransferError {
    if error.class != ErrorClass::StorageFull {
        return error;
    }
    error.context(format!(
        "the disk of {} is full: make room there; what was written is gone on with",
        folder.display()
    ))
}

/// Writes one image and puts it at its path.
async fn write(
    context: &Arc<TaskContext>,
    origin: &Origin,
    one: &Chosen,
    path: &Path,
    format: ImageFormat,
    marks: &Marks,
) -> Result<(), TransferError> {
    let volume = &one.volume.volume_id;
    let marked = marks.resume_block(volume, IMAGE);
    // Without a mark nothing says that a partial file is of this recovery point.
    let image = if marked > 0 {
        DiskImage::open_or_create(path, format, one.volume.n_blocks)?
    } else {
        DiskImage::create(path, format, one.volume.n_blocks)?
    };
    let from_block = if image.is_new() { 0 } else { marked };
    let content = origin.content(context, one).await?;
    let mut rise = |block| marks.rise(volume, IMAGE, block);
    let mark = HighWater::new(from_block, &mut rise);
    content
        .write(context, &one.volume, image.target(), mark, context.new_transfer())
        .await
        .map_err(|error| error.context(format!("write the image of {volume}")))?;
    // The conversion of a VMDK is not counted: its blocks were, when they were written.
    let (images, task) = (&context.shared.images, context.spec.task);
    let [_, partial, _] = DiskImage::files_of(path);
    // A rename keeps what tells a file from another one; a VMDK is a new file.
    if format != ImageFormat::Vmdk {
        images.finished(task, path.to_owned(), partial).await?;
    }
    image.finish(Arc::default(), context.stop.token().clone()).await?;
    if format == ImageFormat::Vmdk {
        images.finished(task, path.to_owned(), path.to_owned()).await?;
    }
    Ok(())
}

/// Removes the files that this task began on this node, unless the restore came to its end.
///
/// # Errors
/// [`TransferError`] when the checkpoint does not read; a file that does not go is named in the job.
pub(super) async fn clean_up(context: &Arc<TaskContext>) -> Result<(), TransferError> {
    let Operation::Restore(spec) = &context.spec.operation else { return Ok(()) };
    let RestoreTarget::DiskImage { folder, .. } = &spec.target else { return Ok(()) };
    let marks = Marks::read(context)?;
    if marks.results().is_some() {
        return Ok(());
    }
    say_others(context, &marks, Path::new(folder)).await?;
    if let Err(error) = context.shared.images.remove(context.spec.task).await {
        context
            .note(true, format!("an unfinished image is not removed yet, and tried again: {error}"))
            .await?;
    }
    Ok(())
}

/// Names the other nodes that began these images.
async fn say_others(context: &Arc<TaskContext>, marks: &Marks, folder: &Path) -> Result<(), TransferError> {
    let begun_on = marks.images().map(|images| images.begun_on).unwrap_or_default();
    let others = begun_on.iter().filter(|one| **one != node(context)).map(ToString::to_string);
    let others: Vec<String> = others.collect();
    if others.is_empty() {
        return Ok(());
    }
    let text = format!(
        "images in {} were begun on access node {}, too: what is unfinished there is removed when it announces itself; look \
         there if it does not come back, or had come to the end",
        folder.display(),
        others.join(", ")
    );
    context.note(true, text).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_stay_below_the_image_folder() {
        let dir = Path::new("/srv/images");
        assert_eq!(place(Some(dir), "team-1/web").unwrap(), Path::new("/srv/images/team-1/web"));
        for folder in ["", "..", "a/../../b", "/etc", "a\\b", "c:x", ".", "a\0b"] {
            let error = place(Some(dir), folder).unwrap_err();
            assert_eq!(error.class, ErrorClass::Invalid, "{folder:?}");
        }
        assert!(place(None, "a").unwrap_err().message.contains("image_dir"));
    }
}
