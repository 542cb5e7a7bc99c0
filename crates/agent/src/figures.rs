//! The agent's Prometheus figures: `snapferry_agent_…`, base units, labels from closed sets only. Work is counted where
//! a job's progress is, so that both always say the same: what has ended is added up, what runs is asked when somebody
//! looks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use snapferry_transfer::ByteBudget;
use snapferry_types::{TaskId, TaskKind};
use snapferry_wire::v1;
use tokio::time::Instant;

use crate::context::TaskContext;

/// From a small incremental to a volume of 16 TiB, in seconds.
const DURATIONS: [f64; 8] = [5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0];

/// All figures; clones share them.
#[derive(Clone)]
pub(crate) struct Figures {
    attempts: IntCounterVec,
    seconds: HistogramVec,
    work: Arc<Mutex<Work>>,
}

#[derive(Default)]
struct Work {
    /// The sum of what has ended.
    ended: v1::Progress,
    live: Vec<Arc<TaskContext>>,
}

/// One of the sums.
type Of = fn(&v1::Progress) -> u64;

/// Adds what is counted here; the phase and the blocks of a bar have no sum.
fn add(sums: &mut v1::Progress, progress: &v1::Progress) {
    sums.bytes_read += progress.bytes_read;
    sums.bytes_sent += progress.bytes_sent;
    sums.bytes_stored += progress.bytes_stored;
    sums.blocks_zero += progress.blocks_zero;
    sums.blocks_deduplicated += progress.blocks_deduplicated;
    sums.aws_calls += progress.aws_calls;
    sums.throttled += progress.throttled;
}

/// An attempt that is counted.
pub(crate) struct Counted {
    figures: Figures,
    task: TaskId,
    kind: TaskKind,
    since: Instant,
}

impl Figures {
    /// Registers everything.
    pub(crate) fn register(
        registry: &Registry,
        budget: ByteBudget,
        n_slots: usize,
    ) -> prometheus::Result<Self> {
        let name = |name: &str| format!("snapferry_agent_{name}");
        let attempts = Opts::new(name("attempts_total"), "Attempts by kind of task and how they ended.");
        let attempts = IntCounterVec::new(attempts, &["kind", "outcome"])?;
        registry.register(Box::new(attempts.clone()))?;
        let seconds = HistogramOpts::new(name("attempt_seconds"), "How long attempts took, by kind of task.");
        let seconds = HistogramVec::new(seconds.buckets(DURATIONS.to_vec()), &["kind"])?;
        registry.register(Box::new(seconds.clone()))?;
        let work = Arc::new(Mutex::new(Work::default()));
        registry.register(Box::new(Counters::new(Arc::clone(&work))?))?;
        registry.register(Box::new(Gauges::new(budget, Arc::clone(&work), n_slots)?))?;
        Ok(Self { attempts, seconds, work })
    }

    /// Counts an attempt from now on.
    pub(crate) fn begin(&self, context: &Arc<TaskContext>) -> Counted {
        lock(&self.work).live.push(Arc::clone(context));
        let kind = context.spec.operation.kind();
        Counted { figures: self.clone(), task: context.spec.task, kind, since: Instant::now() }
    }
}

impl Counted {
    /// The attempt has ended so.
    pub(crate) fn end(self, context: &Arc<TaskContext>, outcome: &'static str) {
        let kind = self.kind.as_str();
        self.figures.attempts.with_label_values(&[kind, outcome]).inc();
        self.figures.seconds.with_label_values(&[kind]).observe(self.since.elapsed().as_secs_f64());
        let mut work = lock(&self.figures.work);
        work.live.retain(|live| !Arc::ptr_eq(live, context));
        add(&mut work.ended, &context.progress());
        tracing::debug!(task = %self.task, outcome, "attempt ended");
    }
}

/// Counters that are asked for.
struct Counters {
    work: Arc<Mutex<Work>>,
    counters: Vec<(IntCounter, Of)>,
}

impl Counters {
    fn new(work: Arc<Mutex<Work>>) -> prometheus::Result<Self> {
        let all: [(&str, &str, Of); 7] = [
            ("read_bytes_total", "Plain bytes read from volumes.", |sums| sums.bytes_read),
            ("sent_bytes_total", "Sealed bytes sent to or fetched from MediaAgents.", |sums| sums.bytes_sent),
            ("stored_bytes_total", "Sealed bytes that libraries did not have.", |sums| sums.bytes_stored),
            ("zero_blocks_total", "Blocks of zeroes.", |sums| sums.blocks_zero),
            ("deduplicated_blocks_total", "Blocks that were there already.", |sums| sums.blocks_deduplicated),
            ("aws_calls_total", "Requests sent to AWS.", |sums| sums.aws_calls),
            ("aws_throttles_total", "Answers of AWS that said: slower.", |sums| sums.throttled),
        ];
        let counter = |(name, help, of): (&str, &str, Of)| {
            Ok((IntCounter::new(format!("snapferry_agent_{name}"), help)?, of))
        };
        Ok(Self { work, counters: all.into_iter().map(counter).collect::<prometheus::Result<_>>()? })
    }
}

impl Collector for Counters {
    fn desc(&self) -> Vec<&Desc> {
        self.counters.iter().flat_map(|(counter, _)| counter.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let work = lock(&self.work);
        let mut sums = work.ended.clone();
        for live in &work.live {
            add(&mut sums, &live.progress());
        }
        // Under the lock: two who look at a time must not set the same counter.
        let show = |(counter, of): &(IntCounter, Of)| {
            counter.reset();
            counter.inc_by(of(&sums));
            counter.collect()
        };
        self.counters.iter().flat_map(show).collect()
    }
}

/// What is in use now.
struct Gauges {
    budget: ByteBudget,
    work: Arc<Mutex<Work>>,
    n_slots: usize,
    slots_all: IntGauge,
    slots_busy: IntGauge,
    memory_all: IntGauge,
    memory_busy: IntGauge,
}

impl Gauges {
    fn new(budget: ByteBudget, work: Arc<Mutex<Work>>, n_slots: usize) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| IntGauge::new(format!("snapferry_agent_{name}"), help);
        Ok(Self {
            budget,
            work,
            n_slots,
            slots_all: gauge("slots", "Tasks that may run at once.")?,
            slots_busy: gauge("slots_busy", "Tasks that run.")?,
            memory_all: gauge("block_memory_bytes", "The budget for blocks in flight.")?,
            memory_busy: gauge("block_memory_busy_bytes", "How much of it is in use.")?,
        })
    }

    fn all(&self) -> [&IntGauge; 4] {
        [&self.slots_all, &self.slots_busy, &self.memory_all, &self.memory_busy]
    }
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let busy = lock(&self.work).live.len();
        let (total, free) = (self.budget.total(), self.budget.available());
        self.slots_all.set(i64::try_from(self.n_slots).unwrap_or(i64::MAX));
        self.slots_busy.set(i64::try_from(busy).unwrap_or(i64::MAX));
        self.memory_all.set(i64::try_from(total).unwrap_or(i64::MAX));
        self.memory_busy.set(i64::try_from(total.saturating_sub(free)).unwrap_or(i64::MAX));
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}

fn lock(work: &Mutex<Work>) -> MutexGuard<'_, Work> {
    work.lock().unwrap_or_else(PoisonError::into_inner)
}
