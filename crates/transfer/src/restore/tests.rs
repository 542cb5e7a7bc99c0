use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{HighWater, RestoreSummary, restore_volume};
use crate::backup::back_up_volume;
use crate::block::Block;
use crate::budget::ByteBudget;
use crate::error::{ErrorClass, TransferError};
use crate::fault::{Fault, FaultPlan, Faulty, When};
use crate::high_water::Ahead;
use crate::pool::WorkPool;
use crate::seal::Sealer;
use crate::sink::{BlockTarget, MAX_HOLE_BLOCKS, TargetNeeds};
use crate::source::ChunkSource;
use crate::twin::{MemoryStore, MemoryVolume, linear_aggregate, seeded_block};
use crate::zero::zero_block;
use snapferry_types::tenancy::TenantKeys;
use snapferry_types::{BlockIndex, Sha256Digest};

const N_BLOCKS: u32 = 5_000;

fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::new(&TenantKeys::new([1; 32], [2; 32])))
}

fn volume() -> MemoryVolume {
    let volume = MemoryVolume::new(N_BLOCKS, 8);
    for index in (0..30).chain(1_020..1_028).chain(3_070..3_090).chain(4_995..5_000) {
        match index % 5 {
            0 => volume.put(index, zero_block()),
            1 => volume.put(index, seeded_block(7)),
            2 => {}
            _ => volume.put(index, seeded_block(u64::from(index))),
        }
    }
    volume
}

async fn stored(volume: &Arc<MemoryVolume>, budget: &ByteBudget) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new(N_BLOCKS, sealer()));
    let workers = WorkPool::new(2);
    let stop = CancellationToken::new();
    back_up_volume(
        volume.clone(),
        store.clone(),
        None,
        sealer(),
        budget.clone(),
        &workers,
        Arc::default(),
        stop,
    )
    .await
    .unwrap();
    store
}

async fn run(
    source: Arc<dyn ChunkSource>,
    target: Arc<dyn BlockTarget>,
    budget: &ByteBudget,
    from_block: u32,
    marks: &mut Vec<u32>,
    stop: CancellationToken,
) -> Result<RestoreSummary, TransferError> {
    let workers = WorkPool::new(2);
    let mut mark = |block| marks.push(block);
    let done = restore_volume(
        source,
        target,
        sealer(),
        budget.clone(),
        &workers,
        HighWater::new(from_block, &mut mark),
        Arc::default(),
        stop,
    )
    .await;
    assert_eq!(budget.available(), budget.total(), "all memory is given back");
    done
}

#[tokio::test]
async fn a_restore_writes_back_data_and_zeroes_and_leaves_holes() {
    for budget in [1 << 19, 8 << 20, 64 << 20] {
        let budget = ByteBudget::new(budget);
        let volume = Arc::new(volume());
        let store = stored(&volume, &budget).await;
        let target = Arc::new(MemoryVolume::new(N_BLOCKS + 7, 8));
        let mut marks = Vec::new();
        let summary = run(store.clone(), target.clone(), &budget, 0, &mut marks, CancellationToken::new())
            .await
            .unwrap();
        assert!(target.blocks() == volume.blocks());
        assert_eq!(target.completed(), Some(linear_aggregate(&volume)));
        assert_eq!((summary.n_written, summary.aggregate), linear_aggregate(&volume));
        assert_eq!(summary.n_written_now, volume.blocks().len() as u64);
        assert_eq!(marks.last(), Some(&N_BLOCKS));
        assert!(marks.is_sorted());
        if budget.total() > 1 << 20 {
            assert_eq!(summary.n_chunks_fetched, store.n_chunks() as u64, "each chunk is fetched once");
        }
    }
}

#[tokio::test]
async fn a_restore_goes_on_at_its_high_water_mark() {
    let budget = ByteBudget::new(8 << 20);
    let volume = Arc::new(volume());
    let store = stored(&volume, &budget).await;
    let n_blocks = volume.blocks().len() as u64;
    let mut resumed = 0;
    for n in 1..=n_blocks {
        let target = Arc::new(MemoryVolume::new(N_BLOCKS, 8));
        let plan = FaultPlan::new(Fault::Fail(ErrorClass::Unavailable), When::From(n));
        let faulty = Arc::new(Faulty::new(target.clone(), plan));
        let mut marks = Vec::new();
        let error =
            run(store.clone(), faulty, &budget, 0, &mut marks, CancellationToken::new()).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Unavailable);
        let mark = marks.last().copied().unwrap_or(0);
        let mut written = target.blocks();
        written.retain(|index, _| *index < mark);
        let mut expected = volume.blocks();
        expected.retain(|index, _| *index < mark);
        assert!(written == expected, "all below the mark is written");

        let left = n_blocks - expected.len() as u64;
        let summary = run(store.clone(), target.clone(), &budget, mark, &mut marks, CancellationToken::new())
            .await
            .unwrap();
        assert!(target.blocks() == volume.blocks());
        assert_eq!(target.completed(), Some(linear_aggregate(&volume)));
        assert_eq!(summary.n_written_now, left);
        resumed += u32::from(mark > 0);
    }
    assert!(resumed > 0, "some went on past the first leaf");
}

