//! How many block calls are on their way: as many as reach the pace at the latency of now, and, where something else is
//! the limit (the processor, the network, AWS itself), no more than help. Each call costs memory in the HTTP client, and
//! a block that waits is out of the processor's cache when its turn comes.
//!
//! The search multiplies what is in flight while that pays, then lowers it while that costs nothing, holds, and looks again
//! after some seconds. When calls take their time elsewhere, the rate is in proportion to what is in flight, so that both
//! directions show clearly; when we are the bottleneck it does not change at all. Then it is noise that seems to pay: a
//! start whose fastest call took far less than the others goes down first, and none goes up beyond twice what reaches the
//! pace at the lowest latency that was seen. Where more is granted than AWS's default quotas and as much is reached, a fastest call that
//! took a fraction of the others says that they wait here: then it tries less before more.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Fewest block calls in flight of an account-region.
const FEWEST: f64 = 8.0;
/// Most are as many as reach the pace at this latency. Each has a connection, whose buffers stay while it is idle: 0.7 MiB
/// (measured as the peak of a reader with 8 to 256 in flight).
const LONGEST_LATENCY_S: f64 = 0.2;
/// Before anything was measured: what reaches the pace at this latency, and no more than this.
const FIRST_LATENCY_S: f64 = 0.065;
const MOST_AT_FIRST: f64 = 32.0;
/// At this share of the pace nothing is searched for: what is in flight follows from pace and latency. A measure of 150 ms
/// is off by a few per cent now and then.
const NEAR: f64 = 0.93;
/// In flight beyond what pace and median latency ask for, to ride over slow answers: at least, and at most.
const SLACK: f64 = 1.2;
const MOST_SLACK: f64 = 3.0;
/// A rate is measured over at least this time, and over as many answers as calls were in flight.
const MEASURED: Duration = Duration::from_millis(150);
/// Nobody asked for so long: what was counted before says nothing.
const IDLE: Duration = Duration::from_secs(3);
/// One step up is at most this; less where so much comes already that it is not the latency which limits.
const GROW: f64 = 2.5;
/// More where all calls take about as long, so that it is the latency which limits.
const GROW_FOR_SURE: f64 = 8.0;
const GROW_AT_SPEED: f64 = 1.5;
const SPEED: f64 = 1_000.0;
const SHRINK: f64 = 1.5;
/// Growing has to bring this much, shrinking may cost that much.
const WORTH: f64 = 1.15;
const FREE: f64 = 0.95;
/// In flight beyond what reaches the pace at the lowest latency: calls that are slower, or failed and wait.
const BEYOND_LOWEST: f64 = 2.0;
/// Calls that take their time elsewhere take about the same; a fastest one below this share of the mean has others waiting
/// here.
const ALIKE: f64 = 0.5;
/// Below this share they wait in a crowd: with all processes on two cores it was 0.03 to 0.2. AWS's latencies may spread as
/// much, so that it only says what is tried first, and only of a pace above [`SPEED`]: below, the pace matters more than some
/// MiB.
const CROWDED: f64 = 0.2;
/// A latency so much above the lowest, with hardly more in flight, is the latency of now.
const RISEN: f64 = 2.0;
const HARDLY_MORE: f64 = 1.5;
/// Below this share of the rate that was held, something has changed.
const CHANGED: f64 = 0.8;
const HOLD: Duration = Duration::from_secs(8);

/// The search of one account-region and direction.
#[derive(Debug)]
pub(crate) struct InFlight {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: f64,
    step: Step,
    /// The limit and its rate that the step is compared with.
    before: (f64, f64),
    /// The lowest median latency in seconds, and the limit under which it was.
    lowest: (f64, f64),
    /// The shortest call of this measure, in seconds.
    shortest_s: f64,
    /// Whether a rate above [`SPEED`] was seen, of a pace above it.
    was_fast: bool,
    /// Whether less was tried since more was, in a crowd.
    tried_less: bool,
    since: Instant,
    answers: f64,
    /// Answers to calls that were sent under the former limit.
    settling: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    /// At the pace, or at the very beginning.
    Follow,
    Grow,
    Shrink,
    /// The same at the beginning, when it is not known yet whether growing pays.
    ShrinkFirst,
    Hold {
        until: Instant,
    },
}

