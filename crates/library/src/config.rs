//! Settings of a library. Plain data: making one opens nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::backend::Backend;
use crate::error::Error;
use crate::limits::{MAX_PACK_BYTES, MAX_RECORD_BYTES};

/// Tells the time, in milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Settings of a library.
#[derive(Clone)]
pub struct LibraryConfig {
    /// Folder of the index and the lock, on a local disk. The objects may be anywhere.
    pub dir: PathBuf,
    /// Where packs and recovery-point objects live.
    pub backend: Arc<dyn Backend>,
    /// A pack ends with the record that takes it past this many bytes. 64 MiB: large enough for one request an
    /// object on S3, small enough to rewrite.
    pub pack_bytes: u64,
    /// Cache of index blocks in bytes.
    pub index_cache_bytes: u64,
    /// Interior pages kept decoded; one takes at most 45 KiB.
    pub page_cache_pages: usize,
    /// Leaf pages held in memory before a flush is made, in bytes, over all sessions together.
    pub buffered_leaf_bytes: usize,
    /// Chunks a session may hold against collection at a time: asked or put, and not yet in a leaf.
    pub max_pins: usize,
    /// Below this many free bytes new data is refused, so that the index never meets a full disk.
    pub reserve_bytes: u64,
    /// The time.
    pub clock: Clock,
}

impl LibraryConfig {
    /// The usual settings: about 200 MiB of memory at most.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, backend: Arc<dyn Backend>) -> Self {
        Self {
            dir: dir.into(),
            backend,
            pack_bytes: 64 * 1_024 * 1_024,
            index_cache_bytes: 32 * 1_024 * 1_024,
            page_cache_pages: 256,
            buffered_leaf_bytes: 8 * 1_024 * 1_024,
            max_pins: 131_072,
            reserve_bytes: 256 * 1_024 * 1_024,
            clock: Arc::new(system_time),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let least = 4 * 1_024;
        if self.pack_bytes < least || self.pack_bytes > MAX_PACK_BYTES - 2 * MAX_RECORD_BYTES as u64 {
            let why = format!("pack_bytes is {}, {least} bytes to 1,022 MiB are allowed", self.pack_bytes);
            return Err(Error::Config { setting: "pack_bytes", why });
        }
        if self.max_pins < 1_024 {
            let why = format!("max_pins is {}, one leaf alone takes 1,024", self.max_pins);
            return Err(Error::Config { setting: "max_pins", why });
        }
        Ok(())
    }
}

impl std::fmt::Debug for LibraryConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LibraryConfig")
            .field("dir", &self.dir)
            .field("backend", &self.backend)
            .field("pack_bytes", &self.pack_bytes)
            .finish_non_exhaustive()
    }
}

fn system_time() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