#[tokio::test]
async fn damage_in_the_store_is_an_error_and_never_wrong_bytes() {
    let budget = ByteBudget::new(8 << 20);
    let volume = Arc::new(volume());
    let store = stored(&volume, &budget).await;
    assert!(store.damage_a_chunk());
    let target = Arc::new(MemoryVolume::new(N_BLOCKS, 8));
    let error =
        run(store, target.clone(), &budget, 0, &mut Vec::new(), CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Corrupt);
    assert!(error.message.contains("chunk "), "{error}");
    assert_eq!(target.completed(), None);
    let expected = volume.blocks();
    assert!(target.blocks().iter().all(|(index, data)| expected.get(index) == Some(data)));
}

#[tokio::test]
async fn a_target_that_is_too_small_is_refused_before_anything_is_written() {
    let budget = ByteBudget::new(8 << 20);
    let store = stored(&Arc::new(volume()), &budget).await;
    let target = Arc::new(MemoryVolume::new(N_BLOCKS - 1, 8));
    let error =
        run(store, target.clone(), &budget, 0, &mut Vec::new(), CancellationToken::new()).await.unwrap_err();
    assert_eq!((error.class, target.n_writes()), (ErrorClass::Invalid, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_hanging_chunks_and_writes() {
    let budget = ByteBudget::new(8 << 20);
    let store = stored(&Arc::new(volume()), &budget).await;
    let reads = FaultPlan::new(Fault::Hang, When::From(10));
    let writes = FaultPlan::new(Fault::Hang, When::From(3));
    let source = Arc::new(Faulty::new(store, reads.clone()));
    let target = Arc::new(Faulty::new(Arc::new(MemoryVolume::new(N_BLOCKS, 4)), writes.clone()));
    let stop = CancellationToken::new();
    let stopper = stop.clone();
    let restore =
        tokio::spawn(async move { run(source, target, &budget, 0, &mut Vec::new(), stopper).await });
    while reads.n_faults() == 0 || writes.n_faults() < 4 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    stop.cancel();
    assert_eq!(restore.await.unwrap().unwrap_err().class, ErrorClass::Cancelled);
}

/// A target full of old data: what a block became, and how often `persist` was called.
#[derive(Default)]
struct Used {
    n_blocks: u32,
    now: Mutex<BTreeMap<u32, Option<Bytes>>>,
    n_persists: Mutex<u32>,
}

#[async_trait::async_trait]
impl BlockTarget for Used {
    fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    fn wanted_writes(&self) -> usize {
        4
    }

    fn needs(&self) -> TargetNeeds {
        TargetNeeds { holes: true, aggregate: false, persist: true }
    }

    async fn write(&self, block: &Block) -> Result<(), TransferError> {
        self.now.lock().unwrap().insert(block.index.0, Some(block.data.clone()));
        Ok(())
    }

    async fn write_hole_range(&self, first: BlockIndex, n_blocks: u32) -> Result<(), TransferError> {
        assert!((1..=MAX_HOLE_BLOCKS).contains(&n_blocks));
        tokio::task::yield_now().await;
        for index in first.0..first.0 + n_blocks {
            assert!(index < self.n_blocks, "holes lie within the target");
            let old = self.now.lock().unwrap().insert(index, None);
            assert!(old.is_none_or(|old| old.is_none()), "no hole is written over block {index}");
        }
        Ok(())
    }

    async fn persist(&self) -> Result<(), TransferError> {
        *self.n_persists.lock().unwrap() += 1;
        Ok(())
    }

    async fn complete(&self, _: u32, _: Sha256Digest) -> Result<(), TransferError> {
        Ok(())
    }
}

impl Used {
    fn new(n_blocks: u32) -> Arc<Self> {
        Arc::new(Self { n_blocks, ..Self::default() })
    }

    /// Nothing old is left before `end`, and nothing but the volume's blocks is there.
    fn check(&self, volume: &MemoryVolume, end: u32) {
        let (now, expected) = (self.now.lock().unwrap().clone(), volume.blocks());
        for index in 0..end {
            let found = now.get(&index).unwrap_or_else(|| panic!("block {index} keeps its old data"));
            assert!(found.as_ref() == expected.get(&index), "block {index}");
        }
    }
}

#[tokio::test]
async fn a_used_target_is_overwritten_also_where_the_source_has_holes() {
    let budget = ByteBudget::new(8 << 20);
    let (full, empty) = (Arc::new(volume()), Arc::new(MemoryVolume::new(N_BLOCKS, 8)));
    for volume in [&full, &empty] {
        let store = stored(volume, &budget).await;
        for n_blocks in [N_BLOCKS, N_BLOCKS + 7, N_BLOCKS + 9_000] {
            let target = Used::new(n_blocks);
            let mut marks = Vec::new();
            run(store.clone(), target.clone(), &budget, 0, &mut marks, CancellationToken::new())
                .await
                .unwrap();
            target.check(volume, n_blocks);
            assert!(marks.is_sorted() && marks.last().is_some_and(|mark| *mark >= N_BLOCKS));
            assert!(*target.n_persists.lock().unwrap() as usize >= marks.len());
        }
    }
}

#[tokio::test]
async fn a_used_target_that_failed_at_any_write_is_gone_on_with_at_the_mark() {
    let budget = ByteBudget::new(8 << 20);
    let volume = Arc::new(volume());
    let store = stored(&volume, &budget).await;
    let (mut n, mut resumed) = (1, 0);
    loop {
        let target = Used::new(N_BLOCKS + 3_000);
        let plan = FaultPlan::new(Fault::Fail(ErrorClass::Unavailable), When::From(n));
        let faulty = Arc::new(Faulty::new(target.clone(), plan));
        let mut marks = Vec::new();
        let done = run(store.clone(), faulty, &budget, 0, &mut marks, CancellationToken::new()).await;
        if done.is_ok() {
            break;
        }
        let mark = marks.last().copied().unwrap_or(0);
        target.check(&volume, mark.min(target.n_blocks));
        run(store.clone(), target.clone(), &budget, mark, &mut marks, CancellationToken::new())
            .await
            .unwrap();
        target.check(&volume, target.n_blocks);
        resumed += u32::from(mark > 0);
        n += 1;
    }
    assert!(resumed > 0, "some went on past the first leaf");
}

#[tokio::test(start_paused = true)]
async fn no_more_than_a_page_is_written_beyond_what_is_recorded() {
    let budget = ByteBudget::new(8 << 20);
    let volume = Arc::new(MemoryVolume::new(N_BLOCKS, 8));
    // Zeroes and repeats need no fetch, and could run far ahead.
    for index in (0..4_000).filter(|index| index % 9 > 0) {
        volume.put(index, if index % 60 == 1 { seeded_block(u64::from(index % 240)) } else { zero_block() });
    }
    let store = stored(&volume, &budget).await;
    let blocks: Vec<u32> = volume.blocks().into_keys().collect();
    let target = Arc::new(MemoryVolume::new(N_BLOCKS, 8));
    let (record, recorded) = watch::channel(0);
    let (writer, stop) = (target.clone(), CancellationToken::new());
    let restore = tokio::spawn(async move {
        let mut nobody = |_| {};
        let mark = HighWater::new(0, &mut nobody).recorded(recorded, Ahead::default());
        let workers = WorkPool::new(2);
        restore_volume(store, writer, sealer(), budget, &workers, mark, Arc::default(), stop).await
    });
    // The mark stands where nobody records it, then goes on by whole pages and by less.
    let mut n_allowed = 1_024;
    for n_recorded in [0, 1, 1_024, 1_500, 2_524, 3_000] {
        let mark = blocks[n_recorded];
        record.send_replace(mark);
        n_allowed = blocks.len().min(n_recorded + 1_024);
        let is_written = || target.n_writes() == n_allowed as u64;
        while !is_written() && !restore.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Nothing more comes, however long nobody records.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(is_written(), "{} writes with {n_recorded} blocks recorded", target.n_writes());
        assert!(target.blocks().keys().eq(&blocks[..n_allowed]), "the first are written first");
    }
    assert_eq!(n_allowed, blocks.len());
    restore.await.unwrap().unwrap();
    assert!(target.blocks() == volume.blocks());
}

#[tokio::test(start_paused = true)]
async fn volumes_that_are_written_side_by_side_share_the_page() {
    let budget = ByteBudget::new(8 << 20);
    let volume = Arc::new(MemoryVolume::new(N_BLOCKS, 8));
    (0..N_BLOCKS).for_each(|index| volume.put(index, zero_block()));
    let ahead = Ahead::default();
    let (mut restores, mut targets, mut marks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        let store = stored(&volume, &budget).await;
        let target = Arc::new(MemoryVolume::new(N_BLOCKS, 8));
        let (record, recorded) = watch::channel(0);
        let (writer, budget, ahead) = (target.clone(), budget.clone(), ahead.clone());
        restores.push(tokio::spawn(async move {
            let mut nobody = |_| {};
            let mark = HighWater::new(0, &mut nobody).recorded(recorded, ahead);
            let (workers, stop) = (WorkPool::new(2), CancellationToken::new());
            restore_volume(store, writer, sealer(), budget, &workers, mark, Arc::default(), stop).await
        }));
        targets.push(target);
        marks.push(record);
    }
    let n_written = || targets.iter().map(|target| target.n_writes()).sum::<u64>();
    let settled = async || tokio::time::sleep(Duration::from_secs(60)).await;
    settled().await;
    assert_eq!(n_written(), 1_024, "a page in all");
    // What is recorded of one gives room to any.
    for n in 1..=3 {
        let recorded = targets[0].n_writes();
        marks[0].send_replace(u32::try_from(recorded).unwrap());
        settled().await;
        let others = targets[1].n_writes() + targets[2].n_writes();
        assert_eq!(n_written() - recorded, 1_024, "{n}: {others} of them of the others");
    }
    for mark in &marks {
        mark.send_replace(N_BLOCKS);
    }
    for restore in restores {
        restore.await.unwrap().unwrap();
    }
    assert!(targets.iter().all(|target| target.blocks() == volume.blocks()));
}

/// A target at the quota: 990 writes a second, 150 ms each, and some that have to be tried again.
struct AtTheQuota {
    started: Instant,
    n_writes: AtomicU32,
}

#[async_trait::async_trait]
impl BlockTarget for AtTheQuota {
    fn n_blocks(&self) -> u32 {
        N_BLOCKS
    }

    fn wanted_writes(&self) -> usize {
        180
    }

    async fn write(&self, _: &Block) -> Result<(), TransferError> {
        let n = self.n_writes.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep_until(self.started + Duration::from_secs(1) * n / 990).await;
        let n_tries = if n % 100 == 50 { 2 } else { 1 };
        tokio::time::sleep(Duration::from_millis(150) * n_tries).await;
        Ok(())
    }

    async fn complete(&self, _: u32, _: Sha256Digest) -> Result<(), TransferError> {
        Ok(())
    }
}

/// Seconds that a volume of zeroes takes there, its mark recorded as an agent does it, or not at all.
async fn seconds_at_the_quota(is_recorded: bool) -> f64 {
    let budget = ByteBudget::new(8 << 20);
    let volume = Arc::new(MemoryVolume::new(N_BLOCKS, 8));
    (0..N_BLOCKS).for_each(|index| volume.put(index, zero_block()));
    let store = stored(&volume, &budget).await;
    let (tell, mut told) = watch::channel(0);
    let (record, recorded) = watch::channel(0);
    let recorder = tokio::spawn(async move {
        while told.wait_for(|mark| *mark >= *record.borrow() + 256).await.is_ok() {
            let mark = *told.borrow_and_update();
            tokio::time::sleep(Duration::from_millis(20)).await;
            record.send_replace(mark);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut reached = move |block| {
        tell.send_replace(block);
    };
    let mark = HighWater::new(0, &mut reached);
    let mark = if is_recorded { mark.recorded(recorded, Ahead::default()) } else { mark };
    let target = Arc::new(AtTheQuota { started: Instant::now(), n_writes: AtomicU32::new(0) });
    let started = Instant::now();
    let (workers, stop) = (WorkPool::new(2), CancellationToken::new());
    restore_volume(store, target, sealer(), budget, &workers, mark, Arc::default(), stop).await.unwrap();
    drop(reached);
    recorder.await.unwrap();
    started.elapsed().as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn holding_writes_back_costs_nothing_at_the_quota() {
    let (free, held) = (seconds_at_the_quota(false).await, seconds_at_the_quota(true).await);
    assert!(free > f64::from(N_BLOCKS) / 1_000.0, "{free} s: the target has no quota");
    assert!(held < free * 1.01, "{held} s instead of {free} s");
}
