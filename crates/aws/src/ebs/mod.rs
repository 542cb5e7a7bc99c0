//! The EBS direct APIs as the two ends of the data plane.

mod attempts;
mod listing;
mod reason;
mod source;
mod target;

pub use attempts::ReadFigures;
pub use source::EbsSnapshotSource;
pub use target::{EbsSnapshotTarget, NewSnapshot, start_snapshot};
