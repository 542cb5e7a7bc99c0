//! The layout of a qcow2 file (version 3), after the specification in QEMU's `docs/interop/qcow2.rst`. In clusters
//! of 64 KiB: header, refcount table, refcount blocks, L1 table, L2 tables, data. Each kind stands in one piece, so
//! all refcounts are one array, and so are all L2 entries. A guest cluster has one host cluster that is its own;
//! L2 entry and refcount say whether it is in use.

use snapferry_types::{BLOCK_SIZE, BlockIndex};

use super::fixed::{Layout, Placed};

pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// A refcount has 2 bytes.
const REFCOUNT_ORDER: u32 = 4;
const REFCOUNTS_PER_CLUSTER: u64 = CLUSTER / 2;
const ENTRIES_PER_CLUSTER: u64 = CLUSTER / 8;
/// Clusters in a block of a volume.
const PER_BLOCK: u64 = BLOCK_SIZE as u64 / CLUSTER;
/// The bit of an L1 or L2 entry that says that the cluster has refcount 1.
const COPIED: u64 = 1 << 63;
const HEADER_LEN: u32 = 104;

/// Where everything stands, as numbers of clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Qcow2Layout {
    n_blocks: u32,
    n_refcount_table: u64,
    n_refcount_blocks: u64,
    n_l1: u64,
    n_l2: u64,
    data_start: u64,
}

impl Qcow2Layout {
    /// For a volume of `n_blocks`, at least 1.
    pub(super) fn new(n_blocks: u32) -> Self {
        let n_data = u64::from(n_blocks) * PER_BLOCK;
        let n_l2 = n_data.div_ceil(ENTRIES_PER_CLUSTER);
        let n_l1 = n_l2.div_ceil(ENTRIES_PER_CLUSTER);
        let (mut n_refcount_table, mut n_refcount_blocks) = (1, 1);
        // Refcounts count their own clusters: a few rounds until they suffice.
        loop {
            let n_tables = 1 + n_refcount_table + n_refcount_blocks + n_l1 + n_l2;
            let data_start = n_tables.next_multiple_of(PER_BLOCK);
            let n_blocks_needed = (data_start + n_data).div_ceil(REFCOUNTS_PER_CLUSTER);
            let n_table_needed = n_blocks_needed.div_ceil(ENTRIES_PER_CLUSTER);
            if n_blocks_needed <= n_refcount_blocks && n_table_needed <= n_refcount_table {
                return Self { n_blocks, n_refcount_table, n_refcount_blocks, n_l1, n_l2, data_start };
            }
            (n_refcount_blocks, n_refcount_table) =
                (n_blocks_needed.max(n_refcount_blocks), n_table_needed.max(n_refcount_table));
        }
    }

    fn refcount_table(&self) -> u64 {
        1
    }

    fn refcount_blocks(&self) -> u64 {
        self.refcount_table() + self.n_refcount_table
    }

    fn l1(&self) -> u64 {
        self.refcount_blocks() + self.n_refcount_blocks
    }

    fn l2(&self) -> u64 {
        self.l1() + self.n_l1
    }

    /// The cluster after the last table.
    fn tables_end(&self) -> u64 {
        self.l2() + self.n_l2
    }

    fn refcounts_of(&self, first: u64, n_clusters: u64) -> Placed {
        let offset = self.refcount_blocks() * CLUSTER + first * 2;
        (offset, (0..n_clusters).flat_map(|_| 1_u16.to_be_bytes()).collect())
    }
}

fn entries(clusters: impl Iterator<Item = u64>, flags: u64) -> Vec<u8> {
    clusters.flat_map(|cluster| ((cluster * CLUSTER) | flags).to_be_bytes()).collect()
}

impl Layout for Qcow2Layout {
    fn file_len(&self) -> u64 {
        (self.data_start + u64::from(self.n_blocks) * PER_BLOCK) * CLUSTER
    }

