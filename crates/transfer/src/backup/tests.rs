use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use snapferry_types::tenancy::TenantKeys;
use tokio_util::sync::CancellationToken;

use super::{VolumeSummary, back_up_volume};
use crate::block::BlockState;
use crate::budget::ByteBudget;
use crate::error::{ErrorClass, TransferError};
use crate::fault::{Fault, FaultPlan, Faulty, When};
use crate::open::sha256;
use crate::pool::WorkPool;
use crate::progress::TransferProgress;
use crate::seal::Sealer;
use crate::sink::ChunkSink;
use crate::source::{BaseLeaves, BlockSource};
use crate::twin::{MemoryStore, MemoryVolume, seeded_block};
use crate::zero::zero_block;

const N_BLOCKS: u32 = 5_000;

fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::new(&TenantKeys::new([1; 32], [2; 32])))
}

/// Five leaves of which the third is holes: data, duplicates, zeroes.
fn volume() -> Arc<MemoryVolume> {
    let volume = MemoryVolume::new(N_BLOCKS, 16);
    for index in (0..40).chain(1_020..1_030).chain(3_070..3_090).chain(4_990..5_000) {
        match index % 5 {
            0 => volume.put(index, zero_block()),
            1 => volume.put(index, seeded_block(7)),
            2 => {}
            _ => volume.put(index, seeded_block(u64::from(index))),
        }
    }
    Arc::new(volume)
}

fn states(blocks: &BTreeMap<u32, Bytes>) -> BTreeMap<u32, BlockState> {
    let zero = zero_block();
    blocks
        .iter()
        .map(|(i, data)| (*i, if *data == zero { BlockState::Zero } else { BlockState::Data(sha256(data)) }))
        .collect()
}

fn stored(store: &MemoryStore) -> BTreeMap<u32, BlockState> {
    let mut all = BTreeMap::new();
    for leaf in store.plain_leaves().unwrap() {
        for (slot, state) in (0_u32..).zip(&leaf.entries) {
            if *state != BlockState::Hole {
                all.insert(leaf.index * 1_024 + slot, *state);
            }
        }
    }
    all
}

async fn run_with(
    source: Arc<dyn BlockSource>,
    sink: Arc<dyn ChunkSink>,
    base: Option<Arc<dyn BaseLeaves>>,
    stop: CancellationToken,
) -> Result<VolumeSummary, TransferError> {
    let budget = ByteBudget::new(8 << 20);
    let workers = WorkPool::new(2);
    let done =
        back_up_volume(source, sink, base, sealer(), budget.clone(), &workers, Arc::default(), stop).await;
    assert_eq!(budget.available(), 8 << 20, "all memory is given back");
    done
}

async fn run(source: Arc<dyn BlockSource>, sink: Arc<dyn ChunkSink>) -> Result<VolumeSummary, TransferError> {
    run_with(source, sink, None, CancellationToken::new()).await
}

#[tokio::test]
async fn a_full_backup_stores_each_different_block_once() {
    let (volume, store) = (volume(), Arc::new(MemoryStore::new(N_BLOCKS, sealer())));
    let summary = run(volume.clone(), store.clone()).await.unwrap();
    let expected = states(&volume.blocks());
    assert_eq!(stored(&store), expected);
    let n_zero = expected.values().filter(|s| **s == BlockState::Zero).count();
    let different: std::collections::HashSet<_> =
        expected.values().filter(|s| **s != BlockState::Zero).collect();
    assert_eq!(store.n_chunks(), different.len());
    assert_eq!(store.n_put_twice(), 0);
    assert_eq!(
        store.durable(),
        expected
            .keys()
            .map(|index| index / 1_024)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    );
    assert_eq!(summary.n_read, expected.len() as u64);
    assert_eq!(summary.n_zero, n_zero as u64);
    assert_eq!(summary.n_chunks_sent, different.len() as u64);
    assert_eq!(summary.n_deduplicated, (expected.len() - n_zero - different.len()) as u64);
    assert!(volume.most_reading() <= 16, "no more reads at once than memory for 16 blocks");

    let again = run(volume.clone(), Arc::new(store.next_session())).await.unwrap();
    assert_eq!(again.n_chunks_sent, 0, "a second backup sends nothing");
}

