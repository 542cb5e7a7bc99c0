//! What the tests stand on: a library in a temporary folder, small blocks, and a client that uploads like a real one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use snapferry_library::page::{EntryState, LeafPage};
use snapferry_library::{
    Backend, DiskBackend, Error, Fence, Library, LibraryConfig, SessionRequest, SessionState, SessionVolume,
};
use snapferry_types::{ChunkId, PageId, RecoveryPointId, SessionId};
use tempfile::TempDir;

/// What a block of a test volume is; `Data(n)` stands for content number n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Block {
    Zero,
    Data(u64),
}

/// A volume: its blocks that are no holes.
pub(crate) type Blocks = BTreeMap<u32, Block>;

/// A temporary folder, in memory where there is such a place: no test here is about whether a disk keeps its word,
/// and thousands of syncs take minutes.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

pub(crate) fn fence(epoch: u64) -> Fence {
    Fence { generation: 1, epoch }
}

/// The stored record of content `n`: about 4 KiB that do not compress.
pub(crate) fn record(n: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4_000 + (n % 97) as usize];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn chunk_id(n: u64) -> ChunkId {
    ChunkId(*blake3::hash(&n.to_be_bytes()).as_bytes())
}

/// The leaf of a volume of `n_blocks` at `leaf_index`.
pub(crate) fn leaf(blocks: &Blocks, n_blocks: u32, leaf_index: u32) -> LeafPage {
    let first = leaf_index * 1_024;
    let end = n_blocks.min(first.saturating_add(1_024));
    let mut page = LeafPage { leaf_index, ..LeafPage::default() };
    for index in first..end {
        page.states.push(match blocks.get(&index) {
            None => EntryState::Hole,
            Some(Block::Zero) => EntryState::Zero,
            Some(Block::Data(n)) => {
                page.chunk_ids.push(chunk_id(*n));
                EntryState::Data
            }
        });
    }
    page.sealed = b"sealed digests".to_vec();
    page
}

/// The name a client would give the page.
pub(crate) fn page_id(page: &LeafPage) -> PageId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"page").update(&page.leaf_index.to_le_bytes());
    for state in &page.states {
        hasher.update(&[*state as u8]);
    }
    for chunk in &page.chunk_ids {
        hasher.update(&chunk.0);
    }
    PageId(*hasher.finalize().as_bytes())
}

pub(crate) fn config(dir: &Path, backend: Arc<dyn Backend>) -> LibraryConfig {
    let mut config = LibraryConfig::new(dir, backend);
    config.pack_bytes = 32 * 1_024;
    config.index_cache_bytes = 1 << 20;
    config.reserve_bytes = 0;
    config
}

/// A library on a disk.
pub(crate) struct Rig {
    pub(crate) dir: TempDir,
    pub(crate) library: Option<Library>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let dir = folder();
        let library = Some(Self::open_in(dir.path()));
        Self { dir, library }
    }

    pub(crate) fn open_in(dir: &Path) -> Library {
        Library::open(Self::config_in(dir)).unwrap()
    }

    pub(crate) fn config_in(dir: &Path) -> LibraryConfig {
        config(&dir.join("library"), Arc::new(DiskBackend::open(dir.join("objects")).unwrap()))
    }

    pub(crate) fn library(&self) -> &Library {
        self.library.as_ref().unwrap()
    }

    /// Closes and opens.
    pub(crate) fn reopen(&mut self) -> &Library {
        self.library = None;
        self.library = Some(Self::open_in(self.dir.path()));
        self.library()
    }
}

pub(crate) fn request(key: &str, fence: Fence, volumes: &[(&str, u32)]) -> SessionRequest {
    let volumes = volumes
        .iter()
        .map(|(name, n_blocks)| SessionVolume { name: (*name).to_owned(), n_blocks: *n_blocks, base: None })
        .collect();
    SessionRequest { key: key.to_owned(), fence, tenant: "acme".to_owned(), volumes }
}

pub(crate) fn open(library: &Library, request: &SessionRequest) -> SessionId {
    match library.open_session(request).unwrap() {
        SessionState::Open(opened) => opened.id,
        SessionState::AlreadySealed(id) => panic!("already sealed as {id}"),
    }
}

/// Puts what a leaf needs and the leaf, as a client does.
pub(crate) fn put_leaf(
    library: &Library,
    session: SessionId,
    fence: Fence,
    volume: &str,
    page: &LeafPage,
    blocks: &Blocks,
) -> Result<(), Error> {
    let mut wanted: BTreeMap<ChunkId, u64> = BTreeMap::new();
    for block in blocks.values() {
        if let Block::Data(n) = block
            && page.chunk_ids.contains(&chunk_id(*n))
        {
            wanted.insert(chunk_id(*n), *n);
        }
    }
    let ids: Vec<_> = wanted.keys().copied().collect();
    let missing = library.missing_chunks(session, fence, &ids)?;
    for (id, missing) in ids.iter().zip(missing) {
        if missing {
            library.put_chunk(session, fence, *id, &record(wanted[id]))?;
        }
    }
    library.put_leaf(session, fence, volume, page.leaf_index, page_id(page), &page.encode().unwrap())
}

