//! Retention, and snapshots that somebody else deletes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use snapferry_api::job::{DeleteRecoveryPoint, JobQuery, TaskError, Work};
use snapferry_api::protect::Retention as Limits;
use snapferry_api::recovery_point::SnapshotsState;
use snapferry_api::restore::RestoreFrom;
use snapferry_scheduler::config::{ReconcileConfig, RetentionConfig};
use snapferry_scheduler::discovery::DiscoveryError;
use snapferry_scheduler::metrics::Metrics;
use snapferry_scheduler::reconcile::{Reconciler, SnapshotLookup};
use snapferry_scheduler::retention::Retention;
use snapferry_scheduler::store::{FinishOutcome, Step};
use snapferry_types::catalogue::RecoveryPointMeta;
use snapferry_types::spec::{Operation, TaskSpec};
use snapferry_types::{AccountAccess, JobId, RecoveryPointId, SnapshotId, TaskKind};
use tokio_util::sync::CancellationToken;

use super::world::{LIMITS, World, source_entry};

const DAY: Duration = Duration::from_secs(86_400);

async fn later(world: &World, by: Duration) {
    world.clock.advance(by);
    world.hello().await;
}

/// A round; answers how many deletions were asked for.
async fn round(world: &World) -> usize {
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let worker =
        Retention::new(Arc::clone(&world.store), world.clock.clone(), RetentionConfig::default(), metrics);
    worker.round(&CancellationToken::new()).await.unwrap()
}

async fn snapped(world: &World, limits: Limits, snapshot: &str) -> RecoveryPointId {
    let mut request = world.snap_request("i-0a");
    request.retention = Some(limits);
    world.snapped(request, snapshot).await
}

async fn delete_jobs(world: &World) -> Vec<JobId> {
    let jobs = world.store.jobs(&JobQuery::default(), 100).await.unwrap().items;
    jobs.into_iter().filter(|job| job.kind == TaskKind::DeleteRecoveryPoint).map(|job| job.id).collect()
}

/// Does the next two deletions; answers what was deleted, in the order of ids.
async fn delete_two(world: &World) -> Vec<RecoveryPointId> {
    let mut both = vec![delete_next(world).await, delete_next(world).await];
    both.sort();
    both
}

/// Does the next deletion; answers what was deleted.
async fn delete_next(world: &World) -> RecoveryPointId {
    let spec = world.claim(world.offer().await).await;
    let Operation::DeleteRecoveryPoint(point) = spec.operation else { panic!("{:?}", spec.operation) };
    world.record(&spec, Step::Deleted(point)).await.unwrap();
    world.succeed(&spec).await;
    point
}

pub(crate) async fn days_and_last_must_agree(url: String) {
    let world = World::new(url).await;
    let both = Limits { days: Some(2), last: Some(2) };
    let mut points = Vec::new();
    for n in 1..=4 {
        points.push(snapped(&world, both, &format!("snap-0{n}")).await);
    }
    assert_eq!(round(&world).await, 0, "more than two, but none is old enough");
    later(&world, DAY * 3).await;
    assert_eq!(round(&world).await, 2, "old enough, and not among the newest two");
    assert_eq!(round(&world).await, 0, "once");
    points[..2].sort();
    assert_eq!(delete_two(&world).await, points[..2]);
    assert_eq!(round(&world).await, 0);
    let by_last = Limits { days: None, last: Some(1) };
    let fifth = snapped(&world, by_last, "snap-05").await;
    assert_eq!(round(&world).await, 1, "the third is not among the newest two any more");
    assert_eq!(delete_next(&world).await, points[2]);
    snapped(&world, by_last, "snap-06").await;
    assert_eq!(round(&world).await, 2);
    let mut expected = vec![points[3], fifth];
    expected.sort();
    assert_eq!(delete_two(&world).await, expected);
}