impl InFlight {
    /// Before the first call, at a pace of so many a second.
    pub(crate) fn new(pace: f64) -> Self {
        let first = (pace * FIRST_LATENCY_S).clamp(FEWEST, MOST_AT_FIRST);
        let state = State {
            limit: first,
            step: Step::Follow,
            before: (first, 0.0),
            lowest: (f64::INFINITY, first),
            shortest_s: f64::INFINITY,
            was_fast: false,
            tried_less: false,
            since: Instant::now(),
            answers: 0.0,
            // The first answers wait for connections, and say nothing.
            settling: first,
        };
        Self { state: Mutex::new(state) }
    }

    /// The calls to have in flight now.
    pub(crate) fn limit(&self) -> f64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).limit
    }

    /// A call was answered after so many seconds, at a pace of so many a second and a median latency in seconds.
    pub(crate) fn answered(&self, took_s: f64, pace: f64, median_s: f64) {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.settling > 0.0 {
            state.settling -= 1.0;
            state.restart(now);
            return;
        }
        state.answers += 1.0;
        state.shortest_s = state.shortest_s.min(took_s);
        let took = now.duration_since(state.since);
        if took < MEASURED || state.answers < state.limit {
            if took > IDLE {
                state.restart(now);
            }
            return;
        }
        let rate = state.answers / took.as_secs_f64();
        let limit = state.limit;
        state.turn(rate, pace, median_s, now);
        if (state.limit - limit).abs() > f64::EPSILON {
            state.settling = limit;
        }
        state.restart(now);
    }
}

fn most(pace: f64) -> f64 {
    (pace * LONGEST_LATENCY_S).max(FEWEST)
}

impl State {
    fn restart(&mut self, now: Instant) {
        (self.since, self.answers, self.shortest_s) = (now, 0.0, f64::INFINITY);
    }

    fn turn(&mut self, rate: f64, pace: f64, median_s: f64, now: Instant) {
        self.was_fast |= pace.min(rate) > SPEED;
        let (lowest_s, under) = self.lowest;
        let has_risen = median_s > lowest_s * RISEN && self.limit <= under * HARDLY_MORE;
        if median_s < lowest_s || has_risen {
            self.lowest = (median_s, self.limit);
        }
        if rate >= pace * NEAR {
            // Tries that failed and slow answers are beyond the median: what has worked may stay.
            let bound = |slack: f64| (pace * median_s * slack).clamp(FEWEST, most(pace));
            self.limit = self.limit.clamp(bound(SLACK), bound(MOST_SLACK));
            self.step = Step::Follow;
            return;
        }
        let (limit, best) = self.before;
        match self.step {
            Step::Hold { until } if now < until && rate >= best * CHANGED => {}
            Step::Follow if best == 0.0 && !self.are_alike(rate) => {
                self.before = (limit, rate);
                self.shrink(Step::ShrinkFirst, now);
            }
            Step::Follow | Step::Hold { .. } => self.seek(rate, pace, now),
            // Near the pace there is less to be had than that.
            Step::Grow if rate > best * WORTH.min(f64::midpoint(1.0, pace / best)) => {
                if self.is_crowded(rate) {
                    (self.before, self.step) = ((self.limit, rate), Step::Hold { until: now + HOLD });
                } else {
                    self.grow(rate, pace);
                }
            }
            Step::Grow => {
                self.limit = limit;
                self.before = (limit, best.max(rate));
                self.shrink(Step::Shrink, now);
            }
            step @ (Step::Shrink | Step::ShrinkFirst) if rate >= best * FREE => {
                // Less may even be faster: what comes after it has to be as good, not as good as the first was.
                self.before = (self.limit, best.max(rate));
                self.shrink(step, now);
            }
            Step::ShrinkFirst => {
                let is_crowded = self.is_crowded(rate);
                self.limit = limit;
                if is_crowded {
                    self.step = Step::Hold { until: now + HOLD };
                } else {
                    self.grow(best, pace);
                }
            }
            Step::Shrink => {
                self.limit = limit;
                self.step = Step::Hold { until: now + HOLD };
            }
        }
    }

