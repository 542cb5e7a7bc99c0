//! Counts what was really sent to AWS, for the figures of a job: each transmission by the name of its call, with
//! throttles and retries beside. It never changes a request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextRef;
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::retries::RequestAttempts;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;

/// Names kept at most; AWS has fewer that we use.
const MAX_NAMES: usize = 128;

/// A shared counter; clones count together.
#[derive(Debug, Clone, Default)]
pub struct CallCounter {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    calls: RwLock<BTreeMap<String, AtomicU64>>,
    throttles: AtomicU64,
    retries: AtomicU64,
}

/// The counts at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallFigures {
    /// Transmissions by call name, such as `GetSnapshotBlock`.
    pub calls: BTreeMap<String, u64>,
    /// Answers that said "slower".
    pub throttles: u64,
    /// Transmissions that repeated an earlier one.
    pub retries: u64,
}

impl CallFigures {
    /// All transmissions.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.calls.values().sum()
    }
}

impl CallCounter {
    /// The counts so far.
    #[must_use]
    pub fn figures(&self) -> CallFigures {
        let calls = self.inner.calls.read().unwrap_or_else(PoisonError::into_inner);
        CallFigures {
            calls: calls.iter().map(|(name, n)| (name.clone(), n.load(Ordering::Relaxed))).collect(),
            throttles: self.inner.throttles.load(Ordering::Relaxed),
            retries: self.inner.retries.load(Ordering::Relaxed),
        }
    }

    /// Transmissions of one call so far.
    #[must_use]
    pub fn calls_of(&self, name: &str) -> u64 {
        let calls = self.inner.calls.read().unwrap_or_else(PoisonError::into_inner);
        calls.get(name).map_or(0, |n| n.load(Ordering::Relaxed))
    }

    pub(crate) fn count_call(&self, name: &str) {
        {
            let calls = self.inner.calls.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(n) = calls.get(name) {
                n.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        let mut calls = self.inner.calls.write().unwrap_or_else(PoisonError::into_inner);
        if calls.len() < MAX_NAMES || calls.contains_key(name) {
            calls.entry(name.to_owned()).or_default().fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_throttle(&self) {
        self.inner.throttles.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_retry(&self) {
        self.inner.retries.fetch_add(1, Ordering::Relaxed);
    }
}

impl Intercept for CallCounter {
    fn name(&self) -> &'static str {
        "CallCounter"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(metadata) = config.load::<Metadata>() {
            self.count_call(metadata.name());
        }
        if config.load::<RequestAttempts>().is_some_and(|n| n.attempts() > 1) {
            self.count_retry();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_count_together() {
        let counter = CallCounter::default();
        counter.clone().count_call("GetSnapshotBlock");
        counter.count_call("GetSnapshotBlock");
        counter.count_throttle();
        let figures = counter.figures();
        assert_eq!(figures.calls.get("GetSnapshotBlock"), Some(&2));
        assert_eq!((figures.total(), figures.throttles, figures.retries), (2, 1, 0));
    }
}
