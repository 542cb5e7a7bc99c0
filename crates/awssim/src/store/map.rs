//! Which stored block stands at each index: a table of shared pages.
//!
//! Pages are copied on write, so two maps of one lineage share what is equal, a copy costs a pointer a page, and
//! a comparison skips shared pages. A map never looks into the layers its entries point at.

use std::path::Path;
use std::sync::Arc;

use super::error::{Result, StoreError};
use super::files;

const PAGE: usize = 1024;
const MAGIC: &[u8; 8] = b"awsmap01";

type Page = [Entry; PAGE];

/// Where a block's bytes are: a layer and a slot in it, or nowhere (a hole).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    pub(super) const HOLE: Self = Self(0);

    /// Layer ids start at 1, so no stored block looks like a hole.
    pub(super) fn new(layer: u32, slot: u32) -> Self {
        Self((u64::from(layer) << 32) | u64::from(slot))
    }

    pub(super) fn is_hole(self) -> bool {
        self.0 == 0
    }

    pub(super) fn layer(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or(u32::MAX)
    }

    pub(super) fn slot(self) -> u32 {
        u32::try_from(self.0 & 0xffff_ffff).unwrap_or(u32::MAX)
    }
}

/// The map of one snapshot, or the base of one volume.
#[derive(Clone, Debug)]
pub(super) struct BlockMap {
    n_blocks: u32,
    pages: Vec<Option<Arc<Page>>>,
}

fn at(index: u32) -> (usize, usize) {
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    (index / PAGE, index % PAGE)
}

fn index_of(page: usize, slot: usize) -> u32 {
    u32::try_from(page * PAGE + slot).unwrap_or(u32::MAX)
}

impl BlockMap {
    pub(super) fn new(n_blocks: u32) -> Self {
        let n_pages = usize::try_from(n_blocks).unwrap_or(usize::MAX).div_ceil(PAGE);
        Self { n_blocks, pages: vec![None; n_pages] }
    }

    /// The same entries in a map of `n_blocks`; used when a volume or snapshot is larger than its base.
    pub(super) fn resized(&self, n_blocks: u32) -> Self {
        let mut map = Self::new(n_blocks);
        for (to, from) in map.pages.iter_mut().zip(&self.pages) {
            to.clone_from(from);
        }
        if n_blocks < self.n_blocks {
            for index in n_blocks..index_of(map.pages.len(), 0).min(self.n_blocks) {
                map.set(index, Entry::HOLE);
            }
        }
        map
    }

    pub(super) fn n_blocks(&self) -> u32 {
        self.n_blocks
    }

    pub(super) fn get(&self, index: u32) -> Entry {
        let (page, slot) = at(index);
        match self.pages.get(page) {
            Some(Some(page)) => page.get(slot).copied().unwrap_or(Entry::HOLE),
            _ => Entry::HOLE,
        }
    }

    /// Sets an entry; an index past the end is ignored, because callers check ranges with a better message.
    pub(super) fn set(&mut self, index: u32, entry: Entry) {
        let (page, slot) = at(index);
        let Some(page) = self.pages.get_mut(page) else { return };
        if page.is_none() && entry.is_hole() {
            return;
        }
        let page = page.get_or_insert_with(|| Arc::new([Entry::HOLE; PAGE]));
        if let Some(place) = Arc::make_mut(page).get_mut(slot) {
            *place = entry;
        }
    }

    /// All stored blocks from `from` on, ascending.
    pub(super) fn iter_from(&self, from: u32) -> impl Iterator<Item = (u32, Entry)> + '_ {
        let (first_page, first_slot) = at(from);
        self.pages.iter().enumerate().skip(first_page).flat_map(move |(number, page)| {
            let skip = if number == first_page { first_slot } else { 0 };
            page.iter().flat_map(move |page| {
                page.iter()
                    .enumerate()
                    .skip(skip)
                    .filter(|(_, entry)| !entry.is_hole())
                    .map(move |(slot, entry)| (index_of(number, slot), *entry))
            })
        })
    }

    /// All indexes from `from` on at which the two maps point to different places, ascending.
    pub(super) fn diff_from<'a>(
        &'a self,
        other: &'a Self,
        from: u32,
    ) -> impl Iterator<Item = (u32, Entry, Entry)> + 'a {
        let (first_page, first_slot) = at(from);
        let n_pages = self.pages.len().max(other.pages.len());
        (first_page..n_pages)
            .filter(|number| {
                match (
                    self.pages.get(*number).and_then(Option::as_ref),
                    other.pages.get(*number).and_then(Option::as_ref),
                ) {
                    (Some(a), Some(b)) => !Arc::ptr_eq(a, b),
                    (None, None) => false,
                    _ => true,
                }
            })
            .flat_map(move |number| {
                let skip = if number == first_page { first_slot } else { 0 };
                (skip..PAGE).map(move |slot| index_of(number, slot))
            })
            .filter_map(|index| {
                let (a, b) = (self.get(index), other.get(index));
                (a != b).then_some((index, a, b))
            })
    }

    /// The layers that entries point at, each once, ascending.
    pub(super) fn layers(&self) -> Vec<u32> {
        let mut layers = Vec::new();
        let mut last = 0;
        for (_, entry) in self.iter_from(0) {
            if entry.layer() != last {
                last = entry.layer();
                if let Err(place) = layers.binary_search(&last) {
                    layers.insert(place, last);
                }
            }
        }
        layers
    }

    /// Writes the map: magic, block count, then every page in use with its number; little-endian.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let mut out = Vec::with_capacity(64 * 1024);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.n_blocks.to_le_bytes());
        for (number, page) in self.pages.iter().enumerate() {
            if let Some(page) = page {
                out.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
                page.iter().for_each(|entry| out.extend_from_slice(&entry.0.to_le_bytes()));
            }
        }
        files::replace(path, &out)
    }

    pub(super) fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(StoreError::io("read block map", path))?;
        Self::parse(&bytes).ok_or_else(|| StoreError::damaged(path, "it is not a block map"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (n_blocks, rest) = rest.split_first_chunk::<4>()?;
        let mut map = Self::new(u32::from_le_bytes(*n_blocks));
        let (records, tail) = rest.as_chunks::<{ 4 + PAGE * 8 }>();
        if !tail.is_empty() {
            return None;
        }
        for record in records {
            let (number, entries) = record.split_first_chunk::<4>()?;
            let mut page = [Entry::HOLE; PAGE];
            let (words, _) = entries.as_chunks::<8>();
            for (place, word) in page.iter_mut().zip(words) {
                *place = Entry(u64::from_le_bytes(*word));
            }
            *map.pages.get_mut(usize::try_from(u32::from_le_bytes(*number)).ok()?)? = Some(Arc::new(page));
        }
        Some(map)
    }
}
