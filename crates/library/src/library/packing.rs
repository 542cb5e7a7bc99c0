//! Packs being written: chunks go into one open pack that all sessions share.

use std::sync::PoisonError;

use super::{Library, lock};
use crate::error::Error;
use crate::pack::{PackClass, PackWriter, RecordKey};

impl Library {
    /// Whether a chunk is stored or on its way. Its answer holds only under the gate, with the record pinned.
    pub(super) fn is_present(&self, key: &RecordKey) -> Result<bool, Error> {
        // Pending first: a chunk leaves it only after the index has it.
        if lock(&self.pending).contains_key(key) {
            return Ok(true);
        }
        Ok(self.index.locate_good(key)?.is_some())
    }

    /// Appends a chunk to the open pack, unless it is stored by now. Gives whether it was appended. A pack that
    /// is full is finished by the caller that filled it.
    pub(super) fn append_chunk(&self, key: RecordKey, record: &[u8]) -> Result<bool, Error> {
        let full = {
            let mut open = lock(&self.open_pack);
            if self.is_present(&key)? {
                return Ok(false);
            }
            let mut writer = match open.take() {
                Some(writer) => writer,
                None => self.start_pack(PackClass::Data)?,
            };
            if let Err(e) = writer.append(key, record) {
                // The pack is of no more use: what is in it is missing again.
                let number = writer.number();
                drop(writer);
                self.forget_pending(number);
                return Err(e.into());
            }
            lock(&self.pending).insert(key, writer.number());
            if writer.size() >= self.config.pack_bytes {
                lock(&self.finishing).insert(writer.number());
                Some(writer)
            } else {
                *open = Some(writer);
                None
            }
        };
        if let Some(writer) = full {
            self.finish_data_pack(writer)?;
        }
        Ok(true)
    }

    pub(super) fn start_pack(&self, class: PackClass) -> Result<PackWriter, Error> {
        self.check_space()?;
        let number = self.new_pack_number()?;
        Ok(PackWriter::create(self.config.backend.as_ref(), number, class, self.now())?)
    }

    /// Finishes the open pack and waits for those that other callers are finishing: every chunk that was
    /// appended before the call is in the index after it, or its pack has failed.
    pub(super) fn finish_open_pack(&self) -> Result<(), Error> {
        let (writer, wait_for) = {
            let mut open = lock(&self.open_pack);
            let mut finishing = lock(&self.finishing);
            let wait_for = finishing.clone();
            let writer = open.take();
            if let Some(writer) = &writer {
                finishing.insert(writer.number());
            }
            (writer, wait_for)
        };
        let result = writer.map_or(Ok(()), |writer| self.finish_data_pack(writer));
        let mut finishing = lock(&self.finishing);
        while wait_for.iter().any(|number| finishing.contains(number)) {
            finishing = self.finished.wait(finishing).unwrap_or_else(PoisonError::into_inner);
        }
        result
    }

    /// Finishes a pack that is in `finishing`.
    fn finish_data_pack(&self, writer: PackWriter) -> Result<(), Error> {
        let number = writer.number();
        let result = writer.finish().map_err(Error::from).and_then(|pack| self.index.add_pack(&pack));
        self.forget_pending(number);
        lock(&self.finishing).remove(&number);
        self.finished.notify_all();
        result
    }

    fn forget_pending(&self, number: u64) {
        lock(&self.pending).retain(|_, pack| *pack != number);
    }
}
