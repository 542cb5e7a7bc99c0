//! Packs read back what was written, whatever happens to their bytes.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::backend::{Backend, MemoryBackend};

fn write(backend: &dyn Backend, bodies: &[Vec<u8>]) -> FinishedPack {
    let mut writer = PackWriter::create(backend, 7, PackClass::Data, 1_700_000_000_000).unwrap();
    for body in bodies {
        let key = key_of(body);
        writer.append(key, &record_bytes(key, body)).unwrap();
    }
    writer.finish().unwrap()
}

fn key_of(body: &[u8]) -> RecordKey {
    RecordKey { kind: RecordKind::Chunk, id: *blake3::hash(body).as_bytes() }
}

fn bodies() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..12)
}

proptest! {
    #[test]
    fn a_pack_lists_and_holds_its_records(bodies in bodies()) {
        let backend = MemoryBackend::new();
        let pack = write(&backend, &bodies);
        let contents = read_contents(&backend, 7, pack.size).unwrap();
        prop_assert!(contents.walked.is_none());
        prop_assert_eq!(&contents.entries, &pack.entries);
        for (body, entry) in bodies.iter().zip(&contents.entries) {
            let len = RECORD_HEADER_BYTES + entry.length as usize;
            let bytes = backend.read_range(&pack_name(7).unwrap(), u64::from(entry.offset), len).unwrap();
            prop_assert_eq!(check_record(entry.key, &bytes).unwrap(), body.as_slice());
        }
    }

    #[test]
    fn a_harmed_pack_gives_right_bytes_or_none(bodies in bodies(), at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<bool>()) {
        let backend = MemoryBackend::new();
        let pack = write(&backend, &bodies);
        let name = pack_name(7).unwrap();
        let size = usize::try_from(pack.size).unwrap();
        let mut bytes = backend.read_range(&name, 0, size).unwrap();
        let at = at.index(size);
        bytes[at] ^= 1 << bit;
        if cut {
            bytes.truncate(at);
        }
        let harmed: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
        harmed.put(&name, &bytes).unwrap();
        let contents = read_contents(harmed.as_ref(), 7, bytes.len() as u64).unwrap();
        for entry in &contents.entries {
            prop_assert!(pack.entries.contains(entry));
            let len = RECORD_HEADER_BYTES + entry.length as usize;
            let Ok(record) = harmed.read_range(&name, u64::from(entry.offset), len) else { continue };
            if let Ok(body) = check_record(entry.key, &record) {
                prop_assert_eq!(key_of(body), entry.key);
            }
        }
    }
}

#[test]
fn names_of_packs_are_read_back_and_others_are_not_taken_for_packs() {
    for number in [0, 1, 4_095, 4_096, u64::MAX] {
        assert_eq!(pack_number(&pack_name(number).unwrap()), Some(number));
    }
    for other in
        ["packs/x.pack", "packs/0000000000001/0000000000000001.pack", "points/1.point", "packs/0/1.pack"]
    {
        assert_eq!(pack_number(&crate::ObjectName::new(other).unwrap()), None);
    }
    for bad in ["", "/a", "a//b", "../a", "a/.b", "A", "a b"] {
        assert!(crate::ObjectName::new(bad).is_err(), "{bad}");
    }
}
