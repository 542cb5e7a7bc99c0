//! What people want of work that is taken in, and what is kept of its attempts.

use snapferry_api::fleet::{LastScrub, Maintenance};
use snapferry_api::job::{JobState, Phase, Priority, Progress, TaskError, Work};
use snapferry_api::restore::{RestoreFrom, RestoreTarget};
use snapferry_scheduler::store::{
    AskedUpkeep, AttemptReport, ClaimVerdict, Desired, FinishOutcome, LeasedTask, Step,
};
use snapferry_types::TaskState;

use super::world::{LIMITS, World, media_agent};

pub(crate) async fn suspended_work_keeps_its_progress_and_goes_on(url: String) {
    let world = World::new(url).await;
    let spec = world.running("i-0a").await;
    world.store.record(spec.task, spec.fence, Step::Checkpoint(vec![7])).await.unwrap();
    world.store.suspend_job(spec.job).await.unwrap();
    assert_eq!(world.store.renew(spec.task, spec.fence, None).await.unwrap(), Desired::Suspend);
    let safe = FinishOutcome::Yielded { shutting_down: false };
    let state = world.store.finish(spec.task, spec.fence, None, safe, &LIMITS).await.unwrap();
    assert_eq!(state, TaskState::Suspended);
    assert_eq!(world.store.job(spec.job).await.unwrap().summary.state, JobState::Suspended);
    assert!(world.store.waiting().await.unwrap().is_empty(), "suspended work is offered to nobody");

    world.store.resume_job(spec.job).await.unwrap();
    let again = world.claim(world.offer().await).await;
    assert_eq!((again.task, again.checkpoint.as_slice()), (spec.task, [7].as_slice()));
    assert_eq!(world.store.renew(again.task, again.fence, None).await.unwrap(), Desired::Run);
}

pub(crate) async fn a_suspension_is_kept_whatever_happens_to_the_agent(url: String) {
    let world = World::new(url).await;
    let failing = world.running("i-0a").await;
    world.store.suspend_job(failing.job).await.unwrap();
    let error = TaskError { class: "throttled".to_owned(), message: "slow down".to_owned() };
    let failed = FinishOutcome::Failed { retryable: true, error };
    let state = world.store.finish(failing.task, failing.fence, None, failed, &LIMITS).await.unwrap();
    assert_eq!(state, TaskState::Suspended, "it is not tried again behind the user's back");

    let silent = world.running("i-0b").await;
    world.store.suspend_job(silent.job).await.unwrap();
    let leased = |state| LeasedTask { id: silent.task, state, epoch: silent.fence.epoch };
    world.store.suspect(leased(TaskState::Running)).await.unwrap();
    let state = world.store.give_up(leased(TaskState::Suspect), &LIMITS).await.unwrap();
    assert_eq!(state, Some(TaskState::Suspended));

    // One that was offered: the offer is void, and cancelling ends it.
    let job = world.submit(&world.backup("i-0c")).await;
    let offer = world.offer().await;
    world.store.suspend_job(job).await.unwrap();
    assert!(world.store.outbox(10).await.unwrap().iter().all(|entry| entry.dispatch != offer.dispatch));
    world.store.cancel_job(job).await.unwrap();
    assert_eq!(world.store.job(job).await.unwrap().summary.state, JobState::Cancelled);
    world.store.resume_job(job).await.unwrap();
    assert_eq!(world.store.job(job).await.unwrap().summary.state, JobState::Cancelled, "done is done");
}

pub(crate) async fn a_suspension_that_no_agent_heard_of_is_taken_back(url: String) {
    let world = World::new(url).await;
    let spec = world.running("i-0a").await;
    world.store.suspend_job(spec.job).await.unwrap();
    world.store.resume_job(spec.job).await.unwrap();
    assert_eq!(world.store.renew(spec.task, spec.fence, None).await.unwrap(), Desired::Run);
}

pub(crate) async fn a_new_priority_holds_for_what_is_not_done(url: String) {
    let world = World::new(url).await;
    let job = world.submit(&world.backup("i-0a")).await;
    world.store.set_priority(job, Priority::High).await.unwrap();
    assert_eq!(world.store.job(job).await.unwrap().summary.priority, Priority::High);
    assert_eq!(world.store.waiting().await.unwrap()[0].priority, 2);
}

