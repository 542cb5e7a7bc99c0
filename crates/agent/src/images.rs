//! Which disk images a task has begun on this node: a record for each task, beside the node's id, made before the first
//! file. A task that is cancelled or fails for good here removes its own files. What it leaves, because the process was
//! killed or another node went on with it, goes when the scheduler says that the task is over; never while it has an attempt in
//! this process, and never once all its images were whole: its results name them from then on, or those of another node.
//!
//! Removed is only what is known to be the task's: an unfinished file by its name, which nobody else is given until the record
//! is gone, a finished one if it is still the file that was put there.
//!
//! Runs twice: what is gone is gone. Dies in the middle: the record goes last, and is looked at again. A VMDK that was put in
//! its place and not noted yet stays.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use snapferry_transfer::{DiskImage, ErrorClass, TransferError};
use snapferry_types::TaskId;

use crate::worker::Running;

/// Tasks of one look.
const MAX_TASKS: usize = 1_000;
/// The ending of a record.
const RECORD: &str = "json";

/// The disk images of this node.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    records: PathBuf,
    running: Running,
    /// Held while a record is looked at and changed.
    changing: Arc<Mutex<()>>,
}

/// What a task has begun.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// The images, by their final names; of those that were put there, what tells them from another file.
    files: BTreeMap<PathBuf, Option<Stamp>>,
    /// All are whole.
    is_complete: bool,
}

/// What tells a file from another one of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    len: u64,
    /// Since the Unix epoch, ns.
    modified_ns: u64,
}

/// Disk images that cannot be begun, noted or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "{} belongs to {by}, which is not over as far as this access node knows: wait for it or cancel its job, or choose \
         another folder",
        .file.display()
    )]
    Owned { file: PathBuf, by: TaskId },
    #[error("{} exists already, and may be another restore's: choose another folder, or remove it", .0.display())]
    Exists(PathBuf),
}

impl From<ImageError> for TransferError {
    fn from(error: ImageError) -> Self {
        let class = match &error {
            // It is not the disk of the images that is full.
            ImageError::Io { source, .. } if class_of(source.kind()) == ErrorClass::StorageFull => {
                ErrorClass::Unavailable
            }
            ImageError::Io { source, .. } => class_of(source.kind()),
            ImageError::Owned { .. } | ImageError::Exists(_) => ErrorClass::Invalid,
        };
        Self::new(class, error.to_string())
    }
}

/// Whether trying again can help where a folder or file could not be made.
pub(crate) fn class_of(kind: ErrorKind) -> ErrorClass {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ErrorClass::StorageFull,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ErrorClass::AccessDenied,
        _ => ErrorClass::Invalid,
    }
}

impl Images {
    /// The images of a process whose attempts are `running`; their records are in a folder of `data_dir`.
    #[must_use]
    pub(crate) fn new(data_dir: &Path, running: Running) -> Self {
        Self { records: data_dir.join("images"), running, changing: Arc::default() }
    }

    /// Makes the files a task's, before the first is made.
    ///
    /// # Errors
    /// One is another task's, or is there and not this task's; or the record cannot be written.
    pub(crate) async fn begin(&self, task: TaskId, files: Vec<PathBuf>) -> Result<(), ImageError> {
        self.change(move |this| {
            let path = this.record_of(task);
            let mut record = read(&path)?.unwrap_or_default();
            for file in files {
                if record.files.contains_key(&file) {
                    continue;
                }
                if let Some(by) = this.owner_of(&file)? {
                    return Err(ImageError::Owned { file, by });
                }
                if let Some(there) = DiskImage::files_of(&file).into_iter().find(|one| one.exists()) {
                    return Err(ImageError::Exists(there));
                }
                record.files.insert(file, None);
            }
            write(&path, &record)
        })
        .await
    }

    /// An image is whole: `now` is put, or was put, in its place `file`.
    ///
    /// # Errors
    /// `now` is not there, or the record cannot be written.
    pub(crate) async fn finished(&self, task: TaskId, file: PathBuf, now: PathBuf) -> Result<(), ImageError> {
        self.change(move |this| {
            let path = this.record_of(task);
            let mut record = read(&path)?.unwrap_or_default();
            let stamp = stamp_of(&now).map_err(at(&now))?;
            record.files.insert(file, Some(stamp));
            write(&path, &record)
        })
        .await
    }

