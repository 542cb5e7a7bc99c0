//! Recovery points and the ledger.

use snapferry_api::job::{CreateJob, DeleteRecoveryPoint, Priority, Work};
use snapferry_api::ledger::LedgerQuery;
use snapferry_api::recovery_point::RecoveryPointQuery;
use snapferry_scheduler::clock::Clock as _;
use snapferry_scheduler::store::{FinishOutcome, SealedPoint, Step, StoreError};
use snapferry_types::RecoveryPointId;
use snapferry_types::catalogue::RecoveryPointMeta;
use snapferry_types::ledger::LedgerState;
use snapferry_types::spec::{Operation, TaskSpec};

use super::world::{LIMITS, World, meta, source_entry};

/// A backup from snapshot to seal; answers its recovery point.
async fn seal(world: &World, spec: &TaskSpec, instance: &str, snapshot: &str) -> RecoveryPointId {
    let entry = source_entry(spec, snapshot);
    world.store.record(spec.task, spec.fence, Step::Ledger(entry)).await.unwrap();
    let at_ms = u64::try_from(world.clock.wall_ms()).unwrap();
    let point = SealedPoint {
        id: RecoveryPointId::generate(),
        metadata: serde_json::to_vec(&meta(spec, instance, snapshot, at_ms)).unwrap(),
        logical_bytes: 1 << 30,
        read_bytes: 4_096,
        stored_bytes: 1_024,
    };
    for _ in 0..2 {
        world.store.record(spec.task, spec.fence, Step::Sealed(point.clone())).await.unwrap();
    }
    point.id
}

async fn succeed(world: &World, spec: &TaskSpec) {
    let done = FinishOutcome::Succeeded(Vec::new());
    world.store.finish(spec.task, spec.fence, None, done, &LIMITS).await.unwrap();
    world.clock.advance(std::time::Duration::from_secs(1));
}

fn backup_of(spec: &TaskSpec) -> &snapferry_types::spec::StreamingBackupSpec {
    match &spec.operation {
        Operation::StreamingBackup(backup) => backup,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a_sealed_point_becomes_the_next_base(url: String) {
    let world = World::new(url).await;
    let first = world.running("i-0a").await;
    assert!(backup_of(&first).base.is_none() && first.superseded.is_empty());
    let point = seal(&world, &first, "i-0a", "snap-01").await;
    let shown = world.store.recovery_point(point).await.unwrap();
    assert!(shown.volumes[0].snapshot_kept, "the source snapshot is the base of the next backup");
    assert_eq!(shown.volumes[0].size_bytes, 1 << 30);
    succeed(&world, &first).await;

    let other = world.running("i-0b").await;
    assert!(backup_of(&other).base.is_none(), "another instance has another base");
    let mut forged = meta(&other, "i-0a", "snap-02", 1);
    let forge = |meta: &RecoveryPointMeta| SealedPoint {
        id: RecoveryPointId::generate(),
        metadata: serde_json::to_vec(meta).unwrap(),
        logical_bytes: 0,
        read_bytes: 0,
        stored_bytes: 0,
    };
    let refused = world.store.record(other.task, other.fence, Step::Sealed(forge(&forged))).await;
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "of an instance the task does not have");
    forged = meta(&first, "i-0b", "snap-02", 1);
    let refused = world.store.record(other.task, other.fence, Step::Sealed(forge(&forged))).await;
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "of another task");
    succeed(&world, &other).await;

    let second = world.running("i-0a").await;
    let base = backup_of(&second).base.clone().unwrap();
    assert_eq!(base.recovery_point, point);
    assert_eq!(base.snapshots[0].1.as_str(), "snap-01");
    assert_eq!(second.superseded.len(), 1);
    seal(&world, &second, "i-0a", "snap-02").await;
    let mut gone = second.superseded[0].clone();
    gone.state = LedgerState::Gone;
    world.store.record(second.task, second.fence, Step::Ledger(gone)).await.unwrap();
    succeed(&world, &second).await;

    let third = world.running("i-0a").await;
    let base = backup_of(&third).base.clone().unwrap();
    assert_eq!(base.snapshots[0].1.as_str(), "snap-02");
    assert_eq!(third.superseded.len(), 1, "the first snapshot is gone already");
    assert_eq!(world.store.recovery_points(&RecoveryPointQuery::default(), 10).await.unwrap().items.len(), 2);
}

