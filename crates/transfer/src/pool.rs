//! Where hashing, compression and encryption run: a fixed number of jobs at once on the runtime's blocking threads,
//! shared by all the volumes of a process. The caller owns each job it starts: it awaits it and sees its panic; a
//! job whose caller went away ends by itself within one block's work.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, oneshot};

use crate::error::{ErrorClass, TransferError};
use crate::scratch::Scratch;

/// A bounded pool of CPU workers; clones share it.
#[derive(Clone)]
pub struct WorkPool {
    slots: Arc<Semaphore>,
    scratches: Arc<Mutex<Vec<Scratch>>>,
    n_workers: usize,
}

impl std::fmt::Debug for WorkPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkPool").field("n_workers", &self.n_workers).finish_non_exhaustive()
    }
}

impl WorkPool {
    /// A pool of `n_workers` (at least one).
    #[must_use]
    pub fn new(n_workers: usize) -> Self {
        let n_workers = n_workers.max(1);
        Self {
            slots: Arc::new(Semaphore::new(n_workers)),
            scratches: Arc::new(Mutex::new(Vec::with_capacity(n_workers))),
            n_workers,
        }
    }

    /// A pool of as many workers as the machine has CPUs for this process.
    #[must_use]
    pub fn of_all_cpus() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }

    /// Jobs that run at once.
    #[must_use]
    pub const fn n_workers(&self) -> usize {
        self.n_workers
    }

    /// Waits for a worker and runs `work` on it.
    ///
    /// # Errors
    /// `work` panicked, the runtime ends, or zstd has no memory.
    pub async fn run<T, F>(&self, work: F) -> Result<T, TransferError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Scratch) -> T + Send + 'static,
    {
        let slot = Arc::clone(&self.slots)
            .acquire_owned()
            .await
            .map_err(|_| internal("the work pool is closed".to_owned()))?;
        let scratches = Arc::clone(&self.scratches);
        // The result goes by a channel, so that one that nobody waits for is dropped before the worker is free.
        let (done_in, done) = oneshot::channel();
        let job = tokio::task::spawn_blocking(move || {
            let kept = lock(&scratches).pop();
            let result = kept.map_or_else(Scratch::new, Ok).map(|mut scratch| {
                let result = work(&mut scratch);
                lock(&scratches).push(scratch);
                result
            });
            let _ = done_in.send(result);
            drop(slot);
        });
        match done.await {
            Ok(result) => result.map_err(|cause| internal(format!("preparing zstd: {cause}"))),
            Err(_) => {
                let cause =
                    job.await.err().map_or_else(|| "it gave no result".to_owned(), |died| died.to_string());
                Err(internal(format!("a worker died: {cause}")))
            }
        }
    }

    /// Waits until no job runs.
    pub async fn idle(&self) {
        let all = u32::try_from(self.n_workers).unwrap_or(u32::MAX);
        let _all = self.slots.acquire_many(all).await;
    }
}

fn lock(scratches: &Mutex<Vec<Scratch>>) -> std::sync::MutexGuard<'_, Vec<Scratch>> {
    scratches.lock().unwrap_or_else(PoisonError::into_inner)
}

fn internal(message: String) -> TransferError {
    TransferError::new(ErrorClass::Internal, message)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn no_more_jobs_run_than_workers_and_a_panic_is_the_callers_error() {
        let pool = WorkPool::new(2);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let jobs = (0..20).map(|n| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            pool.run(move |_| {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
                n
            })
        });
        let results = futures::future::try_join_all(jobs).await.unwrap();
        assert_eq!(results, (0..20).collect::<Vec<_>>());
        assert!(most.load(Ordering::SeqCst) <= 2);

        let died = pool.run(|_| -> u8 { panic!("on purpose") }).await.unwrap_err();
        assert_eq!(died.class, ErrorClass::Internal);
        pool.idle().await;
        assert_eq!(pool.run(|_| 7).await.unwrap(), 7, "the worker is there again");
    }
}
