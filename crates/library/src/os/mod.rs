//! What differs between operating systems: making a folder's entries durable, and asking for free space.

#[cfg(not(unix))]
mod other;
#[cfg(unix)]
mod unix;

#[cfg(not(unix))]
pub(crate) use other::{free_bytes, sync_folder};
#[cfg(unix)]
pub(crate) use unix::{free_bytes, sync_folder};
