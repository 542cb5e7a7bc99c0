//! VM import: reads a disk image from S3 and makes a snapshot of it. A call of EC2 writes a task down; [`work`] does
//! the tasks in the background, a few at a time, and takes up after a restart what a stopped or killed process left.
//! A task that fails or is cancelled leaves no snapshot and no blocks.

mod convert;
mod error;
mod image;
mod source;
#[cfg(test)]
mod tests;
mod vhd;
mod vmdk;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::faults::Call;
use crate::server::Context;
use crate::world::{ImportStep, ImportTask, Marks, Snapshot, SnapshotStep, World, new_id};
use convert::Converted;
use error::ImportError;

/// Tasks worked on at a time; the others stay `pending`.
const MOST_RUNNING: usize = 4;

/// How often a task that waits for a fault to end looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(20);

/// Which tasks are worked on, and the bell that tells of new ones.
#[derive(Debug, Default)]
pub(crate) struct Imports {
    bell: Notify,
    running: Mutex<HashSet<String>>,
}

impl Imports {
    /// Says that a task was made or cancelled.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    fn begin(&self, id: &str) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.len() < MOST_RUNNING && running.insert(id.to_owned())
    }

    fn end(&self, id: &str) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.ring();
    }
}

/// Does tasks until stopped, and waits then for those that are being done.
pub(crate) async fn work(context: Arc<Context>, stop: CancellationToken) {
    let jobs = TaskTracker::new();
    loop {
        let waiting: Vec<String> = {
            let state = context.world.read();
            state.imports.values().filter(|one| one.step.is_alive()).map(|one| one.id.clone()).collect()
        };
        for id in waiting {
            if context.imports.begin(&id) {
                let (context, stop) = (Arc::clone(&context), stop.clone());
                jobs.spawn(async move {
                    run(&context, &id, &stop).await;
                    context.imports.end(&id);
                });
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = context.imports.bell.notified() => {}
        }
    }
    jobs.close();
    jobs.wait().await;
}

/// Does one task to its end. Doing it again after a death begins anew: the blocks of the first time are removed.
async fn run(context: &Arc<Context>, id: &str, stop: &CancellationToken) {
    let Some(task) = context.world.read().imports.get(id).cloned() else { return };
    let admitted = admit(context, &task, stop).await;
    let is_foretold = |reason: &String| Err(ImportError::Foretold(reason.clone()));
    let outcome = match admitted.and_then(|()| task.failure.as_ref().map_or(Ok(()), is_foretold)) {
        Ok(()) => {
            let (worker, stop) = (Arc::clone(context), stop.clone());
            let converted =
                tokio::task::spawn_blocking(move || convert::convert(&worker, &task, &stop)).await;
            converted.unwrap_or_else(|error| Err(ImportError::Broken(error.to_string())))
        }
        Err(error) => Err(error),
    };
    if !matches!(outcome, Err(ImportError::Stopping)) {
        settle(context, id, outcome);
    }
}

/// Asks the fault rules, as a call `ImportSnapshot` of the service `vmie`: they can make a task slow, hang or fail.
async fn admit(
    context: &Arc<Context>,
    task: &ImportTask,
    stop: &CancellationToken,
) -> Result<(), ImportError> {
    let call = Call::new("vmie", "ImportSnapshot", &task.account, &task.region);
    let admitted = context.faults.before_call(call);
    tokio::pin!(admitted);
    loop {
        let waited = tokio::time::timeout(LOOK, &mut admitted);
        tokio::select! {
            () = stop.cancelled() => return Err(ImportError::Stopping),
            answer = waited => match answer {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(refusal)) => {
                    return Err(ImportError::Refused { code: refusal.code, message: refusal.message });
                }
                Err(_) => check_cancelled(context, &task.id)?,
            },
        }
    }
}

fn check_cancelled(context: &Context, id: &str) -> Result<(), ImportError> {
    let step = context.world.read().imports.get(id).map(|task| task.step);
    if step.is_none_or(|step| step == ImportStep::Deleting) { Err(ImportError::Cancelled) } else { Ok(()) }
}

/// Writes down how a task ended. The snapshot is in the account from the moment that the task is completed, not before;
/// a cancellation that comes before that moment wins.
fn settle(context: &Context, id: &str, outcome: Result<Converted, ImportError>) {
    let now = context.world.now_ms();
    let left = context.world.change(|state| {
        let task = state.imports.get_mut(id)?;
        let outcome = if task.step == ImportStep::Deleting { Err(ImportError::Cancelled) } else { outcome };
        match outcome {
            Ok(converted) => {
                task.step = ImportStep::Completed;
                task.progress_percent = 100;
                let snapshot = snapshot(task, converted, now);
                state.snapshots.insert(snapshot.id.clone(), snapshot);
                None
            }
            Err(error) => {
                tracing::info!(task = %id, %error, "an import ends without a snapshot");
                task.step = ImportStep::Deleted;
                task.failure = Some(error.to_string());
                task.snapshot.take()
            }
        }
    });
    if let Some(snapshot) = left {
        drop_blocks(context, &snapshot);
    }
}

fn snapshot(task: &mut ImportTask, converted: Converted, now: u64) -> Snapshot {
    let id = task.snapshot.get_or_insert_with(|| new_id("snap")).clone();
    Snapshot {
        id,
        account: task.account.clone(),
        region: task.region.clone(),
        volume: "vol-ffffffff".to_owned(),
        size_gib: converted.size_gib,
        encrypted: task.encrypted,
        kms_key: task.kms_key.clone(),
        description: format!("Created by AWS-VMImport service for {}", task.id),
        tags: std::collections::BTreeMap::new(),
        started_ms: now,
        ready_ms: now + World::STATE_DELAY_MS,
        step: SnapshotStep::Completed,
        status_message: None,
        shared_with: Vec::new(),
        marks: Marks::default(),
    }
}

/// Removes the blocks of a snapshot that nobody will have.
fn drop_blocks(context: &Context, snapshot: &str) {
    if !context.store.has_snapshot(snapshot) {
        return;
    }
    if let Err(error) = context.store.delete_snapshot(snapshot) {
        tracing::warn!(%snapshot, %error, "blocks of an import stay");
    }
}
