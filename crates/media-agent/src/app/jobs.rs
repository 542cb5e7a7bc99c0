//! Periodic work: figures, expiry of sessions, collection of garbage, scrub. One that fails says so and is tried
//! again at its next time; none runs beside itself.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::config::JobsConfig;
use crate::server::Service;

/// Between two measurements of the library for the gauges.
const MEASURE_EVERY: Duration = Duration::from_secs(15);

/// Between two looks for idle sessions.
const EXPIRE_EVERY: Duration = Duration::from_secs(3_600);

/// Runs all jobs until `stop`.
pub(super) async fn run(service: Service, config: JobsConfig, stop: CancellationToken) {
    let idle = hours(config.session_idle_hours);
    let expire_every = if idle.is_zero() { Duration::ZERO } else { EXPIRE_EVERY.min(idle) };
    let (gc_every, scrub_every) = (hours(config.gc_every_hours), hours(config.scrub_every_hours));
    tokio::join!(
        every(MEASURE_EVERY, Duration::ZERO, &stop, || measure(service.clone())),
        every(expire_every, expire_every, &stop, || expire(service.clone(), idle)),
        every(gc_every, gc_every, &stop, || collect(service.clone())),
        every(scrub_every, scrub_every, &stop, || scrub(service.clone(), config.scrub_bytes_per_second)),
    );
}

async fn measure(service: Service) {
    if let Err(error) = service.measured().await {
        tracing::warn!(%error, "measuring the library failed");
    }
}

async fn expire(service: Service, idle: Duration) {
    match service.expire(idle).await {
        Ok(ended) if ended.is_empty() => {}
        Ok(ended) => tracing::info!(sessions = ?ended, "idle sessions ended"),
        Err(error) => tracing::warn!(%error, "ending idle sessions failed"),
    }
}

async fn collect(service: Service) {
    match service.collect(false).await {
        Ok(report) => {
            let bytes = report.bytes_removed.saturating_sub(report.bytes_written);
            tracing::info!(bytes, packs = report.packs_deleted, "garbage collected");
        }
        Err(error) => tracing::warn!(%error, "collecting garbage failed"),
    }
}

async fn scrub(service: Service, bytes_per_second: u64) {
    match service.scrubbed(bytes_per_second).await {
        Ok(report) if report.n_damaged == 0 && report.lost_packs.is_empty() => {
            tracing::info!(bytes = report.bytes, complete = report.complete, "scrub found no damage");
        }
        Ok(report) => {
            let (damaged, lost, touched) = (report.n_damaged, &report.lost_packs, &report.affected);
            tracing::error!(damaged, lost_packs = ?lost, ?touched, "scrub found damage: back up what is touched in full");
        }
        Err(error) => tracing::warn!(%error, "scrub failed"),
    }
}

fn hours(n: u64) -> Duration {
    Duration::from_secs(n.saturating_mul(3_600))
}

/// Runs `job` after `first` and then every `period`; never when `period` is zero.
async fn every<F: Future<Output = ()>>(
    period: Duration,
    first: Duration,
    stop: &CancellationToken,
    job: impl Fn() -> F,
) {
    if period.is_zero() {
        return;
    }
    let Some(start) = Instant::now().checked_add(first) else { return };
    let mut ticks = interval_at(start, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        job().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_job_runs_at_its_times_until_it_is_stopped_and_a_period_of_zero_is_off() {
        let (stop, runs) = (CancellationToken::new(), AtomicU32::new(0));
        let job = || async {
            if runs.fetch_add(1, Ordering::SeqCst) == 2 {
                stop.cancel();
            }
        };
        let (started, period) = (Instant::now(), Duration::from_millis(10));
        every(period, period, &stop, job).await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
        assert!(started.elapsed() >= 3 * period);
        every(Duration::ZERO, Duration::ZERO, &CancellationToken::new(), job).await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }
}
