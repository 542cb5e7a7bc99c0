//! What a granted task is to do: put together from the request, the catalogue, the ledger and the vault at each claim.

use snapferry_api::job::Work;
use snapferry_api::restore::RestoreTarget as AskedTarget;
use snapferry_types::TaskId;
use snapferry_types::spec::{
    MediaAgentRef, Operation, ReadAs, RestoreSpec, RestoreTarget, StreamingBackupSpec, TaskSpec,
};
use sqlx::AnyConnection;

use super::row::Read as _;
use super::task::TaskRow;
use super::{Store, StoreError, catalogue, fleet, ledger};

impl Store {
    /// The first attempt chooses what a backup builds on; later ones stay with it while its snapshots are kept.
    pub(super) async fn choose_base(
        &self,
        conn: &mut AnyConnection,
        row: &mut TaskRow,
    ) -> Result<(), StoreError> {
        let (Work::StreamingBackup(backup), Some(instance), Some(media_agent)) =
            (&row.work, row.instance.clone(), row.media_agent)
        else {
            return Ok(());
        };
        if backup.full {
            return Ok(());
        }
        if let Some(base) = &row.base {
            match catalogue::load(conn, base.recovery_point).await {
                Ok(point) if point.volumes.iter().all(|volume| volume.snapshot_kept) => return Ok(()),
                // Deleted since, or its snapshots are.
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        row.base = catalogue::base(conn, row.hypervisor, &instance, media_agent, row.id).await?;
        Ok(())
    }

    pub(super) async fn spec(
        &self,
        conn: &mut AnyConnection,
        row: &TaskRow,
        deployment: &str,
    ) -> Result<TaskSpec, StoreError> {
        let accesses = self.accesses(conn, row.hypervisor, &row.region).await?;
        let media_agent =
            row.media_agent.ok_or_else(|| StoreError::Invalid("no MediaAgent was chosen".to_owned()))?;
        let read_as = match accesses.read_as {
            snapferry_api::hypervisor::ReadAs::Tenant => ReadAs::Tenant,
            snapferry_api::hypervisor::ReadAs::Service => ReadAs::Service,
        };
        let mut superseded = Vec::new();
        let operation = match &row.work {
            Work::StreamingBackup(backup) => {
                let instance = row
                    .instance
                    .clone()
                    .ok_or_else(|| StoreError::Invalid("the task names no instance".to_owned()))?;
                superseded = ledger::superseded(conn, row, &instance, media_agent).await?;
                let base = row.base.clone();
                Operation::StreamingBackup(StreamingBackupSpec { instance, base, full: backup.full, read_as })
            }
            Work::Restore(restore) => Operation::Restore(RestoreSpec {
                recovery_point: restore.recovery_point,
                volumes: restore.volumes.clone(),
                target: target(restore.target.clone()),
                extra_tags: restore.tags.clone(),
            }),
            Work::DeleteRecoveryPoint(delete) => {
                superseded = ledger::of_point(conn, delete.recovery_point).await?;
                Operation::DeleteRecoveryPoint(delete.recovery_point)
            }
        };
        Ok(TaskSpec {
            task: row.id,
            job: row.job,
            fence: row.fence,
            attempt: row.attempts,
            deployment: deployment.to_owned(),
            tenant: row.hypervisor.to_string(),
            keys: self.tenant_keys(conn, row.hypervisor).await?,
            tenant_access: accesses.tenant,
            service_access: accesses.service.filter(|_| read_as == ReadAs::Service),
            media_agent: MediaAgentRef {
                id: media_agent,
                endpoint: fleet::endpoint(conn, media_agent).await?,
            },
            operation,
            checkpoint: checkpoint(conn, row.id).await?,
            objects: ledger::of_task(conn, row.id).await?,
            superseded,
        })
    }
}

async fn checkpoint(conn: &mut AnyConnection, task: TaskId) -> Result<Vec<u8>, StoreError> {
    let row = sqlx::query("SELECT body FROM checkpoint WHERE task_id = $1")
        .bind(task.to_string())
        .fetch_optional(conn)
        .await?;
    row.map_or_else(|| Ok(Vec::new()), |row| row.bytes("body"))
}

fn target(target: AskedTarget) -> RestoreTarget {
    match target {
        AskedTarget::Volumes { availability_zone } => RestoreTarget::Volumes { availability_zone },
        AskedTarget::Instance { name, instance_type, subnet_id, security_group_ids, key_name } => {
            RestoreTarget::Instance { name, instance_type, subnet_id, security_group_ids, key_name }
        }
    }
}
