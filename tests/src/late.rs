//! An agent whose task has another owner, and which does not know it.

use anyhow::Result;
use snapferry_types::TaskId;
use snapferry_wire::v1::finish_request::Outcome;
use snapferry_wire::v1::lease_client::LeaseClient;
use snapferry_wire::v1::{Fence, FinishRequest, Succeeded};
use tonic::Status;

use crate::rig::Rig;

/// Of a database that was never restored.
const GENERATION: u64 = 1;

impl Rig {
    /// Reports to the scheduler that a task was done, as the agent of the claim `epoch` would.
    ///
    /// # Errors
    /// The scheduler's refusal; the outer one when it is not reached.
    pub async fn finish_as(&self, task: TaskId, epoch: u64) -> Result<Result<(), Status>> {
        let mut lease = LeaseClient::connect(format!("http://127.0.0.1:{}", self.ports.lease)).await?;
        let request = FinishRequest {
            task_id: task.to_string(),
            fence: Some(Fence { generation: GENERATION, epoch }),
            outcome: Some(Outcome::Succeeded(Succeeded { made: Vec::new() })),
            ..FinishRequest::default()
        };
        Ok(lease.finish(request).await.map(drop))
    }
}