#[tokio::test]
async fn an_incremental_is_a_full_one_and_reads_only_the_change() {
    let (old, base) = (volume(), Arc::new(MemoryStore::new(N_BLOCKS, sealer())));
    run(old.clone(), base.clone()).await.unwrap();

    let new = MemoryVolume::new(N_BLOCKS, 16);
    for (index, data) in old.blocks() {
        // Blocks from 4,990 are gone, so that leaf 4 becomes holes.
        if index != 3 && index < 4_990 {
            new.put(index, data);
        }
    }
    new.put(4, seeded_block(99));
    new.put(6, zero_block());
    new.put(2_048, seeded_block(7));
    let n_gone = old.blocks().keys().filter(|index| **index >= 4_990).count() as u64 + 1;

    let changes = Arc::new(new.against(&old));
    let store = Arc::new(base.next_session());
    let summary =
        run_with(changes.clone(), store.clone(), Some(base.clone()), CancellationToken::new()).await.unwrap();
    assert_eq!(stored(&store), states(&new.blocks()));
    assert_eq!((summary.n_read, summary.n_gone, summary.n_chunks_sent), (3, n_gone, 1));
    assert_eq!(summary.n_leaves, 3);

    let full = Arc::new(MemoryStore::new(N_BLOCKS, sealer()));
    run(Arc::new(new), full.clone()).await.unwrap();
    assert_eq!(full.plain_leaves().unwrap(), store.plain_leaves().unwrap());
}

#[tokio::test]
async fn killed_at_any_call_of_the_store_it_goes_on_and_reads_no_durable_leaf_again() {
    let volume = volume();
    let expected = states(&volume.blocks());
    let mut n_runs = 0;
    for n in 1_u64.. {
        for fault in [Fault::Fail(ErrorClass::Unavailable), Fault::FailAfter(ErrorClass::Unavailable)] {
            let store = Arc::new(MemoryStore::new(N_BLOCKS, sealer()));
            let plan = FaultPlan::new(fault, When::From(n));
            let ended = run(volume.clone(), Arc::new(Faulty::new(store.clone(), plan.clone()))).await;
            if plan.n_faults() == 0 {
                assert!(n_runs > 10, "the faults happened");
                assert_eq!(stored(&store), expected);
                return;
            }
            n_runs += 1;
            assert_eq!(ended.unwrap_err().class, ErrorClass::Unavailable);
            store.crash();
            let durable = store.durable();
            let to_read = expected.keys().filter(|index| !durable.contains(&(*index / 1_024))).count() as u64;
            let before = volume.n_reads();
            let summary = run(volume.clone(), store.clone()).await.unwrap();
            assert_eq!(stored(&store), expected);
            assert_eq!(summary.n_read, to_read);
            assert_eq!(volume.n_reads() - before, to_read);
        }
    }
}

#[tokio::test]
async fn a_corrupt_read_ends_the_backup_and_is_never_stored() {
    let store = Arc::new(MemoryStore::new(N_BLOCKS, sealer()));
    let plan = FaultPlan::new(Fault::Corrupt, When::Nth(20));
    let error = run(Arc::new(Faulty::new(volume(), plan.clone())), store.clone()).await.unwrap_err();
    assert_eq!((error.class, plan.n_faults()), (ErrorClass::Corrupt, 1));
    assert!(!store.durable().contains(&0), "the leaf of the corrupt block is not handed over");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_hanging_reads_and_flushes_what_is_done() {
    let store = Arc::new(MemoryStore::new(N_BLOCKS, sealer()));
    let plan = FaultPlan::new(Fault::Hang, When::From(45));
    let stop = CancellationToken::new();
    let source = Arc::new(Faulty::new(volume(), plan.clone()));
    let backup = tokio::spawn(run_with(source, store.clone(), None, stop.clone()));
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while plan.n_faults() < 16 || store.n_asked_and_flushed().0 < 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap();
    stop.cancel();
    assert_eq!(backup.await.unwrap().unwrap_err().class, ErrorClass::Cancelled);
    assert!(store.durable().contains(&0), "leaf 0 was whole and became durable");
    store.crash();
    run(volume(), store.clone()).await.unwrap();
    assert_eq!(stored(&store), states(&volume().blocks()));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_store_does_not_hold_up_a_stop() {
    let store = Arc::new(MemoryStore::new(N_BLOCKS, sealer()));
    let plan = FaultPlan::new(Fault::Hang, When::From(3));
    let stop = CancellationToken::new();
    let sink = Arc::new(Faulty::new(store, plan.clone()));
    let backup = tokio::spawn(run_with(volume(), sink, None, stop.clone()));
    while plan.n_faults() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(30), backup).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err().class, ErrorClass::Cancelled);
}

#[tokio::test]
async fn a_budget_of_one_block_is_enough() {
    let (volume, store) = (volume(), Arc::new(MemoryStore::new(N_BLOCKS, sealer())));
    let (budget, workers, progress) =
        (ByteBudget::new(1 << 19), WorkPool::new(2), Arc::new(TransferProgress::new()));
    let stop = CancellationToken::new();
    back_up_volume(volume.clone(), store.clone(), None, sealer(), budget, &workers, progress.clone(), stop)
        .await
        .unwrap();
    assert_eq!(stored(&store), states(&volume.blocks()));
    assert_eq!(volume.most_reading(), 1);
    let counted = progress.snapshot();
    assert_eq!((counted.position, counted.volume_blocks), (u64::from(N_BLOCKS), u64::from(N_BLOCKS)));
    assert_eq!(counted.blocks_done, volume.blocks().len() as u64);
}