pub(crate) async fn the_newest_never_goes_by_age(url: String) {
    let world = World::new(url).await;
    let days = Limits { days: Some(1), last: None };
    let first = snapped(&world, days, "snap-01").await;
    later(&world, DAY * 30).await;
    assert_eq!(round(&world).await, 0, "it is the newest of its instance and kind");
    let spec = world.running("i-0a").await;
    world.record(&spec, Step::Ledger(source_entry(&spec, "snap-02"))).await.unwrap();
    let streamed = world.sealed(&spec, "i-0a", "snap-02", None);
    world.record(&spec, Step::Sealed(streamed)).await.unwrap();
    world.succeed(&spec).await;
    assert_eq!(round(&world).await, 0, "a streamed one is of another kind");
    let second = snapped(&world, days, "snap-03").await;
    world.lose(&["snap-03"]).await;
    assert_eq!(round(&world).await, 0, "the later one is not whole");
    snapped(&world, days, "snap-04").await;
    assert_eq!(round(&world).await, 1);
    assert_eq!(delete_next(&world).await, first);
    later(&world, DAY * 2).await;
    assert_eq!(round(&world).await, 1);
    assert_eq!(delete_next(&world).await, second);
    assert_eq!(round(&world).await, 0);
}

pub(crate) async fn what_an_open_task_needs_is_kept(url: String) {
    let world = World::new(url).await;
    let last = Limits { days: None, last: Some(1) };
    let first = snapped(&world, last, "snap-01").await;
    let copy = world.at_work(Work::BackupCopy(world.copy_request(&[first]))).await;
    let second = snapped(&world, last, "snap-02").await;
    assert_eq!(round(&world).await, 0, "its copy is pending");
    world.copied(&copy).await;
    let next = world.at_work(Work::BackupCopy(world.copy_request(&[second]))).await;
    assert_eq!(round(&world).await, 0, "the next copy builds on it");
    world.copied(&next).await;
    let restore = World::restore_request(first, RestoreFrom::Automatic);
    let restore = world.at_work(Work::Restore(restore)).await;
    assert_eq!(round(&world).await, 0, "a restore reads it");
    world.succeed(&restore).await;
    assert_eq!(round(&world).await, 1);
    assert_eq!(delete_next(&world).await, first);
}

pub(crate) async fn what_is_held_hides_nothing_behind_it(url: String) {
    let world = World::new(url).await;
    let last = Limits { days: None, last: Some(1) };
    let held = snapped(&world, last, "snap-01").await;
    let free = snapped(&world, last, "snap-02").await;
    snapped(&world, last, "snap-03").await;
    let restore = World::restore_request(held, RestoreFrom::Snapshot);
    world.at_work(Work::Restore(restore)).await;
    // The oldest, which is held, does not use the limit up.
    let expired = world.store.expired(0, 1).await.unwrap();
    assert_eq!(expired.iter().map(|one| one.point).collect::<Vec<_>>(), [free]);
}

pub(crate) async fn a_deletion_is_asked_for_once_and_again_after_it_failed(url: String) {
    let world = World::new(url).await;
    let last = Limits { days: None, last: Some(1) };
    let first = snapped(&world, last, "snap-01").await;
    snapped(&world, last, "snap-02").await;
    let (one, two) = tokio::join!(round(&world), round(&world));
    assert_eq!((one + two, delete_jobs(&world).await.len()), (1, 1), "two at once ask once");
    let spec: TaskSpec = world.claim(world.offer().await).await;
    let error = TaskError { class: "access_denied".to_owned(), message: String::new() };
    let failed = FinishOutcome::Failed { retryable: false, error };
    world.store.finish(spec.task, spec.fence, None, failed, &LIMITS).await.unwrap();
    assert_eq!(round(&world).await, 0, "not at once again");
    later(&world, DAY * 2).await;
    assert_eq!(round(&world).await, 1);
    assert_eq!(delete_next(&world).await, first);
}

