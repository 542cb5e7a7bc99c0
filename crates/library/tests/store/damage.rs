//! Damage: delete, truncate, bit flip × data pack, manifest pack, recovery-point object, index. Never wrong bytes;
//! the damage and what it touches are named; the next full backup heals it.

use std::fs;
use std::path::{Path, PathBuf};

use snapferry_library::{Error, GcOptions, Library, RecordKind, Suspect};

use crate::rig::*;

#[derive(Debug, Clone, Copy)]
enum Harm {
    Delete,
    Truncate,
    FlipStart,
    FlipMiddle,
    FlipEnd,
}

const HARMS: [Harm; 5] = [Harm::Delete, Harm::Truncate, Harm::FlipStart, Harm::FlipMiddle, Harm::FlipEnd];

fn harm(path: &Path, harm: Harm) {
    let mut bytes = fs::read(path).unwrap();
    let n = bytes.len();
    match harm {
        Harm::Delete => return fs::remove_file(path).unwrap(),
        Harm::Truncate => bytes.truncate(n / 2),
        Harm::FlipStart => bytes[40] ^= 1,
        Harm::FlipMiddle => bytes[n / 2] ^= 4,
        Harm::FlipEnd => bytes[n - 3] ^= 16,
    }
    fs::write(path, bytes).unwrap();
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn class_of(pack: &Path) -> u8 {
    fs::read(pack).unwrap()[10]
}

/// Two points: the first is damaged by harming any pack of its own; the second shares nothing with it.
fn two_points(library: &Library) -> (Blocks, Blocks, [snapferry_types::RecoveryPointId; 2]) {
    let (a, b) = (data(0, 4, 0), data(0, 4, 100));
    let ids = [backup(library, "a", &a, 1_024), backup(library, "b", &b, 1_024)];
    (a, b, ids)
}

fn packs_of_first(rig: &Rig) -> Vec<PathBuf> {
    files(&rig.dir.path().join("objects/objects/packs")).into_iter().take(3).collect()
}

#[test]
fn a_harmed_pack_is_never_wrong_bytes_is_named_and_is_healed_by_a_full_backup() {
    for how in HARMS {
        for place in 0..3 {
            for restart in [false, true] {
                let mut rig = Rig::new();
                let (a, b, [first, second]) = two_points(rig.library());
                let packs = packs_of_first(&rig);
                // One data pack, one pack with the leaf, one with the interior page.
                assert_eq!(packs.iter().map(|p| class_of(p)).collect::<Vec<_>>(), [1, 2, 2]);
                harm(&packs[place], how);
                let what = format!("{how:?} of pack {place}, restart {restart}");
                if restart {
                    rig.reopen();
                }
                let library = rig.library();
                let report = library.scrub(&mut |_| true).unwrap();
                let footer_only = matches!(how, Harm::FlipEnd);
                let middle_of_footer = report.n_damaged == 0 && !report.unlisted_packs.is_empty();
                if footer_only || middle_of_footer {
                    assert_eq!(report.unlisted_packs.len(), 1, "{what}");
                    assert_eq!(restore(library, first, "root").unwrap(), a, "{what}");
                } else {
                    assert!(report.n_damaged > 0, "{what}");
                    assert_eq!(report.affected, [first], "{what}: {report:?}");
                    match restore(library, first, "root") {
                        Err(Error::Damaged { .. }) => {}
                        other => panic!("{what}: {other:?}"),
                    }
                }
                assert_eq!(restore(library, second, "root").unwrap(), b, "{what}");
                // Chunks that are damaged are asked for; pages as well; then all reads again.
                let healed = backup(library, "again", &a, 1_024);
                assert_eq!(restore(library, healed, "root").unwrap(), a, "{what}");
                assert_eq!(restore(library, first, "root").unwrap(), a, "{what}");
                assert_eq!(library.stats().unwrap().damaged_records, 0, "{what}");
                library
                    .collect_garbage(&GcOptions { min_dead_percent: 0, ..GcOptions::default() }, &mut || true)
                    .unwrap();
                let library = rig.reopen();
                assert_eq!(restore(library, first, "root").unwrap(), a, "{what}");
                assert_eq!(library.scrub(&mut |_| true).unwrap().n_damaged, 0, "{what}");
            }
        }
    }
}

#[test]
fn a_harmed_recovery_point_object_is_written_again_from_the_index() {
    for how in HARMS {
        for restart in [false, true] {
            let mut rig = Rig::new();
            let (a, _, [first, second]) = two_points(rig.library());
            let objects = files(&rig.dir.path().join("objects/objects/points"));
            assert_eq!(objects.len(), 2);
            let good: Vec<_> = objects.iter().map(|p| fs::read(p).unwrap()).collect();
            harm(&objects[0], how);
            if restart {
                rig.reopen();
            }
            let report = rig.library().scrub(&mut |_| true).unwrap();
            let by_open = restart && matches!(how, Harm::Delete);
            assert_eq!(report.points_written_again.len(), usize::from(!by_open), "{how:?} {restart}");
            let now: Vec<_> = objects.iter().map(|p| fs::read(p).unwrap()).collect();
            assert_eq!(now, good);
            assert_eq!(restore(rig.library(), first, "root").unwrap(), a);
            rig.library().recovery_point(second).unwrap();
        }
    }
}

#[test]
fn a_lost_index_is_made_again_from_packs_and_points() {
    let mut rig = Rig::new();
    let (a, b, [first, second]) = two_points(rig.library());
    let stats = rig.library().stats().unwrap();
    rig.library = None;
    fs::remove_dir_all(rig.dir.path().join("library/index")).unwrap();
    let library = rig.reopen();
    assert_eq!(library.stats().unwrap(), stats);
    assert_eq!(restore(library, first, "root").unwrap(), a);
    assert_eq!(restore(library, second, "root").unwrap(), b);
    // The keys of sealed sessions are known as well.
    let again = library.open_session(&request("a", fence(1), &[("root", 1_024)])).unwrap();
    assert_eq!(again, snapferry_library::SessionState::AlreadySealed(first));
    let third = backup(library, "c", &a, 1_024);
    assert_eq!(library.stats().unwrap().chunks, stats.chunks);
    assert_eq!(restore(library, third, "root").unwrap(), a);
}

#[test]
fn a_harmed_index_is_an_error_or_right_and_can_be_rebuilt() {
    let mut rig = Rig::new();
    let (a, b, [first, second]) = two_points(rig.library());
    rig.library = None;
    let clean = folder();
    copy_folder(rig.dir.path(), clean.path());
    let index = Path::new("library/index");
    let mut refused = 0;
    let names: Vec<_> = files(&clean.path().join(index))
        .into_iter()
        .filter(|path| fs::metadata(path).unwrap().len() > 0)
        .map(|path| path.strip_prefix(clean.path()).unwrap().to_owned())
        .collect();
    assert!(names.len() > 3);
    for name in names {
        for how in [Harm::Delete, Harm::Truncate, Harm::FlipMiddle] {
            let dir = folder();
            copy_folder(clean.path(), dir.path());
            if fs::metadata(dir.path().join(&name)).unwrap().len() < 64 && !matches!(how, Harm::Delete) {
                continue;
            }
            harm(&dir.path().join(&name), how);
            let config = Rig::config_in(dir.path());
            let opened =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Library::open(config.clone())));
            let right = |library: &Library| {
                restore(library, first, "root").is_ok_and(|got| got == a)
                    && restore(library, second, "root").is_ok_and(|got| got == b)
            };
            if let Ok(Ok(library)) = opened {
                if right(&library) {
                    continue;
                }
                drop(library);
            }
            refused += 1;
            let library = Library::rebuild_index(Rig::config_in(dir.path())).unwrap();
            assert!(right(&library), "{} {how:?}", name.display());
        }
    }
    assert!(refused > 0, "no harm was noticed");
}

