//! Exponential back-off with full jitter: each wait is drawn evenly from zero to a bound that doubles, so that many
//! clients that failed together do not come back together.

use std::time::Duration;

use rand::RngExt as _;

/// A sequence of waits. It has no end: who uses it decides when to give up.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    /// Waits bounded by `base`, 2 × `base`, 4 × `base`, … and never more than `max`.
    #[must_use]
    pub const fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, attempt: 0 }
    }

    /// The next wait.
    pub fn next_delay(&mut self) -> Duration {
        let bound =
            self.base.saturating_mul(1_u32.checked_shl(self.attempt).unwrap_or(u32::MAX)).min(self.max);
        self.attempt = self.attempt.saturating_add(1).min(31);
        bound.mul_f64(rand::rng().random_range(0.0..=1.0))
    }

    /// Starts over, after a success.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_below_their_bounds() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for attempt in 0..40_u32 {
            let bound = Duration::from_millis(100 << attempt.min(6)).min(Duration::from_secs(5));
            assert!(backoff.next_delay() <= bound);
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
