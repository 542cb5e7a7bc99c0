//! The scheduler's figures for Prometheus. Labels are words of our own only, so their number is bounded.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::store::Gauges;

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
    /// What the dispatcher counts once in a while.
    pub fleet: Fleet,
}

/// Nodes, MediaAgents, and what there is to take care of.
#[derive(Debug, Clone)]
pub struct Fleet {
    nodes: IntGaugeVec,
    media_agents: IntGaugeVec,
    longest_wait: Gauge,
    recovery_points: IntGauge,
    objects: IntGauge,
}

impl Fleet {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let by_state = |name: &str, help: &str| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &["state"])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let plain = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let longest_wait = Gauge::new(
            "snapferry_scheduler_longest_wait_seconds",
            "How long the oldest ready task has waited to be offered",
        )?;
        registry.register(Box::new(longest_wait.clone()))?;
        Ok(Self {
            nodes: by_state("snapferry_scheduler_access_nodes", "Access nodes: online or offline")?,
            media_agents: by_state("snapferry_scheduler_media_agents", "MediaAgents: online or offline")?,
            longest_wait,
            recovery_points: plain(
                "snapferry_scheduler_recovery_points",
                "Recovery points in the catalogue",
            )?,
            objects: plain(
                "snapferry_scheduler_aws_objects",
                "AWS objects in the ledger, not known to be gone",
            )?,
        })
    }

    /// Shows what was counted.
    pub fn set(&self, now: &Gauges) {
        for (gauge, online, all) in [
            (&self.nodes, now.nodes_online, now.nodes),
            (&self.media_agents, now.media_agents_online, now.media_agents),
        ] {
            gauge.with_label_values(&["online"]).set(online);
            gauge.with_label_values(&["offline"]).set(all - online);
        }
        self.longest_wait
            .set(std::time::Duration::from_millis(now.longest_wait_ms.unsigned_abs()).as_secs_f64());
        self.recovery_points.set(now.recovery_points);
        self.objects.set(now.objects);
    }
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
            fleet: Fleet::register(registry)?,
        })
    }
}