    /// All images of a task are in their places: from now on they are its caller's.
    ///
    /// # Errors
    /// The record cannot be written.
    pub(crate) async fn complete(&self, task: TaskId) -> Result<(), ImageError> {
        self.change(move |this| {
            let path = this.record_of(task);
            let record = read(&path)?.unwrap_or_default();
            write(&path, &Record { is_complete: true, ..record })
        })
        .await
    }

    /// Removes what a task has begun here.
    ///
    /// # Errors
    /// The first file that does not go; the others were still tried, and the record stays.
    pub(crate) async fn remove(&self, task: TaskId) -> Result<(), ImageError> {
        self.change(move |this| {
            let path = this.record_of(task);
            read(&path)?.map_or(Ok(()), |record| this.remove_files(task, &record))?;
            remove_file(&path)
        })
        .await
    }

    /// The tasks that have begun images here and have no attempt in this process.
    pub(crate) async fn idle_tasks(&self) -> Vec<TaskId> {
        let this = self.clone();
        let idle = move || {
            let idle = this.recorded().filter(|task| this.running.while_idle(*task, || ()).is_some());
            idle.take(MAX_TASKS).collect()
        };
        tokio::task::spawn_blocking(idle).await.unwrap_or_default()
    }

    /// What the scheduler says of idle tasks: these are over, and those it does not know. Of what it does not know nothing is
    /// removed.
    pub(crate) async fn settle(&self, over: Vec<TaskId>, unknown: Vec<TaskId>) {
        for task in over {
            looked_at(task, self.end(task).await);
        }
        for task in unknown {
            tracing::warn!(%task, "the scheduler does not know this restore to disk images any more: its files stay");
            looked_at(task, self.change(move |this| remove_file(&this.record_of(task))).await);
        }
    }

    /// Removes the images of a task that is over, if they came to nothing.
    async fn end(&self, task: TaskId) -> Result<(), ImageError> {
        self.change(move |this| {
            let path = this.record_of(task);
            let Some(record) = read(&path)? else { return Ok(()) };
            // No attempt begins any more, but one that was given up may still wind down.
            if this.running.while_idle(task, || ()).is_none() {
                return Ok(());
            }
            if !record.is_complete {
                this.remove_files(task, &record)?;
                tracing::info!(%task, "removed the disk images of a restore that came to nothing here");
            }
            remove_file(&path)
        })
        .await
    }

    fn record_of(&self, task: TaskId) -> PathBuf {
        self.records.join(format!("{task}.{RECORD}"))
    }

    fn recorded(&self) -> impl Iterator<Item = TaskId> {
        // There is no folder before the first image.
        let entries = std::fs::read_dir(&self.records).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.strip_suffix(RECORD)?.strip_suffix('.')?.parse().ok())
    }

    /// The files that a task has, if they are not whole yet: then they are their callers'.
    fn incomplete(&self, task: TaskId) -> Result<Option<Record>, ImageError> {
        Ok(read(&self.record_of(task))?.filter(|record| !record.is_complete))
    }

    /// The task that a file belongs to.
    fn owner_of(&self, file: &Path) -> Result<Option<TaskId>, ImageError> {
        for task in self.recorded() {
            if self.incomplete(task)?.is_some_and(|record| record.files.contains_key(file)) {
                return Ok(Some(task));
            }
        }
        Ok(None)
    }

    /// Tries each of a task's files, and answers the first error. A folder goes when it is empty and no other task is about to
    /// write there.
    fn remove_files(&self, task: TaskId, record: &Record) -> Result<(), ImageError> {
        let mut removed = Ok(());
        for (image, stamp) in &record.files {
            let [done, unfinished @ ..] = DiskImage::files_of(image);
            let is_the_one = stamp.is_some_and(|stamp| stamp_of(&done).is_ok_and(|is| is == stamp));
            for file in unfinished.into_iter().chain(is_the_one.then_some(done)) {
                removed = removed.and(remove_file(&file));
            }
        }
        let mut folders: BTreeSet<&Path> = record.files.keys().filter_map(|image| image.parent()).collect();
        for other in self.recorded().filter(|other| *other != task) {
            let used = self.incomplete(other)?.unwrap_or_default().files;
            folders.retain(|folder| !used.keys().any(|image| image.parent() == Some(*folder)));
        }
        for folder in folders {
            let _stays_when_used = std::fs::remove_dir(folder);
        }
        removed
    }

    /// Looks at records and changes them while nobody else does.
    async fn change(
        &self,
        change: impl FnOnce(&Self) -> Result<(), ImageError> + Send + 'static,
    ) -> Result<(), ImageError> {
        let this = self.clone();
        let changed = tokio::task::spawn_blocking(move || {
            let changing = Arc::clone(&this.changing);
            let _alone = changing.lock().unwrap_or_else(PoisonError::into_inner);
            change(&this)
        });
        changed.await.unwrap_or_else(|panic| Err(at(&self.records)(std::io::Error::other(panic))))
    }
}

