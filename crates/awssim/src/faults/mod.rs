//! Faults, quotas, delays and counters: everything that makes the simulator behave worse than a simple server.
//!
//! Each call passes [`Faults::before_call`] once, after its credentials were checked and before anything is done
//! for it. What is to be done to the answer comes back as a [`FaultPlan`]. Every fault is counted when it takes
//! effect, so a test can prove that it did. Chances depend on a seed and on the row of matching calls only.

pub mod body;
mod clock;
mod counters;
mod quota;
mod rules;
mod settings;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use clock::Clock;
pub use counters::{CallCount, CounterReport};
pub use quota::Quotas;
pub use rules::{Effect, Rule};
pub use settings::{Behaviour, Latency};

use counters::{Counters, Tally};
use quota::{Buckets, Exceeded};
use rules::{Active, draw};

/// A call as rules and quotas see it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// `ebs`, `ec2`, `kms`, `sts`, `iam`, `s3`; `vmie` for the work of an import.
    pub service: &'a str,
    /// The action's name in the service's API.
    pub action: &'a str,
    /// The caller's account.
    pub account: &'a str,
    /// The region asked.
    pub region: &'a str,
    /// The snapshot asked about, in the EBS direct APIs.
    pub snapshot: Option<&'a str>,
    /// The block asked about, in the EBS direct APIs.
    pub block: Option<u32>,
}

impl<'a> Call<'a> {
    /// A call about no snapshot.
    #[must_use]
    pub fn new(service: &'a str, action: &'a str, account: &'a str, region: &'a str) -> Self {
        Self { service, action, account, region, snapshot: None, block: None }
    }
}

/// A refusal: an error to answer instead of doing what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// AWS's error code.
    pub code: String,
    /// For people.
    pub message: String,
    /// Where the service's errors have one.
    pub reason: Option<String>,
}

impl Refusal {
    /// Puts one together.
    #[must_use]
    pub fn new(status: u16, code: &str, reason: Option<&str>, message: impl Into<String>) -> Self {
        let (code, reason) = (code.to_owned(), reason.map(str::to_owned));
        Self { status, code, message: message.into(), reason }
    }
}

/// What is to be done to the answer of one call.
#[derive(Debug, Default)]
pub struct FaultPlan {
    effect: Option<Effect>,
    tally: Option<Arc<Tally>>,
}

impl FaultPlan {
    /// Whether the reply is to be lost after the work is done.
    #[must_use]
    pub fn loses_reply(&self) -> bool {
        matches!(self.effect, Some(Effect::LoseReply))
    }

    /// Whether the checksum header is to be another's.
    #[must_use]
    pub fn wrong_checksum(&self) -> bool {
        matches!(self.effect, Some(Effect::WrongChecksum))
    }

    /// Adds to the counters of bytes of blocks.
    pub fn count_bytes(&self, received: usize, sent: usize) {
        if let Some(tally) = &self.tally {
            tally.bytes(u64::try_from(received).unwrap_or(0), u64::try_from(sent).unwrap_or(0));
        }
    }

    /// Where a body of `len` bytes that is read while it is sent breaks off, and which of its bytes has a bit turned
    /// over.
    #[must_use]
    pub fn stream_faults(&self, len: u64) -> (Option<u64>, Option<u64>) {
        match &self.effect {
            Some(Effect::TruncateBody { keep_bytes }) => (Some(keep_bytes.unwrap_or(len / 2).min(len)), None),
            Some(Effect::FlipBit) => (None, Some(len / 2)),
            Some(
                Effect::Error { .. }
                | Effect::Throttle { .. }
                | Effect::Hang { .. }
                | Effect::WrongChecksum
                | Effect::LoseReply,
            )
            | None => (None, None),
        }
    }

    /// The body to send for these pieces.
    #[must_use]
    pub fn body(&self, pieces: Vec<Bytes>) -> body::ReplyBody {
        match &self.effect {
            None
            | Some(
                Effect::Error { .. } | Effect::Throttle { .. } | Effect::Hang { .. } | Effect::WrongChecksum,
            ) => body::pieces(pieces),
            Some(Effect::LoseReply) => body::lost(),
            Some(Effect::TruncateBody { keep_bytes }) => {
                let whole = pieces.concat();
                let half = whole.len() / 2;
                let keep = keep_bytes.map_or(half, |n| usize::try_from(n).unwrap_or(half)).min(whole.len());
                let announced = u64::try_from(whole.len()).unwrap_or(0);
                body::truncated(Bytes::from(whole).slice(..keep), announced)
            }
            Some(Effect::FlipBit) => {
                let mut whole = pieces.concat();
                let middle = whole.len() / 2;
                if let Some(byte) = whole.get_mut(middle) {
                    *byte ^= 1;
                }
                body::full(whole)
            }
        }
    }
}

