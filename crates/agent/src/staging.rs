//! The folder in which disk images lie before they are uploaded: one folder in it for each task. A task removes its own
//! when it ends here. What it leaves, because the process was killed or another node went on with it, goes when the
//! scheduler says that it is of no use any more; never while the task has an attempt in this process.
//!
//! Runs twice: what is gone is gone. Dies in the middle: a folder has another name before its files go, and one with that
//! name goes with the next look.

use std::path::{Path, PathBuf};

use snapferry_types::TaskId;

use crate::worker::Running;

/// Tasks of one look.
const MAX_TASKS: usize = 1_000;
/// The ending of a folder that is on its way out.
const DROPPED: &str = "dropped";

/// The staging folder of this node.
#[derive(Debug, Clone)]
pub(crate) struct Staging {
    dir: PathBuf,
    running: Running,
}

impl Staging {
    /// The folder of a process whose attempts are `running`.
    #[must_use]
    pub(crate) const fn new(dir: PathBuf, running: Running) -> Self {
        Self { dir, running }
    }

    /// The tasks that have images here and no attempt in this process.
    pub(crate) async fn idle_tasks(&self) -> Vec<TaskId> {
        let this = self.clone();
        let found = tokio::task::spawn_blocking(move || this.look());
        found.await.unwrap_or_default()
    }

    /// Removes the images of tasks, those excepted that have an attempt in this process by now.
    pub(crate) async fn remove(&self, tasks: Vec<TaskId>) {
        let this = self.clone();
        let removed = tokio::task::spawn_blocking(move || {
            for task in tasks {
                this.remove_one(task);
            }
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "staged disk images were not removed");
        }
    }

    fn look(&self) -> Vec<TaskId> {
        // There is no folder before the first import.
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        let mut tasks = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            match name.split_once('.') {
                None => tasks.extend(name.parse::<TaskId>().ok()),
                Some((task, DROPPED)) if task.parse::<TaskId>().is_ok() => remove_folder(&path),
                // Not ours.
                Some(_) => {}
            }
        }
        tasks.retain(|task| self.running.while_idle(*task, || ()).is_some());
        tasks.truncate(MAX_TASKS);
        tasks
    }

    fn remove_one(&self, task: TaskId) {
        let folder = self.dir.join(task.to_string());
        let dropped = folder.with_extension(DROPPED);
        // Renamed in one step that an attempt cannot begin in the middle of.
        match self.running.while_idle(task, || std::fs::rename(&folder, &dropped)) {
            None => {}
            Some(Ok(())) => {
                tracing::info!(%task, "removing disk images that are of no use any more");
                remove_folder(&dropped);
            }
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
            Some(Err(error)) => {
                tracing::warn!(folder = %folder.display(), %error, "staged disk images not removed");
            }
        }
    }
}

fn remove_folder(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::warn!(folder = %folder.display(), %error, "staged disk images not removed");
    }
}

#[cfg(test)]
mod tests {
    use snapferry_types::Fence;

    use super::*;

    fn image(dir: &Path, folder: &str) -> PathBuf {
        let folder = dir.join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("vol-1.1-1.vmdk.partial"), b"blocks").unwrap();
        folder
    }

    #[tokio::test]
    async fn images_of_a_living_attempt_stay_whatever_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let running = Running::default();
        let staging = Staging::new(dir.path().to_owned(), running.clone());
        let (living, over) = (TaskId::generate(), TaskId::generate());
        let folders = [living, over].map(|task| image(dir.path(), &task.to_string()));
        let entered = running.enter(living, Fence { generation: 1, epoch: 1 }).unwrap();
        assert_eq!(staging.idle_tasks().await, [over]);
        staging.remove(vec![living, over]).await;
        assert_eq!(folders.map(|folder| folder.exists()), [true, false]);
        drop(entered);
        assert_eq!(staging.idle_tasks().await, [living]);
    }

    #[tokio::test]
    async fn a_removal_that_was_cut_off_is_ended_and_what_is_not_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::new(dir.path().to_owned(), Running::default());
        let cut_off = image(dir.path(), &format!("{}.{DROPPED}", TaskId::generate()));
        let others = [image(dir.path(), "photos"), image(dir.path(), "photos.dropped")];
        assert!(staging.idle_tasks().await.is_empty());
        assert!(!cut_off.exists());
        assert!(others.iter().all(|folder| folder.exists()));
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_has_no_images() {
        let staging = Staging::new(PathBuf::from("/nowhere/staging"), Running::default());
        assert!(staging.idle_tasks().await.is_empty());
        staging.remove(vec![TaskId::generate()]).await;
    }
}
