//! Objects as files below one folder of a local disk.
//!
//! An object is written to `unfinished/<number>`, synced, renamed to its name, and both folders are synced: it
//! appears whole or not at all. What a crash leaves in `unfinished/` is removed at open. Names are mapped to
//! paths as they are; nothing outside the folder is ever touched.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Backend, BackendError, ObjectName, ObjectWriter};
use crate::os;

const UNFINISHED: &str = "unfinished";

/// Objects as files below a folder.
#[derive(Debug)]
pub struct DiskBackend {
    objects: PathBuf,
    unfinished: PathBuf,
    next: AtomicU64,
    /// Folders whose entries in their parents are durable.
    folders: Arc<Mutex<HashSet<PathBuf>>>,
}

impl DiskBackend {
    /// Opens the folder, making it when it is not there.
    ///
    /// # Errors
    /// The folder cannot be made or is no folder.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, BackendError> {
        let folder = folder.into();
        let (objects, unfinished) = (folder.join("objects"), folder.join(UNFINISHED));
        for path in [&objects, &unfinished] {
            fs::create_dir_all(path).map_err(|e| BackendError::from_io("make folder", path.display(), e))?;
        }
        os::sync_folder(&folder).map_err(|e| BackendError::from_io("sync folder", folder.display(), e))?;
        Ok(Self { objects, unfinished, next: AtomicU64::new(0), folders: Arc::default() })
    }

    fn path(&self, name: &ObjectName) -> PathBuf {
        self.objects.join(name.as_str())
    }

    fn visit_folder(
        &self,
        folder: &Path,
        prefix: &str,
        visit: &mut dyn FnMut(ObjectName, u64) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let fail = |e| BackendError::from_io("list", folder.display(), e);
        let entries = match fs::read_dir(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(fail)?,
        };
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let path = entry.path();
            let Some(name) = path.strip_prefix(&self.objects).ok().and_then(Path::to_str) else { continue };
            let kind = entry.file_type().map_err(fail)?;
            if kind.is_dir() {
                if name.starts_with(prefix) || prefix.starts_with(name) {
                    self.visit_folder(&path, prefix, visit)?;
                }
            } else if name.starts_with(prefix)
                && let Ok(name) = ObjectName::new(name)
            {
                match entry.metadata() {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    other => visit(name, other.map_err(fail)?.len())?,
                }
            }
        }
        Ok(())
    }
}

impl Backend for DiskBackend {
    fn create(&self, name: &ObjectName) -> Result<Box<dyn ObjectWriter>, BackendError> {
        let temporary = self.unfinished.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let file = File::create(&temporary).map_err(|e| BackendError::from_io("create", name, e))?;
        Ok(Box::new(DiskWriter {
            name: name.clone(),
            target: self.path(name),
            root: self.objects.clone(),
            folders: Arc::clone(&self.folders),
            temporary,
            file: Some(file),
        }))
    }

    fn read_range(&self, name: &ObjectName, offset: u64, len: usize) -> Result<Vec<u8>, BackendError> {
        let fail = |e| BackendError::from_io("read", name, e);
        let mut file = File::open(self.path(name)).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        if offset.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(BackendError::Short { name: name.to_string(), offset, len });
        }
        file.seek(SeekFrom::Start(offset)).map_err(fail)?;
        let mut bytes = Vec::with_capacity(len);
        file.take(len as u64).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() == len {
            Ok(bytes)
        } else {
            Err(BackendError::Short { name: name.to_string(), offset, len })
        }
    }

    fn size(&self, name: &ObjectName) -> Result<u64, BackendError> {
        let stat = fs::metadata(self.path(name)).map_err(|e| BackendError::from_io("stat", name, e))?;
        Ok(stat.len())
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(ObjectName, u64) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        self.visit_folder(&self.objects, prefix, visit)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), BackendError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|e| BackendError::from_io("delete", name, e))?,
        }
        let folder = path.parent().unwrap_or(&self.objects);
        os::sync_folder(folder).map_err(|e| BackendError::from_io("sync folder of", name, e))
    }

    fn remove_unfinished(&self) -> Result<u64, BackendError> {
        let fail = |e| BackendError::from_io("clean", self.unfinished.display(), e);
        let mut removed = 0;
        for entry in fs::read_dir(&self.unfinished).map_err(fail)? {
            fs::remove_file(entry.map_err(fail)?.path()).map_err(fail)?;
            removed += 1;
        }
        Ok(removed)
    }

    fn free_bytes(&self) -> Result<Option<u64>, BackendError> {
        os::free_bytes(&self.objects)
            .map_err(|e| BackendError::from_io("ask free space of", self.objects.display(), e))
    }
}

struct DiskWriter {
    name: ObjectName,
    target: PathBuf,
    root: PathBuf,
    folders: Arc<Mutex<HashSet<PathBuf>>>,
    temporary: PathBuf,
    /// `None` once the file has its name.
    file: Option<File>,
}

impl DiskWriter {
    /// Makes the target's folders durable before the first object in them. One thread at a time, so that none
    /// finds a folder that another has made and not yet synced.
    fn make_folders(&self) -> io::Result<()> {
        let Some(folder) = self.target.parent() else { return Ok(()) };
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if folders.contains(folder) {
            return Ok(());
        }
        fs::create_dir_all(folder)?;
        for parent in folder.ancestors().take_while(|f| *f != self.root).filter_map(Path::parent) {
            os::sync_folder(parent)?;
        }
        folders.insert(folder.to_owned());
        Ok(())
    }
}

impl ObjectWriter for DiskWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        let name = &self.name;
        match &mut self.file {
            Some(file) => file.write_all(bytes).map_err(|e| BackendError::from_io("write", name, e)),
            None => Err(BackendError::NotFound { name: name.to_string() }),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<(), BackendError> {
        let name = self.name.clone();
        let fail = |action| move |e| BackendError::from_io(action, name, e);
        if let Some(file) = &self.file {
            file.sync_all().map_err(fail.clone()("sync"))?;
        }
        self.make_folders().map_err(fail.clone()("make folder of"))?;
        fs::rename(&self.temporary, &self.target).map_err(fail.clone()("rename"))?;
        self.file = None;
        let folder = self.target.parent().unwrap_or(&self.root);
        os::sync_folder(folder).map_err(fail("sync folder of"))
    }
}

impl Drop for DiskWriter {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // What stays behind is removed at the next open.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
