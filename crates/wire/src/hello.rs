//! When a node or a MediaAgent says hello again.

use std::time::Duration;

/// What a reply without a word about it means, as schedulers before it was said gave.
const USUAL: Duration = Duration::from_secs(20);

/// Whatever a reply says, a scheduler is not asked more often.
const LEAST: Duration = Duration::from_millis(100);

/// The wait that a reply's `next_hello_ms` asks for.
#[must_use]
pub fn next_hello(next_hello_ms: u64) -> Duration {
    match next_hello_ms {
        0 => USUAL,
        ms => Duration::from_millis(ms).clamp(LEAST, Duration::from_secs(3_600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_says_when_within_limits() {
        assert_eq!(next_hello(0), Duration::from_secs(20));
        assert_eq!(next_hello(5_000), Duration::from_secs(5));
        assert_eq!(next_hello(1), Duration::from_millis(100));
        assert_eq!(next_hello(u64::MAX), Duration::from_secs(3_600));
    }
}
