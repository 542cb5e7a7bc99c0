//! The library against a model that is a handful of maps; a crash and a restart are operations like any other.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use snapferry_library::{GcOptions, Library, SessionState};
use snapferry_types::{RecoveryPointId, SessionId};
use tempfile::TempDir;

use crate::rig::*;

const LEAVES: u32 = 4;
const N_BLOCKS: u32 = LEAVES * 1_024;

#[derive(Debug, Clone)]
enum Op {
    /// Opens a session with this slot's next key, on the newest point or on none.
    Open {
        slot: usize,
        on_base: bool,
    },
    /// Puts a leaf whose data are contents `from..from + n`.
    Put {
        slot: usize,
        leaf: u32,
        from: u64,
        n: u32,
    },
    Flush {
        slot: usize,
    },
    Seal {
        slot: usize,
    },
    Abandon {
        slot: usize,
    },
    Delete {
        which: prop::sample::Index,
    },
    Collect {
        min_dead_percent: u8,
    },
    Restart,
    /// As after a power cut: only what the operating system had.
    Crash,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let slot = || 0_usize..3;
    let op = prop_oneof![
        4 => (slot(), any::<bool>()).prop_map(|(slot, on_base)| Op::Open { slot, on_base }),
        8 => (slot(), 0..LEAVES, 0_u64..40, 0_u32..12).prop_map(|(slot, leaf, from, n)| Op::Put { slot, leaf, from, n }),
        2 => slot().prop_map(|slot| Op::Flush { slot }),
        4 => slot().prop_map(|slot| Op::Seal { slot }),
        1 => slot().prop_map(|slot| Op::Abandon { slot }),
        2 => any::<prop::sample::Index>().prop_map(|which| Op::Delete { which }),
        3 => prop_oneof![Just(0_u8), Just(30), Just(101)].prop_map(|min_dead_percent| Op::Collect { min_dead_percent }),
        1 => Just(Op::Restart),
        1 => Just(Op::Crash),
    ];
    prop::collection::vec(op, 1..40)
}

/// What the model knows of an open session.
#[derive(Debug, Clone)]
struct Upload {
    id: SessionId,
    key: String,
    base: Option<RecoveryPointId>,
    base_blocks: Blocks,
    /// Leaves that a flush has returned for.
    durable: BTreeMap<u32, Blocks>,
    /// Leaves put since.
    buffered: BTreeMap<u32, Blocks>,
}

impl Upload {
    /// The volume as a seal would make it.
    fn volume(&self) -> Blocks {
        let mut blocks = self.base_blocks.clone();
        for (leaf, put) in self.durable.iter().chain(&self.buffered) {
            blocks.retain(|index, _| index / 1_024 != *leaf);
            blocks.extend(put);
        }
        blocks
    }

    fn flushed(&mut self) {
        self.durable.append(&mut self.buffered);
    }

    fn request(&self) -> snapferry_library::SessionRequest {
        let mut asked = request(&self.key, fence(1), &[("root", N_BLOCKS)]);
        asked.volumes[0].base = self.base.map(|id| (id, "root".to_owned()));
        asked
    }
}

struct World {
    dir: TempDir,
    library: Option<Library>,
    points: BTreeMap<RecoveryPointId, Blocks>,
    uploads: BTreeMap<usize, Upload>,
    keys: u32,
}

impl World {
    fn new() -> Self {
        let dir = folder();
        let library = Some(Rig::open_in(dir.path()));
        Self { dir, library, points: BTreeMap::new(), uploads: BTreeMap::new(), keys: 0 }
    }

