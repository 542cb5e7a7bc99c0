//! The words of Snapferry as types: ids, sizes, hashes, resources, task specifications and the task state
//! machine. Everything here is plain data and pure functions. This crate never does I/O, reads no clock and
//! knows no AWS SDK, no database and no transport, so every other crate may depend on it.

pub mod access;
pub mod aws;
pub mod block;
pub mod catalogue;
pub mod hash;
pub mod id;
pub mod image;
pub mod instance;
pub mod ledger;
pub mod rules;
pub mod spec;
pub mod state;
pub mod tenancy;
pub mod transport;

pub use access::{AccountAccess, Credentials};
pub use aws::{AccountId, InstanceId, Region, SnapshotId, VolumeId};
pub use block::{BLOCK_SIZE, BlockIndex, ByteCount, LEAF_BLOCKS};
pub use hash::{ChunkId, PageId, Sha256Digest, ZERO_BLOCK_SHA256};
pub use id::{
    AccessNodeId, DispatchId, HypervisorId, IncarnationId, JobId, LedgerId, MediaAgentId, ParseIdError,
    RecoveryPointId, SessionId, TaskId,
};
pub use image::ImageFormat;
pub use state::{Fence, TaskKind, TaskState};
pub use transport::{Transport, TransportWish};
