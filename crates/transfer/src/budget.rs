//! Memory is a budget: one byte semaphore per process. Its permit is taken before a block is requested and travels
//! with the block, so what is in flight never exceeds the budget, whatever the number of tasks and their volumes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Unit of the semaphore: permits are counted in KiB, so that tokio's 2^29 permits on 32 bit are no limit.
const UNIT: u64 = 1_024;

/// Bytes that may be in flight in this process.
#[derive(Debug, Clone)]
pub struct ByteBudget {
    semaphore: Arc<Semaphore>,
    total_units: u32,
}

/// A share of the budget; given back on drop.
#[derive(Debug)]
#[must_use = "the bytes count only while the permit lives"]
pub struct BudgetPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

impl BudgetPermit {
    /// A permit that counts for nothing, for blocks that share memory which is counted elsewhere.
    pub fn free() -> Self {
        Self { _permit: None }
    }
}

impl ByteBudget {
    /// A budget of `bytes`, rounded up to KiB.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let total_units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX >> 3);
        Self { semaphore: Arc::new(Semaphore::new(total_units as usize)), total_units }
    }

    /// Waits until `bytes` are free. More than the whole budget is taken as the whole budget, so that a budget
    /// smaller than one block still makes progress.
    pub async fn take(&self, bytes: u64) -> BudgetPermit {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.total_units);
        let permit = Arc::clone(&self.semaphore)
            .acquire_many_owned(units)
            .await
            .expect("the budget's semaphore is never closed");
        BudgetPermit { _permit: Some(permit) }
    }

    /// `bytes` if they are free now, and nobody waits for them.
    #[must_use]
    pub fn try_take(&self, bytes: u64) -> Option<BudgetPermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.total_units);
        let permit = Arc::clone(&self.semaphore).try_acquire_many_owned(units).ok()?;
        Some(BudgetPermit { _permit: Some(permit) })
    }

    /// Bytes of the whole budget.
    #[must_use]
    pub fn total(&self) -> u64 {
        u64::from(self.total_units) * UNIT
    }

    /// Bytes that are free now.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.semaphore.available_permits() as u64 * UNIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_permit_is_given_back_and_an_oversized_one_is_the_whole_budget() {
        let budget = ByteBudget::new(1 << 20);
        let half = budget.take(1 << 19).await;
        assert_eq!(budget.available(), 1 << 19);
        drop(half);
        let all = budget.take(1 << 40).await;
        assert_eq!(budget.available(), 0);
        drop(all);
        assert_eq!(budget.available(), 1 << 20);
    }
}
