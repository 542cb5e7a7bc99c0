//! A decorator that makes a backend fail at a chosen operation, for tests of what a crash or a full disk leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::{Backend, BackendError, ObjectName, ObjectWriter};

/// When and how a [`FaultBackend`] fails. Shared by the backend and its writers.
#[derive(Debug, Default)]
pub struct FaultPlan {
    /// Changing operations until the first failure; below zero: never.
    left: AtomicI64,
    /// Operations that failed.
    failed: AtomicU64,
    /// Whether a failure reads as a full disk (1) or as a dead one (0).
    full: AtomicI64,
}

impl FaultPlan {
    /// Never fails until told to.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let plan = Self::default();
        plan.left.store(-1, Ordering::SeqCst);
        Arc::new(plan)
    }

    /// Lets `n` more changing operations (create, write, finish, delete) work; all after them fail, as after a
    /// crash.
    pub fn fail_after(&self, n: u32) {
        self.full.store(0, Ordering::SeqCst);
        self.left.store(i64::from(n), Ordering::SeqCst);
    }

    /// As [`FaultPlan::fail_after`], with "no space left".
    pub fn fill_after(&self, n: u32) {
        self.full.store(1, Ordering::SeqCst);
        self.left.store(i64::from(n), Ordering::SeqCst);
    }

    /// Works again.
    pub fn heal(&self) {
        self.left.store(-1, Ordering::SeqCst);
    }

    /// How many operations were made to fail: a test checks that its fault did happen.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::SeqCst)
    }

    fn step(&self, action: &'static str, name: &ObjectName) -> Result<(), BackendError> {
        let taken = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
            0 => None,
            left if left < 0 => Some(left),
            left => Some(left - 1),
        });
        if taken.is_ok() {
            return Ok(());
        }
        self.failed.fetch_add(1, Ordering::SeqCst);
        if self.full.load(Ordering::SeqCst) == 1 {
            return Err(BackendError::NoSpace { action, name: name.to_string() });
        }
        Err(BackendError::Other {
            action,
            name: name.to_string(),
            retryable: true,
            source: Box::new(std::io::Error::other("injected fault")),
        })
    }
}

/// A backend that fails by plan.
#[derive(Debug)]
pub struct FaultBackend {
    inner: Arc<dyn Backend>,
    plan: Arc<FaultPlan>,
}

impl FaultBackend {
    /// Decorates `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>, plan: Arc<FaultPlan>) -> Self {
        Self { inner, plan }
    }
}

impl Backend for FaultBackend {
    fn create(&self, name: &ObjectName) -> Result<Box<dyn ObjectWriter>, BackendError> {
        self.plan.step("create", name)?;
        let inner = self.inner.create(name)?;
        Ok(Box::new(FaultWriter { inner, name: name.clone(), plan: Arc::clone(&self.plan) }))
    }

    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, BackendError> {
        self.inner.read_range(name, offset, len)
    }

    fn size(&self, name: &ObjectName) -> Result<u64, BackendError> {
        self.inner.size(name)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(ObjectName, u64) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        self.inner.list(prefix, visit)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), BackendError> {
        self.plan.step("delete", name)?;
        self.inner.delete(name)
    }

    fn remove_unfinished(&self) -> Result<u64, BackendError> {
        self.inner.remove_unfinished()
    }

    fn free_bytes(&self) -> Result<Option<u64>, BackendError> {
        self.inner.free_bytes()
    }
}

struct FaultWriter {
    inner: Box<dyn ObjectWriter>,
    name: ObjectName,
    plan: Arc<FaultPlan>,
}

impl ObjectWriter for FaultWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        self.plan.step("write", &self.name)?;
        self.inner.write(bytes)
    }

    fn finish(self: Box<Self>) -> Result<(), BackendError> {
        self.plan.step("finish", &self.name)?;
        self.inner.finish()
    }
}
