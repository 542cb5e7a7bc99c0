//! Waiting for a state: looks with growing pauses between, ends with the token, and never lasts for ever.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::AwsError;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Looks in which a thing just made may be unknown.
const NEWBORN_LOOKS: u32 = 10;

/// A wait between looks.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    what: &'static str,
    id: &'a str,
    longest: Duration,
    started: Instant,
    pause: Duration,
    n_looks: u32,
}

impl<'a> Wait<'a> {
    pub(super) fn new(what: &'static str, id: &'a str, longest: Duration) -> Self {
        Self { what, id, longest, started: Instant::now(), pause: FIRST_PAUSE, n_looks: 0 }
    }

    /// The state of a look that failed for a passing reason; other errors come out.
    pub(super) fn passing(&self, error: AwsError) -> Result<String, AwsError> {
        match error {
            AwsError::Throttled { .. } | AwsError::Unavailable { .. } => Ok(error.to_string()),
            other => Err(other),
        }
    }

    /// [`Wait::passing`] for a thing just made, which AWS may not know everywhere yet.
    pub(super) fn passing_of_newborn(&self, error: AwsError) -> Result<String, AwsError> {
        match error {
            AwsError::NotFound { .. } if self.is_young() => Ok("not known yet".to_owned()),
            other => self.passing(other),
        }
    }

    /// Whether what is seen may be older than the order that is waited for.
    pub(super) const fn is_young(&self) -> bool {
        self.n_looks < NEWBORN_LOOKS
    }

    /// Pauses before the next look.
    ///
    /// # Errors
    /// [`AwsError::TooSlow`] when the time is up, [`AwsError::Cancelled`] by the token.
    pub(super) async fn pause(&mut self, state: String, stop: &CancellationToken) -> Result<(), AwsError> {
        self.n_looks += 1;
        if self.started.elapsed() >= self.longest {
            let seconds = self.started.elapsed().as_secs();
            return Err(AwsError::TooSlow { what: self.what, id: self.id.to_owned(), state, seconds });
        }
        if stop.is_cancelled() {
            return Err(AwsError::Cancelled);
        }
        tokio::select! {
            () = stop.cancelled() => return Err(AwsError::Cancelled),
            () = tokio::time::sleep(self.pause.mul_f64(rand::random_range(0.75..1.25))) => {}
        }
        self.pause = self.pause.mul_f64(1.5).min(LONGEST_PAUSE);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_by_token_and_by_time() {
        let stop = CancellationToken::new();
        let mut wait = Wait::new("volume", "vol-1", Duration::from_secs(60));
        let slow = loop {
            if let Err(error) = wait.pause("creating".to_owned(), &stop).await {
                break error;
            }
        };
        assert!(matches!(slow, AwsError::TooSlow { seconds: 60..80, .. }), "{slow}");
        stop.cancel();
        let mut wait = Wait::new("volume", "vol-1", Duration::from_secs(60));
        assert_eq!(wait.pause("creating".to_owned(), &stop).await, Err(AwsError::Cancelled));
    }

    #[test]
    fn only_passing_errors_are_waited_over() {
        let wait = Wait::new("volume", "vol-1", Duration::from_secs(60));
        let missing = || AwsError::NotFound { what: "volume", id: "vol-1".to_owned() };
        assert!(wait.passing(missing()).is_err());
        assert!(wait.passing_of_newborn(missing()).is_ok());
    }
}
