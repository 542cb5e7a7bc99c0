//! A pace: slots in time, handed out one after another without bursts, faster or slower as AWS answers.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Time that may be made up for after a pause: ten requests at 1,000 a second, within any bucket of AWS's.
const BURST: Duration = Duration::from_millis(10);
/// A throttle leaves this share of the rate.
const SHRINK: f64 = 0.85;
/// The first one after a quiet time leaves this share: a hiccup on the way may have made a burst of what was sent in time.
const SHRINK_FIRST: f64 = 0.97;
const QUIET: Duration = Duration::from_secs(3);
/// Throttles within this time are one event: they were all sent at the old pace.
const SHRINK_APART: Duration = Duration::from_millis(400);
/// Share of the full rate that comes back in each second without a throttle.
const GROW_PER_SECOND: f64 = 0.02;
/// The rate never falls below this share of the full one.
const FLOOR: f64 = 0.02;

/// A pace of requests per second.
#[derive(Debug)]
pub struct Pace {
    full_per_second: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    per_second: f64,
    next_slot: Instant,
    grown_at: Instant,
    shrunk_at: Option<Instant>,
}

impl Pace {
    /// A pace of at most `full_per_second` requests per second, which must be positive.
    #[must_use]
    pub fn new(full_per_second: f64) -> Self {
        let now = Instant::now();
        let full_per_second = full_per_second.max(0.1);
        let state = State { per_second: full_per_second, next_slot: now, grown_at: now, shrunk_at: None };
        Self { full_per_second, state: Mutex::new(state) }
    }

    /// Waits for the next slot. A caller that goes away while waiting leaves its slot unused.
    pub async fn slot(&self) {
        let at = self.reserve();
        if at > Instant::now() {
            tokio::time::sleep_until(at).await;
        }
    }

    fn reserve(&self) -> Instant {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.grow(now, self.full_per_second);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let slot = state.next_slot.max(earliest);
        state.next_slot = slot + Duration::from_secs_f64(1.0 / state.per_second);
        slot
    }

    /// AWS said "slower".
    pub fn throttled(&self) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.grow(now, self.full_per_second);
        let before = state.shrunk_at.map(|at| now.duration_since(at));
        if before.is_some_and(|before| before < SHRINK_APART) {
            return;
        }
        let shrink = if before.is_some_and(|before| before < QUIET) { SHRINK } else { SHRINK_FIRST };
        state.shrunk_at = Some(now);
        state.per_second = (state.per_second * shrink).max(self.full_per_second * FLOOR);
    }

    /// Requests per second that are let through now.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.grow(Instant::now(), self.full_per_second);
        state.per_second
    }
}

impl State {
    fn grow(&mut self, now: Instant, full: f64) {
        let quiet_since = self.shrunk_at.map_or(self.grown_at, |at| self.grown_at.max(at + SHRINK_APART));
        let quiet = now.saturating_duration_since(quiet_since).as_secs_f64();
        if now > self.grown_at {
            self.grown_at = now;
        }
        self.per_second = (self.per_second + quiet * GROW_PER_SECOND * full).min(full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn slots_in(pace: &Pace, seconds: u64) -> Vec<Instant> {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut taken = Vec::new();
        loop {
            pace.slot().await;
            if Instant::now() >= end {
                return taken;
            }
            taken.push(Instant::now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_and_nothing_bursts() {
        let pace = Pace::new(1_000.0);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let taken = slots_in(&pace, 5).await;
        assert!((4_950..=5_020).contains(&taken.len()), "{}", taken.len());
        for window in taken.windows(60) {
            let span = window[59] - window[0];
            assert!(span >= Duration::from_millis(47), "60 requests within {span:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wave_of_throttles_shrinks_once_and_quiet_time_restores() {
        let pace = Pace::new(1_000.0);
        for _ in 0..100 {
            pace.throttled();
        }
        assert!((pace.per_second() - 970.0).abs() < 1.0, "{}", pace.per_second());
        // It was no hiccup.
        tokio::time::sleep(Duration::from_secs(1)).await;
        pace.throttled();
        assert!(pace.per_second() < 840.0, "{}", pace.per_second());
        tokio::time::sleep(Duration::from_secs(1)).await;
        pace.throttled();
        assert!(pace.per_second() < 730.0, "{}", pace.per_second());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!((pace.per_second() - 1_000.0).abs() < 0.01);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_has_a_floor() {
        let pace = Pace::new(1_000.0);
        for _ in 0..200 {
            pace.throttled();
            tokio::time::sleep(SHRINK_APART).await;
        }
        assert!(pace.per_second() >= 20.0);
    }
}