pub(crate) async fn lost_snapshots_are_noticed(url: String) {
    let world = World::new(url).await;
    let spec = world.at_work(Work::IntelliSnap(world.snap_request("i-0a"))).await;
    let mut entry = source_entry(&spec, "snap-01");
    entry.purpose = snapferry_types::ledger::Purpose::RecoveryPoint;
    entry.object_ids.push("snap-02".to_owned());
    world.record(&spec, Step::Ledger(entry.clone())).await.unwrap();
    let mut point = world.sealed(&spec, "i-0a", "snap-01", None);
    let mut meta: RecoveryPointMeta = serde_json::from_slice(&point.metadata).unwrap();
    let mut second = meta.volumes[0].clone();
    (second.volume_id, second.snapshot_id) = ("vol-02".parse().unwrap(), "snap-02".parse().unwrap());
    meta.volumes.push(second);
    point.metadata = serde_json::to_vec(&meta).unwrap();
    world.record(&spec, Step::Sealed(point.clone())).await.unwrap();
    world.succeed(&spec).await;
    assert_eq!(world.lose(&[]).await.missing.len(), 0);
    let state = async || world.store.recovery_point(point.id).await.unwrap().summary.snapshots;
    assert_eq!(state().await, SnapshotsState::Kept);

    let lost = world.lose(&["snap-02"]).await;
    assert_eq!((lost.new.len(), lost.recovery_points.contains(&point.id)), (1, true));
    assert_eq!(state().await, SnapshotsState::Missing);
    let known = world.lose(&["snap-02"]).await;
    assert_eq!((known.missing.len(), known.new.len()), (1, 0), "it is known by now");
    let open = world.store.ledger(&Default::default(), 10).await.unwrap().items;
    assert_eq!(open.len(), 1, "one of its snapshots is there");
    assert_eq!(world.lose(&[]).await.missing.len(), 0);
    assert_eq!(state().await, SnapshotsState::Kept, "it came back out of the recycle bin");

    world.lose(&["snap-01", "snap-02"]).await;
    assert!(world.store.ledger(&Default::default(), 10).await.unwrap().items.is_empty(), "nothing is left");
    assert_eq!(state().await, SnapshotsState::Missing);
    let notes = world.store.job(spec.job).await.unwrap().tasks.remove(0).notes;
    assert!(notes.iter().any(|note| note.warning && note.text.contains("snap-02")), "{notes:?}");
    assert!(world.store.kept_snapshots(world.tenant.id).await.unwrap().is_empty());
}

/// An account that cannot be looked at.
struct Unreachable;

#[async_trait::async_trait]
impl SnapshotLookup for Unreachable {
    async fn existing(
        &self,
        _: &AccountAccess,
        _: &[SnapshotId],
    ) -> Result<HashSet<SnapshotId>, DiscoveryError> {
        Err(DiscoveryError::Aws("access denied".to_owned()))
    }
}

/// An account that somebody has emptied.
struct Empty;

#[async_trait::async_trait]
impl SnapshotLookup for Empty {
    async fn existing(
        &self,
        access: &AccountAccess,
        ids: &[SnapshotId],
    ) -> Result<HashSet<SnapshotId>, DiscoveryError> {
        assert_eq!((access.account.as_str(), ids.len()), ("222222222222", 1));
        Ok(HashSet::new())
    }
}

pub(crate) async fn an_account_that_does_not_answer_has_lost_nothing(url: String) {
    let world = World::new(url).await;
    let point = world.snapped(world.snap_request("i-0a"), "snap-01").await;
    let reconcile = async |lookup: Arc<dyn SnapshotLookup>| {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let store = Arc::clone(&world.store);
        Reconciler::new(store, lookup, ReconcileConfig::default(), metrics).tenant(world.tenant.id).await
    };
    let state = async || world.store.recovery_point(point).await.unwrap().summary.snapshots;
    let failed = reconcile(Arc::new(Unreachable)).await.unwrap_err();
    assert!(failed.to_string().contains("access denied"), "{failed}");
    assert_eq!(state().await, SnapshotsState::Kept);
    let found = reconcile(Arc::new(Empty)).await.unwrap();
    assert_eq!((found.n_checked, found.missing.len(), found.recovery_points), (1, 1, vec![point]));
    assert_eq!(state().await, SnapshotsState::Missing);
}

pub(crate) async fn a_snapshot_that_is_being_deleted_is_not_lost(url: String) {
    let world = World::new(url).await;
    let point = world.snapped(world.snap_request("i-0a"), "snap-01").await;
    let kept = world.store.kept_snapshots(world.tenant.id).await.unwrap().remove(0);
    let work = Work::DeleteRecoveryPoint(DeleteRecoveryPoint { recovery_point: point });
    world.submit(&World::job(work)).await;
    // The deletion came between the look at the catalogue and the look at the account.
    let lost = world.store.note_lost(&kept, &Default::default()).await.unwrap();
    assert!(lost.missing.is_empty());
    assert!(world.store.kept_snapshots(world.tenant.id).await.unwrap().is_empty(), "nobody looks for it");
    assert_eq!(world.store.recovery_point(point).await.unwrap().summary.snapshots, SnapshotsState::Kept);
}
