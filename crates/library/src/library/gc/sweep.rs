//! Sweeping: judging packs by the marks, then removing and copying.

use std::collections::{BTreeMap, HashSet};

use super::super::marks::Marks;
use super::super::open::record_of_row;
use super::super::{Library, write};
use super::{GcOptions, GcReport};
use crate::backend::BackendError;
use crate::error::Error;
use crate::index::{Location, PackRow, record_key};
use crate::pack::{
    FooterEntry, PackClass, PackWriter, RECORD_HEADER_BYTES, pack_name, read_contents, record_bytes,
};

/// What is to be done, decided before anything is.
#[derive(Default)]
struct Plan {
    delete: Vec<u64>,
    rewrite: BTreeMap<PackClass, Vec<u64>>,
    /// Packs whose list of records does not read; what refers to them is found in the index.
    unlisted: HashSet<u64>,
}

/// A pack that is to be replaced.
struct Victim {
    number: u64,
    size: u64,
    entries: Vec<FooterEntry>,
    /// Places of the records that were copied.
    copied: HashSet<u32>,
    keep: bool,
}

impl Library {
    pub(super) fn sweep(
        &self,
        candidates: &[(u64, PackRow)],
        marks: &Marks,
        options: &GcOptions,
        report: &mut GcReport,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), Error> {
        let plan = self.plan(candidates, marks, options, report, go_on)?;
        if options.dry_run {
            report.packs_deleted = plan.delete.len() as u64;
            report.packs_rewritten = plan.rewrite.values().map(|packs| packs.len() as u64).sum();
            return Ok(());
        }
        for number in plan.delete {
            ask(go_on)?;
            self.delete_dead(number, marks, report)?;
        }
        for (class, packs) in plan.rewrite {
            self.rewrite(class, &packs, marks, report, go_on)?;
        }
        if !plan.unlisted.is_empty() {
            self.sweep_unlisted(&plan.unlisted, marks, report)?;
        }
        Ok(())
    }

    fn plan(
        &self,
        candidates: &[(u64, PackRow)],
        marks: &Marks,
        options: &GcOptions,
        report: &mut GcReport,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        let mut small: BTreeMap<PackClass, Vec<u64>> = BTreeMap::new();
        for (number, row) in candidates {
            ask(go_on)?;
            report.packs += 1;
            let Some(entries) = self.listed(*number, row)? else {
                plan.unlisted.insert(*number);
                continue;
            };
            let (mut live_bytes, mut dead_bytes, mut live) = (0_u64, 0_u64, 0_u64);
            for (ordinal, entry) in (0_u32..).zip(&entries) {
                let bytes = RECORD_HEADER_BYTES as u64 + u64::from(entry.length);
                if self.is_live(*number, ordinal, entry, marks)? {
                    live += 1;
                    live_bytes += bytes;
                } else {
                    dead_bytes += bytes;
                }
            }
            report.live_records += live;
            report.live_bytes += live_bytes;
            report.dead_records += entries.len() as u64 - live;
            report.dead_bytes += dead_bytes;
            let enough = dead_bytes * 100 >= u64::from(options.min_dead_percent) * (live_bytes + dead_bytes);
            if live == 0 {
                plan.delete.push(*number);
            } else if dead_bytes > 0 && enough {
                plan.rewrite.entry(row.class).or_default().push(*number);
            } else if row.size < self.config.pack_bytes / 4 {
                small.entry(row.class).or_default().push(*number);
            }
        }
        for (class, packs) in small {
            let rewritten = plan.rewrite.entry(class).or_default();
            if options.merge_small && packs.len() + rewritten.len() > 1 {
                rewritten.extend(packs);
                rewritten.sort_unstable();
            }
        }
        Ok(plan)
    }

