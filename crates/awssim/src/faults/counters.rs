//! What came in, what was hurt, how many bytes moved.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use serde::Serialize;

/// Counters of one action for one account.
#[derive(Debug, Default)]
pub(super) struct Tally {
    calls: AtomicU64,
    throttled: AtomicU64,
    injected: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Tally {
    pub(super) fn called(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn throttled(&self) {
        self.throttled.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn injected(&self) {
        self.injected.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self, received: u64, sent: u64) {
        self.bytes_in.fetch_add(received, Ordering::Relaxed);
        self.bytes_out.fetch_add(sent, Ordering::Relaxed);
    }
}

/// A reading of one action's counters for one account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CallCount {
    /// The caller's account.
    pub account: String,
    /// `ebs`, `ec2`, `sts`, `iam`.
    pub service: String,
    /// The action.
    pub action: String,
    /// Calls that came in, those refused included.
    pub calls: u64,
    /// Calls refused because a rate was exceeded.
    pub throttled: u64,
    /// Faults injected by rules.
    pub injected: u64,
    /// Bytes of blocks received.
    pub bytes_in: u64,
    /// Bytes of blocks sent.
    pub bytes_out: u64,
}

/// A reading of all counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CounterReport {
    /// By account, service and action.
    pub calls: Vec<CallCount>,
    /// Faults injected, by the effect's name.
    pub faults: BTreeMap<String, u64>,
}

impl CounterReport {
    /// Calls of an action by all accounts.
    #[must_use]
    pub fn calls_of(&self, service: &str, action: &str) -> u64 {
        self.of(service, action).map(|count| count.calls).sum()
    }

    /// Throttled calls of an action by all accounts.
    #[must_use]
    pub fn throttled_of(&self, service: &str, action: &str) -> u64 {
        self.of(service, action).map(|count| count.throttled).sum()
    }

    /// Faults injected with an effect of that name.
    #[must_use]
    pub fn faults_of(&self, effect: &str) -> u64 {
        self.faults.get(effect).copied().unwrap_or(0)
    }

    fn of<'a>(&'a self, service: &'a str, action: &'a str) -> impl Iterator<Item = &'a CallCount> {
        self.calls.iter().filter(move |count| count.service == service && count.action == action)
    }
}

/// All counters.
#[derive(Debug, Default)]
pub(super) struct Counters {
    calls: RwLock<HashMap<String, Arc<Tally>>>,
    faults: RwLock<BTreeMap<&'static str, u64>>,
}

impl Counters {
    pub(super) fn tally(&self, account: &str, service: &str, action: &str) -> Arc<Tally> {
        let key = format!("{account}\n{service}\n{action}");
        if let Some(tally) = self.calls.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(tally);
        }
        let mut calls = self.calls.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(calls.entry(key).or_default())
    }

    pub(super) fn fault(&self, effect: &'static str) {
        *self.faults.write().unwrap_or_else(PoisonError::into_inner).entry(effect).or_default() += 1;
    }

    pub(super) fn report(&self) -> CounterReport {
        let calls = self.calls.read().unwrap_or_else(PoisonError::into_inner);
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut counts: Vec<_> = calls
            .iter()
            .map(|(key, tally)| {
                let mut names = key.split('\n').map(str::to_owned);
                let mut name = || names.next().unwrap_or_default();
                CallCount {
                    account: name(),
                    service: name(),
                    action: name(),
                    calls: get(&tally.calls),
                    throttled: get(&tally.throttled),
                    injected: get(&tally.injected),
                    bytes_in: get(&tally.bytes_in),
                    bytes_out: get(&tally.bytes_out),
                }
            })
            .collect();
        counts.sort_by(|a, b| (&a.account, &a.service, &a.action).cmp(&(&b.account, &b.service, &b.action)));
        let faults = self.faults.read().unwrap_or_else(PoisonError::into_inner);
        CounterReport { calls: counts, faults: faults.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect() }
    }

    pub(super) fn clear(&self) {
        self.calls.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.faults.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
