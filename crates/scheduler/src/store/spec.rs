//! What a granted task is to do: put together from the request, the catalogue, the ledger and the vault at each claim.

use snapferry_api::job::Work;
use snapferry_api::protect::{BackupCopy, Vault, VaultTo as AskedVaultTo};
use snapferry_api::restore::{Restore, RestoreTarget as AskedTarget};
use snapferry_types::ledger::LedgerEntry;
use snapferry_types::spec::{
    AttachTo, BackupCopySpec, HeldSnapshots, IntelliSnapSpec, MediaAgentRef, NewInstanceSpec, Operation,
    ReadAs, RestoreFrom, RestoreSpec, RestoreTarget, StreamingBackupSpec, TargetEncryption, TaskSpec,
    VaultSpec, VaultTo,
};
use snapferry_types::{InstanceId, MediaAgentId, RecoveryPointId, TaskId};
use sqlx::AnyConnection;

use super::point::PointRow;
use super::row::Read as _;
use super::source::{self, Source};
use super::task::TaskRow;
use super::{Store, StoreError, fleet, hold, kept, ledger};

/// The part of a grant that depends on the kind of work.
struct Described {
    operation: Operation,
    /// Where the blocks are stored or read from.
    media_agent: Option<MediaAgentId>,
    superseded: Vec<LedgerEntry>,
    /// Whether the service account may have a part in it.
    wants_service: bool,
}

impl Store {
    /// What is decided when a claim is granted, and stays with the task: what a backup builds on, where a restore reads.
    pub(super) async fn prepare(
        &self,
        conn: &mut AnyConnection,
        row: &mut TaskRow,
    ) -> Result<(), StoreError> {
        if let Work::Restore(restore) = &row.work {
            row.media_agent = source_of(conn, row, restore).await?.media_agent();
        }
        self.choose_base(conn, row).await
    }

    pub(super) async fn spec(
        &self,
        conn: &mut AnyConnection,
        row: &TaskRow,
        deployment: &str,
    ) -> Result<TaskSpec, StoreError> {
        let accesses = self.accesses(conn, row.hypervisor, &row.region).await?;
        let read_as = match accesses.read_as {
            snapferry_api::hypervisor::ReadAs::Tenant => ReadAs::Tenant,
            snapferry_api::hypervisor::ReadAs::Service => ReadAs::Service,
        };
        let described = describe(conn, row, read_as).await?;
        let objects = ledger::of_task(conn, row.id).await?;
        let service_access = accesses.service.filter(|service| {
            described.wants_service
                || read_as == ReadAs::Service
                || objects.iter().chain(&described.superseded).any(|entry| entry.account == service.account)
        });
        let media_agent = match described.media_agent {
            Some(id) => Some(MediaAgentRef { id, endpoint: fleet::endpoint(conn, id).await? }),
            None => None,
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
            service_access,
            media_agent,
            operation: described.operation,
            checkpoint: checkpoint(conn, row.id).await?,
            objects,
            superseded: described.superseded,
        })
    }
}

async fn describe(conn: &mut AnyConnection, row: &TaskRow, read_as: ReadAs) -> Result<Described, StoreError> {
    match &row.work {
        Work::StreamingBackup(backup) => {
            let (instance, media_agent) = (instance(row)?, chosen_media_agent(row)?);
            let superseded = superseded(conn, row, &instance, media_agent).await?;
            let base = row.base.clone();
            let (full, transport) = (backup.full, backup.transport);
            Ok(Described {
                operation: Operation::StreamingBackup(StreamingBackupSpec {
                    instance,
                    base,
                    full,
                    read_as,
                    transport,
                }),
                media_agent: Some(media_agent),
                superseded,
                wants_service: transport.may_use_service_account(),
            })
        }
        Work::IntelliSnap(snap) => Ok(Described {
            operation: Operation::IntelliSnap(IntelliSnapSpec {
                instance: instance(row)?,
                vault: snap.vault.as_ref().map(vault),
            }),
            media_agent: None,
            superseded: Vec::new(),
            wants_service: snap.vault.as_ref().is_some_and(|vault| vault.to != AskedVaultTo::Tenant),
        }),
        Work::BackupCopy(copy) => backup_copy(conn, row, copy, read_as).await,
        Work::Restore(asked) => restore(conn, row, asked).await,
        Work::DeleteRecoveryPoint(delete) => Ok(Described {
            operation: Operation::DeleteRecoveryPoint(delete.recovery_point),
            media_agent: row.media_agent,
            superseded: kept::of_point(conn, delete.recovery_point).await?,
            wants_service: false,
        }),
        Work::Replication(_) | Work::Conversion(_) => {
            Err(StoreError::Invalid(format!("this scheduler cannot describe a {} task", row.kind.as_str())))
        }
    }
}

