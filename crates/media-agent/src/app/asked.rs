//! Upkeep that people ask for: its number comes with the answer to a hello, the work runs beside the daemon, and the
//! next hellos say how far it is. Asked twice under one number it runs once; a daemon that dies is asked again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use snapferry_library::{Error, ScrubReport};
use snapferry_wire::v1;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::Service;
use crate::server::pool::PoolError;

/// A library that is being collected or scrubbed is tried again after this.
const BUSY_PAUSE: Duration = Duration::from_secs(10);
/// Recovery points that are named of a scrub.
const MAX_TOUCHED: usize = 100;

/// What was asked for.
pub(super) struct Asked {
    service: Service,
    scrub_bytes_per_second: u64,
    begun: v1::MediaAgentHelloReply,
    done: Arc<Mutex<Done>>,
    running: TaskTracker,
}

#[derive(Debug, Default)]
struct Done {
    scrub: u64,
    collect: u64,
    last_scrub: Option<v1::LastScrub>,
}

impl Asked {
    pub(super) fn new(service: Service, scrub_bytes_per_second: u64) -> Self {
        Self {
            service,
            scrub_bytes_per_second,
            begun: v1::MediaAgentHelloReply::default(),
            done: Arc::default(),
            running: TaskTracker::new(),
        }
    }

    /// Puts what is done into a hello.
    pub(super) fn tell(&self, request: &mut v1::MediaAgentHelloRequest) {
        let done = lock(&self.done);
        request.scrub_done = done.scrub;
        request.collect_done = done.collect;
        request.last_scrub.clone_from(&done.last_scrub);
    }

    /// Begins what is asked for and was not begun.
    pub(super) fn begin(&mut self, asked: &v1::MediaAgentHelloReply, stop: &CancellationToken) {
        if asked.scrub_asked > self.begun.scrub_asked {
            self.begun.scrub_asked = asked.scrub_asked;
            let (service, done, stop) = (self.service.clone(), Arc::clone(&self.done), stop.clone());
            let (number, rate) = (asked.scrub_asked, self.scrub_bytes_per_second);
            self.running.spawn(async move { scrub(&service, rate, number, &done, &stop).await });
        }
        if asked.collect_asked > self.begun.collect_asked {
            self.begun.collect_asked = asked.collect_asked;
            let (service, done, stop) = (self.service.clone(), Arc::clone(&self.done), stop.clone());
            let number = asked.collect_asked;
            self.running.spawn(async move { collect(&service, number, &done, &stop).await });
        }
    }

    /// Waits for what runs, which sees the daemon's own stop.
    pub(super) async fn wait(&self) {
        self.running.close();
        self.running.wait().await;
    }
}

async fn scrub(
    service: &Service,
    bytes_per_second: u64,
    number: u64,
    done: &Mutex<Done>,
    stop: &CancellationToken,
) {
    tracing::info!(number, "a scrub was asked for");
    let report = unless_busy(stop, || service.scrubbed(bytes_per_second)).await;
    match report {
        Some(Ok(report)) if !report.complete => tracing::info!(number, "the scrub was stopped"),
        Some(Ok(report)) => {
            let (damaged, bytes) = (damaged(&report), report.bytes);
            tracing::info!(number, damaged, bytes, "the scrub that was asked for has ended");
            let mut done = lock(done);
            done.last_scrub = Some(told(&report));
            done.scrub = number;
        }
        Some(Err(error)) => {
            tracing::warn!(number, %error, "the scrub that was asked for failed");
            lock(done).scrub = number;
        }
        None => {}
    }
}

async fn collect(service: &Service, number: u64, done: &Mutex<Done>, stop: &CancellationToken) {
    tracing::info!(number, "a collection was asked for");
    match unless_busy(stop, || service.collect(false)).await {
        Some(Ok(report)) => {
            let bytes = report.bytes_removed.saturating_sub(report.bytes_written);
            tracing::info!(number, bytes, "the collection that was asked for has ended");
        }
        Some(Err(error)) => tracing::warn!(number, %error, "the collection that was asked for failed"),
        None => return,
    }
    lock(done).collect = number;
}

/// Runs the work when the library is free for it; nothing when the daemon stops first.
async fn unless_busy<T, F: Future<Output = Result<T, PoolError>>>(
    stop: &CancellationToken,
    work: impl Fn() -> F,
) -> Option<Result<T, PoolError>> {
    loop {
        match work().await {
            Err(PoolError::Library(Error::Busy(_))) => {}
            other => return Some(other),
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(BUSY_PAUSE) => {}
        }
    }
}

fn damaged(report: &ScrubReport) -> u64 {
    report.n_damaged.saturating_add(u64::try_from(report.lost_packs.len()).unwrap_or(u64::MAX))
}

fn told(report: &ScrubReport) -> v1::LastScrub {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    v1::LastScrub {
        ended_unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        bytes_read: report.bytes,
        damaged: damaged(report),
        recovery_points_touched: report.affected.iter().take(MAX_TOUCHED).map(ToString::to_string).collect(),
    }
}

fn lock(done: &Mutex<Done>) -> MutexGuard<'_, Done> {
    done.lock().unwrap_or_else(PoisonError::into_inner)
}