/// Puts the given leaves of a volume.
pub(crate) fn put_leaves(
    library: &Library,
    session: SessionId,
    fence: Fence,
    volume: &str,
    (blocks, n_blocks): (&Blocks, u32),
    leaves: impl IntoIterator<Item = u32>,
) -> Result<(), Error> {
    for leaf_index in leaves {
        let inside: Blocks =
            blocks.range(leaf_index * 1_024..=leaf_index * 1_024 + 1_023).map(|(i, b)| (*i, *b)).collect();
        put_leaf(library, session, fence, volume, &leaf(&inside, n_blocks, leaf_index), &inside)?;
    }
    Ok(())
}

pub(crate) fn leaves_of(blocks: &Blocks) -> BTreeSet<u32> {
    blocks.keys().map(|index| index / 1_024).collect()
}

/// Uploads one volume called `root` in full and seals it.
pub(crate) fn backup(library: &Library, key: &str, blocks: &Blocks, n_blocks: u32) -> RecoveryPointId {
    let session = open(library, &request(key, fence(1), &[("root", n_blocks)]));
    put_leaves(library, session, fence(1), "root", (blocks, n_blocks), leaves_of(blocks)).unwrap();
    library.seal(session, fence(1), key.as_bytes().to_vec()).unwrap()
}

/// Uploads what changed since `base` and seals it.
pub(crate) fn incremental(
    library: &Library,
    key: &str,
    (base, before): (RecoveryPointId, &Blocks),
    (after, n_blocks): (&Blocks, u32),
) -> RecoveryPointId {
    let mut request = request(key, fence(1), &[("root", n_blocks)]);
    request.volumes[0].base = Some((base, "root".to_owned()));
    let session = open(library, &request);
    let all: BTreeSet<u32> = leaves_of(before).union(&leaves_of(after)).copied().collect();
    let changed = all.into_iter().filter(|l| {
        let range = l * 1_024..=l * 1_024 + 1_023;
        !before.range(range.clone()).eq(after.range(range))
    });
    put_leaves(library, session, fence(1), "root", (after, n_blocks), changed).unwrap();
    library.seal(session, fence(1), key.as_bytes().to_vec()).unwrap()
}

/// Reads a volume back, every chunk compared with what was put.
pub(crate) fn restore(library: &Library, id: RecoveryPointId, volume: &str) -> Result<Blocks, Error> {
    let mut blocks = Blocks::new();
    let mut from = 0;
    loop {
        let leaves = library.read_leaves(id, volume, from, 3)?;
        let Some(last) = leaves.last() else { return Ok(blocks) };
        from = last.leaf_index + 1;
        for found in leaves {
            let page = LeafPage::decode(&found.bytes)?;
            assert_eq!((page.leaf_index, page_id(&page)), (found.leaf_index, found.page));
            for ids in page.chunk_ids.chunks(64) {
                for (id, bytes) in ids.iter().zip(library.read_chunks(ids)?) {
                    assert_eq!(
                        *blake3::hash(&bytes?).as_bytes(),
                        content_hash(id),
                        "a chunk came back as another"
                    );
                }
            }
            for (slot, state, chunk) in page.entries() {
                let index = page.leaf_index * 1_024 + slot as u32;
                match state {
                    EntryState::Hole => {}
                    EntryState::Zero => drop(blocks.insert(index, Block::Zero)),
                    EntryState::Data => drop(blocks.insert(index, Block::Data(number_of(&chunk.unwrap())))),
                }
            }
        }
    }
}

/// Contents used by tests are below this number.
pub(crate) const CONTENTS: u64 = 4_096;

fn numbers() -> &'static BTreeMap<ChunkId, (u64, [u8; 32])> {
    static NUMBERS: std::sync::OnceLock<BTreeMap<ChunkId, (u64, [u8; 32])>> = std::sync::OnceLock::new();
    NUMBERS.get_or_init(|| {
        (0..CONTENTS).map(|n| (chunk_id(n), (n, *blake3::hash(&record(n)).as_bytes()))).collect()
    })
}

pub(crate) fn number_of(id: &ChunkId) -> u64 {
    numbers()[id].0
}

fn content_hash(id: &ChunkId) -> [u8; 32] {
    numbers()[id].1
}

/// `n` blocks of data from content `first` on, from block `at` on.
pub(crate) fn data(at: u32, n: u32, first: u64) -> Blocks {
    (0..n).map(|i| (at + i, Block::Data(first + u64::from(i)))).collect()
}

/// Copies a folder as it is, as a power cut would leave it at best.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