/// All switches and counters of one simulator.
#[derive(Debug, Default)]
pub struct Faults {
    clock: Clock,
    rules: RwLock<Vec<Arc<Active>>>,
    latency: RwLock<Vec<Latency>>,
    quotas: RwLock<Quotas>,
    behaviour: RwLock<Behaviour>,
    buckets: Mutex<Buckets>,
    counters: Counters,
    delays: AtomicU64,
    pages: AtomicU64,
    swept: AtomicU64,
    held: AtomicU64,
}

/// A call that hangs, for as long as it does.
struct Held<'a>(&'a AtomicU64);

impl<'a> Held<'a> {
    fn new(held: &'a AtomicU64) -> Self {
        held.fetch_add(1, Ordering::SeqCst);
        Self(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A rule and how often it took effect.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RuleReport {
    /// The rule.
    pub rule: Rule,
    /// Calls hurt.
    pub fired: u64,
}

/// How full a page of a listing is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFill {
    /// As many blocks as were asked for.
    Full,
    /// Fewer.
    Short,
    /// None.
    Empty,
}

impl Faults {
    /// No faults, no delays, AWS's quotas.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls that hang now, without an end of their own. One whose client went away does not hang for
    /// long, if all of its request was read.
    #[must_use]
    pub fn n_held(&self) -> u64 {
        self.held.load(Ordering::SeqCst)
    }

    /// As [`Self::before_call`] for a call about no snapshot.
    ///
    /// # Errors
    /// The refusal to answer.
    pub async fn before(
        &self,
        service: &str,
        action: &str,
        account: &str,
        region: &str,
    ) -> Result<FaultPlan, Refusal> {
        self.before_call(Call::new(service, action, account, region)).await
    }

    /// Counts the call, enforces rates, waits, refuses or plans what is to be done to the answer. A hang without
    /// an end waits until its rule is taken back, or the client goes away and this future is dropped.
    ///
    /// # Errors
    /// The refusal to answer.
    pub async fn before_call(&self, call: Call<'_>) -> Result<FaultPlan, Refusal> {
        let tally = self.counters.tally(call.account, call.service, call.action);
        tally.called();
        let delay = self.delay(&call);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Err(exceeded) = self.take(&call) {
            tally.throttled();
            return Err(throttle(exceeded, &call));
        }
        let firing: Vec<_> = read(&self.rules).iter().filter(|active| active.fires(&call)).cloned().collect();
        let mut plan = FaultPlan { effect: None, tally: Some(Arc::clone(&tally)) };
        for active in firing {
            tally.injected();
            let effect = &active.rule.effect;
            self.counters.fault(effect.name());
            match effect {
                Effect::Hang { seconds: None } => {
                    let _held = Held::new(&self.held);
                    active.over.cancelled().await;
                }
                Effect::Hang { seconds: Some(seconds) } => {
                    tokio::time::sleep(Duration::try_from_secs_f64(*seconds).unwrap_or_default()).await;
                }
                Effect::Throttle { snapshot_level } => {
                    let level = if *snapshot_level { Exceeded::Snapshot } else { Exceeded::Account };
                    return Err(throttle(level, &call));
                }
                Effect::Error { status, code, message, reason } => {
                    let message = message.clone().unwrap_or_else(|| "An internal error occurred.".to_owned());
                    return Err(Refusal {
                        status: *status,
                        code: code.clone(),
                        message,
                        reason: reason.clone(),
                    });
                }
                Effect::TruncateBody { .. } | Effect::FlipBit | Effect::WrongChecksum | Effect::LoseReply => {
                    plan.effect = Some(effect.clone());
                }
            }
        }
        Ok(plan)
    }

    fn delay(&self, call: &Call<'_>) -> Duration {
        let latency = read(&self.latency);
        if latency.is_empty() {
            return Duration::ZERO;
        }
        let place = self.delays.fetch_add(1, Ordering::Relaxed);
        latency.iter().map(|l| l.delay(call, draw(0, place))).sum()
    }

    fn take(&self, call: &Call<'_>) -> Result<(), Exceeded> {
        let quotas = read(&self.quotas);
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).take(&quotas, call, Instant::now())
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Adds a rule.
    pub fn add_rule(&self, rule: Rule) {
        write(&self.rules).push(Arc::new(Active::new(rule)));
    }

    /// Puts these rules in place of all others, and ends what hangs by one of those.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        let rules = rules.into_iter().map(|rule| Arc::new(Active::new(rule))).collect();
        let gone = std::mem::replace(&mut *write(&self.rules), rules);
        for active in gone {
            active.over.cancel();
        }
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> Vec<RuleReport> {
        let report = |active: &Arc<Active>| RuleReport {
            rule: active.rule.clone(),
            fired: active.fired.load(Ordering::Relaxed),
        };
        read(&self.rules).iter().map(report).collect()
    }

    /// Sets the delays.
    pub fn set_latency(&self, latency: Vec<Latency>) {
        *write(&self.latency) = latency;
    }

    /// The delays.
    #[must_use]
    pub fn latency(&self) -> Vec<Latency> {
        read(&self.latency).clone()
    }

    /// Sets the quotas; all buckets start full again.
    pub fn set_quotas(&self, quotas: Quotas) {
        *write(&self.quotas) = quotas;
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The quotas.
    #[must_use]
    pub fn quotas(&self) -> Quotas {
        read(&self.quotas).clone()
    }

    /// Sets the behaviour.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        *write(&self.behaviour) = behaviour;
    }

    /// The behaviour.
    #[must_use]
    pub fn behaviour(&self) -> Behaviour {
        read(&self.behaviour).clone()
    }

    /// The longest life of credentials from AssumeRole, when it is cut short.
    #[must_use]
    pub fn session_ttl_cap(&self) -> Option<Duration> {
        read(&self.behaviour).session_seconds.map(Duration::from_secs)
    }

    /// How full the next page is to be.
    #[must_use]
    pub fn next_page(&self) -> PageFill {
        let behaviour = read(&self.behaviour);
        if behaviour.short_page <= 0.0 && behaviour.empty_page <= 0.0 {
            return PageFill::Full;
        }
        let draw = draw(behaviour.seed, self.pages.fetch_add(1, Ordering::Relaxed));
        let (fill, name) = if draw < behaviour.empty_page {
            (PageFill::Empty, "empty_page")
        } else if draw < behaviour.empty_page + behaviour.short_page {
            (PageFill::Short, "short_page")
        } else {
            return PageFill::Full;
        };
        self.counters.fault(name);
        fill
    }

    /// Whether a second of the clock has passed since this was last true.
    #[must_use]
    pub fn sweep_is_due(&self) -> bool {
        let now = self.clock.epoch_seconds();
        self.swept.swap(now, Ordering::Relaxed) != now
    }

    /// Counts a fault that is not a rule's.
    pub fn count_fault(&self, name: &'static str) {
        self.counters.fault(name);
    }

    /// A reading of the counters.
    #[must_use]
    pub fn counters(&self) -> CounterReport {
        self.counters.report()
    }

    /// Sets the counters to nothing.
    pub fn clear_counters(&self) {
        self.counters.clear();
    }

    /// Takes back everything but quotas, clock and counters.
    pub fn clear(&self) {
        self.set_rules(Vec::new());
        self.set_latency(Vec::new());
        self.set_behaviour(Behaviour::default());
    }
}

fn throttle(level: Exceeded, call: &Call<'_>) -> Refusal {
    let (code, reason, message) = match (level, call.service) {
        (_, "ec2") => ("RequestLimitExceeded", None, "Request limit exceeded.".to_owned()),
        (Exceeded::Account, "ebs") => {
            ("ThrottlingException", Some("ACCOUNT_THROTTLED"), "Rate exceeded for the account.".to_owned())
        }
        (_, "kms") => ("ThrottlingException", None, "Rate exceeded".to_owned()),
        (Exceeded::Account, _) => ("Throttling", None, "Rate exceeded".to_owned()),
        (Exceeded::Snapshot, _) => (
            "RequestThrottledException",
            Some("RESOURCE_LEVEL_THROTTLE"),
            format!("Rate exceeded for snapshot {}.", call.snapshot.unwrap_or("-")),
        ),
    };
    let status = if call.service == "ec2" { 503 } else { 400 };
    Refusal { status, code: code.to_owned(), message, reason: reason.map(str::to_owned) }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
