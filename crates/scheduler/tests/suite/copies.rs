//! Backup copies, and what a backup builds on.

use std::time::Duration;

use snapferry_api::job::{DeleteRecoveryPoint, TaskError, Work};
use snapferry_api::recovery_point::SnapshotsState;
use snapferry_scheduler::store::{FinishOutcome, Step, StoreError};
use snapferry_types::RecoveryPointId;
use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::ledger::LedgerState;
use snapferry_types::spec::{BackupCopySpec, Operation, TaskSpec};

use super::world::{LIMITS, World, source_entry};

fn copy_of(spec: &TaskSpec) -> &BackupCopySpec {
    match &spec.operation {
        Operation::BackupCopy(copy) => copy,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn all_that_were_not_copied_are_copied_once_and_oldest_first(url: String) {
    let world = World::new(url).await;
    let why = world.refused(Work::BackupCopy(world.copy_request(&[]))).await;
    assert!(why.contains("nothing to copy"), "{why}");
    let mut points = Vec::new();
    for n in 1..=3 {
        points.push(world.snapped(world.snap_request("i-0a"), &format!("snap-0{n}")).await);
    }
    let job = world.submit(&World::job(Work::BackupCopy(world.copy_request(&[])))).await;
    assert_eq!(world.store.job(job).await.unwrap().tasks.len(), 3);
    let why = world.refused(Work::BackupCopy(world.copy_request(&[]))).await;
    assert!(why.contains("nothing to copy"), "they are being copied: {why}");
    for point in &points {
        let spec = world.claim(world.offer().await).await;
        assert_eq!(world.try_offer().await, None, "copies of one instance come one after the other");
        assert_eq!((copy_of(&spec).source, copy_of(&spec).meta.kind), (*point, RecoveryPointKind::Snapshot));
        assert_eq!(spec.media_agent.as_ref().unwrap().id, world.media_agent);
        let copy = world.copied(&spec).await;
        let shown = world.store.recovery_point(copy).await.unwrap();
        assert_eq!((shown.summary.kind, shown.summary.copy_of), (RecoveryPointKind::Copy, Some(*point)));
        assert_eq!(shown.summary.snapshots, SnapshotsState::None, "the snapshots are the source's");
        assert!(shown.volumes[0].snapshot_kept);
    }
    let why = world.refused(Work::BackupCopy(world.copy_request(&[]))).await;
    assert!(why.contains("nothing to copy"), "they were copied: {why}");
}

pub(crate) async fn what_cannot_be_copied_is_refused_with_the_reason(url: String) {
    let world = World::new(url).await;
    let one = |point| Work::BackupCopy(world.copy_request(&[point]));
    let point = world.snapped(world.snap_request("i-0a"), "snap-01").await;
    let spec = world.at_work(one(point)).await;
    let why = world.refused(one(point)).await;
    assert!(why.contains(&format!("being copied by task {}", spec.task)), "{why}");
    let forged = world.sealed(&spec, "i-0a", "snap-01", Some(RecoveryPointId::generate()));
    let refused = world.record(&spec, Step::Sealed(forged)).await;
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "a copy is of what the task was to copy");
    let copy = world.copied(&spec).await;
    let why = world.refused(one(point)).await;
    assert!(why.contains(&format!("copied already, as {copy}")), "{why}");
    let why = world.refused(one(copy)).await;
    assert!(why.contains("library already"), "{why}");

    let lost = world.snapped(world.snap_request("i-0a"), "snap-02").await;
    world.lose(&["snap-02"]).await;
    let why = world.refused(one(lost)).await;
    assert!(why.contains("deleted by somebody else (snap-02)"), "{why}");

    let request = World::job(one(RecoveryPointId::generate()));
    let unknown =
        snapferry_scheduler::store::Submission { request: &request, idempotency_key: None, only: None };
    assert!(matches!(world.store.submit(&unknown).await, Err(StoreError::NotFound { .. })));

    // A copy that was deleted can be made again.
    let delete = Work::DeleteRecoveryPoint(DeleteRecoveryPoint { recovery_point: copy });
    let spec = world.at_work(delete).await;
    world.record(&spec, Step::Deleted(copy)).await.unwrap();
    world.succeed(&spec).await;
    world.submit(&World::job(one(point))).await;
}

pub(crate) async fn a_copy_builds_on_the_copy_before_while_its_snapshots_exist(url: String) {
    let world = World::new(url).await;
    let mut points = Vec::new();
    for n in 1..=4 {
        points.push(world.snapped(world.snap_request("i-0a"), &format!("snap-0{n}")).await);
    }
    let one = |point| Work::BackupCopy(world.copy_request(&[point]));
    let first = world.at_work(one(points[0])).await;
    assert!(copy_of(&first).base.is_none() && first.superseded.is_empty());
    let first = world.copied(&first).await;
    let second = world.at_work(one(points[1])).await;
    let base = copy_of(&second).base.clone().unwrap();
    assert_eq!((base.recovery_point, base.snapshots[0].1.as_str()), (first, "snap-01"));
    let second = world.copied(&second).await;
    world.lose(&["snap-02"]).await;
    let third = world.at_work(one(points[2])).await;
    let base = copy_of(&third).base.clone().unwrap();
    assert_eq!(base.recovery_point, first, "{second} lost the snapshots that it was read from");
    let third = world.copied(&third).await;
    let mut full = world.copy_request(&[points[3]]);
    full.full = true;
    let fourth = world.at_work(Work::BackupCopy(full)).await;
    assert!(copy_of(&fourth).base.is_none() && copy_of(&fourth).full);
    world.copied(&fourth).await;
    let streamed = world.running("i-0a").await;
    let Operation::StreamingBackup(backup) = &streamed.operation else { panic!() };
    assert!(backup.base.is_none(), "a streaming backup does not build on copies such as {third}");
}

pub(crate) async fn a_copy_holds_its_source(url: String) {
    let world = World::new(url).await;
    let point = world.snapped(world.snap_request("i-0a"), "snap-01").await;
    let later = world.snapped(world.snap_request("i-0a"), "snap-02").await;
    let delete = |point| Work::DeleteRecoveryPoint(DeleteRecoveryPoint { recovery_point: point });
    let spec = world.at_work(Work::BackupCopy(world.copy_request(&[point]))).await;
    let why = world.refused(delete(point)).await;
    assert!(why.contains(&spec.task.to_string()) && why.contains("is held"), "{why}");
    world.copied(&spec).await;
    let next = world.at_work(Work::BackupCopy(world.copy_request(&[later]))).await;
    let why = world.refused(delete(point)).await;
    assert!(why.contains(&next.task.to_string()), "changed blocks are listed against its snapshots: {why}");
    world.copied(&next).await;
    world.submit(&World::job(delete(point))).await;
    let why = world.refused(Work::BackupCopy(world.copy_request(&[point]))).await;
    assert!(why.contains("cannot be copied"), "{why}");
}

pub(crate) async fn a_sealed_backup_keeps_its_base_after_a_crash(url: String) {
    let world = World::new(url).await;
    let stream = async |snapshot: &str| {
        let spec = world.running("i-0a").await;
        let entry = source_entry(&spec, snapshot);
        world.record(&spec, Step::Ledger(entry)).await.unwrap();
        let point = world.sealed(&spec, "i-0a", snapshot, None);
        world.record(&spec, Step::Sealed(point.clone())).await.unwrap();
        (spec, point.id)
    };
    let (first, base) = stream("snap-01").await;
    world.succeed(&first).await;
    let (second, _) = stream("snap-02").await;
    let mut old = second.superseded[0].clone();
    old.state = LedgerState::Gone;
    world.record(&second, Step::Ledger(old)).await.unwrap();
    // The agent dies before it says that it is done.
    let error = TaskError { class: "lost".to_owned(), message: String::new() };
    let failed = FinishOutcome::Failed { retryable: true, error };
    world.store.finish(second.task, second.fence, None, failed, &LIMITS).await.unwrap();
    world.clock.advance(Duration::from_secs(120));
    world.hello().await;
    assert_eq!(world.store.end_waits().await.unwrap(), 1);
    let again = world.claim(world.offer().await).await;
    assert_eq!((again.task, again.attempt), (second.task, 2));
    let Operation::StreamingBackup(backup) = &again.operation else { panic!() };
    assert_eq!(backup.base.as_ref().unwrap().recovery_point, base, "else it would read everything again");
}
