//! The scheduler's figures for Prometheus. Labels are words of our own only, so their number is bounded.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Counters and gauges.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Offers by how publishing them ended.
    pub published: IntCounterVec,
    /// Claims by verdict.
    pub claims: IntCounterVec,
    /// Attempts by how they ended.
    pub finished: IntCounterVec,
    /// Leases by what became of them: `suspect`, `given_up`, `fresh`.
    pub leases: IntCounterVec,
    /// API calls by class of status.
    pub http: IntCounterVec,
    /// AWS objects by what the reaper did: `removed`, `failed`.
    pub reaped: IntCounterVec,
    /// Recovery points that their retention let go, by kind.
    pub let_go: IntCounterVec,
    /// Accounts and regions by how looking for kept snapshots ended: `looked`, `failed`.
    pub reconciled: IntCounterVec,
    /// Kept snapshots that somebody else has deleted.
    pub snapshots_lost: IntCounter,
    /// Tasks by state.
    pub tasks: IntGaugeVec,
    /// Offers that wait to be published.
    pub outbox: IntGauge,
}

impl Metrics {
    /// Figures in `registry`.
    ///
    /// # Errors
    /// When the registry has them already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, label: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let tasks = IntGaugeVec::new(Opts::new("snapferry_scheduler_tasks", "Tasks by state"), &["state"])?;
        registry.register(Box::new(tasks.clone()))?;
        let outbox = IntGauge::new("snapferry_scheduler_outbox_entries", "Offers that wait to be published")?;
        registry.register(Box::new(outbox.clone()))?;
        let snapshots_lost = IntCounter::new(
            "snapferry_scheduler_kept_snapshots_lost_total",
            "Kept snapshots that somebody else has deleted",
        )?;
        registry.register(Box::new(snapshots_lost.clone()))?;
        Ok(Self {
            published: counter(
                "snapferry_scheduler_offers_published_total",
                "Offers by how publishing them ended",
                "outcome",
            )?,
            claims: counter("snapferry_scheduler_claims_total", "Claims by verdict", "verdict")?,
            finished: counter("snapferry_scheduler_attempts_finished_total", "Attempts by end", "outcome")?,
            leases: counter(
                "snapferry_scheduler_leases_total",
                "Leases that ran out or began anew",
                "event",
            )?,
            http: counter(
                "snapferry_scheduler_http_requests_total",
                "API calls by class of status",
                "status",
            )?,
            reaped: counter(
                "snapferry_scheduler_objects_reaped_total",
                "AWS objects nobody owned",
                "outcome",
            )?,
            let_go: counter(
                "snapferry_scheduler_recovery_points_let_go_total",
                "Recovery points that their retention let go",
                "kind",
            )?,
            reconciled: counter(
                "snapferry_scheduler_reconciles_total",
                "Accounts and regions by how looking for kept snapshots ended",
                "outcome",
            )?,
            snapshots_lost,
            tasks,
            outbox,
        })
    }
}
