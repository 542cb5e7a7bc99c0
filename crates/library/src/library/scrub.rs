//! Scrub: reads everything that is stored and checks it, without keys.

use snapferry_types::RecoveryPointId;

use super::affected::Suspect;
use super::open::{point_name, read_point, record_of_row};
use super::{Library, lock};
use crate::backend::BackendError;
use crate::error::Error;
use crate::index::Location;
use crate::pack::{RecordKey, RecordKind, read_contents};
use crate::page::{InteriorPage, LeafPage};

/// Damaged records that a report names; the others are counted.
const MAX_NAMED: usize = 10_000;

/// A record that does not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedRecord {
    /// What it is.
    pub key: RecordKey,
    /// The pack's number.
    pub pack: u64,
    /// Where its header starts in the pack.
    pub offset: u32,
    /// What is wrong.
    pub why: String,
}

/// What a scrub found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScrubReport {
    /// Packs read.
    pub packs: u64,
    /// Records read.
    pub records: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Packs that are gone.
    pub lost_packs: Vec<u64>,
    /// Packs whose list of records does not read; the index still finds the records.
    pub unlisted_packs: Vec<u64>,
    /// Records that do not read, the first 10,000.
    pub damaged: Vec<DamagedRecord>,
    /// How many do not read.
    pub n_damaged: u64,
    /// Records that were held to be damaged and do read.
    pub found_good: u64,
    /// Recovery points whose object was gone or damaged and was written again from the index.
    pub points_written_again: Vec<RecoveryPointId>,
    /// Recovery points that refer to something damaged.
    pub affected: Vec<RecoveryPointId>,
    /// False when the caller stopped it.
    pub complete: bool,
}

impl Library {
    /// Reads all packs and recovery-point objects and checks every checksum. `pace` is told the bytes of each read
    /// and may wait to limit the rate; when it answers false the scrub ends early.
    ///
    /// What is damaged counts as missing from then on, so that the next backup stores it again.
    ///
    /// # Errors
    /// [`Error::Busy`] when a collection or scrub is running; damage is no error but the answer.
    pub fn scrub(&self, pace: &mut dyn FnMut(u64) -> bool) -> Result<ScrubReport, Error> {
        let _running = self.collecting()?;
        let mut report = ScrubReport::default();
        report.complete = self.scrub_packs(&mut report, pace)? && self.scrub_points(&mut report, pace)?;
        self.index.persist()?;
        let keys: Vec<_> = report.damaged.iter().map(|d| d.key).collect();
        if !keys.is_empty() {
            report.affected = self.affected_by(&Suspect::Records(keys))?;
        }
        Ok(report)
    }

    fn scrub_packs(
        &self,
        report: &mut ScrubReport,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<bool, Error> {
        let mut unlisted = std::collections::HashSet::new();
        for row in self.index.packs() {
            let (number, row) = row?;
            let contents = match read_contents(self.config.backend.as_ref(), number, row.size) {
                Err(BackendError::NotFound { .. }) if self.index.pack(number)?.is_none() => continue,
                Err(BackendError::NotFound { .. }) => {
                    report.lost_packs.push(number);
                    unlisted.insert(number);
                    continue;
                }
                Err(BackendError::Short { .. }) => None,
                other => Some(other?),
            };
            report.packs += 1;
            let Some(contents) = contents.filter(|c| c.walked.is_none()) else {
                report.unlisted_packs.push(number);
                unlisted.insert(number);
                continue;
            };
            for (ordinal, entry) in (0_u32..).zip(contents.entries) {
                let at = Location {
                    pack: number,
                    offset: entry.offset,
                    length: entry.length,
                    ordinal,
                    damaged: false,
                };
                if !self.scrub_record(&entry.key, &at, report, pace)? {
                    return Ok(false);
                }
            }
        }
        if !report.lost_packs.is_empty() {
            self.lose_packs(&report.lost_packs.iter().copied().collect())?;
        }
        if unlisted.is_empty() { Ok(true) } else { self.scrub_unlisted(&unlisted, report, pace) }
    }

    /// Checks the records that the index has in packs that cannot be listed.
    fn scrub_unlisted(
        &self,
        packs: &std::collections::HashSet<u64>,
        report: &mut ScrubReport,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<bool, Error> {
        for row in self.index.records.iter() {
            let (key, value) = row.into_inner().map_err(Error::index("read"))?;
            let at = Location::decode(&value)?;
            if packs.contains(&at.pack) && !self.scrub_record(&record_of_row(&key)?, &at, report, pace)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn scrub_record(
        &self,
        key: &RecordKey,
        at: &Location,
        report: &mut ScrubReport,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<bool, Error> {
        let why = match self.read_at(key, at)? {
            Ok(body) => is_well_formed(key, &body).err(),
            Err(why) => Some(why),
        };
        report.records += 1;
        report.bytes += u64::from(at.length);
        if let Some(now) = self.index.locate(key)?.filter(|now| now.same_place(at)) {
            match why {
                None if now.damaged => {
                    self.index.clear_damaged(key, &now)?;
                    report.found_good += 1;
                }
                None => {}
                Some(why) => {
                    self.index.mark_damaged(key, &now)?;
                    report.n_damaged += 1;
                    if report.damaged.len() < MAX_NAMED {
                        report.damaged.push(DamagedRecord {
                            key: *key,
                            pack: at.pack,
                            offset: at.offset,
                            why,
                        });
                    }
                }
            }
        }
        Ok(pace(u64::from(at.length)))
    }

    fn scrub_points(
        &self,
        report: &mut ScrubReport,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<bool, Error> {
        let backend = self.config.backend.as_ref();
        let snapshot = self.index.snapshot();
        for point in self.index.points_of(&snapshot, None) {
            let point = point?;
            let name = point_name(point.id)?;
            let good = match backend.size(&name) {
                Err(BackendError::NotFound { .. }) => false,
                size => match read_point(backend, &name, size?) {
                    Err(BackendError::NotFound { .. } | BackendError::Short { .. }) => false,
                    read => read?.is_ok_and(|stored| stored == point),
                },
            };
            if !good {
                // Not one that is being deleted meanwhile.
                let _turn = lock(&self.flush);
                if self.index.point(point.id)?.is_some() {
                    backend.put(&name, &point.encode())?;
                    report.points_written_again.push(point.id);
                }
            }
            if !pace(point.metadata.len() as u64) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn is_well_formed(key: &RecordKey, body: &[u8]) -> Result<(), String> {
    match key.kind {
        RecordKind::Chunk => Ok(()),
        RecordKind::Leaf => LeafPage::decode(body).map(|_| ()).map_err(|e| e.to_string()),
        RecordKind::Interior if InteriorPage::name(body).0 != key.id => {
            Err("its bytes do not hash to its name".to_owned())
        }
        RecordKind::Interior => InteriorPage::decode(body).map(|_| ()).map_err(|e| e.to_string()),
    }
}
