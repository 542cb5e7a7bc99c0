//! Attempts: fences, ends, retries, crashes.

use std::time::Duration;

use snapferry_api::job::{Phase, Progress, TaskError};
use snapferry_scheduler::clock::Clock as _;
use snapferry_scheduler::store::{AttemptReport, Desired, FinishOutcome, LeasedTask, Step, StoreError};
use snapferry_types::spec::TaskSpec;
use snapferry_types::{Fence, TaskState};

use super::world::{LIMITS, World};

fn failed(retryable: bool) -> FinishOutcome {
    let error = TaskError { class: "throttled".to_owned(), message: "slow down".to_owned() };
    FinishOutcome::Failed { retryable, error }
}

fn leased(spec: &TaskSpec, state: TaskState) -> LeasedTask {
    LeasedTask { id: spec.task, state, epoch: spec.fence.epoch }
}

/// Lets the wait before the next attempt pass, and claims.
async fn next_attempt(world: &World) -> TaskSpec {
    world.clock.advance(LIMITS.retry_max);
    world.hello().await;
    assert_eq!(world.store.end_waits().await.unwrap(), 1);
    world.claim(world.offer().await).await
}

pub(crate) async fn a_stale_fence_is_refused_everywhere(url: String) {
    let world = World::new(url).await;
    let old = world.running("i-0a").await;
    world.store.finish(old.task, old.fence, None, failed(true), &LIMITS).await.unwrap();
    let new = next_attempt(&world).await;
    assert_eq!(new.fence.epoch, old.fence.epoch + 1);
    let ahead = Fence { epoch: new.fence.epoch + 1, ..new.fence };
    for fence in [old.fence, ahead, Fence::default()] {
        let note = Step::Note { warning: false, text: "late".to_owned() };
        let done = FinishOutcome::Succeeded(Vec::new());
        assert!(matches!(world.store.renew(old.task, fence, None).await, Err(StoreError::Stale(_))));
        assert!(matches!(world.store.record(old.task, fence, note).await, Err(StoreError::Stale(_))));
        assert!(matches!(
            world.store.finish(old.task, fence, None, done, &LIMITS).await,
            Err(StoreError::Stale(_))
        ));
    }
    assert_eq!(world.store.task(old.task).await.unwrap().state, TaskState::Running);
    assert_eq!(world.store.renew(new.task, new.fence, None).await.unwrap(), Desired::Run);
}

pub(crate) async fn finishing_twice_counts_once(url: String) {
    let world = World::new(url).await;
    let spec = world.running("i-0a").await;
    let progress = Progress { blocks_done: 7, ..Progress::default() };
    for _ in 0..3 {
        let done = FinishOutcome::Succeeded(Vec::new());
        let state =
            world.store.finish(spec.task, spec.fence, Some(progress.clone()), done, &LIMITS).await.unwrap();
        assert_eq!(state, TaskState::Succeeded);
    }
    let job = world.store.job(spec.job).await.unwrap();
    assert_eq!(job.tasks[0].progress.blocks_done, 7);
    let ends = job.tasks[0].notes.iter().filter(|note| note.text == "succeeded").count();
    assert_eq!(ends, 1);
}

pub(crate) async fn retries_end(url: String) {
    let world = World::new(url).await;
    let mut spec = world.running("i-0a").await;
    let body = vec![1; 1 << 20];
    world.store.record(spec.task, spec.fence, Step::Checkpoint(body.clone())).await.unwrap();
    let large = world.store.record(spec.task, spec.fence, Step::Checkpoint(vec![1; (1 << 20) + 1])).await;
    assert!(matches!(large, Err(StoreError::Invalid(_))));
    for attempt in 1..LIMITS.max_attempts {
        assert_eq!(spec.attempt, attempt);
        world.store.finish(spec.task, spec.fence, None, failed(true), &LIMITS).await.unwrap();
        let row = world.store.task(spec.task).await.unwrap();
        assert_eq!(row.state, TaskState::RetryWait);
        let wait_ms = row.not_before_ms.unwrap() - world.clock.wall_ms();
        assert!((0..=10_000 << (attempt - 1)).contains(&wait_ms), "{wait_ms} ms");
        spec = next_attempt(&world).await;
        assert_eq!(spec.checkpoint, body, "the next attempt goes on from the checkpoint");
    }
    let state = world.store.finish(spec.task, spec.fence, None, failed(true), &LIMITS).await.unwrap();
    assert_eq!(state, TaskState::Dead);

    let spec = world.running("i-0b").await;
    let state = world.store.finish(spec.task, spec.fence, None, failed(false), &LIMITS).await.unwrap();
    assert_eq!(state, TaskState::Failed);
}

pub(crate) async fn three_crashes_quarantine(url: String) {
    let world = World::new(url).await;
    let mut spec = world.running("i-0a").await;
    for crash in 1..=3 {
        assert!(world.store.suspect(leased(&spec, TaskState::Running)).await.unwrap());
        assert!(!world.store.suspect(leased(&spec, TaskState::Running)).await.unwrap(), "twice is once");
        let suspect = leased(&spec, TaskState::Suspect);
        let state = world.store.give_up(suspect, &LIMITS).await.unwrap().unwrap();
        assert_eq!(world.store.give_up(suspect, &LIMITS).await.unwrap(), None, "twice is once");
        if crash < 3 {
            assert_eq!(state, TaskState::RetryWait);
            spec = next_attempt(&world).await;
        } else {
            assert_eq!(state, TaskState::Dead);
        }
    }
    let row = world.store.task(spec.task).await.unwrap();
    assert_eq!((row.crashes, row.error.unwrap().class.as_str()), (3, "lease_lost"));
}

