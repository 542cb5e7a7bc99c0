//! The data plane and its seams. Bytes go one way: a [`BlockSource`] is read in parallel, each block is checked,
//! named, compressed and sealed, and a [`ChunkSink`] takes it; a restore is the mirror, from a [`ChunkSource`]
//! to a [`BlockTarget`]. One [`ByteBudget`] per process bounds what is in memory, whatever the volume's size.
//!
//! This crate knows no AWS, no network and no store: those implement the seams elsewhere.

mod aggregate;
pub mod backup;
pub mod block;
mod boxed;
pub mod budget;
pub mod buffers;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod copy;
pub mod device;
pub mod error;
#[cfg(any(test, feature = "testing"))]
pub mod fault;
pub mod file;
mod high_water;
pub mod image;
pub mod open;
pub mod pool;
pub mod progress;
pub mod record;
pub mod restore;
pub mod scratch;
pub mod seal;
pub mod sink;
pub mod source;
mod tasks;
#[cfg(any(test, feature = "testing"))]
pub mod twin;
mod zero;

pub use backup::{VolumeSummary, back_up_volume};
pub use block::{Block, BlockKind, BlockState, Leaf, ListedBlock};
pub use boxed::boxed;
pub use budget::{BudgetPermit, ByteBudget};
pub use buffers::BlockBuffer;
pub use copy::{CopySummary, copy_blocks, resume_copy};
pub use device::{DeviceSource, DeviceTarget, Overwrite};
pub use error::{ErrorClass, TransferError};
pub use file::{FileSource, FileTarget};
pub use high_water::{Ahead, HighWater};
pub use image::{DiskImage, ImageFormat, ImageInfo, convert_to_stream_vmdk, inspect_image};
pub use open::sha256;
pub use pool::WorkPool;
pub use progress::{ProgressSnapshot, TransferProgress};
pub use record::SealError;
pub use restore::{RestoreSummary, restore_volume};
pub use scratch::Scratch;
pub use seal::{SealedLeaf, Sealer};
pub use sink::{BlockTarget, ChunkSink, MAX_HOLE_BLOCKS, SealedChunk, TargetNeeds};
pub use source::{BaseLeaves, BlockListing, BlockSource, ChunkSource};
pub use zero::{is_zero, zero_block};
