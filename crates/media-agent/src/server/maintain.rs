//! Upkeep: deleting, collecting, scrubbing, figures. The periodic jobs use the same calls as the operators.

use std::time::{Duration, Instant};

use snapferry_library::{Error, GcOptions, GcReport, Library, ScrubReport, Stats};
use snapferry_types::SessionId;
use snapferry_wire::v1;
use tonic::Status;

use super::pool::PoolError;
use super::status::from_pool;
use super::{Service, request};

/// Lines of damage that an answer names; the others are counted in the last one.
const MAX_DAMAGE: usize = 1_000;

impl Service {
    pub(super) async fn on_delete_recovery_point(
        &self,
        request: v1::DeleteRecoveryPointRequest,
    ) -> Result<v1::DeleteRecoveryPointReply, Status> {
        let id = request::recovery_point(&request.recovery_point_id)?;
        let tenant = request::tenant(request.tenant)?;
        let delete = move |library: &Library| match library.recovery_point(id) {
            Ok(point) if point.tenant == tenant => library.delete_recovery_point(id),
            Ok(_) => Err(Error::UnknownRecoveryPoint(id)),
            Err(Error::UnknownRecoveryPoint(_)) => Ok(false),
            Err(error) => Err(error),
        };
        let existed = self.pool.slow(delete).await.map_err(|error| from_pool(&error))?;
        Ok(v1::DeleteRecoveryPointReply { existed })
    }

    pub(super) async fn on_collect_garbage(
        &self,
        request: v1::CollectGarbageRequest,
    ) -> Result<v1::CollectGarbageReply, Status> {
        let report = self.collect(request.dry_run).await.map_err(|error| from_pool(&error))?;
        // A dry run removes nothing: what it could at most free is what nothing refers to.
        let bytes_freed = if request.dry_run {
            report.dead_bytes
        } else {
            report.bytes_removed.saturating_sub(report.bytes_written)
        };
        Ok(v1::CollectGarbageReply {
            chunks_removed: report.dead_records,
            bytes_freed,
            packs_rewritten: report.packs_rewritten,
            packs_deleted: report.packs_deleted,
        })
    }

    /// Collects garbage; ends early when the process stops.
    pub(crate) async fn collect(&self, dry_run: bool) -> Result<GcReport, PoolError> {
        let stop = self.stop.clone();
        let options = GcOptions { dry_run, ..GcOptions::default() };
        let report = self
            .pool
            .slow(move |library| library.collect_garbage(&options, &mut || !stop.is_cancelled()))
            .await?;
        if !dry_run {
            self.figures.collected(&report);
        }
        Ok(report)
    }

    pub(super) async fn on_scrub(&self, request: v1::ScrubRequest) -> Result<v1::ScrubReply, Status> {
        let report = self.scrubbed(request.bytes_per_second).await.map_err(|error| from_pool(&error))?;
        let mut damage: Vec<String> =
            report.lost_packs.iter().map(|number| format!("pack {number} is gone")).collect();
        damage.extend(
            report
                .damaged
                .iter()
                .map(|one| format!("{} in pack {} at offset {}: {}", one.key, one.pack, one.offset, one.why)),
        );
        if damage.len() > MAX_DAMAGE {
            let more = damage.len() - MAX_DAMAGE;
            damage.truncate(MAX_DAMAGE);
            damage.push(format!("and {more} more"));
        }
        Ok(v1::ScrubReply {
            packs_read: report.packs,
            bytes_read: report.bytes,
            damage,
            recovery_points_touched: report.affected.iter().map(ToString::to_string).collect(),
        })
    }

    /// Reads everything at a pace (0: as fast as it goes); ends early when the process stops.
    pub(crate) async fn scrubbed(&self, bytes_per_second: u64) -> Result<ScrubReport, PoolError> {
        let stop = self.stop.clone();
        let mut pace = Pace::new(bytes_per_second, tokio::runtime::Handle::current());
        let report = self
            .pool
            .slow(move |library| {
                library.scrub(&mut |bytes| {
                    pace.wait(bytes, &stop);
                    !stop.is_cancelled()
                })
            })
            .await?;
        self.figures.scrubbed(&report);
        Ok(report)
    }

    /// Ends sessions that nothing was done with for `idle`.
    pub(crate) async fn expire(&self, idle: Duration) -> Result<Vec<SessionId>, PoolError> {
        let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        let ended = self.pool.slow(move |library| library.expire_sessions(idle_ms)).await?;
        let ids: Vec<SessionId> = ended.iter().map(|session| session.id).collect();
        self.forget(&ids);
        Ok(ids)
    }

    pub(super) async fn on_stats(&self) -> Result<v1::StatsReply, Status> {
        let (stats, free_bytes) = self.measured().await.map_err(|error| from_pool(&error))?;
        Ok(v1::StatsReply {
            packs: stats.packs,
            stored_bytes: stats.pack_bytes,
            chunks: stats.chunks,
            pages: stats.pages,
            recovery_points: stats.recovery_points,
            sessions: stats.sessions,
            free_bytes: free_bytes.unwrap_or(0),
        })
    }

    /// Numbers about the library, and the bytes that are free where that is known; the gauges follow.
    pub(crate) async fn measured(&self) -> Result<(Stats, Option<u64>), PoolError> {
        let backend = std::sync::Arc::clone(&self.backend);
        let measure = move |library: &Library| Ok((library.stats()?, backend.free_bytes()?));
        let (stats, free_bytes) = self.pool.quick(measure).await?;
        self.figures.measured(&stats, free_bytes);
        Ok((stats, free_bytes))
    }
}

/// Keeps reading to a rate, on a blocking thread.
struct Pace {
    bytes_per_second: u64,
    started: Instant,
    bytes: u64,
    runtime: tokio::runtime::Handle,
}

impl Pace {
    fn new(bytes_per_second: u64, runtime: tokio::runtime::Handle) -> Self {
        Self { bytes_per_second, started: Instant::now(), bytes: 0, runtime }
    }

    /// Waits until `bytes` more are due, or the process stops.
    fn wait(&mut self, bytes: u64, stop: &tokio_util::sync::CancellationToken) {
        self.bytes = self.bytes.saturating_add(bytes);
        let Some(due_ms) = self.bytes.saturating_mul(1_000).checked_div(self.bytes_per_second) else {
            return;
        };
        let ahead = Duration::from_millis(due_ms).saturating_sub(self.started.elapsed());
        if !ahead.is_zero() {
            // Only the outcome "stopped or waited" matters, and the caller looks at the token itself.
            let _either = self.runtime.block_on(tokio::time::timeout(ahead, stop.cancelled()));
        }
    }
}
