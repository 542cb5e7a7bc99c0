//! Interior pages: built by the library, named by the hash of their bytes.

use snapferry_types::PageId;

use crate::codec::{Malformed, Reader, Writer};

const WHAT: &str = "interior page";
const MAGIC: &[u8; 4] = b"SFIN";
const VERSION: u16 = 1;
/// Three levels cover 2^30 leaves, more than a 32-bit block count has.
const MAX_LEVEL: u8 = 3;

/// Most children of an interior page.
pub const FANOUT: usize = 1_024;
/// Longest encoded interior page in bytes.
pub(crate) const MAX_INTERIOR_BYTES: usize = 12 + FANOUT / 8 + FANOUT * 40;

/// A subtree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// Its page.
    pub page: PageId,
    /// Data blocks below it.
    pub n_data: u32,
    /// Zero blocks below it.
    pub n_zero: u32,
}

/// Up to 1,024 subtrees; an absent one is all holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InteriorPage {
    /// 1: the children are leaf pages; above: interior pages of one level less.
    pub level: u8,
    /// The children up to the last one that is present.
    pub children: Vec<Option<Child>>,
}

impl InteriorPage {
    /// A page without any child: all holes.
    #[must_use]
    pub fn empty(level: u8) -> Self {
        Self { level, children: Vec::new() }
    }

    /// The child at `slot`.
    #[must_use]
    pub fn child(&self, slot: usize) -> Option<Child> {
        self.children.get(slot).copied().flatten()
    }

    /// Sets the child at `slot` (below [`FANOUT`]), keeping the form with the last child present.
    pub(crate) fn set(&mut self, slot: usize, child: Option<Child>) {
        if slot >= self.children.len() {
            self.children.resize(slot + 1, None);
        }
        if let Some(place) = self.children.get_mut(slot) {
            *place = child;
        }
        while self.children.last().is_some_and(Option::is_none) {
            self.children.pop();
        }
    }

    /// Data and zero blocks below the page.
    #[must_use]
    pub fn totals(&self) -> (u32, u32) {
        self.children
            .iter()
            .flatten()
            .fold((0, 0), |(data, zero), c| (data.saturating_add(c.n_data), zero.saturating_add(c.n_zero)))
    }

    /// The page's bytes and its name.
    ///
    /// # Errors
    /// Level or count is out of range, or the last child is absent.
    pub fn encode(&self) -> Result<(PageId, Vec<u8>), Malformed> {
        self.check()?;
        let n = u16::try_from(self.children.len()).map_err(|_| Malformed::new(WHAT, "too many children"))?;
        let n_present = u16::try_from(self.children.iter().flatten().count()).unwrap_or(n);
        let mut out = Writer::with_capacity(12 + self.children.len() * 41);
        out.bytes(MAGIC).u16(VERSION).u8(self.level).u8(0).u16(n).u16(n_present);
        for eight in self.children.chunks(8) {
            let bits =
                eight.iter().enumerate().fold(0_u8, |bits, (i, c)| bits | (u8::from(c.is_some()) << i));
            out.u8(bits);
        }
        for child in self.children.iter().flatten() {
            out.bytes(&child.page.0).u32(child.n_data).u32(child.n_zero);
        }
        let bytes = out.done();
        Ok((Self::name(&bytes), bytes))
    }

    /// The name of a page with these bytes.
    #[must_use]
    pub fn name(bytes: &[u8]) -> PageId {
        PageId(*blake3::hash(bytes).as_bytes())
    }

    /// Reads a page strictly.
    ///
    /// # Errors
    /// The bytes are no interior page of a version this reads.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(WHAT, bytes);
        r.magic(MAGIC)?;
        let version = r.u16()?;
        if version != VERSION {
            return Err(r.fail(format!("version {version}; this reads version {VERSION}")));
        }
        let level = r.u8()?;
        if r.u8()? != 0 {
            return Err(r.fail("a reserved byte is not zero"));
        }
        let n = usize::from(r.u16()?);
        let n_present = usize::from(r.u16()?);
        if n > FANOUT {
            return Err(r.fail(format!("{n} children, at most {FANOUT} are allowed")));
        }
        let bits = r.bytes(n.div_ceil(8))?;
        let present: Vec<bool> =
            bits.iter().flat_map(|byte| (0..8).map(move |i| (byte >> i) & 1 == 1)).collect();
        if present.iter().filter(|p| **p).count() != n_present || present.iter().skip(n).any(|p| *p) {
            return Err(r.fail("the presence bits do not agree with the counts"));
        }
        let mut children = Vec::with_capacity(n);
        for here in present.iter().take(n) {
            children.push(if *here {
                Some(Child { page: PageId(r.array()?), n_data: r.u32()?, n_zero: r.u32()? })
            } else {
                None
            });
        }
        r.end()?;
        let page = Self { level, children };
        page.check()?;
        Ok(page)
    }

    fn check(&self) -> Result<(), Malformed> {
        let fail = |why: String| Err(Malformed::new(WHAT, why));
        if self.level == 0 || self.level > MAX_LEVEL {
            return fail(format!("level {}, 1 to {MAX_LEVEL} are allowed", self.level));
        }
        if self.children.len() > FANOUT {
            return fail(format!("{} children, at most {FANOUT} are allowed", self.children.len()));
        }
        if self.children.last().is_some_and(Option::is_none) {
            return fail("the last child is absent".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_page_survives_its_bytes(level in 1_u8..=3, slots in prop::collection::btree_map(0_usize..FANOUT, (any::<u32>(), any::<u32>()), 0..60)) {
            let mut page = InteriorPage::empty(level);
            for (slot, (n_data, n_zero)) in slots {
                let page_id = PageId(*blake3::hash(&n_data.to_le_bytes()).as_bytes());
                page.set(slot, Some(Child { page: page_id, n_data, n_zero }));
            }
            let (name, bytes) = page.encode().unwrap();
            prop_assert!(bytes.len() <= MAX_INTERIOR_BYTES);
            prop_assert_eq!(InteriorPage::name(&bytes), name);
            prop_assert_eq!(InteriorPage::decode(&bytes).unwrap(), page.clone());
            prop_assert!(InteriorPage::decode(&bytes[..bytes.len() - 1]).is_err());
            for slot in 0..FANOUT {
                page.set(slot, None);
            }
            prop_assert_eq!(page, InteriorPage::empty(level));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = InteriorPage::decode(&bytes);
        }
    }
}
