//! From an image in S3 to blocks: every block that is not all zero is written, everything else stays a hole.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio_util::sync::CancellationToken;

use super::error::ImportError;
use super::image::Image;
use super::source::Source;
use super::{check_cancelled, drop_blocks};
use crate::server::Context;
use crate::store::{BLOCK_BYTES, sha256, zero};
use crate::world::{ImportStep, ImportTask, new_id};

const GIB: u64 = 1 << 30;

/// No block may come for so long before the store calls a snapshot abandoned: longer than any import.
const NEVER: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What an import has come to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Converted {
    /// The disk's size, rounded up.
    pub(super) size_gib: u64,
}

/// Reads the image and writes the blocks of a new snapshot, which is finished in the store when this returns well.
pub(super) fn convert(
    context: &Context,
    task: &ImportTask,
    stop: &CancellationToken,
) -> Result<Converted, ImportError> {
    check_cancelled(context, &task.id)?;
    if let Some(earlier) = &task.snapshot {
        drop_blocks(context, earlier);
    }
    let object = {
        let state = context.world.read();
        let bucket = state.buckets.get(&task.bucket);
        bucket.and_then(|bucket| bucket.objects.get(&task.key)).cloned()
    };
    let object = object
        .ok_or_else(|| ImportError::ObjectGone { bucket: task.bucket.clone(), key: task.key.clone() })?;
    let reader = context.objects.reader(&object);
    let mut image = Image::open(reader, task.format)?;
    let size_gib = image.disk_bytes().div_ceil(GIB);
    let snapshot = new_id("snap");
    note(context, &task.id, |task| {
        task.step = ImportStep::Converting;
        task.image_bytes = object.size_bytes();
        // Written down before it is begun, so that a restart finds it.
        task.snapshot = Some(snapshot.clone());
    });
    context.store.begin_snapshot_with_timeout(&snapshot, None, size_gib * GIB, NEVER)?;
    write_blocks(context, task, &mut image, &snapshot, stop)?;
    note(context, &task.id, |task| task.step = ImportStep::Updating);
    context.store.finish_snapshot(&snapshot)?;
    Ok(Converted { size_gib })
}

fn write_blocks<S: Source>(
    context: &Context,
    task: &ImportTask,
    image: &mut Image<S>,
    snapshot: &str,
    stop: &CancellationToken,
) -> Result<(), ImportError> {
    let disk_bytes = image.disk_bytes();
    let n_blocks = disk_bytes.div_ceil(BLOCK_BYTES);
    let mut shown = 0;
    for index in 0..n_blocks {
        if stop.is_cancelled() {
            return Err(ImportError::Stopping);
        }
        check_cancelled(context, &task.id)?;
        if let Some(block) = read_block(image, index)? {
            let index = u32::try_from(index).map_err(|error| ImportError::Broken(error.to_string()))?;
            context.store.put_block(snapshot, index, &block, sha256(&block))?;
        }
        let percent = u8::try_from(index * 95 / n_blocks).unwrap_or(95);
        if percent > shown {
            shown = percent;
            note(context, &task.id, |task| task.progress_percent = percent);
        }
    }
    Ok(())
}

/// A block of the disk with data in it, filled up with zeroes at the disk's end.
pub(super) fn read_block<S: Source>(image: &mut Image<S>, index: u64) -> Result<Option<Bytes>, ImportError> {
    let offset = index * BLOCK_BYTES;
    let length = (image.disk_bytes() - offset).min(BLOCK_BYTES);
    let mut block = BytesMut::zeroed(crate::store::BLOCK_LEN);
    let part = usize::try_from(length).ok().and_then(|length| block.get_mut(..length));
    let has_data = image.read(offset, part.unwrap_or_default())?;
    Ok((has_data && block != zero::block()).then(|| block.freeze()))
}

/// Changes the task, unless it is being cancelled.
fn note(context: &Context, id: &str, change: impl FnOnce(&mut ImportTask)) {
    context.world.change(|state| {
        if let Some(task) = state.imports.get_mut(id).filter(|task| task.step != ImportStep::Deleting) {
            change(task);
        }
    });
}
