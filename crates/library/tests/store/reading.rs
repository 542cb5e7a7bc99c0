//! Batched reads answer in the order asked, each chunk with its own result.

use snapferry_library::Error;

use crate::rig::*;

#[test]
fn a_batch_is_answered_in_the_order_asked() {
    let rig = Rig::new();
    let library = rig.library();
    backup(library, "k", &data(0, 100, 0), 1_024);
    let order: Vec<u64> = (0..100).map(|i| (i * 37) % 100).chain([3, 3]).collect();
    let mut ids: Vec<_> = order.iter().map(|n| chunk_id(*n)).collect();
    ids.push(chunk_id(4_000));
    let answers = library.read_chunks(&ids).unwrap();
    for (n, answer) in order.iter().zip(&answers) {
        assert_eq!(answer.as_ref().unwrap(), &record(*n));
    }
    assert!(matches!(answers.last().unwrap(), Err(Error::NotStored(_))));
    assert!(library.read_chunks(&vec![chunk_id(0); 129]).is_err());
}
