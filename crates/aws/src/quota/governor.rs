//! The registry of paces of a process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use snapferry_types::{AccountId, Region, SnapshotId};

use crate::error::ThrottleScope;
use crate::quota::Direction;
use crate::quota::in_flight::InFlight;
use crate::quota::latency::Latency;
use crate::quota::pace::Pace;

/// Requests per second to stay at. AWS's defaults (2026-08): 1,000 Get and 1,000 Put per account-region and per
/// snapshot, 50 of each listing, 10 of StartSnapshot and CompleteSnapshot each. The defaults here are just below.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuotaSettings {
    /// GetSnapshotBlock, for each account-region and for each snapshot.
    pub get_per_second: f64,
    /// PutSnapshotBlock, for each account-region and for each snapshot.
    pub put_per_second: f64,
    /// ListSnapshotBlocks and ListChangedBlocks together, for each account-region.
    pub list_per_second: f64,
    /// StartSnapshot and CompleteSnapshot together, for each account-region.
    pub start_per_second: f64,
}

impl Default for QuotaSettings {
    fn default() -> Self {
        Self { get_per_second: 990.0, put_per_second: 990.0, list_per_second: 45.0, start_per_second: 9.0 }
    }
}

impl QuotaSettings {
    fn of(&self, direction: Direction) -> f64 {
        match direction {
            Direction::Get => self.get_per_second,
            Direction::Put => self.put_per_second,
            Direction::List => self.list_per_second,
            Direction::Start => self.start_per_second,
        }
    }
}

type AccountKey = (AccountId, Region, Direction);
type SnapshotKey = (SnapshotId, Direction);

/// Paces of all accounts and snapshots that this process works on.
#[derive(Debug)]
pub struct Governor {
    settings: QuotaSettings,
    accounts: Mutex<BTreeMap<AccountKey, Weak<AccountPace>>>,
    snapshots: Mutex<BTreeMap<SnapshotKey, Weak<Pace>>>,
}

#[derive(Debug)]
pub(crate) struct AccountPace {
    pace: Pace,
    latency: Latency,
    in_flight: InFlight,
}

impl Governor {
    /// A governor without any pace yet.
    #[must_use]
    pub fn new(settings: QuotaSettings) -> Self {
        Self { settings, accounts: Mutex::default(), snapshots: Mutex::default() }
    }

    /// The rates that it begins with, and does not go beyond.
    #[must_use]
    pub const fn settings(&self) -> &QuotaSettings {
        &self.settings
    }

    /// Requests per second that are let through now for an account; `None` when nobody works on it.
    #[must_use]
    pub fn account_rate(&self, account: &AccountId, region: &Region, direction: Direction) -> Option<f64> {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let held = accounts.get(&(account.clone(), region.clone(), direction))?.upgrade()?;
        Some(held.pace.per_second())
    }

    pub(crate) fn account(
        &self,
        account: &AccountId,
        region: &Region,
        direction: Direction,
    ) -> Arc<AccountPace> {
        let full = self.settings.of(direction);
        let make =
            || AccountPace { pace: Pace::new(full), latency: Latency::new(), in_flight: InFlight::new(full) };
        shared(&self.accounts, (account.clone(), region.clone(), direction), make)
    }

    /// What a reader or writer of one snapshot goes by.
    pub(crate) fn block_pace(
        &self,
        account: &AccountId,
        region: &Region,
        snapshot: &SnapshotId,
        direction: Direction,
    ) -> BlockPace {
        let make = || Pace::new(self.settings.of(direction));
        BlockPace {
            account: self.account(account, region, direction),
            snapshot: shared(&self.snapshots, (snapshot.clone(), direction), make),
        }
    }
}

/// The shared value of a key; entries that nobody holds any more go.
fn shared<K: Ord, V>(map: &Mutex<BTreeMap<K, Weak<V>>>, key: K, make: impl FnOnce() -> V) -> Arc<V> {
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(held) = map.get(&key).and_then(Weak::upgrade) {
        return held;
    }
    map.retain(|_, held| held.strong_count() > 0);
    let fresh = Arc::new(make());
    map.insert(key, Arc::downgrade(&fresh));
    fresh
}

impl AccountPace {
    pub(crate) async fn slot(&self) {
        self.pace.slot().await;
    }

    pub(crate) fn throttled(&self) {
        self.pace.throttled();
    }
}

/// The two paces and the latency that block calls of one snapshot go by.
#[derive(Debug, Clone)]
pub(crate) struct BlockPace {
    account: Arc<AccountPace>,
    snapshot: Arc<Pace>,
}

impl BlockPace {
    /// Waits until both paces have a slot.
    pub(crate) async fn slot(&self) {
        self.snapshot.slot().await;
        self.account.slot().await;
    }

    pub(crate) fn throttled(&self, scope: ThrottleScope) {
        match scope {
            ThrottleScope::Account => self.account.throttled(),
            ThrottleScope::Resource => self.snapshot.throttled(),
        }
    }

    pub(crate) fn answered(&self, took: Duration) {
        self.account.latency.record(took);
        let median_s = self.median_latency().as_secs_f64();
        self.account.in_flight.answered(took.as_secs_f64(), self.rate(), median_s);
    }

    pub(crate) fn median_latency(&self) -> Duration {
        self.account.latency.median()
    }

    /// Calls per second that are let through now.
    fn rate(&self) -> f64 {
        self.snapshot.per_second().min(self.account.pace.per_second())
    }

    /// Calls in flight that this snapshot is to have, as its share of the account's.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    pub(crate) fn wanted_in_flight(&self) -> usize {
        let users = Arc::strong_count(&self.account).max(1) as f64;
        (self.account.in_flight.limit() / users).ceil() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(governor: &Governor, snapshot: &str) -> BlockPace {
        let account = "111122223333".parse().unwrap();
        let region = "eu-central-1".parse().unwrap();
        governor.block_pace(&account, &region, &snapshot.parse().unwrap(), Direction::Get)
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshots_throttle_leaves_the_account_alone() {
        let governor = Governor::new(QuotaSettings::default());
        let (one, two) = (pace(&governor, "snap-1"), pace(&governor, "snap-2"));
        one.throttled(ThrottleScope::Resource);
        assert!(one.snapshot.per_second() < 970.0);
        assert!(two.snapshot.per_second() > 980.0);
        assert!(two.account.pace.per_second() > 980.0);
        two.throttled(ThrottleScope::Account);
        assert!(one.account.pace.per_second() < 970.0, "both share the account's pace");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_uses_is_forgotten() {
        let governor = Governor::new(QuotaSettings::default());
        for n in 0..100 {
            drop(pace(&governor, &format!("snap-{n:x}")));
        }
        assert_eq!(governor.snapshots.lock().unwrap().len(), 1);
    }
}
