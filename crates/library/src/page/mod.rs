//! Manifest pages: what a volume of a recovery point consists of.
//!
//! A *leaf page* says of up to 1,024 consecutive blocks whether each is a hole, zeroes or data, and which chunk
//! holds the data. The client makes it and names it; the library reads its clear part only. An *interior page*
//! holds up to 1,024 children (leaf pages at level 1, interior pages above) and is named by the BLAKE3 hash of
//! its bytes. A volume is the id of its topmost interior page, so that two volumes share every page that is equal.

mod interior;
mod leaf;

pub(crate) use interior::MAX_INTERIOR_BYTES;
pub use interior::{Child, FANOUT, InteriorPage};
pub use leaf::{EntryState, LeafPage};
