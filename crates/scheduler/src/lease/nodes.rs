//! Which process of an access node is alive: two living processes under one id would take each other's work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use snapferry_types::{AccessNodeId, IncarnationId};

use crate::clock::Clock;

/// Living processes by access node.
#[derive(Debug)]
pub struct Nodes {
    clock: Arc<dyn Clock>,
    timeout: Duration,
    living: Mutex<HashMap<AccessNodeId, (IncarnationId, Duration)>>,
}

impl Nodes {
    /// Nodes that count as there for `timeout` after a hello. Those that were known before this process started may
    /// still be there, so they count from now.
    pub fn new(
        clock: Arc<dyn Clock>,
        timeout: Duration,
        known: impl IntoIterator<Item = (AccessNodeId, IncarnationId)>,
    ) -> Self {
        let now = clock.mono();
        let living = known.into_iter().map(|(node, incarnation)| (node, (incarnation, now))).collect();
        Self { clock, timeout, living: Mutex::new(living) }
    }

    /// For how long a node counts as there.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How long after a hello the next one is due, in milliseconds: two may be lost before a node counts as gone. What is
    /// asked of a node comes with the reply, so it is never long.
    #[must_use]
    pub fn next_hello_ms(&self) -> u64 {
        u64::try_from(self.timeout.as_millis() / 3).unwrap_or(u64::MAX).min(20_000)
    }

    /// A process says hello. False when another one under the same id is alive.
    #[must_use]
    pub fn hello(&self, node: AccessNodeId, incarnation: IncarnationId) -> bool {
        let now = self.clock.mono();
        let mut living = self.lock();
        match living.get(&node) {
            Some((other, seen)) if *other != incarnation && now < *seen + self.timeout => false,
            _ => {
                living.insert(node, (incarnation, now));
                true
            }
        }
    }

    /// A process says farewell; the next one under its id is welcome at once.
    pub fn farewell(&self, node: AccessNodeId, incarnation: IncarnationId) {
        let mut living = self.lock();
        if living.get(&node).is_some_and(|(known, _)| *known == incarnation) {
            living.remove(&node);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AccessNodeId, (IncarnationId, Duration)>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn a_second_living_process_is_refused_until_the_first_is_gone() {
        let clock = Arc::new(ManualClock::new());
        let node = AccessNodeId::generate();
        let (first, second) = (IncarnationId::generate(), IncarnationId::generate());
        let nodes = Nodes::new(clock.clone(), Duration::from_secs(60), [(node, first)]);
        assert!(!nodes.hello(node, second), "the first was known before the start and may live");
        assert!(nodes.hello(node, first));
        clock.advance(Duration::from_secs(59));
        assert!(!nodes.hello(node, second));
        clock.advance(Duration::from_secs(2));
        assert!(nodes.hello(node, second));
        assert!(!nodes.hello(node, first));
        nodes.farewell(node, second);
        assert!(nodes.hello(node, first));
    }
}