    /// Whether all calls of this measure took about as long. By Little's law their mean is what is in flight over the rate.
    fn are_alike(&self, rate: f64) -> bool {
        self.shortest_s * rate >= self.limit * ALIKE
    }

    fn is_crowded(&self, rate: f64) -> bool {
        self.was_fast && self.shortest_s * rate < self.limit * CROWDED
    }

    /// Up, but in a crowd down first.
    fn seek(&mut self, rate: f64, pace: f64, now: Instant) {
        self.tried_less = self.is_crowded(rate) && !self.tried_less;
        if self.tried_less {
            self.before = (self.limit, rate);
            self.shrink(Step::Shrink, now);
        } else {
            self.grow(rate, pace);
        }
    }

    fn grow(&mut self, rate: f64, pace: f64) {
        self.before = (self.limit, rate);
        let largest = match rate {
            _ if self.are_alike(rate) => GROW_FOR_SURE,
            rate if rate < SPEED => GROW,
            _ => GROW_AT_SPEED,
        };
        // Where it is the latency, this much reaches the pace.
        let reaches = pace / rate * SLACK;
        let useful = (pace * self.lowest.0 * BEYOND_LOWEST).min(most(pace));
        self.limit = (self.limit * reaches.min(largest)).min(useful.max(self.limit));
        self.step = Step::Grow;
    }

