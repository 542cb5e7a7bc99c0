//! The tasks of a request: what is asked for is checked against what is registered and known, and refused with the
//! reason and the way out before anything is made.

use snapferry_api::hypervisor::{Hypervisor, Role};
use snapferry_api::job::{DeleteRecoveryPoint, Progress, StreamingBackup, Work};
use snapferry_api::protect::{IntelliSnap, Vault, VaultTo};
use snapferry_api::restore::Restore;
use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::{
    Fence, HypervisorId, InstanceId, JobId, MediaAgentId, RecoveryPointId, Region, TaskId, TaskState,
};
use sqlx::AnyConnection;

use super::db::Dialect;
use super::job::Submission;
use super::point::PointRow;
use super::task::{Desired, TaskRow};
use super::{Store, StoreError, crossing, fleet, hold, hypervisor, source};

/// Tasks that wait to be taken in.
pub(super) struct Drafts {
    pub(super) hypervisor: HypervisorId,
    pub(super) tasks: Vec<TaskRow>,
}

impl Store {
    pub(super) async fn drafts(
        &self,
        conn: &mut AnyConnection,
        submission: &Submission<'_>,
    ) -> Result<Drafts, StoreError> {
        match &submission.request.work {
            Work::StreamingBackup(backup) => streaming_backup(conn, submission, backup).await,
            Work::IntelliSnap(snap) => intelli_snap(conn, submission, snap).await,
            Work::BackupCopy(copy) => self.backup_copy(conn, submission, copy).await,
            Work::Restore(restore) => self.restore(conn, submission, restore).await,
            Work::DeleteRecoveryPoint(delete) => self.delete_point(conn, submission, delete).await,
            Work::Replication(replication) => {
                let tenant = tenant(conn, submission, replication.hypervisor).await?;
                Err(crossing::refuse_replication(&tenant, replication))
            }
            Work::Conversion(conversion) => {
                let tenant = tenant(conn, submission, conversion.hypervisor).await?;
                Err(crossing::refuse_conversion(&tenant, conversion))
            }
        }
    }

    async fn restore(
        &self,
        conn: &mut AnyConnection,
        submission: &Submission<'_>,
        restore: &Restore,
    ) -> Result<Drafts, StoreError> {
        let point = self.point(conn, submission, restore.recovery_point).await?;
        for volume in &restore.volumes {
            if !point.meta.volumes.iter().any(|one| one.volume_id == *volume) {
                return Err(StoreError::Invalid(format!(
                    "recovery point {} has no volume {volume}",
                    restore.recovery_point
                )));
            }
        }
        let source = source::resolve(conn, restore, &point, false).await?;
        for id in [point.id, source.point()] {
            refuse_deleted(conn, id).await?;
        }
        let mut row = of_point(&point, submission.request.work.clone());
        row.media_agent = source.media_agent();
        Ok(Drafts { hypervisor: point.hypervisor, tasks: vec![row] })
    }

    async fn delete_point(
        &self,
        conn: &mut AnyConnection,
        submission: &Submission<'_>,
        delete: &DeleteRecoveryPoint,
    ) -> Result<Drafts, StoreError> {
        let point = self.point(conn, submission, delete.recovery_point).await?;
        refuse_deleted(conn, point.id).await?;
        let mut held = hold::reader(conn, &point).await?;
        if held.is_none() && point.kind == RecoveryPointKind::Snapshot {
            held = hold::builder(conn, &point).await?;
        }
        if let Some(hold) = held {
            return Err(StoreError::Conflict(format!(
                "recovery point {} is held: {} task {} reads it; wait until it is done, or cancel its job",
                point.id,
                hold.kind.as_str(),
                hold.task
            )));
        }
        let row = of_point(&point, submission.request.work.clone());
        Ok(Drafts { hypervisor: point.hypervisor, tasks: vec![row] })
    }