pub(crate) async fn attempts_are_remembered(url: String) {
    let world = World::new(url).await;
    let spec = world.running("i-0a").await;
    let report = AttemptReport {
        progress: Some(Progress { blocks_done: 3, ..Progress::default() }),
        phases: vec![Phase { name: "read".to_owned(), took_ms: 1_500 }],
        log_excerpt: "a block hung".to_owned(),
    };
    let error = TaskError { class: "throttled".to_owned(), message: "slow down".to_owned() };
    for _ in 0..2 {
        let failed = FinishOutcome::Failed { retryable: true, error: error.clone() };
        world.store.finish(spec.task, spec.fence, report.clone(), failed, &LIMITS).await.unwrap();
    }
    let job = world.store.job(spec.job).await.unwrap();
    let [attempt] = job.tasks[0].history.as_slice() else { panic!("{:?}", job.tasks[0].history) };
    assert_eq!((attempt.n, attempt.outcome.as_str()), (1, "retryable"));
    assert_eq!((attempt.error.as_ref(), &attempt.phases), (Some(&error), &report.phases));
    assert_eq!((attempt.log_excerpt.as_str(), attempt.progress.blocks_done), ("a block hung", 3));
}

pub(crate) async fn work_that_moves_forward_is_not_given_up(url: String) {
    let world = World::new(url).await;
    let mut spec = world.running("i-0a").await;
    for _ in 0..3 * LIMITS.max_attempts {
        let moved = Some(Progress { bytes_sent: 1, ..Progress::default() });
        let error = TaskError { class: "unavailable".to_owned(), message: "the disk is full".to_owned() };
        let failed = FinishOutcome::Failed { retryable: true, error };
        let state = world.store.finish(spec.task, spec.fence, moved, failed, &LIMITS).await.unwrap();
        assert_eq!(state, TaskState::RetryWait);
        world.clock.advance(LIMITS.retry_max);
        world.hello().await;
        world.store.end_waits().await.unwrap();
        spec = world.claim(world.offer().await).await;
    }
}

pub(crate) async fn upkeep_is_asked_for_until_it_is_done(url: String) {
    let world = World::new(url).await;
    let mut agent = media_agent(world.media_agent);
    assert_eq!(world.store.media_agent_seen(&agent).await.unwrap(), AskedUpkeep::default());
    for _ in 0..2 {
        world.store.ask_maintenance(agent.id, Maintenance::Scrub).await.unwrap();
        let asked = world.store.media_agent_seen(&agent).await.unwrap();
        assert_eq!(asked, AskedUpkeep { scrub: 1, collect: 0 }, "asked twice is asked once");
    }
    let found = LastScrub {
        ended_at: jiff::Timestamp::UNIX_EPOCH,
        bytes_read: 9,
        damaged: 1,
        recovery_points_touched: Vec::new(),
    };
    agent.scrub_done = 1;
    agent.last_scrub = Some(found.clone());
    assert_eq!(world.store.media_agent_seen(&agent).await.unwrap().scrub, 0);
    // Restarted, it does not remember; the database does.
    agent.scrub_done = 0;
    agent.last_scrub = None;
    assert_eq!(world.store.media_agent_seen(&agent).await.unwrap().scrub, 0);
    assert_eq!(world.store.media_agent(agent.id, 0).await.unwrap().last_scrub, Some(found));
    world.store.ask_maintenance(agent.id, Maintenance::Scrub).await.unwrap();
    assert_eq!(world.store.media_agent_seen(&agent).await.unwrap().scrub, 2);
}

pub(crate) async fn an_exchange_of_volumes_that_was_begun_is_cancelled_by_an_agent(url: String) {
    let world = World::new(url).await;
    let point = world.snapped(world.snap_request("i-0a"), "snap-01").await;
    let mut in_place = World::restore_request(point, RestoreFrom::Automatic);
    in_place.target = RestoreTarget::InPlace { delete_old_volumes: false, leave_stopped: false };
    let untouched = world.submit(&World::job(Work::Restore(in_place.clone()))).await;
    world.store.cancel_job(untouched).await.unwrap();
    assert_eq!(world.store.job(untouched).await.unwrap().summary.state, JobState::Cancelled);

    let spec = world.at_work(Work::Restore(in_place)).await;
    let leased = |state| LeasedTask { id: spec.task, state, epoch: spec.fence.epoch };
    world.store.suspect(leased(TaskState::Running)).await.unwrap();
    world.store.give_up(leased(TaskState::Suspect), &LIMITS).await.unwrap();
    world.store.cancel_job(spec.job).await.unwrap();
    assert_eq!(world.store.job(spec.job).await.unwrap().summary.state, JobState::Cancelling);
    world.clock.advance(LIMITS.retry_max);
    world.hello().await;
    world.store.end_waits().await.unwrap();
    // The agent hears it before it does anything, and not with its first renewal.
    let claimed = world.store.claim(world.by(world.offer().await), "test").await.unwrap();
    let ClaimVerdict::Granted(again) = claimed else { panic!("not granted: {claimed:?}") };
    assert_eq!(again.desired, Desired::Cancel);
    let again = again.spec;
    assert_eq!(world.store.renew(again.task, again.fence, None).await.unwrap(), Desired::Cancel);
    let cancelled = FinishOutcome::Cancelled;
    let state = world.store.finish(again.task, again.fence, None, cancelled, &LIMITS).await.unwrap();
    assert_eq!(state, TaskState::Cancelled);
}