    fn shrink(&mut self, step: Step, now: Instant) {
        if self.limit <= FEWEST {
            self.step = Step::Hold { until: now + HOLD };
            return;
        }
        self.limit = (self.limit / SHRINK).max(FEWEST);
        self.step = step;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Calls that take `latency_s` elsewhere and then one after another `work_s` here; answers of `seconds`.
    async fn run(in_flight: &InFlight, pace: f64, latency_s: f64, work_s: f64, seconds: f64) -> f64 {
        let start = Instant::now();
        let (mut ready, mut free_at, mut slot, mut answers) = (VecDeque::new(), 0.0_f64, 0.0_f64, 0.0);
        let mut now = 0.0_f64;
        while now < seconds {
            while (ready.len() as f64) < in_flight.limit() {
                slot = slot.max(now) + 1.0 / pace;
                ready.push_back((slot, slot.max(now) + latency_s));
            }
            let (sent, arrives) = ready.pop_front().unwrap();
            free_at = free_at.max(arrives) + work_s;
            now = now.max(free_at);
            tokio::time::sleep_until(start + Duration::from_secs_f64(now)).await;
            answers += 1.0;
            in_flight.answered(now - sent, pace, now - sent);
        }
        answers / seconds
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_is_reached_at_every_latency() {
        for ms in [1.0, 20.0, 60.0, 100.0, 150.0] {
            let rate = run(&InFlight::new(990.0), 990.0, ms / 1_000.0, 0.000_1, 16.0).await;
            assert!(rate > 965.0, "{ms} ms: {rate}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_beginning_is_no_measure_of_what_follows() {
        // As it was seen at 20 ms: connections are made, caches are cold, and the first answers are unlike each other.
        for first_rate in [300.0, 500.0, 663.0] {
            let in_flight = InFlight::new(990.0);
            let mut state = in_flight.state.lock().unwrap();
            state.shortest_s = 0.022;
            state.turn(first_rate, 990.0, 0.043, Instant::now());
            assert_eq!(state.step, Step::ShrinkFirst);
            // From then on all calls take about as long.
            for _ in 0..12 {
                let rate = (state.limit / 0.0235).min(990.0);
                state.shortest_s = 0.021;
                state.turn(rate, 990.0, 0.0235, Instant::now());
            }
            assert!(state.limit / 0.0235 > 970.0, "{first_rate}: {:?} at {}", state.step, state.limit);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_processor_is_not_given_more_than_helps() {
        let in_flight = InFlight::new(5_000.0);
        let rate = run(&in_flight, 5_000.0, 0.000_2, 0.000_8, 10.0).await;
        assert!(rate > 1_200.0, "{rate}");
        assert!(in_flight.limit() <= 16.0, "{}", in_flight.limit());
        // Nor where the calls take their time first.
        let in_flight = InFlight::new(5_000.0);
        let rate = run(&in_flight, 5_000.0, 0.050, 0.000_8, 10.0).await;
        assert!(rate > 1_100.0, "{rate}");
        assert!(in_flight.limit() <= 130.0, "{}", in_flight.limit());
    }

    /// Measures as they were with all processes on two cores and no latency: the rate goes up and down by itself.
    #[tokio::test(start_paused = true)]
    async fn a_rate_that_goes_up_by_itself_is_no_reason_for_more() {
        let in_flight = InFlight::new(4_950.0);
        let mut state = in_flight.state.lock().unwrap();
        let mut now = Instant::now();
        let measured = [884.0, 1_014.0, 963.0, 1_166.0, 1_294.0, 1_020.0, 905.0, 1_269.0, 1_599.0, 706.0];
        for rate in measured.into_iter().cycle().take(200) {
            state.shortest_s = 0.0015;
            let median_s = state.limit / rate * 0.8;
            state.turn(rate, 4_950.0, median_s, now);
            assert!(state.limit <= 64.0, "{:?} at {}", state.step, state.limit);
            now += MEASURED;
        }
    }

    /// Calls whose latencies are spread as far as AWS's may be, one of ten of a block that is at hand: answers a second in the
    /// last quarter.
    async fn run_spread(pace: f64, seconds: f64) -> f64 {
        let latencies = [0.005, 0.060, 0.085, 0.070, 0.110, 0.075, 0.090, 0.065, 0.140, 0.080];
        let in_flight = InFlight::new(pace);
        let start = Instant::now();
        let (mut slot, mut now, mut n_sent, mut answers) = (0.0_f64, 0.0_f64, 0, 0.0);
        let mut waiting: Vec<(f64, f64)> = Vec::new();
        while now < seconds {
            while (waiting.len() as f64) < in_flight.limit() {
                slot = slot.max(now) + 1.0 / pace;
                waiting.push((slot + latencies[n_sent % latencies.len()], slot));
                n_sent += 1;
            }
            let first = (0..waiting.len()).min_by(|a, b| waiting[*a].0.total_cmp(&waiting[*b].0)).unwrap();
            let (arrives, sent) = waiting.swap_remove(first);
            now = now.max(arrives);
            tokio::time::sleep_until(start + Duration::from_secs_f64(now)).await;
            answers += if now > seconds * 0.75 { 1.0 } else { 0.0 };
            in_flight.answered(now - sent, pace, 0.075);
        }
        answers / (seconds * 0.25)
    }

    #[tokio::test(start_paused = true)]
    async fn latencies_that_are_spread_do_not_keep_a_quota_from_being_reached() {
        let rate = run_spread(990.0, 16.0).await;
        assert!(rate > 960.0, "{rate}");
        let rate = run_spread(4_950.0, 80.0).await;
        assert!(rate > 4_200.0, "{rate}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_quota_beyond_the_default_is_reached_where_it_is_the_latency() {
        for ms in [5.0, 20.0, 40.0] {
            let rate = run(&InFlight::new(4_950.0), 4_950.0, ms / 1_000.0, 0.000_01, 16.0).await;
            assert!(rate > 4_800.0, "{ms} ms: {rate}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_latency_that_rises_is_followed() {
        let in_flight = InFlight::new(990.0);
        run(&in_flight, 990.0, 0.005, 0.000_1, 10.0).await;
        assert!(in_flight.limit() < 24.0, "{}", in_flight.limit());
        run(&in_flight, 990.0, 0.120, 0.000_1, 6.0).await;
        let rate = run(&in_flight, 990.0, 0.120, 0.000_1, 5.0).await;
        assert!(rate > 960.0, "{rate} at {}", in_flight.limit());
    }
}