    fn library(&self) -> &Library {
        self.library.as_ref().unwrap()
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Open { slot, on_base } => self.open(*slot, *on_base),
            Op::Put { slot, leaf, from, n } => self.put(*slot, *leaf, *from, *n),
            Op::Flush { slot } => {
                if let Some(upload) = self.uploads.get(slot) {
                    self.library().flush(upload.id, fence(1)).unwrap();
                    // One flush is for all.
                    self.uploads.values_mut().for_each(Upload::flushed);
                }
            }
            Op::Seal { slot } => {
                if let Some(upload) = self.uploads.remove(slot) {
                    let id = self.library().seal(upload.id, fence(1), Vec::new()).unwrap();
                    assert_eq!(self.library().seal(upload.id, fence(1), Vec::new()).unwrap(), id);
                    self.points.insert(id, upload.volume());
                    self.uploads.values_mut().for_each(Upload::flushed);
                }
            }
            Op::Abandon { slot } => {
                if let Some(upload) = self.uploads.remove(slot) {
                    self.library().abandon(upload.id, fence(1)).unwrap();
                }
            }
            Op::Delete { which } => {
                if !self.points.is_empty() {
                    let id = *self.points.keys().nth(which.index(self.points.len())).unwrap();
                    assert!(self.library().delete_recovery_point(id).unwrap());
                    self.points.remove(&id);
                }
            }
            Op::Collect { min_dead_percent } => {
                let options = GcOptions { min_dead_percent: *min_dead_percent, ..GcOptions::default() };
                let report = self.library().collect_garbage(&options, &mut || true).unwrap();
                assert_eq!(report.dangling_chunks, 0);
            }
            Op::Restart => {
                self.library = None;
                self.library = Some(Rig::open_in(self.dir.path()));
                self.forget_buffered();
            }
            Op::Crash => {
                let after = folder();
                copy_folder(self.dir.path(), after.path());
                self.library = None;
                self.library = Some(Rig::open_in(after.path()));
                self.dir = after;
                self.forget_buffered();
            }
        }
    }

    fn open(&mut self, slot: usize, on_base: bool) {
        if let Some(upload) = self.uploads.get(&slot) {
            assert_eq!(open(self.library(), &upload.request()), upload.id);
            return;
        }
        self.keys += 1;
        let newest = self.points.iter().next_back().filter(|_| on_base);
        let mut upload = Upload {
            id: SessionId::from_u128(0),
            key: format!("key-{}", self.keys),
            base: newest.map(|(id, _)| *id),
            base_blocks: newest.map(|(_, blocks)| blocks.clone()).unwrap_or_default(),
            durable: BTreeMap::new(),
            buffered: BTreeMap::new(),
        };
        let SessionState::Open(opened) = self.library().open_session(&upload.request()).unwrap() else {
            panic!("a new key is sealed");
        };
        assert!(!opened.resumed && opened.without_base.is_empty());
        upload.id = opened.id;
        self.uploads.insert(slot, upload);
    }

    fn put(&mut self, slot: usize, leaf: u32, from: u64, n: u32) {
        let Some(upload) = self.uploads.get(&slot) else { return };
        let mut blocks = data(leaf * 1_024 + 10, n, from);
        if n % 3 == 1 {
            blocks.insert(leaf * 1_024, Block::Zero);
        }
        let all = blocks.clone();
        put_leaves(self.library(), upload.id, fence(1), "root", (&all, N_BLOCKS), [leaf]).unwrap();
        self.uploads.get_mut(&slot).unwrap().buffered.insert(leaf, blocks);
    }

    fn forget_buffered(&mut self) {
        self.uploads.values_mut().for_each(|upload| upload.buffered.clear());
    }

    fn check(&self) {
        let library = self.library();
        let listed: BTreeSet<_> =
            library.recovery_points(None, 1_000).unwrap().iter().map(|p| p.id).collect();
        assert_eq!(listed, self.points.keys().copied().collect());
        for (id, blocks) in &self.points {
            assert_eq!(&restore(library, *id, "root").unwrap(), blocks);
        }
        let open: BTreeSet<_> = library.sessions(None).iter().map(|s| s.id).collect();
        assert_eq!(open, self.uploads.values().map(|u| u.id).collect());
        for upload in self.uploads.values() {
            let sealed: BTreeSet<_> = library
                .sealed_leaves(upload.id, "root", 0)
                .unwrap()
                .map(|leaf| leaf.unwrap().leaf_index)
                .collect();
            assert_eq!(sealed, upload.durable.keys().copied().collect());
        }
    }

    /// Nothing more is stored than what points and sessions refer to.
    fn check_exact(&mut self) {
        for slot in 0..3 {
            self.apply(&Op::Abandon { slot });
        }
        self.apply(&Op::Collect { min_dead_percent: 0 });
        let stats = self.library().stats().unwrap();
        let contents: BTreeSet<_> = self.points.values().flat_map(|blocks| blocks.values()).collect();
        let data = contents.iter().filter(|block| matches!(block, Block::Data(_))).count();
        assert_eq!(stats.chunks, data as u64);
        let leaves: BTreeSet<_> = self
            .points
            .values()
            .flat_map(|blocks| {
                leaves_of(blocks).into_iter().map(move |l| {
                    blocks.range(l * 1_024..(l + 1) * 1_024).map(|(i, b)| (*i, *b)).collect::<Vec<_>>()
                })
            })
            .collect();
        let roots: BTreeSet<_> = self.points.values().collect();
        assert_eq!(stats.pages, (leaves.len() + roots.len()) as u64);
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_library_does_what_the_model_does(ops in ops()) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
            if matches!(op, Op::Restart | Op::Crash | Op::Collect { .. }) {
                world.check();
            }
        }
        world.check();
        world.check_exact();
    }
}
