//! How long calls take: a running median, and the lowest one of late, from which the calls in flight follow. A
//! median that grew because we ourselves asked for too much at once must not ask for more still.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Assumed until measured.
const FIRST_GUESS_S: f64 = 0.040;
/// Each sample moves the median by this share towards itself.
const STEP: f64 = 0.02;
/// The first samples move it faster.
const FIRST_STEP: f64 = 0.10;
const FIRST_SAMPLES: u32 = 64;
/// The lowest median is remembered for one to two of these.
const WINDOW: Duration = Duration::from_secs(8);
/// In flight are at most as many as this multiple of the lowest median asks for.
const MOST_OVER_LOWEST: f64 = 2.0;

/// Latency of one kind of call.
#[derive(Debug)]
pub(crate) struct Latency {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    median_s: f64,
    samples: u32,
    window_from: Instant,
    lowest_here_s: f64,
    lowest_before_s: f64,
}

impl Latency {
    pub(crate) fn new() -> Self {
        let state = State {
            median_s: FIRST_GUESS_S,
            samples: 0,
            window_from: Instant::now(),
            lowest_here_s: f64::INFINITY,
            lowest_before_s: f64::INFINITY,
        };
        Self { state: Mutex::new(state) }
    }

    pub(crate) fn record(&self, took: Duration) {
        let took = took.as_secs_f64().max(0.000_1);
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.samples = state.samples.saturating_add(1);
        let step = if state.samples <= FIRST_SAMPLES { FIRST_STEP } else { STEP };
        let towards = if took > state.median_s { 1.0 + step } else { 1.0 / (1.0 + step) };
        // Never past the sample itself.
        let moved = state.median_s * towards;
        state.median_s = if took > state.median_s { moved.min(took) } else { moved.max(took) };
        if now.duration_since(state.window_from) >= WINDOW {
            state.lowest_before_s = state.lowest_here_s;
            state.lowest_here_s = f64::INFINITY;
            state.window_from = now;
        }
        if state.samples > FIRST_SAMPLES {
            state.lowest_here_s = state.lowest_here_s.min(state.median_s);
        }
    }

    /// The running median.
    pub(crate) fn median(&self) -> Duration {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_secs_f64(state.median_s)
    }

    /// The latency to size the calls in flight by, seconds.
    pub(crate) fn to_fill_s(&self) -> f64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lowest = state.lowest_here_s.min(state.lowest_before_s);
        state.median_s.min(lowest * MOST_OVER_LOWEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_median_finds_the_latency_and_forgets_outliers() {
        let latency = Latency::new();
        for n in 0..400 {
            let ms = if n % 20 == 0 { 3_000 } else { 150 };
            latency.record(Duration::from_millis(ms));
        }
        let median = latency.median().as_secs_f64();
        assert!((0.140..0.165).contains(&median), "{median}");
    }

    #[tokio::test(start_paused = true)]
    async fn latency_of_our_own_making_does_not_run_away() {
        let latency = Latency::new();
        for _ in 0..200 {
            latency.record(Duration::from_millis(4));
        }
        for _ in 0..400 {
            latency.record(Duration::from_millis(200));
        }
        assert!(latency.to_fill_s() < 0.010, "{}", latency.to_fill_s());
        for _ in 0..3 {
            tokio::time::sleep(WINDOW).await;
            latency.record(Duration::from_millis(200));
        }
        assert!(latency.to_fill_s() > 0.150, "a lasting change is followed: {}", latency.to_fill_s());
    }
}
