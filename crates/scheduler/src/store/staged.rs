//! Disk images that access nodes have for tasks: in their staging folders, and in those of their callers.

use snapferry_types::{AccessNodeId, TaskId, TaskState};

use super::row::Read as _;
use super::{Store, StoreError};

/// Tasks that have begun disk images for their callers on a node, and do not go on.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ImagesOfNode {
    /// They are over: the node knows which of the images were whole, and in the results.
    pub over: Vec<TaskId>,
    /// They are not known here.
    pub unknown: Vec<TaskId>,
}

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
            let is_needed = self
                .state_and_node(*task)
                .await?
                .is_some_and(|(state, last)| !state.is_terminal() && last.is_none_or(|last| last == node));
            if !is_needed {
                unneeded.push(*task);
            }
        }
        Ok(unneeded)
    }

    /// Which of the tasks that have begun disk images for their callers do not go on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn images_of(&self, tasks: &[TaskId]) -> Result<ImagesOfNode, StoreError> {
        let mut images = ImagesOfNode::default();
        for task in tasks {
            match self.state_and_node(*task).await? {
                None => images.unknown.push(*task),
                Some((state, _)) if state.is_terminal() => images.over.push(*task),
                Some(_) => {}
            }
        }
        Ok(images)
    }

    /// A task's state, and the node that had it last.
    async fn state_and_node(
        &self,
        task: TaskId,
    ) -> Result<Option<(TaskState, Option<AccessNodeId>)>, StoreError> {
        let row = sqlx::query("SELECT state, node_id FROM task WHERE id = $1")
            .bind(task.to_string())
            .fetch_optional(self.db.read())
            .await?;
        row.map(|row| Ok((row.word("state", TaskState::from_word)?, row.opt_parsed("node_id")?))).transpose()
    }
}
