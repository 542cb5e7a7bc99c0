//! Request rates: token buckets with AWS's figures.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Call;

/// Requests per second and other limits; the defaults are AWS's published ones for the EBS direct APIs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quotas {
    /// Whether rates are enforced at all.
    pub enabled: bool,
    /// GetSnapshotBlock a second for an account in a region.
    pub get_per_account: f64,
    /// GetSnapshotBlock a second for a snapshot.
    pub get_per_snapshot: f64,
    /// PutSnapshotBlock a second for an account in a region.
    pub put_per_account: f64,
    /// PutSnapshotBlock a second for a snapshot.
    pub put_per_snapshot: f64,
    /// ListSnapshotBlocks, and separately ListChangedBlocks, a second for an account in a region.
    pub list_per_account: f64,
    /// StartSnapshot, and separately CompleteSnapshot, a second for an account in a region.
    pub start_complete_per_account: f64,
    /// Snapshots of an account in a region that are started and not completed.
    pub pending_snapshots: usize,
    /// Copies of snapshots that an account may have under way in a destination region.
    pub snapshot_copies: usize,
    /// Volumes, network interfaces and instance store disks of an instance; what its type has when not given.
    pub attachments_per_instance: Option<usize>,
    /// How many seconds' worth of requests may come at once after a pause. AWS publishes no figure.
    pub burst_seconds: f64,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            enabled: true,
            get_per_account: 1000.0,
            get_per_snapshot: 1000.0,
            put_per_account: 1000.0,
            put_per_snapshot: 1000.0,
            list_per_account: 50.0,
            start_complete_per_account: 10.0,
            pending_snapshots: 100,
            snapshot_copies: 20,
            attachments_per_instance: None,
            burst_seconds: 0.1,
        }
    }
}

impl Quotas {
    /// No rates; the limit of pending snapshots stays.
    #[must_use]
    pub fn off() -> Self {
        Self { enabled: false, ..Self::default() }
    }

    /// Rates for the account and, where there is one, for the snapshot.
    fn rates(&self, action: &str) -> Option<(f64, Option<f64>)> {
        match action {
            "GetSnapshotBlock" => Some((self.get_per_account, Some(self.get_per_snapshot))),
            "PutSnapshotBlock" => Some((self.put_per_account, Some(self.put_per_snapshot))),
            "ListSnapshotBlocks" | "ListChangedBlocks" => Some((self.list_per_account, None)),
            "StartSnapshot" | "CompleteSnapshot" => Some((self.start_complete_per_account, None)),
            _ => None,
        }
    }
}

/// Whose limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exceeded {
    Account,
    Snapshot,
}

/// Fewest requests a bucket holds, so that slow rates still let a handful through at once.
const LEAST_BURST: f64 = 5.0;
/// Buckets kept; beyond, those not asked for a while (and so full again) are dropped.
const MOST_BUCKETS: usize = 10_000;
const IDLE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// All buckets, by what they count.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    by_key: HashMap<String, Bucket>,
}

impl Buckets {
    pub(super) fn take(&mut self, quotas: &Quotas, call: &Call<'_>, now: Instant) -> Result<(), Exceeded> {
        if !quotas.enabled || call.service != "ebs" {
            return Ok(());
        }
        let Some((account, snapshot)) = quotas.rates(call.action) else { return Ok(()) };
        let key = format!("{}/{}/{}", call.account, call.region, call.action);
        if !self.one(key, account, quotas.burst_seconds, now) {
            return Err(Exceeded::Account);
        }
        if let (Some(rate), Some(id)) = (snapshot, call.snapshot)
            && !self.one(format!("{}/{}/{id}", call.region, call.action), rate, quotas.burst_seconds, now)
        {
            return Err(Exceeded::Snapshot);
        }
        Ok(())
    }

    fn one(&mut self, key: String, rate: f64, burst_seconds: f64, now: Instant) -> bool {
        let full = (rate * burst_seconds).max(LEAST_BURST);
        if self.by_key.len() > MOST_BUCKETS {
            self.by_key.retain(|_, bucket| now.saturating_duration_since(bucket.at) < IDLE);
        }
        let bucket = self.by_key.entry(key).or_insert(Bucket { tokens: full, at: now });
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + since * rate).min(full);
        bucket.at = now;
        let granted = bucket.tokens >= 1.0;
        if granted {
            bucket.tokens -= 1.0;
        }
        granted
    }

    pub(super) fn clear(&mut self) {
        self.by_key.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(action: &'static str) -> Call<'static> {
        Call { snapshot: Some("snap-1"), ..Call::new("ebs", action, "111122223333", "us-east-1") }
    }

    #[test]
    fn rate_is_kept_over_ten_seconds() {
        let (mut buckets, quotas, start) = (Buckets::default(), Quotas::default(), Instant::now());
        let granted = (0..30_000_u32)
            .filter(|n| {
                let now = start + Duration::from_secs_f64(f64::from(*n) / 3000.0);
                buckets.take(&quotas, &call("GetSnapshotBlock"), now).is_ok()
            })
            .count();
        assert!((10_000..=10_101).contains(&granted), "{granted} of 30000 offered in 10 s were let through");
    }

    #[test]
    fn lower_snapshot_rate_is_named_as_such() {
        let quotas = Quotas { get_per_snapshot: 10.0, ..Quotas::default() };
        let (mut buckets, now) = (Buckets::default(), Instant::now());
        let results: Vec<_> = (0..7).map(|_| buckets.take(&quotas, &call("GetSnapshotBlock"), now)).collect();
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 5);
        assert_eq!(results.last(), Some(&Err(Exceeded::Snapshot)));
    }

    #[test]
    fn lists_have_buckets_of_their_own() {
        let (mut buckets, quotas, now) = (Buckets::default(), Quotas::default(), Instant::now());
        while buckets.take(&quotas, &call("ListSnapshotBlocks"), now).is_ok() {}
        assert_eq!(buckets.take(&quotas, &call("ListChangedBlocks"), now), Ok(()));
    }
}
