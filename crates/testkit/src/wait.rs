//! Waiting for a condition, never for a time.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(25);

/// Waits until the condition holds. It is asked at least once.
///
/// # Errors
/// Says what was waited for and how long, when it does not hold within the bound.
pub async fn eventually<C, F>(bound: Duration, what: &str, mut condition: C) -> Result<()>
where
    C: FnMut() -> F,
    F: Future<Output = bool>,
{
    let start = Instant::now();
    loop {
        if condition().await {
            return Ok(());
        }
        if start.elapsed() >= bound {
            bail!("waited {bound:?} in vain: {what}");
        }
        sleep(PAUSE).await;
    }
}