fn looked_at(task: TaskId, ended: Result<(), ImageError>) {
    if let Err(error) = ended {
        tracing::warn!(%task, %error, "the disk images of a task that is over are looked at again later");
    }
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> ImageError {
    move |source| ImageError::Io { path: path.to_owned(), source }
}

fn stamp_of(file: &Path) -> std::io::Result<Stamp> {
    let metadata = std::fs::metadata(file)?;
    let modified = metadata.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(Stamp { len: metadata.len(), modified_ns: u64::try_from(modified.as_nanos()).unwrap_or(u64::MAX) })
}

/// Whole or not at all, and there after a power loss.
fn write(path: &Path, record: &Record) -> Result<(), ImageError> {
    let new = path.with_extension("new");
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(at(folder))?;
    let text = serde_json::to_vec(record).map_err(|error| at(path)(error.into()))?;
    let mut file = std::fs::File::create(&new).map_err(at(&new))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(at(&new))?;
    std::fs::rename(&new, path).map_err(at(path))?;
    for folder in folder.ancestors().take(2) {
        sync_folder(folder).map_err(at(folder))?;
    }
    Ok(())
}

/// So that the names in it survive a power loss. Windows has no such call and needs none.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) { std::fs::File::open(folder)?.sync_all() } else { Ok(()) }
}

/// The record, if there is one.
fn read(path: &Path) -> Result<Option<Record>, ImageError> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).map_err(|error| {
            let text = format!(
                "is no record of begun disk images ({error}): remove it, and the images it was of by hand"
            );
            at(path)(std::io::Error::other(text))
        })?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

