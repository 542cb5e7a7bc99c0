//! The dedup store: blocks in, recovery points out.
//!
//! A [`Library`] keeps *chunks* (blocks that a client compressed and sealed; the library has no keys) and the
//! *pages* that say which chunks a volume consists of, in *packs*, on a [`Backend`]. An upload is a *session*: it
//! asks which chunks are missing, puts those, puts the leaf pages that changed, and is sealed into a *recovery
//! point* or abandoned. Every recovery point is a full one; equal chunks and equal pages are stored once.
//!
//! Promises:
//! - what [`Library::flush`] or [`Library::seal`] returned for survives a power cut; a crash at any instruction
//!   leaves a library that opens by itself;
//! - bytes that are read are the bytes that were stored, or an error that names the damage;
//! - a newer fence supersedes an older one, which can then commit nothing;
//! - collection removes exactly what no recovery point and no open session refers to, while both go on.
//!
//! The commit order is pack → index → pages → recovery point. FORMAT.md beside this crate has every byte.
//!
//! All calls block and may come from any thread. There is no network and no async code here.

mod backend;
mod codec;
mod config;
mod error;
#[cfg(test)]
mod golden;
mod index;
mod library;
pub mod limits;
mod os;
mod pack;
pub mod page;
mod point;

pub use backend::{
    Backend, BackendError, DiskBackend, FaultBackend, FaultPlan, MemoryBackend, ObjectName, ObjectWriter,
    check_backend,
};
pub use codec::Malformed;
pub use config::{Clock, LibraryConfig};
pub use error::Error;
pub use library::{
    DamagedRecord, GcOptions, GcReport, LeafBytes, LeafDiff, Library, PutOutcome, ScrubReport, SealedLeaf,
    SealedLeaves, SessionInfo, SessionOpened, SessionRequest, SessionState, SessionVolume, Stats, Suspect,
};
pub use pack::{RecordKey, RecordKind};
pub use point::{PointVolume, RecoveryPoint};
pub use snapferry_types::Fence;