    fn head(&self) -> Vec<u8> {
        let mut head = Vec::with_capacity(112);
        let size = u64::from(self.n_blocks) * BLOCK_SIZE as u64;
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        head.extend(MAGIC);
        head.extend(3_u32.to_be_bytes()); // version
        head.extend([0; 12]); // no backing file
        head.extend(CLUSTER_BITS.to_be_bytes());
        head.extend(size.to_be_bytes());
        head.extend([0; 4]); // not encrypted
        head.extend(small(self.n_l2).to_be_bytes()); // entries of the L1 table
        head.extend((self.l1() * CLUSTER).to_be_bytes());
        head.extend((self.refcount_table() * CLUSTER).to_be_bytes());
        head.extend(small(self.n_refcount_table).to_be_bytes());
        head.extend([0; 12]); // no snapshots
        head.extend([0; 24]); // no features
        head.extend(REFCOUNT_ORDER.to_be_bytes());
        head.extend(HEADER_LEN.to_be_bytes());
        head.extend([0; 8]); // end of the header extensions
        head
    }

    fn is_head(&self, found: &[u8]) -> bool {
        found == self.head()
    }

    fn tables(&self) -> Vec<Placed> {
        let blocks = self.refcount_blocks()..self.refcount_blocks() + self.n_refcount_blocks;
        let l2 = self.l2()..self.l2() + self.n_l2;
        vec![
            (self.refcount_table() * CLUSTER, entries(blocks, 0)),
            self.refcounts_of(0, self.tables_end()),
            (self.l1() * CLUSTER, entries(l2, COPIED)),
        ]
    }

    fn data_offset(&self, index: BlockIndex) -> u64 {
        (self.data_start + u64::from(index.0) * PER_BLOCK) * CLUSTER
    }

    fn marks(&self, index: BlockIndex) -> Vec<Placed> {
        let guest = u64::from(index.0) * PER_BLOCK;
        let host = self.data_start + guest;
        vec![
            self.refcounts_of(host, PER_BLOCK),
            (self.l2() * CLUSTER + guest * 8, entries(host..host + PER_BLOCK, COPIED)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tables_cover_the_volume_and_no_two_places_overlap(n_blocks in 1_u32..1 << 27, at in any::<u32>()) {
            let layout = Qcow2Layout::new(n_blocks);
            let index = BlockIndex(at % n_blocks);
            prop_assert!(layout.tables_end() <= layout.data_start);
            prop_assert!(layout.n_refcount_blocks * REFCOUNTS_PER_CLUSTER * CLUSTER >= layout.file_len());
            prop_assert!(layout.n_refcount_table * ENTRIES_PER_CLUSTER >= layout.n_refcount_blocks);
            prop_assert!(layout.n_l1 * ENTRIES_PER_CLUSTER >= layout.n_l2);
            prop_assert!(layout.data_offset(index) + BLOCK_SIZE as u64 <= layout.file_len());
            let marks = layout.marks(index);
            let within = |place: &Placed, first: u64, n: u64| {
                place.0 >= first * CLUSTER && place.0 + place.1.len() as u64 <= (first + n) * CLUSTER
            };
            prop_assert!(within(&marks[0], layout.refcount_blocks(), layout.n_refcount_blocks));
            prop_assert!(marks[0].0 / CLUSTER == (marks[0].0 + 15) / CLUSTER, "in one refcount block");
            prop_assert!(within(&marks[1], layout.l2(), layout.n_l2));
            prop_assert!(marks[1].0 / CLUSTER == (marks[1].0 + 63) / CLUSTER, "in one L2 table");
            if index.0 > 0 {
                let before = layout.marks(BlockIndex(index.0 - 1));
                prop_assert_eq!(before[0].0 + before[0].1.len() as u64, marks[0].0);
                prop_assert_eq!(before[1].0 + before[1].1.len() as u64, marks[1].0);
            }
        }
    }
}