async fn backup_copy(
    conn: &mut AnyConnection,
    row: &TaskRow,
    copy: &BackupCopy,
    read_as: ReadAs,
) -> Result<Described, StoreError> {
    let source = copied(row)?;
    let point = PointRow::load(conn, source).await?;
    if !point.has_snapshots(conn, &[]).await? {
        return Err(StoreError::Invalid(format!(
            "recovery point {source} cannot be copied: snapshots of it were deleted by somebody else ({})",
            point.missing.join(", ")
        )));
    }
    Ok(Described {
        operation: Operation::BackupCopy(Box::new(BackupCopySpec {
            source,
            meta: point.meta,
            base: row.base.clone(),
            full: copy.full,
            read_as,
            transport: copy.transport,
        })),
        media_agent: Some(chosen_media_agent(row)?),
        superseded: Vec::new(),
        wants_service: copy.transport.may_use_service_account(),
    })
}

async fn restore(
    conn: &mut AnyConnection,
    row: &TaskRow,
    restore: &Restore,
) -> Result<Described, StoreError> {
    let source = source_of(conn, row, restore).await?;
    let media_agent = source.media_agent();
    // Disk images and snapshots that are there need no transport into AWS.
    let is_elsewhere = match &source {
        Source::Library { .. } => true,
        Source::Snapshots(_) => false,
        Source::Vault(copies) => {
            let (point, vault) = &**copies;
            vault.account != point.meta.account || vault.region != point.meta.instance.region
        }
    };
    let writes_blocks = is_elsewhere && !matches!(restore.target, AskedTarget::DiskImage { .. });
    let held = |point: PointRow, vault| {
        (point.id, RestoreFrom::Snapshots(Box::new(HeldSnapshots { meta: point.meta, vault })))
    };
    let (recovery_point, from) = match source {
        Source::Library { point, .. } => (point, RestoreFrom::Library),
        Source::Snapshots(holder) => held(*holder, None),
        Source::Vault(copies) => {
            let (point, vault) = *copies;
            held(point, Some(vault))
        }
    };
    let is_in_other_account = matches!(&from, RestoreFrom::Snapshots(held)
        if held.vault.as_ref().is_some_and(|vault| vault.account != held.meta.account));
    let encryption = restore.kms_key_id.clone().map_or(TargetEncryption::AsBefore, TargetEncryption::Key);
    Ok(Described {
        operation: Operation::Restore(Box::new(RestoreSpec {
            recovery_point,
            from,
            volumes: restore.volumes.clone(),
            target: target(restore.target.clone()),
            extra_tags: restore.tags.clone(),
            transport: restore.transport,
            encryption,
        })),
        media_agent,
        superseded: Vec::new(),
        wants_service: is_in_other_account || (writes_blocks && restore.transport.may_use_service_account()),
    })
}

async fn source_of(conn: &mut AnyConnection, row: &TaskRow, restore: &Restore) -> Result<Source, StoreError> {
    let named = PointRow::load(conn, restore.recovery_point).await?;
    source::resolve(conn, restore, &named, row.media_agent.is_some()).await
}

/// Kept snapshots that a backup replaces, but for those that an open restore reads: they go with the next backup.
async fn superseded(
    conn: &mut AnyConnection,
    row: &TaskRow,
    instance: &InstanceId,
    media_agent: MediaAgentId,
) -> Result<Vec<LedgerEntry>, StoreError> {
    let mut free = Vec::new();
    for entry in kept::superseded(conn, row, instance, media_agent).await? {
        let held = match PointRow::of_task(conn, entry.task).await? {
            Some(point) => hold::reader(conn, &point).await?.is_some(),
            None => false,
        };
        if !held {
            free.push(entry);
        }
    }
    Ok(free)
}

fn instance(row: &TaskRow) -> Result<InstanceId, StoreError> {
    row.instance.clone().ok_or_else(|| StoreError::Invalid("the task names no instance".to_owned()))
}

fn chosen_media_agent(row: &TaskRow) -> Result<MediaAgentId, StoreError> {
    row.media_agent.ok_or_else(|| StoreError::Invalid("no MediaAgent was chosen".to_owned()))
}

/// The recovery point that a copy task copies.
pub(super) fn copied(row: &TaskRow) -> Result<RecoveryPointId, StoreError> {
    row.recovery_point.ok_or_else(|| StoreError::Invalid("the task names no recovery point".to_owned()))
}

fn vault(vault: &Vault) -> VaultSpec {
    VaultSpec {
        region: vault.region.clone(),
        to: match vault.to {
            AskedVaultTo::Tenant => VaultTo::Tenant,
            AskedVaultTo::ServiceShare => VaultTo::ServiceShare,
            AskedVaultTo::ServiceCopy => VaultTo::ServiceCopy,
        },
        kms_key_id: vault.kms_key_id.clone(),
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
