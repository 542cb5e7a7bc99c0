//! Jobs that are refused before they begin, or broken off in the middle: by AWS, by a cancel while a call hangs, by a kill.
//! All panic with what they were told that it is about.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a helper of tests is to fail them")]

use std::time::Duration;

use awssim::faults::{Effect, Rule};
use snapferry_api::job::{Job, JobState};
use snapferry_testkit::{Process, eventually};
use snapferry_types::JobId;

use crate::rig::Rig;

const BOUND: Duration = Duration::from_secs(60);

/// An answer after which a task is not tried again.
#[must_use]
pub fn refusal() -> Effect {
    Effect::Error { status: 403, code: "UnauthorizedOperation".to_owned(), message: None, reason: None }
}

/// No answer until the rule is taken back.
#[must_use]
pub const fn hang() -> Effect {
    Effect::Hang { seconds: None }
}

/// Hurts one call, after so many that are let through.
#[must_use]
pub fn once(effect: Effect, (service, action): (&str, &str), skip: u64) -> Rule {
    Rule { skip, ..Rule::new(effect).on(service, action).times(1) }
}

/// Whether the first task of a job has read something.
#[must_use]
pub fn reads(job: &Job) -> bool {
    job.tasks.first().is_some_and(|task| task.progress.bytes_read > 0)
}

/// Waits until the rules in force have hurt so many calls.
pub async fn has_met(rig: &Rig, n_fired: u64, what: &str) {
    let met = eventually(BOUND, what, || async { rig.fired() >= n_fired }).await;
    met.unwrap_or_else(|error| panic!("{what}: {error:#}\n{:#?}", rig.sim.context().faults.rules()));
}

/// The job ends at its first attempt, by a call that was refused.
pub async fn is_denied(rig: &Rig, id: JobId, what: &str) {
    let (_, task) = rig.fail(id).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
    let error = task.error.unwrap();
    assert_eq!((error.class.as_str(), task.attempts), ("access_denied", 1), "{what}: {}", error.message);
}

/// Sees what is asked for refused at once, for good, with all these words, and nothing made in either account.
pub async fn refused(rig: &Rig, job: impl Future<Output = JobId>, class: &str, words: &[&str]) -> Job {
    let before = rig.holdings();
    let (job, task) = rig.fail(job.await).await.unwrap();
    let error = task.error.unwrap();
    assert_eq!((error.class.as_str(), task.attempts), (class, 1), "{}", error.message);
    for word in words {
        assert!(error.message.contains(word), "{word} is not in: {}", error.message);
    }
    let made: Vec<_> = job.tasks.iter().flat_map(|task| &task.made).collect();
    assert!(made.is_empty(), "{made:?}");
    assert_eq!(rig.holdings(), before, "something was made");
    rig.nothing_is_attached().unwrap();
    job
}

/// Cancels a job that runs.
pub async fn cancel(rig: &Rig, id: JobId, what: &str) {
    let now = rig.client.job(id).await.unwrap();
    assert_eq!(now.summary.state, JobState::Running, "{what}: it is not in the middle: {now:#?}");
    rig.client.cancel_job(id).await.unwrap();
}

/// The job ends as cancelled.
pub async fn is_cancelled(rig: &Rig, id: JobId, what: &str) {
    let ended = rig.wait(id, "the job ends", |job| job.summary.state.is_terminal()).await;
    let ended = ended.unwrap_or_else(|error| panic!("{what}: {error:#}"));
    assert_eq!(ended.summary.state, JobState::Cancelled, "{what}: {ended:#?}");
}

/// Cancels a job that hangs at an agent, and lets go when that has heard of it.
pub async fn cancelled_there(rig: &Rig, id: JobId, what: &str) {
    let told = |agent: &Process| agent.log().unwrap().matches("told to stop").count();
    let n_told = || rig.agents.iter().map(told).sum::<usize>();
    let before = n_told();
    cancel(rig, id, what).await;
    eventually(BOUND, "an agent has heard", || async { n_told() > before }).await.unwrap();
    rig.let_go();
    is_cancelled(rig, id, what).await;
}

/// Kills the last agent, with which nobody is left, takes the rules back, and cancels the job. What hung may still be carried
/// out, as with AWS.
pub async fn killed_and_cancelled(rig: &mut Rig, id: JobId, what: &str) {
    rig.agents.last_mut().unwrap().kill9().unwrap();
    rig.let_go();
    cancel(rig, id, what).await;
    is_cancelled(rig, id, what).await;
}

/// Waits until the tenant has so many snapshots and volumes, and nothing else is left in either account.
pub async fn only(rig: &Rig, snapshots: usize, volumes: usize, what: &str) {
    rig.left(snapshots, volumes).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
    rig.only_these_are_left(snapshots, volumes).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
}