#[test]
fn an_index_of_another_library_is_refused() {
    let (one, two) = (Rig::new(), Rig::new());
    let dirs = [one.dir, two.dir];
    drop((one.library, two.library));
    let mut config = Rig::config_in(dirs[0].path());
    config.backend = Rig::config_in(dirs[1].path()).backend;
    assert!(matches!(Library::open(config), Err(Error::WrongLibrary { .. })));
}

#[test]
fn packs_that_come_back_are_taken_in_and_an_empty_place_is_not_taken_for_the_library() {
    let mut rig = Rig::new();
    let (a, b, [first, second]) = two_points(rig.library());
    rig.library = None;
    let packs = rig.dir.path().join("objects/objects/packs");
    let away = rig.dir.path().join("away");
    fs::rename(&packs, &away).unwrap();
    assert!(restore(rig.reopen(), first, "root").is_err());
    rig.library = None;
    fs::rename(&away, &packs).unwrap();
    let library = rig.reopen();
    assert_eq!(restore(library, first, "root").unwrap(), a);
    assert_eq!(restore(library, second, "root").unwrap(), b);
    assert_eq!(library.stats().unwrap().damaged_records, 0);
    rig.library = None;
    fs::rename(rig.dir.path().join("objects"), &away).unwrap();
    let refused = Library::open(Rig::config_in(rig.dir.path()));
    assert!(matches!(&refused, Err(Error::WrongLibrary { .. })), "{refused:?}");
}

