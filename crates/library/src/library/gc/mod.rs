//! Collection of garbage: exact, and beside backups and restores.
//!
//! Marking walks all manifests of recovery points and open sessions and sets a bit for every record it reaches.
//! Whoever, meanwhile, tells a client that a record is stored sets its bit too, under the gate. Then packs are
//! judged: one without a marked record goes; one with enough dead bytes is copied without them. Removing happens
//! under the gate in write mode, after a last look at the bits.
//!
//! What dies in between: the index lets go of a pack, durably, before the pack is removed; a pack that was let go
//! and is still there is taken in at open, as garbage for the next run.

mod mark;
mod sweep;

use std::sync::Arc;

use snapferry_types::RecoveryPointId;

use super::marks::Marks;
use super::{Library, write};
use crate::error::Error;

/// How to collect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcOptions {
    /// Tell what would be done and do nothing.
    pub dry_run: bool,
    /// A pack is copied when at least this many per cent of its record bytes are dead. 0 is any dead byte; above
    /// 100 only packs that are wholly dead go.
    pub min_dead_percent: u8,
    /// Join packs that are smaller than a quarter of `pack_bytes`, where there are several.
    pub merge_small: bool,
    /// Go on when a page does not read. What only that page refers to is then lost for good.
    pub ignore_damaged_pages: bool,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self { dry_run: false, min_dead_percent: 20, merge_small: true, ignore_damaged_pages: false }
    }
}

/// What a collection found and did; with `dry_run`, what it would have done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GcReport {
    /// Packs that were judged.
    pub packs: u64,
    /// Records in them that something refers to.
    pub live_records: u64,
    /// Bytes of those.
    pub live_bytes: u64,
    /// Records in them that nothing refers to.
    pub dead_records: u64,
    /// Bytes of those.
    pub dead_bytes: u64,
    /// Packs removed since nothing in them was live.
    pub packs_deleted: u64,
    /// Packs replaced by copies without the dead.
    pub packs_rewritten: u64,
    /// Packs that were to go and had to stay: something in them came alive, or does not read.
    pub packs_kept: u64,
    /// Bytes of packs removed or replaced.
    pub bytes_removed: u64,
    /// Bytes of the copies.
    pub bytes_written: u64,
    /// References to chunks that are not stored (a pack was lost); each is an error at a restore.
    pub dangling_chunks: u64,
    /// Recovery points with a page that did not read, when that was to be ignored.
    pub damaged_points: Vec<RecoveryPointId>,
}

impl Library {
    /// Collects garbage. `go_on` is asked between packs and pages; when it answers false the run ends with
    /// [`Error::Cancelled`], and what was done stays done.
    ///
    /// Memory: two bits for every stored record, and one pack's list of records.
    ///
    /// # Errors
    /// [`Error::Busy`] when a collection or scrub is running; [`Error::CannotMark`] when a page does not read.
    pub fn collect_garbage(
        &self,
        options: &GcOptions,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<GcReport, Error> {
        let _running = self.collecting()?;
        let candidates = self.index.packs().collect::<Result<Vec<_>, Error>>()?;
        let marks = Arc::new(Marks::new(candidates.iter().copied()));
        let walked = Marks::new(candidates.iter().copied());
        let roots = {
            let _gate = write(&self.gate);
            *write(&self.marks) = Some(Arc::clone(&marks));
            self.roots()
        };
        let mut report = GcReport::default();
        let result = self
            .mark(&roots, &marks, &walked, options, &mut report, go_on)
            .and_then(|()| self.sweep(&candidates, &marks, options, &mut report, go_on));
        drop(roots);
        {
            let _gate = write(&self.gate);
            *write(&self.marks) = None;
        }
        result.map(|()| report)
    }
}
