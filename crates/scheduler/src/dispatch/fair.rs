//! Who is next, as a pure function: the highest band first, where waiting lifts a task by a band each ageing period
//! up to the highest; within a band the tenant with the fewest tasks under way for its weight; then the oldest.
//!
//! Nobody waits for ever: after two ageing periods a task is in the highest band, and there the shares are fair, so a
//! tenant with 100,000 tasks does not delay one with ten by more than its share.

use std::collections::HashMap;

use snapferry_types::HypervisorId;

use crate::store::WaitingGroup;

const HIGHEST_BAND: i64 = 2;

/// Shares under way.
#[derive(Debug, Clone, Default)]
pub struct Shares {
    under_way: HashMap<HypervisorId, u64>,
    weights: HashMap<HypervisorId, u32>,
}

impl Shares {
    /// Tasks offered or leased, and weights of tenants that have more than one share.
    #[must_use]
    pub fn new(
        under_way: impl IntoIterator<Item = (HypervisorId, u64)>,
        weights: HashMap<HypervisorId, u32>,
    ) -> Self {
        Self { under_way: under_way.into_iter().collect(), weights }
    }

    /// One more of a tenant.
    pub fn add(&mut self, hypervisor: HypervisorId) {
        *self.under_way.entry(hypervisor).or_default() += 1;
    }

    /// Tasks under way for a weight of one, in thousandths.
    fn load(&self, hypervisor: HypervisorId) -> u64 {
        let weight = u64::from(self.weights.get(&hypervisor).copied().unwrap_or(1).max(1));
        self.under_way.get(&hypervisor).copied().unwrap_or(0).saturating_mul(1_000) / weight
    }
}

/// The group whose oldest task is next; `None` when none waits.
#[must_use]
pub fn next(groups: &[WaitingGroup], shares: &Shares, now_ms: i64, ageing_ms: i64) -> Option<usize> {
    let rank = |group: &WaitingGroup| {
        let waited = now_ms.saturating_sub(group.oldest_ms).max(0);
        let band = (group.priority + waited / ageing_ms.max(1)).min(HIGHEST_BAND);
        (std::cmp::Reverse(band), shares.load(group.hypervisor), group.oldest_ms)
    };
    groups
        .iter()
        .enumerate()
        .filter(|(_, group)| group.n_waiting > 0)
        .min_by_key(|(_, group)| rank(group))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(hypervisor: u128, priority: i64, oldest_ms: i64, n_waiting: u64) -> WaitingGroup {
        WaitingGroup {
            hypervisor: HypervisorId::from_u128(hypervisor),
            region: "eu-central-1".to_owned(),
            priority,
            oldest_ms,
            n_waiting,
        }
    }

    #[test]
    fn a_small_tenant_is_not_behind_a_large_one() {
        let mut groups = [group(1, 1, 0, 100_000), group(2, 1, 50, 10)];
        let mut shares = Shares::default();
        let mut rounds = 0;
        while groups[1].n_waiting > 0 {
            let index = next(&groups, &shares, 100, 600_000).unwrap();
            groups[index].n_waiting -= 1;
            shares.add(groups[index].hypervisor);
            rounds += 1;
        }
        assert!(rounds <= 20, "{rounds} rounds for ten tasks");
    }

    #[test]
    fn weights_share_the_slots() {
        let mut groups = [group(1, 1, 0, 300), group(2, 1, 0, 300)];
        let weights = HashMap::from([(HypervisorId::from_u128(1), 3)]);
        let mut shares = Shares::new([], weights);
        for _ in 0..100 {
            let index = next(&groups, &shares, 0, 600_000).unwrap();
            groups[index].n_waiting -= 1;
            shares.add(groups[index].hypervisor);
        }
        assert_eq!((300 - groups[0].n_waiting, 300 - groups[1].n_waiting), (75, 25));
    }

    #[test]
    fn endless_high_priority_does_not_starve_low() {
        // One slot, refilled for ever by new high-priority work of the same tenant.
        let ageing_ms = 1_000;
        let mut now_ms = 0;
        loop {
            let groups = [group(1, 2, now_ms, 5), group(1, 0, 0, 1)];
            if next(&groups, &Shares::default(), now_ms, ageing_ms) == Some(1) {
                break;
            }
            now_ms += 100;
            assert!(now_ms <= 2 * ageing_ms + 100, "still waiting after {now_ms} ms");
        }
        assert!(now_ms >= 2 * ageing_ms, "low priority came too early, after {now_ms} ms");
    }
}