    /// A recovery point that the caller may see. What is decided about it holds until the transaction ends.
    pub(super) async fn point(
        &self,
        conn: &mut AnyConnection,
        submission: &Submission<'_>,
        id: RecoveryPointId,
    ) -> Result<PointRow, StoreError> {
        let point = PointRow::load(conn, id).await?;
        visible(submission, point.hypervisor, "recovery point", id)?;
        self.take_turns(conn, point.hypervisor).await?;
        // What came before this turn may have changed it.
        PointRow::load(conn, id).await
    }

    /// Requests that depend on which tasks of a tenant are open come one after the other.
    pub(super) async fn take_turns(
        &self,
        conn: &mut AnyConnection,
        hypervisor: HypervisorId,
    ) -> Result<(), StoreError> {
        if self.db.dialect() == Dialect::Postgres {
            sqlx::query("SELECT id FROM hypervisor WHERE id = $1 FOR UPDATE")
                .bind(hypervisor.to_string())
                .fetch_optional(conn)
                .await?;
        }
        Ok(())
    }
}

async fn streaming_backup(
    conn: &mut AnyConnection,
    submission: &Submission<'_>,
    backup: &StreamingBackup,
) -> Result<Drafts, StoreError> {
    let tenant = tenant(conn, submission, backup.hypervisor).await?;
    let region = region(&tenant, backup.region.as_ref())?;
    known_media_agent(conn, backup.media_agent).await?;
    let one = |instance: &InstanceId| {
        let work =
            Work::StreamingBackup(StreamingBackup { instances: vec![instance.clone()], ..backup.clone() });
        let mut row = of_instance(work, &tenant, &region, instance);
        row.media_agent = backup.media_agent;
        row
    };
    Ok(Drafts { hypervisor: tenant.id, tasks: backup.instances.iter().map(one).collect() })
}

async fn intelli_snap(
    conn: &mut AnyConnection,
    submission: &Submission<'_>,
    snap: &IntelliSnap,
) -> Result<Drafts, StoreError> {
    let tenant = tenant(conn, submission, snap.hypervisor).await?;
    let region = region(&tenant, snap.region.as_ref())?;
    if let Some(vault) = &snap.vault {
        check_vault(conn, &tenant, &region, vault).await?;
    }
    let one = |instance: &InstanceId| {
        let work = Work::IntelliSnap(IntelliSnap { instances: vec![instance.clone()], ..snap.clone() });
        of_instance(work, &tenant, &region, instance)
    };
    Ok(Drafts { hypervisor: tenant.id, tasks: snap.instances.iter().map(one).collect() })
}

async fn check_vault(
    conn: &mut AnyConnection,
    tenant: &Hypervisor,
    region: &Region,
    vault: &Vault,
) -> Result<(), StoreError> {
    let refuse = |reason: String| Err(StoreError::Invalid(format!("vault: {reason}")));
    if vault.to == VaultTo::Tenant {
        return match &vault.region {
            Some(asked) if asked != region => registered(tenant, asked),
            // Another key is another place, too: it protects from the loss of the first.
            _ if vault.kms_key_id.is_some() => Ok(()),
            None => refuse(
                "copies in the tenant's own account go to another region, or under another key; name it"
                    .to_owned(),
            ),
            Some(_) => refuse(format!(
                "copies in the tenant's own account go to another region than the instance's, {region}, or under \
                 another key"
            )),
        };
    }
    let Role::Tenant { use_admin_account_resources: Some(admin), .. } = &tenant.role else {
        return refuse(format!(
            "hypervisor {} does not use an admin account's resources, so there is no service account to keep \
             snapshots in; use the tenant's own account",
            tenant.name
        ));
    };
    if vault.to == VaultTo::ServiceCopy {
        let admin = hypervisor::load(conn, *admin).await?;
        return registered(&admin, vault.region.as_ref().unwrap_or(region));
    }
    if vault.region.as_ref().is_some_and(|asked| asked != region) {
        return refuse(format!(
            "a share copies nothing: the snapshots stay in {region}; ask for service_copy"
        ));
    }
    if vault.kms_key_id.is_some() {
        return refuse("a share copies nothing, so there is no other key; ask for service_copy".to_owned());
    }
    Ok(())
}

