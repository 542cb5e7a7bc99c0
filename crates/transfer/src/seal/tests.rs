use proptest::prelude::*;
use snapferry_types::tenancy::TenantKeys;
use snapferry_types::{BLOCK_SIZE, ChunkId, LEAF_BLOCKS, Sha256Digest, ZERO_BLOCK_SHA256};

use super::Sealer;
use crate::block::{BlockState, Leaf};
use crate::open::sha256;
use crate::record::{HEADER_BYTES, SealError, TAG_BYTES};
use crate::scratch::Scratch;
use crate::twin::seeded_block;
use crate::zero::zero_block;

fn keys() -> TenantKeys {
    TenantKeys::new([0x11; 32], [0x22; 32])
}

fn golden_sealer() -> Sealer {
    Sealer::with_nonce(&keys(), [0x33; 12])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn leaf() -> Leaf {
    let mut leaf = Leaf::empty(5);
    leaf.entries[0] = BlockState::Zero;
    leaf.entries[1] = BlockState::Data(Sha256Digest([0xAA; 32]));
    leaf.entries[1_023] = BlockState::Data(Sha256Digest([0xBB; 32]));
    leaf
}

#[test]
fn golden_names_and_records() {
    let sealer = golden_sealer();
    let mut scratch = Scratch::new().unwrap();
    assert_eq!(sha256(&zero_block()), ZERO_BLOCK_SHA256);
    let plain = b"snapferry";
    let id = sealer.chunk_id(&sha256(plain));
    let chunk = sealer.seal_chunk(id, plain, &mut scratch).unwrap();
    let repeated = [b'a'; 300];
    let compressed = sealer.seal_chunk(ChunkId([7; 32]), &repeated, &mut scratch).unwrap();
    let page = sealer.seal_leaf(&leaf()).unwrap();
    let found = [
        id.to_string(),
        hex(&chunk.sealed),
        hex(&compressed.sealed),
        page.page_id.to_string(),
        hex(&page.sealed),
    ];
    assert_eq!(found, GOLDEN);
}

/// Written down once; a change here is a change of the format.
const GOLDEN: [&str; 5] = [
    "11a5fed1c898bf1c0f1562c34283391a48abb878a59fa9c22176e151f79828a2",
    "0100000009000000333333333333333333333333aef98e880e8315208bad50189e0692026e2c7bbe5b8d22cffa",
    "010100002c0100003333333333333333333333331b7208fc48fa81abf9154a20c402c6f2721e8ec9e7446e029ad1ecbc4eff072648dfbd",
    "8b9eca8bf658cf532d72635a0f871c427664ebb325f8d89786cca06d702d49f8",
    "0100000040000000333333333333333333333333c3e2e334d5e2b7e867a935ffd63dd0ea4e295f3ebd1248a8481f5e894736a4bda7d20cf81dbffcfa61132279c07e079fc0ff191a54c5e432e36d86730be894023325faad1f6ca8c3063e3ad97cc6b570",
];

#[test]
fn a_block_that_does_not_shrink_is_stored_plain_and_one_that_does_is_compressed() {
    let sealer = Sealer::new(&keys());
    let mut scratch = Scratch::new().unwrap();
    let mut noise = vec![0; BLOCK_SIZE];
    aws_lc_rs::rand::fill(&mut noise).unwrap();
    for (plain, shrinks) in [(noise.into(), false), (seeded_block(1), true), (zero_block(), true)] {
        let digest = sha256(&plain);
        let id = sealer.chunk_id(&digest);
        let chunk = sealer.seal_chunk(id, &plain, &mut scratch).unwrap();
        assert_eq!(chunk.sealed.len() < plain.len(), shrinks);
        assert!(chunk.sealed.len() <= plain.len() + HEADER_BYTES + TAG_BYTES);
        assert_eq!(chunk.sealed[1], u8::from(shrinks));
        assert_eq!(sealer.open_chunk(id, &chunk.sealed, digest, &mut scratch).unwrap(), plain);
        let again = sealer.seal_chunk(id, &plain, &mut scratch).unwrap();
        assert_ne!(again.sealed, chunk.sealed, "each sealing has a nonce of its own");
    }
}

#[test]
fn without_compression_the_name_is_the_same_and_either_is_opened() {
    let (compressing, plain) = (Sealer::new(&keys()), Sealer::new(&keys()).compressing(false));
    let mut scratch = Scratch::new().unwrap();
    let block = seeded_block(1);
    let digest = sha256(&block);
    assert_eq!(compressing.chunk_id(&digest), plain.chunk_id(&digest));
    let id = plain.chunk_id(&digest);
    let [shorter, whole] =
        [&compressing, &plain].map(|one| one.seal_chunk(id, &block, &mut scratch).unwrap());
    assert!(shorter.sealed.len() < block.len() && whole.sealed.len() > block.len());
    for (sealer, chunk) in [(&plain, &shorter), (&compressing, &whole)] {
        assert_eq!(sealer.open_chunk(id, &chunk.sealed, digest, &mut scratch).unwrap(), block);
    }
}

#[test]
fn another_tenant_another_name_or_another_digest_does_not_open() {
    let (sealer, plain) = (Sealer::new(&keys()), seeded_block(1));
    let mut scratch = Scratch::new().unwrap();
    let digest = sha256(&plain);
    let id = sealer.chunk_id(&digest);
    let sealed = sealer.seal_chunk(id, &plain, &mut scratch).unwrap().sealed;
    let other = Sealer::new(&TenantKeys::new([0x11; 32], [0x23; 32]));
    let not_authentic = |result| matches!(result, Err(SealError::NotAuthentic { .. }));
    assert!(not_authentic(other.open_chunk(id, &sealed, digest, &mut scratch)));
    assert!(not_authentic(sealer.open_chunk(ChunkId([1; 32]), &sealed, digest, &mut scratch)));
    let wrong = sealer.open_chunk(id, &sealed, Sha256Digest([1; 32]), &mut scratch);
    assert!(matches!(wrong, Err(SealError::WrongContent { .. })));
    let others_id = Sealer::new(&TenantKeys::new([0x12; 32], [0x22; 32])).chunk_id(&digest);
    assert_ne!(others_id, id, "tenants name the same block differently");
}

#[test]
fn what_is_too_long_is_not_sealed() {
    let sealer = Sealer::new(&keys());
    let error = sealer.seal_chunk(ChunkId([1; 32]), &vec![1; BLOCK_SIZE + 1], &mut Scratch::new().unwrap());
    assert!(matches!(error, Err(SealError::Unsealable { .. })));
    let short = Leaf { index: 0, entries: vec![BlockState::Hole; 3] };
    assert!(matches!(sealer.seal_leaf(&short), Err(SealError::Unsealable { .. })));
}

#[test]
fn a_page_under_another_index_or_with_a_changed_state_does_not_open() {
    let sealer = Sealer::new(&keys());
    let page = sealer.seal_leaf(&leaf()).unwrap();
    assert_eq!(sealer.open_leaf(&page).unwrap(), leaf());
    let mut moved = page.clone();
    moved.index = 6;
    assert!(sealer.open_leaf(&moved).is_err());
    let mut swapped = page.clone();
    swapped.states.swap(1, 2);
    assert!(sealer.open_leaf(&swapped).is_err());
    let mut other_chunk = page.clone();
    other_chunk.chunk_ids.swap(0, 1);
    assert!(sealer.open_leaf(&other_chunk).is_err());
    let mut fewer = page;
    fewer.states[1] = crate::block::BlockKind::Zero;
    assert!(sealer.open_leaf(&fewer).is_err());
}

fn states() -> impl Strategy<Value = BlockState> {
    prop_oneof![
        Just(BlockState::Hole),
        Just(BlockState::Zero),
        any::<[u8; 32]>().prop_map(|digest| BlockState::Data(Sha256Digest(digest))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_leaf_survives_its_sealing(index in any::<u32>(), entries in prop::collection::vec(states(), LEAF_BLOCKS as usize)) {
        let sealer = Sealer::new(&keys());
        let leaf = Leaf { index, entries };
        let page = sealer.seal_leaf(&leaf).unwrap();
        prop_assert_eq!(page.page_id, sealer.page_id(&leaf).unwrap());
        prop_assert_eq!(sealer.open_leaf(&page).unwrap(), leaf);
    }

    #[test]
    fn no_changed_bit_and_no_rubbish_opens(len in 0_usize..3_000, at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in 0_usize..40, rubbish in prop::collection::vec(any::<u8>(), 0..200)) {
        let sealer = Sealer::new(&keys());
        let mut scratch = Scratch::new().unwrap();
        let plain: Vec<u8> = (0..len).map(|n| u8::try_from(n % 7).unwrap()).collect();
        let digest = sha256(&plain);
        let id = sealer.chunk_id(&digest);
        let sealed = sealer.seal_chunk(id, &plain, &mut scratch).unwrap().sealed.to_vec();
        prop_assert_eq!(sealer.open_chunk(id, &sealed, digest, &mut scratch).unwrap(), plain);
        let mut changed = sealed.clone();
        let at = at.index(changed.len());
        changed[at] ^= 1 << bit;
        prop_assert!(sealer.open_chunk(id, &changed, digest, &mut scratch).is_err());
        if cut > 0 {
            let short = &sealed[..sealed.len().saturating_sub(cut)];
            prop_assert!(sealer.open_chunk(id, short, digest, &mut scratch).is_err());
        }
        prop_assert!(sealer.open_chunk(id, &rubbish, digest, &mut scratch).is_err());
    }
}
