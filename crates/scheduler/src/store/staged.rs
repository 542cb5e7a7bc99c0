//! Disk images that access nodes have in their staging folders for tasks.

use snapferry_types::{AccessNodeId, TaskId, TaskState};

use super::row::Read as _;
use super::{Store, StoreError};

impl Store {
    /// Those of the tasks whose images are of no use on a node any more: the task is over or unknown, or another node has
    /// gone on with it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn no_longer_staged(
        &self,
        node: AccessNodeId,
        tasks: &[TaskId],
    ) -> Result<Vec<TaskId>, StoreError> {
        let mut unneeded = Vec::new();
        for task in tasks {
            let row = sqlx::query("SELECT state, node_id FROM task WHERE id = $1")
                .bind(task.to_string())
                .fetch_optional(self.db.read())
                .await?;
            let is_needed = match row {
                None => false,
                Some(row) => {
                    let state = row.word("state", TaskState::from_word)?;
                    let last: Option<AccessNodeId> = row.opt_parsed("node_id")?;
                    !state.is_terminal() && last.is_none_or(|last| last == node)
                }
            };
            if !is_needed {
                unneeded.push(*task);
            }
        }
        Ok(unneeded)
    }
}
