//! Marking: what recovery points and open sessions refer to.

use std::sync::Arc;

use fjall::Snapshot;
use snapferry_types::PageId;

use super::super::marks::Marks;
use super::super::session::BufferedLeaf;
use super::super::tree::root_level;
use super::super::{Library, lock};
use super::{GcOptions, GcReport};
use crate::error::Error;
use crate::index::SessionRow;
use crate::pack::RecordKey;
use crate::page::LeafPage;

/// Everything that was referred to at one moment.
pub(super) struct Roots {
    snapshot: Snapshot,
    sessions: Vec<SessionRoots>,
}

struct SessionRoots {
    row: SessionRow,
    buffered: Vec<Arc<BufferedLeaf>>,
    pins: Vec<RecordKey>,
}

/// One run of marking.
struct Run<'a> {
    library: &'a Library,
    marks: &'a Marks,
    walked: &'a Marks,
    report: &'a mut GcReport,
    go_on: &'a mut dyn FnMut() -> bool,
}

impl Library {
    /// The roots of this moment. Under the gate in write mode.
    pub(super) fn roots(&self) -> Roots {
        let entries: Vec<_> = lock(&self.sessions).values().map(Arc::clone).collect();
        let mut sessions = Vec::with_capacity(entries.len());
        for entry in entries {
            let live = entry.live();
            if !live.closed {
                sessions.push(SessionRoots {
                    row: live.row.clone(),
                    buffered: live.buffered.values().map(Arc::clone).collect(),
                    pins: live.pins.iter().copied().collect(),
                });
            }
        }
        // After the buffers: a leaf that leaves them is in the table first.
        Roots { snapshot: self.index.snapshot(), sessions }
    }

    pub(super) fn mark(
        &self,
        roots: &Roots,
        marks: &Marks,
        walked: &Marks,
        options: &GcOptions,
        report: &mut GcReport,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), Error> {
        let mut run = Run { library: self, marks, walked, report, go_on };
        for point in self.index.points_of(&roots.snapshot, None) {
            let point = point?;
            for volume in &point.volumes {
                match run.tree(volume.root, root_level(volume.n_blocks), &|| {
                    format!("recovery point {}", point.id)
                }) {
                    Err(Error::CannotMark { .. }) if options.ignore_damaged_pages => {
                        if run.report.damaged_points.last() != Some(&point.id) {
                            run.report.damaged_points.push(point.id);
                        }
                        run.tree_leniently(volume.root, root_level(volume.n_blocks))?;
                    }
                    other => other?,
                }
            }
        }
        for session in &roots.sessions {
            run.session(&roots.snapshot, session)?;
        }
        Ok(())
    }
}

type Owner<'a> = &'a dyn Fn() -> String;

impl Run<'_> {
    fn session(&mut self, snapshot: &Snapshot, session: &SessionRoots) -> Result<(), Error> {
        let owner = || format!("session {}", session.row.id);
        for (number, volume) in (0_u16..).zip(&session.row.volumes) {
            if let Some(base) = &volume.base {
                self.tree(base.root, root_level(base.n_blocks), &owner)?;
            }
            for leaf in self.library.index.leaves(snapshot, session.row.id, number, 0) {
                self.leaf(leaf?.1.page, &owner)?;
            }
        }
        for leaf in &session.buffered {
            self.record(&RecordKey::leaf(leaf.row.page))?;
            for chunk in &leaf.chunks {
                self.record(&RecordKey::chunk(*chunk))?;
            }
        }
        for key in &session.pins {
            self.record(key)?;
        }
        Ok(())
    }

    /// Marks one record; whether it is stored.
    fn record(&self, key: &RecordKey) -> Result<bool, Error> {
        let at = self.library.index.locate(key)?;
        if let Some(at) = &at {
            self.marks.add(at);
        }
        Ok(at.is_some())
    }

    /// Marks a page; whether what is below it has still to be walked.
    fn page(&mut self, key: &RecordKey, owner: Owner<'_>) -> Result<bool, Error> {
        if !(self.go_on)() {
            return Err(Error::Cancelled);
        }
        let Some(at) = self.library.index.locate(key)? else {
            return Err(Error::CannotMark { key: *key, owner: owner(), why: "it is not stored".to_owned() });
        };
        self.marks.add(&at);
        Ok(self.walked.add(&at))
    }

    fn tree(&mut self, page: PageId, level: u8, owner: Owner<'_>) -> Result<(), Error> {
        let key = RecordKey::interior(page);
        if !self.page(&key, owner)? {
            return Ok(());
        }
        let interior = self.library.interior_uncached(page, level).map_err(|e| cannot_mark(key, owner, e))?;
        for child in interior.children.iter().flatten() {
            if level == 1 {
                self.leaf(child.page, owner)?;
            } else {
                self.tree(child.page, level - 1, owner)?;
            }
        }
        Ok(())
    }

    fn leaf(&mut self, page: PageId, owner: Owner<'_>) -> Result<(), Error> {
        let key = RecordKey::leaf(page);
        if !self.page(&key, owner)? {
            return Ok(());
        }
        let read = self.library.read_record(&key).and_then(|bytes| Ok(LeafPage::decode(&bytes)?));
        for id in read.map_err(|e| cannot_mark(key, owner, e))?.chunk_ids {
            if !self.record(&RecordKey::chunk(id))? {
                self.report.dangling_chunks += 1;
            }
        }
        Ok(())
    }

    /// Marks what can be reached of a tree with damaged pages. Pages are walked again: an earlier walk may have
    /// ended below any of them.
    fn tree_leniently(&mut self, page: PageId, level: u8) -> Result<(), Error> {
        self.record(&RecordKey::interior(page))?;
        if !(self.go_on)() {
            return Err(Error::Cancelled);
        }
        let interior = match self.library.interior_uncached(page, level) {
            Err(Error::Damaged { .. } | Error::NotStored(_)) => return Ok(()),
            other => other?,
        };
        for child in interior.children.iter().flatten() {
            if level > 1 {
                self.tree_leniently(child.page, level - 1)?;
                continue;
            }
            let key = RecordKey::leaf(child.page);
            self.record(&key)?;
            let bytes = match self.library.read_record(&key) {
                Err(Error::Damaged { .. } | Error::NotStored(_)) => continue,
                other => other?,
            };
            for id in LeafPage::decode(&bytes)?.chunk_ids {
                self.record(&RecordKey::chunk(id))?;
            }
        }
        Ok(())
    }
}

/// What is wrong with a page stops the run; what is wrong with the backend is passed on.
fn cannot_mark(key: RecordKey, owner: Owner<'_>, cause: Error) -> Error {
    match cause {
        Error::Damaged { .. } | Error::NotStored(_) | Error::Malformed(_) => {
            Error::CannotMark { key, owner: owner(), why: cause.to_string() }
        }
        other => other,
    }
}
