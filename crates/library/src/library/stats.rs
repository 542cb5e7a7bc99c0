//! Numbers about the library.

use super::{Library, lock};
use crate::error::Error;
use crate::pack::PackClass;

/// Numbers about a library. Records and bytes include garbage that is not collected yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Finished packs.
    pub packs: u64,
    /// Bytes of them.
    pub pack_bytes: u64,
    /// Stored chunks.
    pub chunks: u64,
    /// Stored pages.
    pub pages: u64,
    /// Recovery points.
    pub recovery_points: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Records known to be damaged.
    pub damaged_records: u64,
    /// Packs whose objects are gone.
    pub lost_packs: u64,
}

impl Library {
    /// Numbers about the library; reads one row a pack.
    ///
    /// # Errors
    /// What the index says.
    pub fn stats(&self) -> Result<Stats, Error> {
        let count =
            |keyspace: &fjall::Keyspace| keyspace.len().map(|n| n as u64).map_err(Error::index("read"));
        let mut stats = Stats {
            recovery_points: count(&self.index.points)?,
            sessions: lock(&self.sessions).len() as u64,
            damaged_records: count(&self.index.damaged)?,
            ..Stats::default()
        };
        for row in self.index.packs() {
            let (_, row) = row?;
            if row.lost {
                stats.lost_packs += 1;
                continue;
            }
            stats.packs += 1;
            stats.pack_bytes += row.size;
            match row.class {
                PackClass::Data => stats.chunks += u64::from(row.n_records),
                PackClass::Manifest => stats.pages += u64::from(row.n_records),
            }
        }
        Ok(stats)
    }
}