    /// The records of a pack; `None` when the object is gone or its list does not read.
    fn listed(&self, number: u64, row: &PackRow) -> Result<Option<Vec<FooterEntry>>, Error> {
        if row.lost {
            return Ok(None);
        }
        match read_contents(self.config.backend.as_ref(), number, row.size) {
            Ok(contents)
                if contents.walked.is_none()
                    && u32::try_from(contents.entries.len()) == Ok(row.n_records) =>
            {
                Ok(Some(contents.entries))
            }
            Ok(_) | Err(BackendError::NotFound { .. } | BackendError::Short { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether a record is marked and its copy in this pack is the one in use.
    fn is_live(&self, pack: u64, ordinal: u32, entry: &FooterEntry, marks: &Marks) -> Result<bool, Error> {
        Ok(marks.contains(pack, ordinal) && self.is_here(pack, entry)?)
    }

    fn is_here(&self, pack: u64, entry: &FooterEntry) -> Result<bool, Error> {
        let at = self.index.locate(&entry.key)?;
        Ok(at.is_some_and(|at| (at.pack, at.offset) == (pack, entry.offset)))
    }

    fn delete_dead(&self, number: u64, marks: &Marks, report: &mut GcReport) -> Result<(), Error> {
        let Some(row) = self.index.pack(number)? else { return Ok(()) };
        let Some(entries) = self.listed(number, &row)? else { return Ok(()) };
        {
            let _gate = write(&self.gate);
            let _moves = self.index.moves();
            let mut batch = self.index.db.batch();
            for (ordinal, entry) in (0_u32..).zip(&entries) {
                if !self.is_here(number, entry)? {
                    continue;
                }
                if marks.contains(number, ordinal) {
                    report.packs_kept += 1;
                    return Ok(());
                }
                batch.remove(&self.index.records, record_key(&entry.key));
                batch.remove(&self.index.damaged, record_key(&entry.key));
            }
            batch.remove(&self.index.packs, number.to_be_bytes());
            batch.commit().map_err(Error::index("write"))?;
        }
        self.index.persist()?;
        self.config.backend.delete(&pack_name(number)?)?;
        report.packs_deleted += 1;
        report.bytes_removed += row.size;
        Ok(())
    }

    fn rewrite(
        &self,
        class: PackClass,
        packs: &[u64],
        marks: &Marks,
        report: &mut GcReport,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), Error> {
        let mut writer = None;
        let mut victims = Vec::new();
        for number in packs {
            ask(go_on)?;
            let Some(row) = self.index.pack(*number)? else { continue };
            let Some(entries) = self.listed(*number, &row)? else { continue };
            let mut into = match writer.take() {
                Some(writer) => writer,
                None => self.start_pack(class)?,
            };
            let mut victim =
                Victim { number: *number, size: row.size, entries, copied: HashSet::new(), keep: false };
            self.copy_live(&mut victim, marks, &mut into)?;
            victims.push(victim);
            if into.size() >= self.config.pack_bytes {
                self.replace(into, std::mem::take(&mut victims), marks, report)?;
            } else {
                writer = Some(into);
            }
        }
        match writer {
            Some(writer) => self.replace(writer, victims, marks, report),
            None => Ok(()),
        }
    }

    /// Copies the live records of a victim. One with a record that does not read is kept.
    fn copy_live(&self, victim: &mut Victim, marks: &Marks, into: &mut PackWriter) -> Result<(), Error> {
        for (ordinal, entry) in (0_u32..).zip(&victim.entries) {
            if !self.is_live(victim.number, ordinal, entry, marks)? {
                continue;
            }
            let Some(at) = self.index.locate(&entry.key)? else { continue };
            match self.read_at(&entry.key, &at)? {
                Ok(body) => {
                    into.append(entry.key, &record_bytes(entry.key, &body))?;
                    victim.copied.insert(entry.offset);
                }
                Err(why) => {
                    tracing::error!(key = %entry.key, pack = victim.number, %why, "a damaged record keeps its pack");
                    self.index.mark_damaged(&entry.key, &at)?;
                    victim.keep = true;
                }
            }
        }
        Ok(())
    }

    /// Makes the copy durable, points the index to it, then removes the victims.
    fn replace(
        &self,
        writer: PackWriter,
        mut victims: Vec<Victim>,
        marks: &Marks,
        report: &mut GcReport,
    ) -> Result<(), Error> {
        let copy = writer.finish()?;
        report.bytes_written += copy.size;
        let places: std::collections::HashMap<_, _> =
            (0_u32..).zip(&copy.entries).map(|(ordinal, entry)| (entry.key, (ordinal, *entry))).collect();
        {
            let _gate = write(&self.gate);
            let _moves = self.index.moves();
            let mut batch = self.index.db.batch();
            batch.insert(&self.index.packs, copy.number.to_be_bytes(), PackRow::of(&copy).encode());
            for victim in &mut victims {
                for (ordinal, entry) in (0_u32..).zip(&victim.entries) {
                    if !self.is_here(victim.number, entry)? {
                        continue;
                    }
                    let key = record_key(&entry.key);
                    if let (true, Some((ordinal, new))) =
                        (victim.copied.contains(&entry.offset), places.get(&entry.key))
                    {
                        let (pack, offset, length) = (copy.number, new.offset, new.length);
                        let at = Location { pack, offset, length, ordinal: *ordinal, damaged: false };
                        batch.insert(&self.index.records, key, at.encode());
                        batch.remove(&self.index.damaged, key);
                    } else if marks.contains(victim.number, ordinal) {
                        victim.keep = true;
                    } else {
                        batch.remove(&self.index.records, key);
                        batch.remove(&self.index.damaged, key);
                    }
                }
                if !victim.keep {
                    batch.remove(&self.index.packs, victim.number.to_be_bytes());
                }
            }
            batch.commit().map_err(Error::index("write"))?;
        }
        self.index.persist()?;
        for victim in victims {
            if victim.keep {
                report.packs_kept += 1;
                continue;
            }
            self.config.backend.delete(&pack_name(victim.number)?)?;
            report.packs_rewritten += 1;
            report.bytes_removed += victim.size;
        }
        Ok(())
    }

    /// Lets go of the unmarked records of packs that cannot be listed, and of those packs that then hold nothing.
    fn sweep_unlisted(
        &self,
        packs: &HashSet<u64>,
        marks: &Marks,
        report: &mut GcReport,
    ) -> Result<(), Error> {
        let mut held = HashSet::new();
        for row in self.index.records.iter() {
            let (row_key, value) = row.into_inner().map_err(Error::index("read"))?;
            let seen = Location::decode(&value)?;
            if !packs.contains(&seen.pack) {
                continue;
            }
            let key = record_of_row(&row_key)?;
            let _gate = write(&self.gate);
            let _moves = self.index.moves();
            if !self.index.locate(&key)?.is_some_and(|now| now.same_place(&seen)) {
                continue;
            }
            if marks.contains(seen.pack, seen.ordinal) {
                held.insert(seen.pack);
                continue;
            }
            let mut batch = self.index.db.batch();
            batch.remove(&self.index.records, &*row_key);
            batch.remove(&self.index.damaged, &*row_key);
            batch.commit().map_err(Error::index("write"))?;
        }
        for number in packs {
            if held.contains(number) {
                report.packs_kept += 1;
                continue;
            }
            self.index.packs.remove(number.to_be_bytes()).map_err(Error::index("write"))?;
            self.index.persist()?;
            self.config.backend.delete(&pack_name(*number)?)?;
            report.packs_deleted += 1;
        }
        Ok(())
    }
}

fn ask(go_on: &mut dyn FnMut() -> bool) -> Result<(), Error> {
    if go_on() { Ok(()) } else { Err(Error::Cancelled) }
}
