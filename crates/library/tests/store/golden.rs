//! A library that the first release wrote opens, reads and takes new backups.

use std::path::{Path, PathBuf};

use crate::rig::*;

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/library_v1")
}

fn first() -> Blocks {
    let mut blocks = data(0, 3, 0);
    blocks.insert(1_030, Block::Zero);
    blocks
}

fn second() -> Blocks {
    let mut blocks = first();
    blocks.insert(1, Block::Data(77));
    blocks
}

#[test]
fn the_objects_of_format_1_are_a_library() {
    let dir = tempfile::tempdir().unwrap();
    if !sample().exists() {
        let library = Rig::open_in(dir.path());
        let id = backup(&library, "first", &first(), 2_048);
        incremental(&library, "second", (id, &first()), (&second(), 2_048));
        drop(library);
        copy_folder(&dir.path().join("objects/objects"), &sample());
        panic!("the sample was not there and is written now: look at it and commit it");
    }
    copy_folder(&sample(), &dir.path().join("objects/objects"));
    let library = Rig::open_in(dir.path());
    let points = library.recovery_points(None, 10).unwrap();
    assert_eq!(points.iter().map(|p| p.key.as_str()).collect::<Vec<_>>(), ["first", "second"]);
    assert_eq!(restore(&library, points[0].id, "root").unwrap(), first());
    assert_eq!(restore(&library, points[1].id, "root").unwrap(), second());
    assert_eq!(library.scrub(&mut |_| true).unwrap().n_damaged, 0);
    let chunks = library.stats().unwrap().chunks;
    let third = incremental(&library, "third", (points[1].id, &second()), (&first(), 2_048));
    assert_eq!(restore(&library, third, "root").unwrap(), first());
    assert_eq!(library.stats().unwrap().chunks, chunks);
}