#[test]
fn an_incremental_is_told_which_leaves_to_read_again() {
    let rig = Rig::new();
    let library = rig.library();
    let mut blocks = data(0, 3, 0);
    blocks.extend(data(5 * 1_024, 3, 100));
    let id = backup(library, "k", &blocks, 8 * 1_024);
    assert!(library.damaged_leaves(id, "root", 0, 10).unwrap().is_empty());
    let pack = files(&rig.dir.path().join("objects/objects/packs")).remove(0);
    let mut bytes = fs::read(&pack).unwrap();
    let at = bytes.windows(64).position(|w| w == &record(101)[..64]).unwrap();
    bytes[at] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let Err(Error::Damaged { key, pack: number, offset, .. }) = library.read_chunk(chunk_id(101)) else {
        panic!("damage was not noticed");
    };
    assert_eq!((key.kind, key.id, offset > 0), (RecordKind::Chunk, chunk_id(101).0, true));
    assert_eq!(library.affected_by(&Suspect::Records(vec![key])).unwrap(), [id]);
    assert_eq!(library.affected_by(&Suspect::Pack(number)).unwrap(), [id]);
    assert!(library.affected_by(&Suspect::Pack(999)).unwrap().is_empty());
    assert_eq!(library.damaged_leaves(id, "root", 0, 10).unwrap(), [5]);
    // One bad chunk does not keep the others of a batch.
    let answers = library.read_chunks(&[chunk_id(100), chunk_id(101), chunk_id(102)]).unwrap();
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    let session = open(library, &request("heal", fence(1), &[("root", 8 * 1_024)]));
    put_leaves(library, session, fence(1), "root", (&blocks, 8 * 1_024), [5]).unwrap();
    library.flush(session, fence(1)).unwrap();
    assert!(library.damaged_leaves(id, "root", 0, 10).unwrap().is_empty());
    assert_eq!(restore(library, id, "root").unwrap(), blocks);
}

#[test]
fn garbage_is_not_collected_on_a_guess() {
    let mut rig = Rig::new();
    let (_, b, [first, second]) = two_points(rig.library());
    harm(&packs_of_first(&rig)[1], Harm::Delete);
    let library = rig.reopen();
    let options = GcOptions::default();
    let refused = library.collect_garbage(&options, &mut || true);
    assert!(
        matches!(&refused, Err(Error::CannotMark { owner, .. }) if owner.contains(&first.to_string())),
        "{refused:?}"
    );
    let report =
        library.collect_garbage(&GcOptions { ignore_damaged_pages: true, ..options }, &mut || true).unwrap();
    assert_eq!(report.damaged_points, [first]);
    assert_eq!(restore(library, second, "root").unwrap(), b);
    library.delete_recovery_point(first).unwrap();
    library.collect_garbage(&options, &mut || true).unwrap();
    let stats = library.stats().unwrap();
    assert_eq!((stats.damaged_records, stats.lost_packs, stats.chunks), (0, 0, 4));
    assert_eq!(restore(library, second, "root").unwrap(), b);
}
