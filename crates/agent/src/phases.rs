//! What an attempt did, and how long each part took: for the job's history.

use std::collections::BTreeMap;
use std::time::Duration;

use snapferry_wire::v1;
use tokio::time::Instant;

/// Phases that are told; later ones count into the last.
const MAX_PHASES: usize = 64;

/// The phases of one attempt, in their order.
#[derive(Debug)]
pub(crate) struct Phases {
    done: Vec<(&'static str, Duration)>,
    now: &'static str,
    since: Instant,
    /// What is waited for: since which phase, and how far it is in percent.
    awaited: BTreeMap<u64, (&'static str, u8)>,
    n_awaited: u64,
}

impl Phases {
    /// The first one begins.
    #[must_use]
    pub(crate) fn start() -> Self {
        Self { done: Vec::new(), now: "start", since: Instant::now(), awaited: BTreeMap::new(), n_awaited: 0 }
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
    }

    /// Something begins that the phase waits for; answers the number to tell it by.
    pub(crate) fn await_one(&mut self) -> u64 {
        self.n_awaited += 1;
        self.awaited.insert(self.n_awaited, (self.now, 0));
        self.n_awaited
    }

    /// How far that is, in percent.
    pub(crate) fn is_at(&mut self, awaited: u64, percent: u8) {
        if let Some((_, at)) = self.awaited.get_mut(&awaited) {
            *at = percent;
        }
    }

    /// It is over.
    pub(crate) fn ended(&mut self, awaited: u64) {
        self.awaited.remove(&awaited);
    }

    /// How far the slowest of what this phase waits for is; nothing while it waits for nothing.
    #[must_use]
    pub(crate) fn percent(&self) -> Option<u8> {
        let of_now = self.awaited.values().filter(|(phase, _)| *phase == self.now);
        of_now.map(|(_, percent)| *percent).min()
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
        let (one, other) = (phases.await_one(), phases.await_one());
        phases.is_at(one, 40);
        assert_eq!(phases.percent(), Some(0));
        phases.is_at(other, 70);
        assert_eq!(phases.percent(), Some(40));
        phases.ended(one);
        assert_eq!(phases.percent(), Some(70));
        // Another volume is in the next phase already: only what that waits for counts.
        phases.enter("import");
        assert_eq!(phases.percent(), None);
        let imported = phases.await_one();
        assert_eq!(phases.percent(), Some(0));
        phases.is_at(imported, 90);
        phases.enter("upload");
        assert_eq!(phases.percent(), Some(70));
        phases.ended(other);
        assert_eq!(phases.percent(), None);
    }
}
