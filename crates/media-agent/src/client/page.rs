//! A leaf between the data plane's form (1,024 entries, sealed) and the library's bytes (as many entries as the
//! volume has blocks there).

use bytes::Bytes;
use snapferry_library::page::{EntryState, LeafPage};
use snapferry_transfer::{BlockKind, Leaf, SealedLeaf, Sealer, TransferError};
use snapferry_types::{LEAF_BLOCKS, PageId};
use snapferry_wire::convert::array32;
use snapferry_wire::v1;

use super::error::{broken_answer, from_seal};

const fn to_page(kind: BlockKind) -> EntryState {
    match kind {
        BlockKind::Hole => EntryState::Hole,
        BlockKind::Zero => EntryState::Zero,
        BlockKind::Data => EntryState::Data,
    }
}

const fn from_page(state: EntryState) -> BlockKind {
    match state {
        EntryState::Hole => BlockKind::Hole,
        EntryState::Zero => BlockKind::Zero,
        EntryState::Data => BlockKind::Data,
    }
}

/// The page of a sealed leaf of a volume of `n_blocks`. What lies beyond the volume is holes and left out.
pub(super) fn encode(leaf: SealedLeaf, n_blocks: u32) -> Result<Bytes, TransferError> {
    let doing = format!("encode leaf {}", leaf.index);
    let invalid =
        |why: String| TransferError::new(snapferry_transfer::ErrorClass::Invalid, format!("{doing}: {why}"));
    let first = u64::from(leaf.index) * u64::from(LEAF_BLOCKS);
    let n = u64::from(n_blocks).saturating_sub(first).min(u64::from(LEAF_BLOCKS));
    let n = usize::try_from(n).unwrap_or(usize::MAX).min(leaf.states.len());
    let (inside, beyond) = leaf.states.split_at(n);
    if n == 0 || beyond.iter().any(|kind| *kind != BlockKind::Hole) {
        return Err(invalid(format!("it reaches beyond the volume's {n_blocks} blocks")));
    }
    let page = LeafPage {
        leaf_index: leaf.index,
        states: inside.iter().copied().map(to_page).collect(),
        chunk_ids: leaf.chunk_ids,
        sealed: leaf.sealed.into(),
    };
    page.encode().map(Bytes::from).map_err(|error| invalid(error.to_string()))
}

/// The plain leaf of an answer, checked against its name.
pub(super) fn decode(answer: &v1::Leaf, sealer: &Sealer) -> Result<Leaf, TransferError> {
    let doing = format!("read leaf {}", answer.leaf_index);
    let page_id = array32("page_id", &answer.page_id).map_err(|error| broken_answer(&doing, error))?;
    let page = LeafPage::decode(&answer.page).map_err(|error| broken_answer(&doing, error))?;
    let mut states: Vec<BlockKind> = page.states.iter().copied().map(from_page).collect();
    states.resize(LEAF_BLOCKS as usize, BlockKind::Hole);
    let sealed = SealedLeaf {
        index: page.leaf_index,
        page_id: PageId(page_id),
        states,
        chunk_ids: page.chunk_ids,
        sealed: page.sealed.into(),
    };
    let leaf = sealer.open_leaf(&sealed).map_err(|error| from_seal(&error).context(&doing))?;
    if leaf.index != answer.leaf_index {
        return Err(broken_answer(&doing, format!("it is leaf {}", leaf.index)));
    }
    Ok(leaf)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use snapferry_transfer::BlockState;
    use snapferry_types::Sha256Digest;
    use snapferry_types::tenancy::TenantKeys;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_leaf_survives_sealing_and_the_page_also_where_the_volume_ends_in_it(
            index in 0_u32..4,
            kinds in prop::collection::vec(0_u8..3, 1..=1_024),
        ) {
            let sealer = Sealer::new(&TenantKeys::new([1; 32], [2; 32]));
            let mut leaf = Leaf::empty(index);
            for (slot, kind) in kinds.iter().enumerate() {
                leaf.entries[slot] = match kind {
                    0 => BlockState::Hole,
                    1 => BlockState::Zero,
                    _ => BlockState::Data(Sha256Digest([u8::try_from(slot % 251).unwrap(); 32])),
                };
            }
            let n_blocks = index * LEAF_BLOCKS + u32::try_from(kinds.len()).unwrap();
            let sealed = sealer.seal_leaf(&leaf).unwrap();
            let page_id = Bytes::copy_from_slice(&sealed.page_id.0);
            let page = encode(sealed.clone(), n_blocks).unwrap();
            let answer = v1::Leaf { leaf_index: index, page_id: page_id.clone(), page: page.clone() };
            prop_assert_eq!(decode(&answer, &sealer).unwrap(), leaf.clone());
            let elsewhere = v1::Leaf { leaf_index: index + 1, page_id, page };
            prop_assert!(decode(&elsewhere, &sealer).is_err());
            let used = leaf.entries.iter().rposition(|entry| *entry != BlockState::Hole);
            if let Some(last) = used {
                let short = index * LEAF_BLOCKS + u32::try_from(last).unwrap();
                prop_assert!(encode(sealed, short).is_err());
            }
        }
    }
}