pub(crate) async fn the_ledger_moves_forward_only(url: String) {
    let world = World::new(url).await;
    let spec = world.running("i-0a").await;
    let mut entry = source_entry(&spec, "snap-01");
    entry.state = LedgerState::Intended;
    entry.object_ids.clear();
    let record = async |spec: &TaskSpec, entry: &snapferry_types::ledger::LedgerEntry| {
        world.store.record(spec.task, spec.fence, Step::Ledger(entry.clone())).await
    };
    record(&spec, &entry).await.unwrap();
    entry.state = LedgerState::Made;
    entry.object_ids = vec!["snap-01".to_owned()];
    record(&spec, &entry).await.unwrap();
    let mut late = entry.clone();
    late.state = LedgerState::Intended;
    late.object_ids.clear();
    let refused = record(&spec, &late).await.unwrap_err().to_string();
    assert!(
        refused.contains(&entry.id.to_string()) && refused.contains("made") && refused.contains("intended")
    );
    record(&spec, &entry).await.unwrap();
    let lines = world.store.ledger(&LedgerQuery::default(), 10).await.unwrap().items;
    assert_eq!((lines.len(), &lines[0].entry), (1, &entry), "a late message takes nothing back");
    assert!(!lines[0].reapable, "its task is at work");

    let mut result = source_entry(&spec, "vol-01");
    result.state = LedgerState::HandedOver;
    record(&spec, &result).await.unwrap();
    record(&spec, &result).await.unwrap();
    result.state = LedgerState::Gone;
    let refused = record(&spec, &result).await.unwrap_err().to_string();
    assert!(
        refused.contains("handed_over") && refused.contains("gone"),
        "what is the user's stays: {refused}"
    );

    let other = world.running("i-0b").await;
    let mut theirs = entry.clone();
    theirs.state = LedgerState::Gone;
    assert!(
        matches!(record(&other, &theirs).await, Err(StoreError::Invalid(_))),
        "not kept, so not theirs to end"
    );
    let mut new = source_entry(&spec, "snap-02");
    new.task = spec.task;
    assert!(matches!(record(&other, &new).await, Err(StoreError::Invalid(_))), "made in another's name");

    let again = world.store.claim(
        snapferry_scheduler::store::ClaimBy {
            task: spec.task,
            dispatch: world.store.task(spec.task).await.unwrap().dispatch.unwrap(),
            node: world.node.id,
            incarnation: world.node.incarnation,
            heard_since_ms: 0,
        },
        "test",
    );
    match again.await.unwrap() {
        snapferry_scheduler::store::ClaimVerdict::Granted(grant) => {
            assert!(grant.spec.objects.contains(&entry))
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn what_nobody_owns_is_reapable(url: String) {
    let world = World::new(url).await;
    let spec = world.running("i-0a").await;
    let entry = source_entry(&spec, "snap-01");
    world.store.record(spec.task, spec.fence, Step::Ledger(entry.clone())).await.unwrap();
    let now_ms = world.clock.wall_ms();
    assert!(world.store.reapable(now_ms, 10).await.unwrap().is_empty());
    let error = snapferry_api::job::TaskError { class: "denied".to_owned(), message: String::new() };
    let failed = FinishOutcome::Failed { retryable: false, error };
    world.store.finish(spec.task, spec.fence, None, failed, &LIMITS).await.unwrap();
    assert!(world.store.reapable(now_ms - 1, 10).await.unwrap().is_empty(), "too fresh");
    let lines = world.store.reapable(now_ms, 10).await.unwrap();
    assert_eq!(lines.iter().map(|line| &line.entry).collect::<Vec<_>>(), [&entry]);
    let dry = LedgerQuery { reapable: Some(true), ..LedgerQuery::default() };
    let listed = world.store.ledger(&dry, 10).await.unwrap().items;
    assert_eq!(listed.len(), 1);
    assert!(listed[0].reason.as_ref().unwrap().contains("its task is over"), "{:?}", listed[0].reason);
    world.store.reaped(entry.id, true).await.unwrap();
    assert!(world.store.ledger(&dry, 10).await.unwrap().items.is_empty());
    assert!(world.store.ledger(&LedgerQuery::default(), 10).await.unwrap().items.is_empty());
    let all = LedgerQuery { gone: Some(true), ..LedgerQuery::default() };
    assert_eq!(world.store.ledger(&all, 10).await.unwrap().items.len(), 1);
}

pub(crate) async fn a_deleted_point_is_gone(url: String) {
    let world = World::new(url).await;
    let spec = world.running("i-0a").await;
    let point = seal(&world, &spec, "i-0a", "snap-01").await;
    succeed(&world, &spec).await;
    let work = Work::DeleteRecoveryPoint(DeleteRecoveryPoint { recovery_point: point });
    world.submit(&CreateJob { work, priority: Priority::Normal }).await;
    let spec = world.claim(world.offer().await).await;
    assert!(matches!(spec.operation, Operation::DeleteRecoveryPoint(id) if id == point));
    assert_eq!(spec.superseded.len(), 1, "its kept snapshots go with it");
    let wrong = world.store.record(spec.task, spec.fence, Step::Deleted(RecoveryPointId::generate())).await;
    assert!(matches!(wrong, Err(StoreError::Invalid(_))));
    for _ in 0..2 {
        world.store.record(spec.task, spec.fence, Step::Deleted(point)).await.unwrap();
    }
    assert!(matches!(world.store.recovery_point(point).await, Err(StoreError::NotFound { .. })));
    succeed(&world, &spec).await;
    assert_eq!(world.store.reapable(world.clock.wall_ms(), 10).await.unwrap().len(), 1, "left to the reaper");
    let dry = LedgerQuery { reapable: Some(true), ..LedgerQuery::default() };
    let listed = world.store.ledger(&dry, 10).await.unwrap().items;
    let reason = listed[0].reason.as_ref().unwrap();
    assert!(reason.contains("the recovery point that it was kept for is gone"), "{reason}");
    let next = world.running("i-0a").await;
    assert!(backup_of(&next).base.is_none());
}
