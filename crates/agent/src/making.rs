//! What is being made in AWS at this moment by the volumes of a task. When one of them fails, the others are not dropped in
//! the middle of a call that AWS may still carry out: the clean-up would find nothing of it, and take it for never made.
//! That is of objects which get their name when they are made, and of shares; what has its name before (objects in S3,
//! attachments) is found by it later, too.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt as _, stream};
use snapferry_transfer::TransferError;
use tokio::sync::watch;

/// Counts the calls under way that make something.
#[derive(Debug)]
pub(crate) struct Making {
    under_way: watch::Sender<usize>,
    is_over: AtomicBool,
}

/// A call under way, until dropped.
#[derive(Debug)]
pub(crate) struct UnderWay<'a>(&'a Making);

impl Default for Making {
    fn default() -> Self {
        Self { under_way: watch::Sender::new(0), is_over: AtomicBool::new(false) }
    }
}

impl Making {
    /// A call that makes something begins; its end is the end of the guard, when what it made is on record.
    ///
    /// # Errors
    /// `Cancelled` once the attempt has failed at another volume.
    pub(crate) fn begin(&self) -> Result<UnderWay<'_>, TransferError> {
        self.under_way.send_modify(|n| *n += 1);
        let under_way = UnderWay(self);
        if self.is_over.load(Ordering::SeqCst) { Err(TransferError::cancelled()) } else { Ok(under_way) }
    }

    /// Runs all, `at_once` at a time, and answers their results in the order given. The first error, of whichever, ends the
    /// rest as soon as nothing is being made any more; from then on nothing is.
    ///
    /// # Errors
    /// The first.
    pub(crate) async fn all<T>(
        &self,
        at_once: usize,
        volumes: impl IntoIterator<Item: Future<Output = Result<T, TransferError>>>,
    ) -> Result<Vec<T>, TransferError> {
        let numbered = volumes.into_iter().enumerate();
        let results = stream::iter(numbered.map(|(n, volume)| async move { (n, volume.await) }));
        let mut results = std::pin::pin!(results.buffer_unordered(at_once));
        let mut done = Vec::new();
        while let Some((n, result)) = results.next().await {
            match result {
                Ok(one) => done.push((n, one)),
                Err(error) => {
                    self.is_over.store(true, Ordering::SeqCst);
                    let mut under_way = self.under_way.subscribe();
                    tokio::select! {
                        () = async { while results.next().await.is_some() {} } => {}
                        _none = under_way.wait_for(|n| *n == 0) => {}
                    }
                    return Err(error);
                }
            }
        }
        done.sort_by_key(|(n, _)| *n);
        Ok(done.into_iter().map(|(_, one)| one).collect())
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|n| *n -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use snapferry_transfer::ErrorClass;
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_makes_something_ends_it_before_the_error_of_another_ends_all() {
        let making = Making::default();
        let (made, begun_late) = (AtomicBool::new(false), AtomicBool::new(false));
        let volume = |n: u64| {
            let (making, made, begun_late) = (&making, &made, &begun_late);
            async move {
                match n {
                    0 => {
                        sleep(Duration::from_secs(1)).await;
                        return Err(TransferError::new(ErrorClass::Invalid, "no such key"));
                    }
                    1 => {
                        let under_way = making.begin()?;
                        sleep(Duration::from_secs(5)).await;
                        made.store(true, Ordering::SeqCst);
                        drop(under_way);
                        // What is not about making is not waited for.
                        sleep(Duration::from_secs(3_600)).await;
                    }
                    _ => {
                        sleep(Duration::from_secs(2)).await;
                        let _under_way = making.begin()?;
                        begun_late.store(true, Ordering::SeqCst);
                    }
                }
                Ok(n)
            }
        };
        let began = Instant::now();
        let error = making.all(3, (0..3).map(volume)).await.unwrap_err();
        assert_eq!(error.message, "no such key");
        assert!(made.load(Ordering::SeqCst), "it was dropped in the middle");
        assert!(!begun_late.load(Ordering::SeqCst), "something was begun after the error");
        assert_eq!(began.elapsed().as_secs(), 5);
        assert_eq!(making.begin().unwrap_err().class, ErrorClass::Cancelled);
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_error_all_results_come_in_their_order() {
        let volumes = [3, 1, 2].map(|n| async move {
            sleep(Duration::from_secs(n)).await;
            Ok(n)
        });
        assert_eq!(Making::default().all(2, volumes).await.unwrap(), [3, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_of_a_later_one_does_not_wait_for_those_before() {
        let volumes = [3_600, 1].map(|n| async move {
            sleep(Duration::from_secs(n)).await;
            if n == 1 { Err(TransferError::new(ErrorClass::Invalid, "no such key")) } else { Ok(()) }
        });
        let began = Instant::now();
        let error = Making::default().all(2, volumes).await.unwrap_err();
        assert_eq!((error.message.as_str(), began.elapsed().as_secs()), ("no such key", 1));
    }
}
