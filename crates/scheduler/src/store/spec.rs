//! What a granted task is to do: put together from the request, the catalogue, the ledger and the vault at each claim.

use snapferry_api::job::Work;
use snapferry_api::restore::RestoreTarget as AskedTarget;
use snapferry_types::TaskId;
use snapferry_types::spec::{
    AttachTo, MediaAgentRef, NewInstanceSpec, Operation, ReadAs, RestoreFrom, RestoreSpec, RestoreTarget,
    StreamingBackupSpec, TargetEncryption, TaskSpec,
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
                let (full, transport) = (backup.full, backup.transport);
                Operation::StreamingBackup(StreamingBackupSpec { instance, base, full, read_as, transport })
            }
            Work::Restore(restore) => Operation::Restore(Box::new(RestoreSpec {
                recovery_point: restore.recovery_point,
                from: RestoreFrom::Library,
                volumes: restore.volumes.clone(),
                target: target(restore.target.clone()),
                extra_tags: restore.tags.clone(),
                transport: restore.transport,
                encryption: restore
                    .kms_key_id
                    .clone()
                    .map_or(TargetEncryption::AsBefore, TargetEncryption::Key),
            })),
            Work::IntelliSnap(_) | Work::BackupCopy(_) | Work::Replication(_) | Work::Conversion(_) => {
                let kind = row.kind.as_str();
                return Err(StoreError::Invalid(format!("this scheduler cannot describe a {kind} task")));
            }
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
            media_agent: Some(MediaAgentRef {
                id: media_agent,
                endpoint: fleet::endpoint(conn, media_agent).await?,
            }),
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
        AskedTarget::Volumes { availability_zone, attach } => RestoreTarget::Volumes {
            availability_zone,
            attach: attach.map(|attach| AttachTo {
                instance: attach.instance,
                devices: attach.devices.into_iter().map(|one| (one.volume, one.device)).collect(),
            }),
        },
        AskedTarget::Instance(new) => RestoreTarget::Instance(Box::new(NewInstanceSpec {
            name: new.name,
            instance_type: new.instance_type,
            subnet_id: new.subnet_id,
            security_group_ids: new.security_group_ids,
            key_name: new.key_name,
            iam_instance_profile: new.iam_instance_profile,
            private_ip: new.private_ip,
            stopped: new.stopped,
        })),
        AskedTarget::InPlace { delete_old_volumes, leave_stopped } => {
            RestoreTarget::InPlace { keep_old_volumes: !delete_old_volumes, start: !leave_stopped }
        }
        AskedTarget::DiskImage { folder, format } => RestoreTarget::DiskImage { folder, format },
    }
}
