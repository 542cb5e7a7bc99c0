//! The simulator's clock: the system's, moved forward on demand so that tests see expiries without waiting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Now, as the simulator sees it.
#[derive(Debug, Default)]
pub struct Clock {
    ahead_millis: AtomicU64,
}

impl Clock {
    /// The time.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        SystemTime::now() + self.ahead()
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn epoch_seconds(&self) -> u64 {
        self.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    /// How far it is ahead of the system's.
    #[must_use]
    pub fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead_millis.load(Ordering::Relaxed))
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        self.ahead_millis.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
