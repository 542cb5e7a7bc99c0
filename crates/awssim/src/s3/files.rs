//! Where the bytes of objects are: one file for each object that was put, and one for each part of an upload. An
//! object that came in parts stays in them; [`ObjectReader`] reads across.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::world::{Object, Piece};

/// The folder.
#[derive(Debug)]
pub(crate) struct ObjectFiles {
    dir: PathBuf,
}

impl ObjectFiles {
    /// Opens the folder, and removes files that nothing points at: a process that was killed left them.
    pub(crate) fn open<'a>(dir: PathBuf, known: impl Iterator<Item = &'a str>) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let known: HashSet<&str> = known.collect();
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| known.contains(name)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { dir })
    }

    /// A new file, which goes away again unless it is kept.
    pub(crate) fn draft(&self) -> io::Result<Draft> {
        let name = format!("{:032x}", rand::random::<u128>());
        let path = self.dir.join(&name);
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok(Draft { name, path, file, is_kept: false })
    }

    /// Removes files. One that stays is removed at the next start.
    pub(crate) fn remove<'a>(&self, pieces: impl IntoIterator<Item = &'a Piece>) {
        for piece in pieces {
            remove(&self.dir.join(&piece.file));
        }
    }

    /// Reads an object from now on; goes wrong when the object is deleted meanwhile.
    pub(crate) fn reader(&self, object: &Object) -> ObjectReader {
        ObjectReader { dir: self.dir.clone(), pieces: object.pieces.clone(), open: None }
    }
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a file of an object stays");
        }
        _ => {}
    }
}

/// A file in the making.
#[derive(Debug)]
pub(crate) struct Draft {
    name: String,
    path: PathBuf,
    pub(crate) file: File,
    is_kept: bool,
}

impl Draft {
    /// The piece that it will be.
    pub(crate) fn piece(&self, size_bytes: u64) -> Piece {
        Piece { file: self.name.clone(), size_bytes }
    }

    /// Something points at the file now.
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_kept {
            remove(&self.path);
        }
    }
}

/// Reads an object at any place.
#[derive(Debug)]
pub(crate) struct ObjectReader {
    dir: PathBuf,
    pieces: Vec<Piece>,
    /// The piece that was read last, by its place.
    open: Option<(usize, File)>,
}

impl ObjectReader {
    /// All of its bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.size_bytes).sum()
    }

    /// Fills the buffer from `offset` on.
    pub(crate) fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let (mut offset, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let (place, within) = self.find(offset)?;
            let size_bytes = self.pieces.get(place).map_or(0, |piece| piece.size_bytes);
            let here = usize::try_from(size_bytes - within).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(here);
            self.file(place)?.read_exact_at(now, within)?;
            offset += u64::try_from(here).unwrap_or(0);
            rest = later;
        }
        Ok(())
    }

    /// The piece that has the byte at `offset`, and where in it.
    fn find(&self, offset: u64) -> io::Result<(usize, u64)> {
        let mut start = 0;
        for (place, piece) in self.pieces.iter().enumerate() {
            if offset - start < piece.size_bytes {
                return Ok((place, offset - start));
            }
            start += piece.size_bytes;
        }
        Err(ErrorKind::UnexpectedEof.into())
    }

    fn file(&mut self, place: usize) -> io::Result<&File> {
        if self.open.as_ref().is_none_or(|(opened, _)| *opened != place) {
            let piece = self.pieces.get(place).ok_or(ErrorKind::UnexpectedEof)?;
            self.open = Some((place, File::open(self.dir.join(&piece.file))?));
        }
        self.open.as_ref().map(|(_, file)| file).ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_object_in_pieces_is_read_across_them() {
        let dir = tempfile::tempdir().unwrap();
        let files = ObjectFiles::open(dir.path().to_owned(), std::iter::empty()).unwrap();
        let pieces = [&b"abc"[..], b"", b"defgh", b"i"].map(|bytes| {
            let mut draft = files.draft().unwrap();
            draft.file.write_all(bytes).unwrap();
            let piece = draft.piece(u64::try_from(bytes.len()).unwrap());
            draft.keep();
            piece
        });
        let object =
            Object { pieces: pieces.to_vec(), etag: String::new(), modified_ms: 0, headers: BTreeMap::new() };
        let mut reader = files.reader(&object);
        assert_eq!(reader.size_bytes(), 9);
        let mut some = [0; 5];
        reader.read_exact_at(2, &mut some).unwrap();
        assert_eq!(&some, b"cdefg");
        reader.read_exact_at(4, &mut some).unwrap();
        assert_eq!(&some, b"efghi");
        assert_eq!(reader.read_exact_at(5, &mut some).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn only_what_is_known_survives_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let files = ObjectFiles::open(dir.path().to_owned(), std::iter::empty()).unwrap();
        let (kept, orphan, dropped) =
            (files.draft().unwrap(), files.draft().unwrap(), files.draft().unwrap());
        let known = kept.piece(0).file;
        kept.keep();
        orphan.keep();
        drop(dropped);
        ObjectFiles::open(dir.path().to_owned(), std::iter::once(known.as_str())).unwrap();
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [std::ffi::OsString::from(known)]);
    }
}
