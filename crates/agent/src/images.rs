//! Which disk images a task has begun on this node: a record for each task, beside the node's id, made before the first
//! file and gone after the last. A task that ends here sees to its own files. What it leaves, because the process was killed
//! or another node went on with it, goes when the scheduler says that it came to nothing; never while the task has an attempt
//! in this process.
//!
//! Runs twice: what is gone is gone. Dies in the middle: the record goes last, and is looked at again. Until then no other
//! task may write the same files.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use snapferry_transfer::DiskImage;
use snapferry_types::TaskId;

use crate::worker::Running;

/// Tasks of one look.
const MAX_TASKS: usize = 1_000;
/// The ending of a record.
const RECORD: &str = "json";

/// The disk images of this node.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    /// Folder that images are written below.
    dir: PathBuf,
    records: PathBuf,
    running: Running,
}

/// What a task has begun.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The images, each under its final name.
    files: Vec<PathBuf>,
}

/// A file or record that cannot be read, written or removed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", .path.display())]
pub(crate) struct ImageError {
    path: PathBuf,
    pub(crate) source: std::io::Error,
}

impl Images {
    /// The images below `dir` of a process whose attempts are `running`; their records are in a folder of `data_dir`.
    #[must_use]
    pub(crate) fn new(dir: PathBuf, data_dir: &Path, running: Running) -> Self {
        Self { dir, records: data_dir.join("images"), running }
    }

    /// The folder that images are written below.
    #[must_use]
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the files a task's, before the first is made.
    ///
    /// # Errors
    /// The record cannot be written.
    pub(crate) async fn begin(&self, task: TaskId, files: Vec<PathBuf>) -> Result<(), ImageError> {
        let (path, record) = (self.record_of(task), Record { files });
        blocking(move || write(&path, &record)).await
    }

    /// Another task that a file belongs to, or did until now and has not been seen to.
    pub(crate) async fn other_owner(&self, task: TaskId, file: &Path) -> Option<TaskId> {
        let (this, file) = (self.clone(), file.to_owned());
        let owner = move || {
            let others = this.recorded().into_iter().filter(|one| *one != task);
            let mut having = others.filter_map(|one| Some((one, read(&this.record_of(one)).ok()??)));
            having.find(|(_, record)| record.files.contains(&file)).map(|(one, _)| one)
        };
        tokio::task::spawn_blocking(owner).await.unwrap_or_default()
    }

    /// The files are their caller's now.
    ///
    /// # Errors
    /// The record cannot be removed.
    pub(crate) async fn hand_over(&self, task: TaskId) -> Result<(), ImageError> {
        let path = self.record_of(task);
        blocking(move || remove_file(&path)).await
    }

    /// Removes what a task has begun here.
    ///
    /// # Errors
    /// The first file that does not go.
    pub(crate) async fn remove(&self, task: TaskId) -> Result<(), ImageError> {
        let record = self.record_of(task);
        blocking(move || remove_all(&record)).await
    }

    /// The tasks that have begun images here and have no attempt in this process.
    pub(crate) async fn idle_tasks(&self) -> Vec<TaskId> {
        let this = self.clone();
        let idle = move || {
            let mut tasks = this.recorded();
            tasks.retain(|task| this.running.while_idle(*task, || ()).is_some());
            tasks.truncate(MAX_TASKS);
            tasks
        };
        tokio::task::spawn_blocking(idle).await.unwrap_or_default()
    }

    /// What the scheduler says of idle tasks: the images of some are their caller's, those of others came to nothing.
    pub(crate) async fn settle(&self, kept: Vec<TaskId>, dropped: Vec<TaskId>) {
        for task in kept {
            settled(task, self.hand_over(task).await);
        }
        for task in dropped {
            // It is over: no attempt begins any more, but one that was given up may still wind down.
            if self.running.while_idle(task, || ()).is_some() {
                tracing::info!(%task, "removing disk images of a restore that came to nothing");
                settled(task, self.remove(task).await);
            }
        }
    }

    fn record_of(&self, task: TaskId) -> PathBuf {
        self.records.join(format!("{task}.{RECORD}"))
    }

    fn recorded(&self) -> Vec<TaskId> {
        // There is no folder before the first image.
        let Ok(entries) = std::fs::read_dir(&self.records) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.strip_suffix(RECORD)?.strip_suffix('.')?.parse().ok()).collect()
    }
}

