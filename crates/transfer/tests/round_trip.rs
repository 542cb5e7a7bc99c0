//! Random volumes go through a backup, an incremental and a restore, and come back as they were: holes as holes,
//! zeroes as zeroes.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use snapferry_transfer::twin::{MemoryStore, MemoryVolume, linear_aggregate, seeded_block};
use snapferry_transfer::zero_block;
use snapferry_transfer::{
    BaseLeaves, ByteBudget, HighWater, Sealer, WorkPool, back_up_volume, restore_volume,
};
use snapferry_types::tenancy::TenantKeys;
use tokio_util::sync::CancellationToken;

const N_BLOCKS: u32 = 4_000;

/// What lies in a block: 0 zeroes, else one of a few contents, so that some repeat.
type Content = BTreeMap<u32, u8>;

fn volume(content: &Content, in_flight: usize) -> Arc<MemoryVolume> {
    let volume = MemoryVolume::new(N_BLOCKS, in_flight);
    for (index, kind) in content {
        match kind {
            0 => volume.put(*index, zero_block()),
            kind => volume.put(*index, seeded_block(u64::from(*kind))),
        }
    }
    Arc::new(volume)
}

fn contents() -> impl Strategy<Value = Content> {
    prop::collection::btree_map(prop_oneof![0..N_BLOCKS, 0..40_u32, 1_020..1_030_u32], 0..20_u8, 0..60)
}

async fn back_up(
    source: Arc<MemoryVolume>,
    store: Arc<MemoryStore>,
    base: Option<Arc<dyn BaseLeaves>>,
    budget: &ByteBudget,
    sealer: &Arc<Sealer>,
) {
    let (workers, stop) = (WorkPool::new(2), CancellationToken::new());
    let sealer = Arc::clone(sealer);
    back_up_volume(source, store, base, sealer, budget.clone(), &workers, Arc::default(), stop)
        .await
        .unwrap();
    assert_eq!(budget.available(), budget.total());
}

async fn round_trip(old: Content, new: Content, in_flight: usize, n_budget_blocks: u64) {
    let sealer = Arc::new(Sealer::new(&TenantKeys::new([3; 32], [4; 32])));
    let budget = ByteBudget::new(n_budget_blocks << 19);
    let (old, new) = (volume(&old, in_flight), volume(&new, in_flight));
    let base = Arc::new(MemoryStore::new(N_BLOCKS, Arc::clone(&sealer)));
    back_up(old.clone(), base.clone(), None, &budget, &sealer).await;
    assert!(old.most_reading() as u64 <= n_budget_blocks, "no read without memory");

    let incremental = Arc::new(base.next_session());
    let changes = Arc::new(new.against(&old));
    back_up(changes.clone(), incremental.clone(), Some(base.clone()), &budget, &sealer).await;
    let full = Arc::new(MemoryStore::new(N_BLOCKS, Arc::clone(&sealer)));
    back_up(new.clone(), full.clone(), None, &budget, &sealer).await;
    assert_eq!(incremental.plain_leaves().unwrap(), full.plain_leaves().unwrap());
    assert_eq!(full.n_put_twice() + incremental.n_put_twice() + base.n_put_twice(), 0);
    let n_written_changes =
        changes.blocks().iter().filter(|(i, data)| old.blocks().get(i) != Some(data)).count();
    assert_eq!(changes.n_reads(), n_written_changes as u64, "an incremental reads the change");

    for (store, expected) in [(base, old), (incremental, new)] {
        let target = Arc::new(MemoryVolume::new(N_BLOCKS, in_flight));
        let (workers, stop) = (WorkPool::new(2), CancellationToken::new());
        let mut marks = Vec::new();
        let summary = restore_volume(
            store,
            target.clone(),
            Arc::clone(&sealer),
            budget.clone(),
            &workers,
            HighWater::new(0, &mut |block| marks.push(block)),
            Arc::default(),
            stop,
        )
        .await
        .unwrap();
        assert!(target.blocks() == expected.blocks(), "every block, zero and hole is as it was");
        assert_eq!(target.completed(), Some(linear_aggregate(&expected)));
        assert_eq!(Some((summary.n_written, summary.aggregate)), target.completed());
        assert_eq!(marks.last(), Some(&N_BLOCKS));
        assert_eq!(budget.available(), budget.total());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_volume_comes_back_as_it_was(old in contents(), new in contents(), in_flight in 1_usize..24, n_budget_blocks in 1_u64..40) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(round_trip(old, new, in_flight, n_budget_blocks));
    }
}
