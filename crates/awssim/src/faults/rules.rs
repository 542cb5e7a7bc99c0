//! Rules: which calls are hurt, and how.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::Call;

/// What a rule does to a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// Answers an error before anything is done.
    Error {
        /// HTTP status; 500 when not given.
        #[serde(default = "internal_status")]
        status: u16,
        /// Error code; `InternalServerException` when not given.
        #[serde(default = "internal_code")]
        code: String,
        /// Message; a plain one when not given.
        #[serde(default)]
        message: Option<String>,
        /// Reason, where the service's errors have one.
        #[serde(default)]
        reason: Option<String>,
    },
    /// Answers the account's throttle (`ThrottlingException`), or the snapshot's (`RequestThrottledException`).
    Throttle {
        /// Whether it is the snapshot's.
        #[serde(default)]
        snapshot_level: bool,
    },
    /// Waits before anything is done; without a time, until the rule is taken back or the client goes away.
    Hang {
        /// Seconds to wait before going on.
        #[serde(default)]
        seconds: Option<f64>,
    },
    /// Sends only the beginning of the body and then breaks the connection.
    TruncateBody {
        /// Bytes sent; half of the body when not given.
        #[serde(default)]
        keep_bytes: Option<u64>,
    },
    /// Turns over one bit of the body; the checksum header stays that of the true body.
    FlipBit,
    /// Sends the true body with the checksum header of another.
    WrongChecksum,
    /// Does what was asked and then breaks the connection instead of answering.
    LoseReply,
}

fn internal_status() -> u16 {
    500
}

fn internal_code() -> String {
    "InternalServerException".to_owned()
}

impl Effect {
    /// The effect's name in the counters and in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Error { .. } => "error",
            Self::Throttle { .. } => "throttle",
            Self::Hang { .. } => "hang",
            Self::TruncateBody { .. } => "truncate_body",
            Self::FlipBit => "flip_bit",
            Self::WrongChecksum => "wrong_checksum",
            Self::LoseReply => "lose_reply",
        }
    }
}

/// A rule. What is not given matches everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `ebs`, `ec2`, `sts`, `s3`; `vmie` for the work of an import.
    #[serde(default)]
    pub service: Option<String>,
    /// An action of the service, as in its API: `GetSnapshotBlock`.
    #[serde(default)]
    pub action: Option<String>,
    /// The caller's account.
    #[serde(default)]
    pub account: Option<String>,
    /// The snapshot asked about.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// The block asked about.
    #[serde(default)]
    pub block: Option<u32>,
    /// What happens.
    pub effect: Effect,
    /// Chance of a matching call to be hurt; 1 when not given.
    #[serde(default = "always")]
    pub probability: f64,
    /// Matching calls let through first.
    #[serde(default)]
    pub skip: u64,
    /// Calls to hurt at most; no limit when not given.
    #[serde(default)]
    pub count: Option<u64>,
    /// Seconds, from when the rule is set, for which it holds; for good when not given.
    #[serde(default)]
    pub seconds: Option<f64>,
    /// The same seed hurts the same ones of the matching calls.
    #[serde(default)]
    pub seed: u64,
}

fn always() -> f64 {
    1.0
}

impl Rule {
    /// A rule that hurts every call with `effect`, to be narrowed by setting its fields.
    #[must_use]
    pub fn new(effect: Effect) -> Self {
        Self {
            service: None,
            action: None,
            account: None,
            snapshot: None,
            block: None,
            effect,
            probability: 1.0,
            skip: 0,
            count: None,
            seconds: None,
            seed: 0,
        }
    }

    /// The rule for one action of one service.
    #[must_use]
    pub fn on(mut self, service: &str, action: &str) -> Self {
        self.service = Some(service.to_owned());
        self.action = Some(action.to_owned());
        self
    }

    /// The rule for at most `count` calls.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }

    /// The rule with a chance and a seed.
    #[must_use]
    pub fn chance(mut self, probability: f64, seed: u64) -> Self {
        (self.probability, self.seed) = (probability, seed);
        self
    }

    fn matches(&self, call: &Call<'_>) -> bool {
        let is =
            |wanted: &Option<String>, given: Option<&str>| wanted.is_none() || wanted.as_deref() == given;
        is(&self.service, Some(call.service))
            && is(&self.action, Some(call.action))
            && is(&self.account, Some(call.account))
            && is(&self.snapshot, call.snapshot)
            && (self.block.is_none() || self.block == call.block)
    }
}

/// A rule in force, with what it did so far.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) rule: Rule,
    since: Instant,
    seen: AtomicU64,
    pub(super) fired: AtomicU64,
    /// The rule was taken back.
    pub(super) over: CancellationToken,
}

impl Active {
    pub(super) fn new(rule: Rule) -> Self {
        Self {
            rule,
            since: Instant::now(),
            seen: AtomicU64::new(0),
            fired: AtomicU64::new(0),
            over: CancellationToken::new(),
        }
    }

    /// Whether this call is hurt; counts it if so.
    pub(super) fn fires(&self, call: &Call<'_>) -> bool {
        let rule = &self.rule;
        if !rule.matches(call) {
            return false;
        }
        if let Some(limit) = rule.seconds.and_then(|s| Duration::try_from_secs_f64(s).ok())
            && self.since.elapsed() > limit
        {
            return false;
        }
        let seen = self.seen.fetch_add(1, Ordering::Relaxed);
        if seen < rule.skip || draw(rule.seed, seen) >= rule.probability {
            return false;
        }
        let below = |fired: u64| rule.count.is_none_or(|count| fired < count).then_some(fired + 1);
        self.fired.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok()
    }
}

/// A number from 0 up to 1 that depends on the seed and the place in the row only.
pub(super) fn draw(seed: u64, place: u64) -> f64 {
    let mut x = seed ^ place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for multiplier in [0xbf58_476d_1ce4_e5b9_u64, 0x94d0_49bb_1331_11eb] {
        x = (x ^ (x >> 31)).wrapping_mul(multiplier);
    }
    f64::from(u32::try_from(x >> 32).unwrap_or(u32::MAX)) / 4_294_967_296.0
}
