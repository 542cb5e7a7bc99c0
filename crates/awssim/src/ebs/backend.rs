//! What the EBS direct APIs need from the rest of the simulator.

use std::time::SystemTime;

use super::start::{Start, Started};
use crate::faults::{Faults, Refusal};
use crate::store::BlockStore;

/// A snapshot as the world has it.
#[derive(Clone, Debug)]
pub struct EbsSnapshot {
    /// Size of its volume in GiB.
    pub volume_size_gib: u64,
    /// How far it is.
    pub state: SnapshotState,
    /// When it was taken or started.
    pub start_time: SystemTime,
}

/// A snapshot's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// Being made.
    Pending,
    /// Can be read.
    Completed,
    /// Failed.
    Error,
}

/// The simulator as the EBS direct APIs see it: permissions and states from the world, blocks from the store.
pub trait Backend: Send + Sync {
    /// Who makes a request.
    type Caller: Send + Sync;

    /// The blocks.
    fn store(&self) -> &BlockStore;

    /// Faults, quotas, clock.
    fn faults(&self) -> &Faults;

    /// The caller's account.
    fn account<'a>(&self, caller: &'a Self::Caller) -> &'a str;

    /// The snapshot, if this caller may do `action` to it in `region`.
    ///
    /// # Errors
    /// `ResourceNotFoundException` or `AccessDeniedException`.
    fn snapshot(
        &self,
        caller: &Self::Caller,
        region: &str,
        snapshot_id: &str,
        action: &str,
    ) -> Result<EbsSnapshot, Refusal>;

    /// Registers a pending snapshot, or finds the one that the same ClientToken made before. The parameters are
    /// checked already; permissions, encryption defaults and the limit of pending snapshots are not.
    ///
    /// # Errors
    /// `AccessDeniedException`, `ConflictException` (the token with other parameters),
    /// `ConcurrentLimitExceededException`, `ValidationException`.
    fn start(&self, caller: &Self::Caller, region: &str, start: &Start) -> Result<Started, Refusal>;

    /// Turns a pending snapshot into a completed one; a completed one stays so.
    ///
    /// # Errors
    /// As [`Self::snapshot`].
    fn complete(&self, caller: &Self::Caller, region: &str, snapshot_id: &str) -> Result<(), Refusal>;

    /// Turns a pending snapshot into a failed one; anything else stays as it is.
    fn fail(&self, snapshot_id: &str);
}
