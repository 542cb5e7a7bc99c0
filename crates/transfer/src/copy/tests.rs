use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use snapferry_types::LEAF_BLOCKS;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{CopySummary, resume_copy};
use crate::budget::ByteBudget;
use crate::error::{ErrorClass, TransferError};
use crate::fault::{Fault, FaultPlan, Faulty, When};
use crate::high_water::{Ahead, HighWater};
use crate::sink::{BlockTarget, TargetNeeds};
use crate::twin::{MemoryVolume, linear_aggregate, seeded_block};
use crate::zero::zero_block;

const N_BLOCKS: u32 = 5_000;

fn volume() -> Arc<MemoryVolume> {
    let volume = MemoryVolume::new(N_BLOCKS, 8);
    for index in (0..20).chain(1_020..1_030).chain(2_100..2_104).chain(4_990..4_995) {
        let data = if index % 5 == 0 { zero_block() } else { seeded_block(u64::from(index)) };
        volume.put(index, data);
    }
    Arc::new(volume)
}

async fn copy(
    volume: &Arc<MemoryVolume>,
    target: Arc<dyn BlockTarget>,
    from_block: u32,
    marks: &mut Vec<u32>,
) -> Result<CopySummary, TransferError> {
    let budget = ByteBudget::new(8 << 20);
    let stop = CancellationToken::new();
    let mut rise = |block| marks.push(block);
    let mark = HighWater::new(from_block, &mut rise);
    let done = resume_copy(volume.clone(), target, budget.clone(), mark, Arc::default(), stop).await;
    assert_eq!(budget.available(), budget.total(), "all memory is given back");
    done
}

fn before(blocks: &BTreeMap<u32, Bytes>, mark: u32) -> BTreeMap<u32, Bytes> {
    blocks.range(..mark).map(|(index, data)| (*index, data.clone())).collect()
}

#[tokio::test]
async fn a_copy_goes_on_at_its_high_water_mark_and_completes_with_the_whole_aggregate() {
    let volume = volume();
    let n_blocks = volume.blocks().len() as u64;
    let mut resumed = 0;
    for n in 1..=n_blocks {
        let target = Arc::new(MemoryVolume::new(N_BLOCKS, 8));
        let plan = FaultPlan::new(Fault::Fail(ErrorClass::Unavailable), When::From(n));
        let mut marks = Vec::new();
        let faulty = Arc::new(Faulty::new(target.clone(), plan));
        let error = copy(&volume, faulty, 0, &mut marks).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Unavailable);
        let mark = marks.last().copied().unwrap_or(0);
        let done = before(&volume.blocks(), mark);
        assert!(before(&target.blocks(), mark) == done, "all below the mark is written");

        let summary = copy(&volume, target.clone(), mark, &mut marks).await.unwrap();
        assert!(target.blocks() == volume.blocks());
        assert_eq!(target.completed(), Some(linear_aggregate(&volume)));
        assert_eq!((summary.n_written, summary.aggregate), linear_aggregate(&volume));
        assert_eq!(summary.n_written_now, n_blocks - done.len() as u64, "nothing is written twice");
        assert_eq!(marks.last(), Some(&N_BLOCKS));
        resumed += u32::from(mark > 0);
    }
    assert!(resumed > 0, "some went on past the start");
}

/// A target that cares for no aggregate.
struct Plain(Arc<MemoryVolume>);

#[async_trait::async_trait]
impl BlockTarget for Plain {
    fn n_blocks(&self) -> u32 {
        self.0.n_blocks
    }

    fn wanted_writes(&self) -> usize {
        4
    }

    fn needs(&self) -> TargetNeeds {
        TargetNeeds { holes: false, aggregate: false, persist: true }
    }

    async fn write(&self, block: &crate::block::Block) -> Result<(), TransferError> {
        self.0.write(block).await
    }

    async fn complete(&self, n: u32, sum: snapferry_types::Sha256Digest) -> Result<(), TransferError> {
        self.0.complete(n, sum).await
    }
}

