//! Staying just below the quotas. Every account-region and every snapshot has a pace for each kind of call; a
//! throttle slows the pace it speaks of, and quiet time brings it back. The number of calls in flight follows from
//! pace and latency, or from what helps. Paces are shared by all tasks of a process, and forgotten when nobody uses them.

mod governor;
mod in_flight;
mod latency;
mod pace;

pub(crate) use governor::{AccountPace, BlockPace};
pub use governor::{Governor, QuotaSettings};
pub use pace::Pace;

/// Kinds of calls that have a quota of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// GetSnapshotBlock.
    Get,
    /// PutSnapshotBlock.
    Put,
    /// ListSnapshotBlocks and ListChangedBlocks.
    List,
    /// StartSnapshot and CompleteSnapshot.
    Start,
}
