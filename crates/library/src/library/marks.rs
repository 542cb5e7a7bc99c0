//! One bit for every stored record: what a walk over all manifests has reached.
//!
//! Memory: an eighth of a byte a record. A library of 100 million chunks (50 TB of blocks) takes 13 MB.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::index::{Location, PackRow};

/// A set of records by their place; places in packs that it was not made for are not in it and cannot be added.
pub(super) struct Marks {
    packs: HashMap<u64, Vec<AtomicU64>>,
}

impl Marks {
    pub(super) fn new(packs: impl IntoIterator<Item = (u64, PackRow)>) -> Self {
        let words = |n: u32| (0..n.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { packs: packs.into_iter().map(|(number, row)| (number, words(row.n_records))).collect() }
    }

    fn word(&self, pack: u64, ordinal: u32) -> Option<&AtomicU64> {
        self.packs.get(&pack)?.get(usize::try_from(ordinal / 64).ok()?)
    }

    /// Adds a record; true when it was not in the set. One that cannot be added answers true as well, so that
    /// what hangs below it is looked at.
    pub(super) fn add(&self, at: &Location) -> bool {
        let bit = 1_u64 << (at.ordinal % 64);
        self.word(at.pack, at.ordinal).is_none_or(|word| word.fetch_or(bit, Ordering::SeqCst) & bit == 0)
    }

    pub(super) fn contains(&self, pack: u64, ordinal: u32) -> bool {
        self.word(pack, ordinal).is_some_and(|word| word.load(Ordering::SeqCst) & (1 << (ordinal % 64)) != 0)
    }
}