#[tokio::test]
async fn without_need_of_the_aggregate_nothing_before_the_mark_is_read() {
    let volume = volume();
    let target = Arc::new(MemoryVolume::new(N_BLOCKS, 8));
    let mut marks = Vec::new();
    let summary = copy(&volume, Arc::new(Plain(target.clone())), 2_100, &mut marks).await.unwrap();
    assert_eq!(volume.n_reads(), 9);
    assert_eq!((summary.n_written, summary.n_written_now), (9, 9));
    assert_eq!(target.blocks().keys().next(), Some(&2_100));
    assert_eq!(marks.last(), Some(&N_BLOCKS));
    assert!(marks.is_sorted());
}

#[tokio::test]
async fn no_mark_is_told_when_what_was_written_could_not_be_made_to_last() {
    let volume = volume();
    let target = Arc::new(Plain(Arc::new(MemoryVolume::new(N_BLOCKS, 8))));
    let n_writes = volume.blocks().len() as u64;
    let plan = FaultPlan::new(Fault::Fail(ErrorClass::StorageFull), When::Nth(n_writes + 1));
    let mut marks = Vec::new();
    // Earlier marks may have been persisted between the writes: the one that failed must be the last.
    let error = copy(&volume, Arc::new(Faulty::new(target, plan.clone())), 0, &mut marks).await.unwrap_err();
    assert_eq!((error.class, plan.n_faults()), (ErrorClass::StorageFull, 1));
    assert!(!marks.contains(&N_BLOCKS));
}

#[tokio::test]
async fn no_more_than_a_page_of_blocks_is_written_beyond_what_is_recorded() {
    let volume = Arc::new(MemoryVolume::new(2 * N_BLOCKS, 8));
    (0..2 * N_BLOCKS).step_by(2).for_each(|index| volume.put(index, zero_block()));
    let target = Arc::new(MemoryVolume::new(2 * N_BLOCKS, 8));
    let n_written = |target: &MemoryVolume| u32::try_from(target.blocks().len()).unwrap();
    let (record, recorded) = watch::channel(0);
    let recorded_now = recorded.clone();
    let (told, mut marks) = watch::channel(0);
    let copying = tokio::spawn({
        let (volume, target) = (volume.clone(), target.clone());
        async move {
            let mut rise = |block| _ = told.send(block);
            let mark = HighWater::new(0, &mut rise).recorded(recorded, Ahead::default());
            let budget = ByteBudget::new(8 << 20);
            resume_copy(volume, target, budget, mark, Arc::default(), CancellationToken::new()).await
        }
    });
    // Whatever is recorded, it goes a page beyond and stops there.
    for _ in 0..3 {
        let mark = *recorded_now.borrow();
        let allowed = mark.div_ceil(2) + LEAF_BLOCKS;
        let all = async {
            while n_written(&target) < allowed {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.expect("a page is written beyond the mark");
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(n_written(&target), allowed, "it went on beyond {mark}");
        record.send(*marks.borrow_and_update()).unwrap();
    }
    while !copying.is_finished() {
        let _mark_or_end = marks.changed().await;
        _ = record.send(*marks.borrow_and_update());
    }
    copying.await.unwrap().unwrap();
    assert!(target.blocks() == volume.blocks());
}

#[tokio::test]
async fn a_copy_ends_when_nobody_records_any_more() {
    let volume = Arc::new(MemoryVolume::new(N_BLOCKS, 8));
    (0..N_BLOCKS).for_each(|index| volume.put(index, zero_block()));
    let target = Arc::new(MemoryVolume::new(N_BLOCKS, 8));
    let (record, recorded) = watch::channel(0);
    drop(record);
    let mut rise = |_| {};
    let mark = HighWater::new(0, &mut rise).recorded(recorded, Ahead::default());
    let budget = ByteBudget::new(8 << 20);
    let copied = resume_copy(volume, target.clone(), budget, mark, Arc::default(), CancellationToken::new());
    assert_eq!(copied.await.unwrap_err().class, ErrorClass::Internal);
    // What was let through may be on its way still.
    assert!(target.blocks().len() <= LEAF_BLOCKS as usize);
}