fn settled(task: TaskId, settled: Result<(), ImageError>) {
    if let Err(error) = settled {
        tracing::warn!(%task, %error, "the disk images of a task that is over are looked at again later");
    }
}

async fn blocking(work: impl FnOnce() -> Result<(), ImageError> + Send + 'static) -> Result<(), ImageError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|panic| Err(at(Path::new("disk images"))(std::io::Error::other(panic))))
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> ImageError {
    move |source| ImageError { path: path.to_owned(), source }
}

/// Whole or not at all, and there after a power loss.
fn write(path: &Path, record: &Record) -> Result<(), ImageError> {
    let new = path.with_extension("new");
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(at(folder))?;
    let text = serde_json::to_vec(record).map_err(|error| at(path)(error.into()))?;
    let mut file = std::fs::File::create(&new).map_err(at(&new))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(at(&new))?;
    std::fs::rename(&new, path).map_err(at(path))
}

/// The record, if there is one.
fn read(path: &Path) -> Result<Option<Record>, ImageError> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).map_err(|error| at(path)(error.into()))?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

fn remove_all(record: &Path) -> Result<(), ImageError> {
    let Some(begun) = read(record)? else { return Ok(()) };
    for file in begun.files.iter().flat_map(|image| DiskImage::files_of(image)) {
        remove_file(&file)?;
    }
    for folder in begun.files.iter().filter_map(|image| image.parent()) {
        // Only if nothing else is in it.
        let _stays_when_used = std::fs::remove_dir(folder);
    }
    remove_file(record)
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
        file: PathBuf,
        _dir: tempfile::TempDir,
    }

    /// An image that is half written, in a folder with a file of somebody else.
    async fn begun() -> Begun {
        let (dir, running, task) = (tempfile::tempdir().unwrap(), Running::default(), TaskId::generate());
        let images = Images::new(dir.path().join("images"), &dir.path().join("data"), running.clone());
        let file = images.dir().join("monday/vol-1.raw");
        images.begin(task, vec![file.clone()]).await.unwrap();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file.with_file_name("vol-1.raw.partial"), b"blocks").unwrap();
        Begun { images, running, task, file, _dir: dir }
    }

    #[tokio::test]
    async fn images_that_came_to_nothing_go_and_their_folder_with_them() {
        let one = begun().await;
        assert_eq!(one.images.idle_tasks().await, [one.task]);
        one.images.settle(Vec::new(), vec![one.task]).await;
        assert!(!one.file.parent().unwrap().exists());
        assert!(one.images.idle_tasks().await.is_empty());
        one.images.remove(one.task).await.unwrap();
    }

    #[tokio::test]
    async fn what_others_have_in_the_folder_stays() {
        let one = begun().await;
        let photo = one.file.with_file_name("photo.raw.partial");
        std::fs::write(&photo, b"not ours").unwrap();
        one.images.remove(one.task).await.unwrap();
        assert_eq!(std::fs::read_dir(one.file.parent().unwrap()).unwrap().count(), 1);
        assert!(photo.exists());
    }

    #[tokio::test]
    async fn images_of_a_living_attempt_stay_whatever_is_said() {
        let one = begun().await;
        let entered = one.running.enter(one.task, Fence { generation: 1, epoch: 1 }).unwrap();
        assert!(one.images.idle_tasks().await.is_empty());
        one.images.settle(Vec::new(), vec![one.task]).await;
        assert!(one.file.parent().unwrap().exists());
        drop(entered);
        assert_eq!(one.images.idle_tasks().await, [one.task]);
    }

    #[tokio::test]
    async fn a_file_is_its_tasks_until_it_is_handed_over() {
        let one = begun().await;
        let other = TaskId::generate();
        assert_eq!(one.images.other_owner(other, &one.file).await, Some(one.task));
        assert_eq!(one.images.other_owner(one.task, &one.file).await, None);
        assert_eq!(one.images.other_owner(other, &one.file.with_extension("vhd")).await, None);
        one.images.settle(vec![one.task], Vec::new()).await;
        assert_eq!(one.images.other_owner(other, &one.file).await, None);
        assert!(one.file.with_file_name("vol-1.raw.partial").exists(), "they are the caller's");
    }
}
