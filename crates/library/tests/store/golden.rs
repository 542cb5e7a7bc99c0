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
    let dir = folder();
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

#[test]
fn the_format_can_be_read_without_us() {
    let run = |arguments: &[&str]| {
        let mut python = std::process::Command::new("python3");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("read_library.py");
        let output = python.arg(script).arg(sample()).args(arguments).output().expect("python3 is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let listed = run(&[]);
    let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((lines[1][1], &lines[1][4..]), ("second", ["root", "2048", "3", "1"].as_slice()));
    let out = folder();
    let blocks = run(&[lines[1][0], "root", out.path().to_str().unwrap()]);
    let expected: Vec<String> = second()
        .iter()
        .map(|(index, block)| match block {
            Block::Zero => format!("{index} zero -"),
            Block::Data(n) => format!("{index} data {}", chunk_id(*n)),
        })
        .collect();
    assert_eq!(blocks.lines().collect::<Vec<_>>(), expected);
    assert_eq!(std::fs::read(out.path().join(chunk_id(77).to_string())).unwrap(), record(77));
}
