//! What every backend must do: one suite that all of them run in their tests.

use super::{Backend, BackendError, ObjectName};

/// Runs the suite against an empty backend and leaves it empty.
///
/// # Errors
/// A sentence about the first promise that is not kept.
pub fn check_backend(backend: &dyn Backend) -> Result<(), String> {
    let name = |text: &str| ObjectName::new(text).map_err(|e| e.to_string());
    let told = |what: &'static str| move |e: BackendError| format!("{what}: {e}");
    let (one, two) = (name("suite/0/one.bin")?, name("suite/1/two.bin")?);

    missing(backend, &one)?;
    backend.delete(&one).map_err(told("deleting what is not there"))?;

    let mut writer = backend.create(&one).map_err(told("create"))?;
    writer.write(b"never ").map_err(told("write"))?;
    missing(backend, &one).map_err(|e| format!("before finish: {e}"))?;
    drop(writer);
    missing(backend, &one).map_err(|e| format!("after a writer was dropped: {e}"))?;

    let mut writer = backend.create(&one).map_err(told("create"))?;
    for part in [b"0123".as_slice(), b"", b"456789"] {
        writer.write(part).map_err(told("write"))?;
    }
    writer.finish().map_err(told("finish"))?;
    backend.put(&two, b"").map_err(told("putting nothing"))?;
    expect("the length", backend.size(&one), 10)?;
    expect("the length of nothing", backend.size(&two), 0)?;
    let range = |offset, len| backend.read_range(&one, offset, len);
    expect("the whole", range(0, 10), b"0123456789".to_vec())?;
    expect("a range", range(3, 4), b"3456".to_vec())?;
    expect("an empty range at the end", range(10, 0), Vec::new())?;
    for (offset, len) in [(0, 11), (9, 2), (10, 1), (u64::MAX, 1)] {
        match range(offset, len) {
            Err(BackendError::Short { .. }) => {}
            other => return Err(format!("{len} bytes at {offset} of 10 are {other:?}, not too short")),
        }
    }

    backend.put(&one, b"again").map_err(told("replacing"))?;
    expect("what replaced it", backend.read_range(&one, 0, 5), b"again".to_vec())?;
    expect("the new length", backend.size(&one), 5)?;

    let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut writer = backend.create(&two).map_err(told("create"))?;
    for part in large.chunks(700_001) {
        writer.write(part).map_err(told("write"))?;
    }
    writer.finish().map_err(told("finish"))?;
    let tail = large.get(11_000_000..).unwrap_or_default();
    expect("the end of 12 MB", backend.read_range(&two, 11_000_000, tail.len()), tail.to_vec())?;

    for (prefix, wanted) in [("suite/", vec![&one, &two]), ("suite/1", vec![&two]), ("suite/2", vec![])] {
        let mut found = Vec::new();
        let visit = &mut |name, size| {
            found.push((name, size));
            Ok(())
        };
        backend.list(prefix, visit).map_err(told("list"))?;
        found.sort();
        if found.iter().map(|(name, _)| name).ne(wanted) {
            return Err(format!("below {prefix} {found:?} is listed"));
        }
        if found.iter().any(|(name, size)| backend.size(name).ok() != Some(*size)) {
            return Err(format!("{found:?} is listed with other lengths"));
        }
    }
    backend.free_bytes().map_err(told("free space"))?;
    backend.remove_unfinished().map_err(told("removing what is unfinished"))?;
    for object in [&one, &two] {
        backend.delete(object).map_err(told("delete"))?;
        missing(backend, object).map_err(|e| format!("after it was deleted: {e}"))?;
    }
    Ok(())
}

fn missing(backend: &dyn Backend, name: &ObjectName) -> Result<(), String> {
    let answers = [backend.size(name).map(drop), backend.read_range(name, 0, 1).map(drop)];
    for answer in answers {
        if !matches!(answer, Err(BackendError::NotFound { .. })) {
            return Err(format!("{name} is {answer:?}, not missing"));
        }
    }
    Ok(())
}

fn expect<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: Result<T, BackendError>,
    wanted: T,
) -> Result<(), String> {
    match found {
        Ok(found) if found == wanted => Ok(()),
        found => Err(format!("{what} is {found:?}").chars().take(300).collect()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{DiskBackend, FaultBackend, FaultPlan, MemoryBackend};
    use super::*;

    #[test]
    fn all_backends_of_this_crate_do_what_a_backend_must() {
        let dir = tempfile::tempdir().unwrap();
        let disk = DiskBackend::open(dir.path()).unwrap();
        check_backend(&disk).unwrap();
        check_backend(&MemoryBackend::new()).unwrap();
        check_backend(&FaultBackend::new(Arc::new(disk), FaultPlan::new())).unwrap();
        let left = std::fs::read_dir(dir.path().join("unfinished")).unwrap().count();
        assert_eq!(left, 0);
    }
}