pub(crate) async fn what_a_lost_attempt_told_is_kept(url: String) {
    let world = World::new(url).await;
    let spec = world.running("i-0a").await;
    let so_far = |names: &[&str], log_excerpt: &str| AttemptReport {
        progress: Some(Progress { blocks_done: 7, ..Progress::default() }),
        phases: names.iter().map(|name| Phase { name: (*name).to_owned(), took_ms: 1_000 }).collect(),
        log_excerpt: log_excerpt.to_owned(),
    };
    let lose = async |spec: &TaskSpec| {
        assert!(world.store.suspect(leased(spec, TaskState::Running)).await.unwrap());
        world.store.give_up(leased(spec, TaskState::Suspect), &LIMITS).await.unwrap().unwrap();
    };
    // A character that not every database has, and no more of the log than is for an attempt that goes on.
    let log = format!("{}0.1 begins\0\n", "x".repeat(4 << 10));
    world.store.renew(spec.task, spec.fence, so_far(&["start"], &log)).await.unwrap();
    // Nothing more was logged meanwhile, but it is further.
    let further = AttemptReport {
        progress: Some(Progress { blocks_done: 8, ..Progress::default() }),
        ..so_far(&["start", "read"], "")
    };
    world.store.renew(spec.task, spec.fence, further).await.unwrap();
    lose(&spec).await;
    // It never told anything, and has nothing of the one before.
    lose(&next_attempt(&world).await).await;
    let last = next_attempt(&world).await;
    world.store.renew(last.task, last.fence, so_far(&["start"], "")).await.unwrap();
    world.store.renew(last.task, last.fence, so_far(&["start"], "0.2 begins again\n")).await.unwrap();
    lose(&last).await;

    let job = world.store.job(spec.job).await.unwrap();
    let told: Vec<(Vec<&str>, &str)> = job.tasks[0]
        .history
        .iter()
        .map(|one| (one.phases.iter().map(|phase| phase.name.as_str()).collect(), one.log_excerpt.as_str()))
        .collect();
    let kept = format!("{}0.1 begins \n", "x".repeat((4 << 10) - 12));
    let expected =
        [(vec!["start", "read"], kept.as_str()), (vec![], ""), (vec!["start"], "0.2 begins again\n")];
    assert_eq!(told, expected);
    assert_eq!(job.tasks[0].history[0].progress.blocks_done, 8);
}

pub(crate) async fn a_suspect_comes_back(url: String) {
    let world = World::new(url).await;
    let spec = world.running("i-0a").await;
    assert!(world.store.suspect(leased(&spec, TaskState::Running)).await.unwrap());
    assert_eq!(world.store.task(spec.task).await.unwrap().state, TaskState::Suspect);
    world.store.renew(spec.task, spec.fence, None).await.unwrap();
    let row = world.store.task(spec.task).await.unwrap();
    assert_eq!((row.state, row.fence, row.crashes), (TaskState::Running, spec.fence, 0));
    assert_eq!(world.store.give_up(leased(&spec, TaskState::Suspect), &LIMITS).await.unwrap(), None);
}

pub(crate) async fn an_orderly_stop_is_no_failed_attempt(url: String) {
    let world = World::new(url).await;
    let spec = world.running("i-0a").await;
    let away = FinishOutcome::Yielded { shutting_down: true };
    let state = world.store.finish(spec.task, spec.fence, None, away, &LIMITS).await.unwrap();
    assert_eq!(state, TaskState::Ready);
    let again = world.claim(world.offer().await).await;
    assert_eq!((again.attempt, again.fence.epoch), (1, 2));
}

pub(crate) async fn cancel_and_finish_have_one_outcome(url: String) {
    let world = World::new(url).await;
    for n in 0..6 {
        let spec = world.running(&format!("i-0{n}")).await;
        let done = FinishOutcome::Succeeded(Vec::new());
        let (finished, cancelled) = tokio::join!(
            world.store.finish(spec.task, spec.fence, None, done, &LIMITS),
            world.store.cancel_job(spec.job)
        );
        assert_eq!(finished.unwrap(), TaskState::Succeeded, "what is done is done");
        cancelled.unwrap();
    }
    let spec = world.running("i-0f").await;
    let unasked = world.store.finish(spec.task, spec.fence, None, FinishOutcome::Cancelled, &LIMITS).await;
    assert!(matches!(unasked, Err(StoreError::Conflict(_))));
    world.store.cancel_job(spec.job).await.unwrap();
    let state = world.store.finish(spec.task, spec.fence, None, failed(true), &LIMITS).await.unwrap();
    assert_eq!(state, TaskState::Cancelled, "a cancelled task is not tried again");

    let spec = world.running("i-0e").await;
    world.store.cancel_job(spec.job).await.unwrap();
    world.store.suspect(leased(&spec, TaskState::Running)).await.unwrap();
    let state = world.store.give_up(leased(&spec, TaskState::Suspect), &LIMITS).await.unwrap();
    assert_eq!(state, Some(TaskState::Cancelled), "nor is one whose agent died");
    world.clock.advance(Duration::from_secs(3_600));
    assert_eq!(world.store.end_waits().await.unwrap(), 0);
}

pub(crate) async fn a_raised_generation_voids_old_grants(url: String) {
    let mut world = World::new(url).await;
    let spec = world.running("i-0a").await;
    world.reopen().await;
    let store = std::sync::Arc::get_mut(&mut world.store).unwrap();
    let generation = store.raise_generation().await.unwrap();
    assert_eq!(generation, spec.fence.generation + 1);
    world.reopen().await;
    assert_eq!(world.store.generation(), generation);
    assert!(matches!(world.store.renew(spec.task, spec.fence, None).await, Err(StoreError::Stale(_))));
}
