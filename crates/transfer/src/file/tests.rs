use std::sync::Arc;

use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

use super::{FileSource, FileTarget};
use crate::budget::ByteBudget;
use crate::conformance::{check_block_source, check_block_target};
use crate::copy::copy_blocks;
use crate::source::BlockSource;
use crate::twin::{MemoryVolume, linear_aggregate, seeded_block};
use crate::zero::zero_block;

fn volume() -> Arc<MemoryVolume> {
    let volume = MemoryVolume::new(3_000, 4);
    for index in [0, 1, 2, 900, 901, 2_999] {
        volume.put(index, seeded_block(u64::from(index)));
    }
    volume.put(1_500, zero_block());
    Arc::new(volume)
}

#[tokio::test]
async fn a_volume_copied_to_an_image_comes_back_with_its_holes() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let (budget, volume) = (ByteBudget::new(4 << 20), volume());
    let target = Arc::new(FileTarget::create(&image, 3_000).unwrap());
    let stop = CancellationToken::new();
    let summary =
        copy_blocks(volume.clone(), target, budget.clone(), Arc::default(), stop.clone()).await.unwrap();
    assert_eq!((summary.n_written, summary.aggregate), linear_aggregate(&volume));
    assert_eq!(std::fs::metadata(&image).unwrap().len(), 3_000 << 19);

    let source = Arc::new(FileSource::open(&image).unwrap());
    let listed: Vec<_> = source.list(0).try_collect().await.unwrap();
    assert!(listed.len() < 100, "holes are not listed: {}", listed.len());
    let back = Arc::new(MemoryVolume::new(3_000, 4));
    copy_blocks(source.clone(), back.clone(), budget, Arc::default(), stop).await.unwrap();
    for (index, data) in volume.blocks() {
        let found = back.blocks().get(&index).cloned().unwrap_or_else(zero_block);
        assert!(found == data, "block {index}");
    }
    check_block_source(source, 900).await;
}

#[tokio::test]
async fn what_lies_on_a_target_is_gone_once_it_is_blanked_and_stays_in_the_holes_of_one_that_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device");
    for blanked in [false, true] {
        std::fs::write(&path, vec![0xFF; 6 << 19]).unwrap();
        let mut target = FileTarget::open(&path).unwrap();
        if blanked {
            target.blank().await.unwrap();
        }
        let volume = Arc::new(MemoryVolume::new(6, 4));
        volume.put(1, zero_block());
        volume.put(2, seeded_block(2));
        let (budget, stop) = (ByteBudget::new(1 << 20), CancellationToken::new());
        copy_blocks(volume, Arc::new(target), budget, Arc::default(), stop).await.unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let block = |index: usize| &bytes[index << 19..(index + 1) << 19];
        assert!(block(1).iter().all(|byte| *byte == 0));
        assert!(block(2) == seeded_block(2));
        assert!(block(3).iter().all(|byte| *byte == if blanked { 0 } else { 0xFF }));
    }
}

#[tokio::test]
async fn a_file_keeps_the_promises_of_a_target() {
    let folder = tempfile::tempdir().unwrap();
    check_block_target(Arc::new(FileTarget::create(folder.path().join("image"), 64).unwrap())).await;
}

#[tokio::test]
async fn an_unfinished_image_of_the_right_size_is_gone_on_with_and_any_other_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, vec![0xFF; 64 << 19]).unwrap();
    let (target, is_resumed) = FileTarget::create_or_resume(&path, 64).unwrap();
    assert!(is_resumed);
    check_block_target(Arc::new(target)).await;
    let bytes = std::fs::read(&path).unwrap();
    let block = |index: usize| &bytes[index << 19..(index + 1) << 19];
    assert!(block(3) == seeded_block(3));
    assert!(block(5) == zero_block(), "what an earlier attempt wrote there is gone");
    assert!(block(6).iter().all(|byte| *byte == 0xFF));
    let (_, is_resumed) = FileTarget::create_or_resume(&path, 63).unwrap();
    assert!(!is_resumed);
    assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn a_path_that_does_not_exist_is_named() {
    let error = FileSource::open("/nonexistent/disk.img").unwrap_err();
    assert!(error.message.contains("/nonexistent/disk.img"), "{error}");
}