/// The tenant hypervisor of a request that the caller may see.
pub(super) async fn tenant(
    conn: &mut AnyConnection,
    submission: &Submission<'_>,
    id: HypervisorId,
) -> Result<Hypervisor, StoreError> {
    visible(submission, id, "hypervisor", id)?;
    let tenant = hypervisor::load(conn, id).await?;
    match tenant.role {
        Role::Tenant { .. } => Ok(tenant),
        Role::Admin { .. } => Err(StoreError::Invalid(format!(
            "hypervisor {id} is an admin hypervisor; name a tenant, whose instances these are"
        ))),
    }
}

fn region(tenant: &Hypervisor, asked: Option<&Region>) -> Result<Region, StoreError> {
    match asked {
        Some(asked) => registered(tenant, asked).map(|()| asked.clone()),
        None => tenant.regions.first().cloned().ok_or_else(|| {
            StoreError::Invalid(format!("hypervisor {} has no region; name one", tenant.name))
        }),
    }
}

fn registered(hypervisor: &Hypervisor, region: &Region) -> Result<(), StoreError> {
    if hypervisor.regions.contains(region) {
        return Ok(());
    }
    Err(StoreError::Invalid(format!(
        "hypervisor {} is not registered for region {region}; its regions are {:?}",
        hypervisor.name, hypervisor.regions
    )))
}

/// A MediaAgent that was named has to be one that was heard of.
pub(super) async fn known_media_agent(
    conn: &mut AnyConnection,
    id: Option<MediaAgentId>,
) -> Result<(), StoreError> {
    if let Some(id) = id {
        fleet::endpoint(conn, id).await?;
    }
    Ok(())
}

async fn refuse_deleted(conn: &mut AnyConnection, point: RecoveryPointId) -> Result<(), StoreError> {
    match hold::deleter(conn, point).await? {
        None => Ok(()),
        Some(task) => {
            Err(StoreError::Conflict(format!("recovery point {point} is being deleted by task {task}")))
        }
    }
}

pub(super) fn visible(
    submission: &Submission<'_>,
    owner: HypervisorId,
    kind: &'static str,
    id: impl ToString,
) -> Result<(), StoreError> {
    if submission.only.is_none_or(|only| only == owner) {
        return Ok(());
    }
    Err(StoreError::not_found(kind, id))
}

fn of_instance(work: Work, tenant: &Hypervisor, region: &Region, instance: &InstanceId) -> TaskRow {
    let mut row = draft(work, tenant.id, region.clone());
    row.instance = Some(instance.clone());
    row
}

/// A task at a recovery point, on the MediaAgent that has it.
pub(super) fn of_point(point: &PointRow, work: Work) -> TaskRow {
    let mut row = draft(work, point.hypervisor, point.meta.instance.region.clone());
    row.instance = Some(point.meta.instance.instance_id.clone());
    row.recovery_point = Some(point.id);
    row.media_agent = point.media_agent;
    row
}

fn draft(work: Work, hypervisor: HypervisorId, region: Region) -> TaskRow {
    TaskRow {
        id: TaskId::generate(),
        job: JobId::from_u128(0),
        hypervisor,
        kind: work.kind(),
        work,
        region,
        instance: None,
        recovery_point: None,
        media_agent: None,
        state: TaskState::Ready,
        fence: Fence::default(),
        priority: 0,
        created_ms: 0,
        ready_ms: 0,
        not_before_ms: None,
        attempts: 0,
        crashes: 0,
        dispatch: None,
        queue: None,
        node: None,
        incarnation: None,
        desired: Desired::Run,
        progress: Progress::default(),
        error: None,
        made: Vec::new(),
        base: None,
        finished_epoch: None,
        started_ms: None,
        finished_ms: None,
        failures: 0,
    }
}
