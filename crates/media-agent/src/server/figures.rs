//! The daemon's Prometheus figures: `snapferry_media_agent_…`, base units, labels from closed sets only.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use snapferry_library::{GcReport, ScrubReport, Stats};
use tonic::Code;

/// All figures, registered.
pub(crate) struct Figures {
    requests: IntCounterVec,
    received_chunks: IntCounter,
    received_bytes: IntCounter,
    new_chunks: IntCounter,
    new_bytes: IntCounter,
    sent_chunks: IntCounter,
    sent_bytes: IntCounter,
    removed_bytes: IntCounter,
    scrubbed_bytes: IntCounter,
    damaged_found: IntCounter,
    packs: IntGauge,
    stored_bytes: IntGauge,
    chunks: IntGauge,
    pages: IntGauge,
    recovery_points: IntGauge,
    sessions: IntGauge,
    damaged_records: IntGauge,
    free_bytes: IntGauge,
}

struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("snapferry_media_agent_{name}"), help)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        let counter = IntCounter::with_opts(Self::opts(name, help))?;
        self.0.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        let gauge = IntGauge::with_opts(Self::opts(name, help))?;
        self.0.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }
}

fn as_gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Figures {
    /// Registers everything.
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let make = Maker(registry);
        let requests = IntCounterVec::new(
            Maker::opts("requests_total", "Calls by method and gRPC code."),
            &["method", "code"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        Ok(Self {
            requests,
            received_chunks: make.counter("received_chunks_total", "Chunks that clients put.")?,
            received_bytes: make
                .counter("received_bytes_total", "Sealed bytes of chunks that clients put.")?,
            new_chunks: make.counter("new_chunks_total", "Chunks put that were not stored before.")?,
            new_bytes: make.counter("new_bytes_total", "Sealed bytes of those.")?,
            sent_chunks: make.counter("sent_chunks_total", "Chunks that clients read.")?,
            sent_bytes: make.counter("sent_bytes_total", "Sealed bytes of those.")?,
            removed_bytes: make.counter("removed_bytes_total", "Bytes of packs that collections removed.")?,
            scrubbed_bytes: make.counter("scrubbed_bytes_total", "Bytes that scrubs read.")?,
            damaged_found: make
                .counter("damaged_records_found_total", "Damaged records that scrubs found.")?,
            packs: make.gauge("packs", "Packs in the library.")?,
            stored_bytes: make.gauge("stored_bytes", "Bytes of them.")?,
            chunks: make.gauge("chunks", "Stored chunks, with garbage not collected yet.")?,
            pages: make.gauge("pages", "Stored pages, with garbage not collected yet.")?,
            recovery_points: make.gauge("recovery_points", "Recovery points in the library.")?,
            sessions: make.gauge("sessions", "Open sessions.")?,
            damaged_records: make.gauge("damaged_records", "Records known to be damaged.")?,
            free_bytes: make.gauge("free_bytes", "Bytes free on the library's disk; -1 where not known.")?,
        })
    }

    pub(crate) fn request(&self, method: &'static str, code: Code) {
        self.requests.with_label_values(&[method, code_name(code)]).inc();
    }

    pub(crate) fn received(&self, chunks: u64, bytes: u64, new_chunks: u64, new_bytes: u64) {
        self.received_chunks.inc_by(chunks);
        self.received_bytes.inc_by(bytes);
        self.new_chunks.inc_by(new_chunks);
        self.new_bytes.inc_by(new_bytes);
    }

    pub(crate) fn sent(&self, chunks: u64, bytes: u64) {
        self.sent_chunks.inc_by(chunks);
        self.sent_bytes.inc_by(bytes);
    }

    pub(crate) fn collected(&self, report: &GcReport) {
        self.removed_bytes.inc_by(report.bytes_removed.saturating_sub(report.bytes_written));
    }

    pub(crate) fn scrubbed(&self, report: &ScrubReport) {
        self.scrubbed_bytes.inc_by(report.bytes);
        self.damaged_found.inc_by(report.n_damaged);
    }

    pub(crate) fn measured(&self, stats: &Stats, free_bytes: Option<u64>) {
        self.packs.set(as_gauge(stats.packs));
        self.stored_bytes.set(as_gauge(stats.pack_bytes));
        self.chunks.set(as_gauge(stats.chunks));
        self.pages.set(as_gauge(stats.pages));
        self.recovery_points.set(as_gauge(stats.recovery_points));
        self.sessions.set(as_gauge(stats.sessions));
        self.damaged_records.set(as_gauge(stats.damaged_records));
        self.free_bytes.set(free_bytes.map_or(-1, as_gauge));
    }
}

const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}
