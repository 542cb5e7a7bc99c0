//! How blocks are moved: by EBS direct from any machine, by HotAdd of a volume to this node, or, writing only, by
//! Import of a disk image. [`choose`] decides before anything is made, and has [`route`] ask for permissions; [`read`] and [`write`] do it.
//!
//! What HotAdd and Import make in the service account is in the ledger with the purpose `transport`; it goes as soon
//! as its blocks are moved, and else with the clean-up or the reaper. Everything they put there at rest of an
//! encrypted volume is encrypted, or the wish is refused.

mod choose;
mod estimate;
mod hot_add;
mod import;
pub(super) mod read;
mod route;
pub(super) mod write;

pub(super) use choose::{Work, choose};
pub(crate) use hot_add::HotAddNode;
pub(super) use import::clean_up;
