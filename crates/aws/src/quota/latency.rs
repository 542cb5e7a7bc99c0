//! How long calls take: a running median, from which deadlines and the calls in flight follow.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Assumed until measured.
const FIRST_GUESS_S: f64 = 0.040;
/// Each sample moves the median by this share towards itself.
const STEP: f64 = 0.02;
/// The first samples move it faster.
const FIRST_STEP: f64 = 0.10;
const FIRST_SAMPLES: u32 = 64;

/// Latency of one kind of call.
#[derive(Debug)]
pub(crate) struct Latency {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    median_s: f64,
    samples: u32,
}

impl Latency {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(State { median_s: FIRST_GUESS_S, samples: 0 }) }
    }

    pub(crate) fn record(&self, took: Duration) {
        let took = took.as_secs_f64().max(0.000_1);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.samples = state.samples.saturating_add(1);
        let step = if state.samples <= FIRST_SAMPLES { FIRST_STEP } else { STEP };
        let towards = if took > state.median_s { 1.0 + step } else { 1.0 / (1.0 + step) };
        // Never past the sample itself.
        let moved = state.median_s * towards;
        state.median_s = if took > state.median_s { moved.min(took) } else { moved.max(took) };
    }

    /// The running median.
    pub(crate) fn median(&self) -> Duration {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_secs_f64(state.median_s)
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
}