/// Removes a file; one that is gone is done.
fn remove_file(path: &Path) -> Result<(), ImageError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use snapferry_types::Fence;

    use super::*;

    struct Begun {
        images: Images,
        running: Running,
        task: TaskId,
        /// Its two images: the first is whole, the second has a partial file.
        files: [PathBuf; 2],
        _dir: tempfile::TempDir,
    }

    async fn begun() -> Begun {
        let (dir, running, task) = (tempfile::tempdir().unwrap(), Running::default(), TaskId::generate());
        let images = Images::new(&dir.path().join("data"), running.clone());
        let folder = dir.path().join("monday");
        let files = ["vol-1.raw", "vol-2.raw"].map(|name| folder.join(name));
        images.begin(task, files.to_vec()).await.unwrap();
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(&files[0], b"whole").unwrap();
        images.finished(task, files[0].clone(), files[0].clone()).await.unwrap();
        std::fs::write(folder.join("vol-2.raw.partial"), b"blocks").unwrap();
        Begun { images, running, task, files, _dir: dir }
    }

    impl Begun {
        fn folder(&self) -> &Path {
            self.files[0].parent().unwrap()
        }

        fn n_files(&self) -> usize {
            std::fs::read_dir(self.folder()).map_or(0, Iterator::count)
        }
    }

    #[tokio::test]
    async fn images_that_came_to_nothing_go_and_their_folder_with_them() {
        let one = begun().await;
        assert_eq!(one.images.idle_tasks().await, [one.task]);
        one.images.settle(vec![one.task], Vec::new()).await;
        assert!(!one.folder().exists());
        assert!(one.images.idle_tasks().await.is_empty());
        one.images.remove(one.task).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_not_the_tasks_stays() {
        let one = begun().await;
        std::fs::write(one.folder().join("photo.raw.partial"), b"not ours").unwrap();
        // Somebody has put other files in the places of both.
        for file in &one.files {
            std::fs::write(file, b"another file").unwrap();
        }
        one.images.remove(one.task).await.unwrap();
        assert_eq!(one.n_files(), 3);
        assert!(!one.folder().join("vol-2.raw.partial").exists());
    }

    #[tokio::test]
    async fn images_that_were_all_whole_stay_whatever_became_of_the_task() {
        let one = begun().await;
        std::fs::rename(one.folder().join("vol-2.raw.partial"), &one.files[1]).unwrap();
        one.images.finished(one.task, one.files[1].clone(), one.files[1].clone()).await.unwrap();
        one.images.complete(one.task).await.unwrap();
        one.images.settle(vec![one.task], Vec::new()).await;
        assert_eq!(one.n_files(), 2);
        assert!(one.images.idle_tasks().await.is_empty());
    }

    #[tokio::test]
    async fn images_of_a_task_that_the_scheduler_does_not_know_stay() {
        let one = begun().await;
        one.images.settle(Vec::new(), vec![one.task]).await;
        assert_eq!(one.n_files(), 2);
        assert!(one.images.idle_tasks().await.is_empty());
    }

    #[tokio::test]
    async fn images_of_a_living_attempt_stay_whatever_is_said() {
        let one = begun().await;
        let entered = one.running.enter(one.task, Fence { generation: 1, epoch: 1 }).unwrap();
        assert!(one.images.idle_tasks().await.is_empty());
        one.images.settle(vec![one.task], Vec::new()).await;
        assert_eq!(one.n_files(), 2);
        drop(entered);
        assert_eq!(one.images.idle_tasks().await, [one.task]);
    }

    #[tokio::test]
    async fn one_file_that_does_not_go_keeps_no_other() {
        let one = begun().await;
        std::fs::create_dir_all(one.folder().join("vol-1.raw.partial/in")).unwrap();
        let error = one.images.remove(one.task).await.unwrap_err().to_string();
        assert!(error.contains("vol-1.raw.partial"), "{error}");
        assert!(!one.files[0].exists() && !one.folder().join("vol-2.raw.partial").exists());
        assert_eq!(one.images.idle_tasks().await, [one.task], "it is looked at again");
    }

    #[tokio::test]
    async fn a_file_is_given_to_one_task_and_never_twice() {
        let one = begun().await;
        let other = TaskId::generate();
        let begin = async |task, file: &PathBuf| one.images.begin(task, vec![file.clone()]).await;
        // Not made yet, by the one that has it; there, by one that nobody has.
        std::fs::remove_file(one.folder().join("vol-2.raw.partial")).unwrap();
        let taken = begin(other, &one.files[1]).await.unwrap_err();
        assert!(matches!(&taken, ImageError::Owned { by, .. } if *by == one.task), "{taken}");
        let photo = one.folder().join("photo.raw");
        std::fs::write(&photo, b"not ours").unwrap();
        let there = begin(other, &photo).await.unwrap_err();
        assert!(matches!(&there, ImageError::Exists(file) if *file == photo), "{there}");
        begin(one.task, &one.files[1]).await.unwrap();
        let there = begin(one.task, &photo).await.unwrap_err();
        assert!(matches!(&there, ImageError::Exists(_)), "of another folder: {there}");

        one.images.complete(one.task).await.unwrap();
        begin(other, &one.files[1]).await.unwrap();
    }

    #[tokio::test]
    async fn of_two_that_begin_together_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::new(dir.path(), Running::default());
        let file = dir.path().join("monday/vol-1.raw");
        let begin = || {
            let (images, file) = (images.clone(), file.clone());
            tokio::spawn(async move { images.begin(TaskId::generate(), vec![file]).await.is_ok() })
        };
        let begun: Vec<bool> = futures::future::join_all((0..16).map(|_| begin()))
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(begun.iter().filter(|begun| **begun).count(), 1);
    }
}
