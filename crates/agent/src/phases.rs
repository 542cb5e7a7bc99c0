//! What an attempt did, and how long each part took: for the job's history.

use std::collections::BTreeMap;
use std::time::Duration;

use snapferry_wire::v1;
use tokio::time::Instant;

/// Phases that are told; later ones count into the last.
const MAX_PHASES: usize = 64;
/// Things awaited at the same time; what comes beyond them is not told.
const MAX_AWAITED: usize = 128;

/// The phases of one attempt, in their order.
#[derive(Debug)]
pub(crate) struct Phases {
    done: Vec<(&'static str, Duration)>,
    now: &'static str,
    since: Instant,
    /// What the phase waits for, and how far that is in percent.
    awaited: BTreeMap<String, u8>,
}

impl Phases {
    /// The first one begins.
    #[must_use]
    pub(crate) fn start() -> Self {
        Self { done: Vec::new(), now: "start", since: Instant::now(), awaited: BTreeMap::new() }
    }

    /// The next one begins; the same one goes on.
    pub(crate) fn enter(&mut self, phase: &'static str) {
        if phase == self.now {
            return;
        }
        if self.done.len() + 1 < MAX_PHASES {
            self.done.push((self.now, self.since.elapsed()));
            self.since = Instant::now();
        }
        self.now = phase;
        self.awaited.clear();
    }

    /// How far something is that the phase waits for.
    pub(crate) fn awaits(&mut self, what: &str, percent: u8) {
        if let Some(known) = self.awaited.get_mut(what) {
            *known = percent;
        } else if self.awaited.len() < MAX_AWAITED {
            self.awaited.insert(what.to_owned(), percent);
        }
    }

    /// How far the slowest of what the phase waits for is; nothing while it waits for nothing.
    #[must_use]
    pub(crate) fn percent(&self) -> Option<u8> {
        self.awaited.values().min().copied()
    }

    /// What is being done now.
    #[must_use]
    pub(crate) const fn name(&self) -> &'static str {
        self.now
    }

    /// All of them, the one that goes on included.
    #[must_use]
    pub(crate) fn told(&self) -> Vec<v1::Phase> {
        let now = (self.now, self.since.elapsed());
        let all = self.done.iter().copied().chain([now]);
        all.map(|(name, took)| v1::Phase {
            name: name.to_owned(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_time_and_their_number_has_a_limit() {
        let mut phases = Phases::start();
        tokio::time::advance(Duration::from_millis(5)).await;
        phases.enter("read");
        tokio::time::advance(Duration::from_millis(7)).await;
        phases.enter("read");
        tokio::time::advance(Duration::from_millis(1)).await;
        let told: Vec<_> = phases.told().into_iter().map(|phase| (phase.name, phase.took_ms)).collect();
        assert_eq!(told, [("start".to_owned(), 5), ("read".to_owned(), 8)]);
        for n in 0..500 {
            phases.enter(if n % 2 == 0 { "a" } else { "b" });
        }
        assert_eq!((phases.told().len(), phases.name()), (MAX_PHASES, "b"));
    }

    #[test]
    fn the_slowest_says_how_far_a_phase_is() {
        let mut phases = Phases::start();
        phases.enter("upload");
        assert_eq!(phases.percent(), None);
        for (what, percent) in [("vol-1", 10), ("vol-2", 0), ("vol-1", 40), ("vol-2", 70)] {
            phases.awaits(what, percent);
        }
        assert_eq!(phases.percent(), Some(40));
        phases.enter("upload");
        assert_eq!(phases.percent(), Some(40), "it goes on");
        phases.enter("import");
        assert_eq!(phases.percent(), None);
    }
}
