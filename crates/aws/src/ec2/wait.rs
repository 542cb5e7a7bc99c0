//! Waiting for a state: polls with growing pauses, ends with the token, and never lasts for ever.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::AwsError;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// What a look found.
pub(super) enum Look<T> {
    /// It is as wanted.
    Done(T),
    /// It is in this state.
    Still(String),
}

/// Looks until it is done, `longest` has passed, or the token says stop.
pub(super) async fn wait_for<T>(
    what: &'static str,
    id: &str,
    longest: Duration,
    mut look: impl AsyncFnMut() -> Result<Look<T>, AwsError>,
    stop: &CancellationToken,
) -> Result<T, AwsError> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        if stop.is_cancelled() {
            return Err(AwsError::Cancelled);
        }
        let state = match look().await {
            Ok(Look::Done(value)) => return Ok(value),
            Ok(Look::Still(state)) => state,
            Err(error @ (AwsError::Throttled { .. } | AwsError::Unavailable { .. })) => error.to_string(),
            Err(error) => return Err(error),
        };
        if started.elapsed() >= longest {
            let seconds = started.elapsed().as_secs();
            return Err(AwsError::TooSlow { what, id: id.to_owned(), state, seconds });
        }
        tokio::select! {
            () = stop.cancelled() => return Err(AwsError::Cancelled),
            () = tokio::time::sleep(pause.mul_f64(rand::random_range(0.75..1.25))) => {}
        }
        pause = pause.mul_f64(1.5).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_by_state_by_token_and_by_time() {
        let stop = CancellationToken::new();
        let mut looks = 0;
        let look = || {
            looks += 1;
            let n = looks;
            async move { Ok(if n < 4 { Look::Still("pending".to_owned()) } else { Look::Done(n) }) }
        };
        assert_eq!(wait_for("volume", "vol-1", Duration::from_secs(60), look, &stop).await.unwrap(), 4);

        let never = || async { Ok::<Look<()>, AwsError>(Look::Still("pending".to_owned())) };
        let slow = wait_for("volume", "vol-1", Duration::from_secs(60), never, &stop).await.unwrap_err();
        assert!(matches!(slow, AwsError::TooSlow { seconds: 60.., .. }), "{slow}");

        stop.cancel();
        let never = || async { Ok::<Look<()>, AwsError>(Look::Still("pending".to_owned())) };
        let cancelled = wait_for("volume", "vol-1", Duration::from_secs(60), never, &stop).await;
        assert_eq!(cancelled.unwrap_err(), AwsError::Cancelled);
    }
}
