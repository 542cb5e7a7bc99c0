//! The tree of pages of a volume: its shape, reading it, and building a changed one from a base.

use std::collections::{HashMap, VecDeque};
use std::iter::Peekable;
use std::sync::{Arc, Mutex};

use snapferry_types::PageId;
use snapferry_types::block::leaves_in;

use super::{Library, lock};
use crate::error::Error;
use crate::index::LeafRow;
use crate::pack::RecordKey;
use crate::page::{Child, FANOUT, InteriorPage};

/// Level of the topmost page of a volume: 1 up to 1,024 leaves (512 GiB), 2 up to 512 TiB.
pub(super) fn root_level(n_blocks: u32) -> u8 {
    let mut level = 1;
    let mut covers = FANOUT as u64;
    while covers < u64::from(leaves_in(n_blocks)) {
        covers *= FANOUT as u64;
        level += 1;
    }
    level
}

/// Leaves below one child of a page of `level`.
pub(super) fn leaves_below_child(level: u8) -> u32 {
    1_024_u32.pow(u32::from(level).saturating_sub(1))
}

/// Interior pages that were read lately, decoded. First in, first out.
pub(super) struct PageCache {
    limit: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    pages: HashMap<PageId, Arc<InteriorPage>>,
    /// The oldest first.
    order: VecDeque<PageId>,
}

impl PageCache {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, kept: Mutex::default() }
    }

    fn get(&self, id: &PageId) -> Option<Arc<InteriorPage>> {
        lock(&self.kept).pages.get(id).cloned()
    }

    fn keep(&self, id: PageId, page: &Arc<InteriorPage>) {
        let mut kept = lock(&self.kept);
        let Kept { pages, order } = &mut *kept;
        if self.limit > 0 && pages.insert(id, Arc::clone(page)).is_none() {
            order.push_back(id);
            if order.len() > self.limit
                && let Some(oldest) = order.pop_front()
            {
                pages.remove(&oldest);
            }
        }
    }
}

/// A subtree that a new tree may share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Base {
    /// Level of its topmost page.
    pub(super) level: u8,
    pub(super) child: Child,
}

/// A built page that is to be stored.
pub(super) type Built<'a> = &'a mut dyn FnMut(PageId, Vec<u8>) -> Result<(), Error>;

impl Library {
    /// An interior page of a level, checked against its name.
    pub(super) fn interior(&self, id: PageId, level: u8) -> Result<Arc<InteriorPage>, Error> {
        if let Some(page) = self.pages.get(&id).filter(|page| page.level == level) {
            return Ok(page);
        }
        let page = Arc::new(self.interior_uncached(id, level)?);
        self.pages.keep(id, &page);
        Ok(page)
    }

    /// As [`Library::interior`], always from the backend.
    pub(super) fn interior_uncached(&self, id: PageId, level: u8) -> Result<InteriorPage, Error> {
        let key = RecordKey::interior(id);
        let bytes = self.read_record(&key)?;
        let why = if InteriorPage::name(&bytes) != id {
            "its bytes do not hash to its name".to_owned()
        } else {
            match InteriorPage::decode(&bytes) {
                Ok(page) if page.level == level => return Ok(page),
                Ok(page) => format!("it is of level {}, not {level}", page.level),
                Err(e) => e.to_string(),
            }
        };
        let at = self.index.locate(&key)?;
        Err(Error::Damaged { key, pack: at.map_or(0, |a| a.pack), offset: at.map_or(0, |a| a.offset), why })
    }

    /// Builds the subtree of `level` whose first leaf is `first`, out of `base` and the changed `leaves` that lie
    /// in it. `None` is all holes. A subtree without a change is shared, not read.
    pub(super) fn build<I>(
        &self,
        level: u8,
        first: u32,
        base: Option<Base>,
        leaves: &mut Peekable<I>,
        store: Built<'_>,
    ) -> Result<Option<Child>, Error>
    where
        I: Iterator<Item = Result<(u32, LeafRow), Error>>,
    {
        let step = leaves_below_child(level);
        let end = u64::from(first) + u64::from(step) * FANOUT as u64;
        let same_level = base.is_none_or(|b| b.level == level);
        if same_level && next_leaf(leaves)?.is_none_or(|next| u64::from(next) >= end) {
            return Ok(base.map(|b| b.child));
        }
        let mut page = match base {
            None => InteriorPage::empty(level),
            Some(b) if same_level => (*self.interior(b.child.page, level)?).clone(),
            // The volume has grown by a level: the whole base becomes the first child.
            Some(b) => {
                let mut page = InteriorPage::empty(level);
                page.set(0, self.build(level - 1, first, Some(b), leaves, store)?);
                page
            }
        };
        while let Some(next) = next_leaf(leaves)?.filter(|next| u64::from(*next) < end) {
            let slot = usize::try_from((next - first) / step).unwrap_or(FANOUT);
            let child = if level == 1 {
                leaves.next().transpose()?.and_then(|(_, row)| child_of_leaf(&row))
            } else {
                let below = page.child(slot).map(|child| Base { level: level - 1, child });
                self.build(level - 1, next - (next - first) % step, below, leaves, store)?
            };
            page.set(slot, child);
        }
        store_page(&page, store)
    }
}

fn next_leaf<I>(leaves: &mut Peekable<I>) -> Result<Option<u32>, Error>
where
    I: Iterator<Item = Result<(u32, LeafRow), Error>>,
{
    match leaves.peek() {
        None => Ok(None),
        Some(Ok((index, _))) => Ok(Some(*index)),
        Some(Err(_)) => leaves.next().transpose().map(|row| row.map(|(index, _)| index)),
    }
}

/// A leaf of holes alone is absent from its parent.
fn child_of_leaf(row: &LeafRow) -> Option<Child> {
    (row.n_data > 0 || row.n_zero > 0).then_some(Child {
        page: row.page,
        n_data: row.n_data,
        n_zero: row.n_zero,
    })
}

fn store_page(page: &InteriorPage, store: Built<'_>) -> Result<Option<Child>, Error> {
    if page.children.is_empty() {
        return Ok(None);
    }
    let (n_data, n_zero) = page.totals();
    let (id, bytes) = page.encode()?;
    store(id, bytes)?;
    Ok(Some(Child { page: id, n_data, n_zero }))
}
