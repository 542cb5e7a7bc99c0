//! Where the library's calls run: on blocking threads, as many as there are permits. The permit is taken before
//! the work and travels with it, so that a caller who goes away does not let another one in early.

use std::sync::Arc;

use snapferry_library::{Error, Library};
use tokio::sync::Semaphore;

/// Calls that may take minutes (sealing, deleting, collecting, scrubbing) have permits of their own, so that they
/// never keep an upload waiting.
const SLOW_CALLS: usize = 4;

/// A call that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PoolError {
    /// The library's answer.
    #[error(transparent)]
    Library(#[from] Error),
    /// The call panicked.
    #[error("the call into the library panicked; see the log, and report it")]
    Panicked,
}

/// The bounded pool around a library.
#[derive(Clone)]
pub(crate) struct Pool {
    library: Arc<Library>,
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
}

impl Pool {
    /// A pool of `workers` quick calls at a time.
    pub(crate) fn new(library: Arc<Library>, workers: u16) -> Self {
        Self {
            library,
            quick: Arc::new(Semaphore::new(usize::from(workers.clamp(1, 256)))),
            slow: Arc::new(Semaphore::new(SLOW_CALLS)),
        }
    }

    /// Runs a call that takes milliseconds.
    pub(crate) async fn quick<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Library) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, PoolError> {
        self.on(&self.quick, call).await
    }

    /// Runs a call that may take minutes.
    pub(crate) async fn slow<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Library) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, PoolError> {
        self.on(&self.slow, call).await
    }

    async fn on<T: Send + 'static>(
        &self,
        permits: &Arc<Semaphore>,
        call: impl FnOnce(&Library) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, PoolError> {
        let permit =
            Arc::clone(permits).acquire_owned().await.expect("the pool's semaphores are never closed");
        let library = Arc::clone(&self.library);
        let work = tokio::task::spawn_blocking(move || {
            let answer = call(&library);
            drop(library);
            drop(permit);
            answer
        });
        work.await.map_err(|_panic| PoolError::Panicked)?.map_err(PoolError::Library)
    }
}
