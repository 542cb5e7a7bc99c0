//! Systems where a folder cannot be opened to sync it: the file system's journal orders the entries. A
//! MediaAgent runs on Linux; there only its client is used.

use std::io;
use std::path::Path;

pub(crate) fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

pub(crate) fn free_bytes(_path: &Path) -> io::Result<Option<u64>> {
    Ok(None)
}
