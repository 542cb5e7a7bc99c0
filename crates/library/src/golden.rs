//! Every persisted structure against the bytes that the first release wrote. A difference is a new version of a
//! format: the old sample stays and must still be read.

use std::path::PathBuf;

use snapferry_types::{ChunkId, Fence, PageId, RecoveryPointId, SessionId};

use crate::backend::{Backend, MemoryBackend};
use crate::index::{BaseRow, KeyRow, Location, PackRow, SessionLife, SessionRow, SessionVolumeRow};
use crate::pack::{PackClass, PackWriter, RecordKey, pack_name, record_bytes};
use crate::page::{Child, EntryState, InteriorPage, LeafPage};
use crate::point::{PointVolume, RecoveryPoint};

/// The sample's bytes; one that is not there is written, to be looked at and committed.
fn golden(name: &str, made: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if !path.exists() {
        std::fs::write(&path, made).unwrap();
        panic!("{} was not there and is written now: look at it and commit it", path.display());
    }
    std::fs::read(path).unwrap()
}

fn id(n: u8) -> [u8; 32] {
    [n; 32]
}

fn leaf() -> LeafPage {
    use EntryState::{Data, Hole, Zero};
    LeafPage {
        leaf_index: 3,
        states: vec![Data, Zero, Hole, Data, Data],
        chunk_ids: vec![ChunkId(id(0xa1)), ChunkId(id(0xa2)), ChunkId(id(0xa1))],
        sealed: b"sealed".to_vec(),
    }
}

fn interior() -> InteriorPage {
    let child = |n| Some(Child { page: PageId(id(n)), n_data: 3, n_zero: 1 });
    InteriorPage { level: 1, children: vec![None, None, None, child(0xb1), None, child(0xb2)] }
}

#[test]
fn pages_have_the_bytes_of_format_1() {
    let bytes = leaf().encode().unwrap();
    assert_eq!(golden("leaf_page_v1.bin", &bytes), bytes);
    assert_eq!(LeafPage::decode(&bytes).unwrap(), leaf());
    let (name, bytes) = interior().encode().unwrap();
    assert_eq!(golden("interior_page_v1.bin", &bytes), bytes);
    assert_eq!(InteriorPage::decode(&bytes).unwrap(), interior());
    assert_eq!(name.to_string(), "65dd2ff1b392801d1c177f9bdce748fa967de66ab0c5b7660117c5dc7ac030b5");
}

#[test]
fn a_recovery_point_has_the_bytes_of_format_1() {
    let point = RecoveryPoint {
        id: RecoveryPointId::from_u128(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
        key: "task-1".to_owned(),
        fence: Fence { generation: 1, epoch: 2 },
        tenant: "acme".to_owned(),
        created_unix_ms: 1_700_000_000_000,
        metadata: b"{}".to_vec(),
        volumes: vec![PointVolume {
            name: "vol-1".to_owned(),
            n_blocks: 3_077,
            root: PageId(id(0xc1)),
            n_data: 3,
            n_zero: 1,
        }],
    };
    let bytes = point.encode();
    assert_eq!(golden("recovery_point_v1.bin", &bytes), bytes);
    assert_eq!(RecoveryPoint::decode(&bytes).unwrap(), point);
}

#[test]
fn a_pack_has_the_bytes_of_format_1() {
    let backend = MemoryBackend::new();
    let mut writer = PackWriter::create(&backend, 5, PackClass::Manifest, 1_700_000_000_000).unwrap();
    let leaf_key = RecordKey::leaf(PageId(id(0xd1)));
    writer.append(leaf_key, &record_bytes(leaf_key, &leaf().encode().unwrap())).unwrap();
    let (name, bytes) = interior().encode().unwrap();
    let interior_key = RecordKey::interior(name);
    writer.append(interior_key, &record_bytes(interior_key, &bytes)).unwrap();
    let pack = writer.finish().unwrap();
    let size = usize::try_from(pack.size).unwrap();
    let bytes = backend.read_range(&pack_name(5).unwrap(), 0, size).unwrap();
    assert_eq!(golden("pack_v1.bin", &bytes), bytes);
}

#[test]
fn index_rows_have_the_bytes_of_format_1() {
    let at = Location { pack: 5, offset: 32, length: 100, ordinal: 1, damaged: true };
    let pack = PackRow { class: PackClass::Data, size: 65_536, n_records: 12, lost: false };
    let mut bytes = at.encode();
    bytes.extend(pack.encode());
    assert_eq!(golden("record_and_pack_row_v1.bin", &bytes), bytes);
    let session = SessionId::from_u128(7);
    let recovery_point = RecoveryPointId::from_u128(8);
    let fence = Fence { generation: 1, epoch: 2 };
    let open = SessionLife::Open(SessionRow {
        id: session,
        key: "task-1".to_owned(),
        recovery_point,
        fence,
        tenant: "acme".to_owned(),
        volumes: vec![SessionVolumeRow {
            name: "vol-1".to_owned(),
            n_blocks: 2_048,
            base: Some(BaseRow {
                recovery_point: RecoveryPointId::from_u128(6),
                volume: "vol-1".to_owned(),
                n_blocks: 1_024,
                root: PageId(id(0xc1)),
                n_data: 3,
                n_zero: 1,
            }),
        }],
        opened_unix_ms: 1_700_000_000_000,
        touched_unix_ms: 1_700_000_000_001,
    });
    let lives = vec![open, SessionLife::Sealed { recovery_point, fence }];
    let keys = vec![
        KeyRow::Open { session },
        KeyRow::Sealed { session: Some(session), recovery_point, fence },
        KeyRow::Abandoned { fence, at_unix_ms: 1_700_000_000_000 },
    ];
    let made = serde_json::to_vec_pretty(&(&lives, &keys)).unwrap();
    let stored = golden("session_rows_v1.json", &made);
    assert_eq!(stored, made);
    let read: (Vec<SessionLife>, Vec<KeyRow>) = serde_json::from_slice(&stored).unwrap();
    assert_eq!(read, (lives, keys));
}
