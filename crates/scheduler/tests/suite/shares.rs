//! Shares of snapshots that several tasks need.

use snapferry_api::job::TaskError;
use snapferry_scheduler::store::{FinishOutcome, OtherShares, Step, StoreError};
use snapferry_types::ledger::{LedgerEntry, LedgerState, ObjectKind, Purpose};
use snapferry_types::spec::TaskSpec;

use super::world::{LIMITS, World, source_entry};

const SHARE: &str = "snap-01/111111111111";

const NOBODY: OtherShares = OtherShares { any: false, being_taken_back: false };
const OTHERS: OtherShares = OtherShares { any: true, being_taken_back: false };
const TAKEN_BACK: OtherShares = OtherShares { any: true, being_taken_back: true };

fn share(spec: &TaskSpec, id: &str) -> LedgerEntry {
    LedgerEntry {
        kind: ObjectKind::Share,
        purpose: Purpose::Transport,
        state: LedgerState::Intended,
        ..source_entry(spec, id)
    }
}

async fn write(world: &World, spec: &TaskSpec, entry: &LedgerEntry, state: LedgerState) -> OtherShares {
    world.record(spec, Step::Ledger(LedgerEntry { state, ..entry.clone() })).await.unwrap()
}

async fn open(world: &World) -> usize {
    world.store.ledger(&Default::default(), 10).await.unwrap().items.len()
}

pub(crate) async fn the_last_task_that_needs_a_share_takes_it_back(url: String) {
    let world = World::new(url).await;
    let (one, two) = (world.running("i-0a").await, world.running("i-0b").await);
    let (first, second) = (share(&one, SHARE), share(&two, SHARE));
    let other = share(&two, "snap-02/111111111111");
    assert_eq!(write(&world, &one, &first, LedgerState::Intended).await, NOBODY);
    assert_eq!(write(&world, &two, &other, LedgerState::Intended).await, NOBODY, "of another snapshot");
    assert_eq!(write(&world, &two, &second, LedgerState::Intended).await, OTHERS);
    assert_eq!(write(&world, &one, &first, LedgerState::Made).await, OTHERS);
    write(&world, &two, &second, LedgerState::Made).await;

    assert_eq!(world.record(&one, Step::Release(first.id)).await.unwrap(), OTHERS);
    assert_eq!(open(&world).await, 2, "its entry is gone with that");
    assert!(world.record(&one, Step::Release(first.id)).await.unwrap().any, "and stays so, asked again");
    for _ in 0..2 {
        assert_eq!(world.record(&two, Step::Release(second.id)).await.unwrap(), NOBODY, "its to take back");
    }
    write(&world, &two, &second, LedgerState::Gone).await;
    assert_eq!(open(&world).await, 1);
}

pub(crate) async fn who_needs_a_share_anew_waits_until_it_is_taken_back(url: String) {
    let world = World::new(url).await;
    let (one, two) = (world.running("i-0a").await, world.running("i-0b").await);
    let (first, second) = (share(&one, SHARE), share(&two, SHARE));
    write(&world, &one, &first, LedgerState::Made).await;
    assert_eq!(world.record(&one, Step::Release(first.id)).await.unwrap(), NOBODY);
    for _ in 0..2 {
        assert_eq!(write(&world, &two, &second, LedgerState::Intended).await, TAKEN_BACK);
    }
    write(&world, &one, &first, LedgerState::Gone).await;
    assert_eq!(write(&world, &two, &second, LedgerState::Intended).await, NOBODY);
}

pub(crate) async fn the_reaper_leaves_a_share_to_those_who_need_it(url: String) {
    let world = World::new(url).await;
    let (one, two) = (world.running("i-0a").await, world.running("i-0b").await);
    let (first, second) = (share(&one, SHARE), share(&two, SHARE));
    write(&world, &one, &first, LedgerState::Made).await;
    assert_eq!(world.record(&one, Step::Release(first.id)).await.unwrap(), NOBODY);
    // It fails in the middle of taking the share back, and another task comes.
    let failed = FinishOutcome::Failed {
        retryable: false,
        error: TaskError { class: "denied".to_owned(), message: String::new() },
    };
    world.store.finish(one.task, one.fence, None, failed, &LIMITS).await.unwrap();
    assert_eq!(write(&world, &two, &second, LedgerState::Intended).await, TAKEN_BACK);
    assert!(world.store.release_left_over(first.id).await.unwrap(), "the other one needs it");
    assert_eq!(write(&world, &two, &second, LedgerState::Intended).await, NOBODY, "and waits no longer");
    assert!(!world.store.release_left_over(second.id).await.unwrap(), "nobody else needs this one");
}

pub(crate) async fn only_a_share_of_ones_own_is_released(url: String) {
    let world = World::new(url).await;
    let (one, two) = (world.running("i-0a").await, world.running("i-0b").await);
    let first = share(&one, SHARE);
    write(&world, &one, &first, LedgerState::Made).await;
    let theirs = world.record(&two, Step::Release(first.id)).await;
    assert!(matches!(theirs, Err(StoreError::Invalid(_))), "{theirs:?}");
    let snapshot = source_entry(&one, "snap-03");
    world.record(&one, Step::Ledger(snapshot.clone())).await.unwrap();
    let no_share = world.record(&one, Step::Release(snapshot.id)).await;
    assert!(matches!(no_share, Err(StoreError::Invalid(_))), "{no_share:?}");
    assert_eq!(open(&world).await, 2);
}
