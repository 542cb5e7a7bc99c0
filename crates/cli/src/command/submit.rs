//! Commands that ask for a job and, if wanted, watch it.

use anyhow::Result;
use snapferry_api::Client;
use snapferry_api::crossing::{Conversion, Replication};
use snapferry_api::job::{CreateJob, StreamingBackup, Work};
use snapferry_api::protect::{BackupCopy as CopyWork, IntelliSnap as SnapWork, Vault};

use super::job;
use crate::args::{Backup, BackupCopy, Crossing, IntelliSnap, Submit};
use crate::output::Format;
use crate::watch;

pub(super) async fn backup(client: &Client, format: Format, backup: &Backup) -> Result<()> {
    let work = Work::StreamingBackup(StreamingBackup {
        hypervisor: backup.hypervisor,
        instances: backup.instances.clone(),
        region: backup.region.clone(),
        media_agent: backup.media_agent,
        full: backup.full,
        transport: backup.transport.transport,
        retention: backup.keep.into(),
    });
    submit(client, format, work, &backup.submit).await
}

pub(super) async fn intelli_snap(client: &Client, format: Format, snap: &IntelliSnap) -> Result<()> {
    let vault = snap.vault_to.map(|to| Vault {
        to: to.into(),
        region: snap.vault_region.clone(),
        kms_key_id: snap.vault_kms_key.clone(),
    });
    let work = Work::IntelliSnap(SnapWork {
        hypervisor: snap.hypervisor,
        instances: snap.instances.clone(),
        region: snap.region.clone(),
        vault,
        retention: snap.keep.into(),
    });
    submit(client, format, work, &snap.submit).await
}

pub(super) async fn backup_copy(client: &Client, format: Format, copy: &BackupCopy) -> Result<()> {
    let work = Work::BackupCopy(CopyWork {
        hypervisor: copy.hypervisor,
        recovery_points: copy.recovery_points.clone(),
        media_agent: copy.media_agent,
        full: copy.full,
        transport: copy.transport.transport,
        retention: copy.keep.into(),
    });
    submit(client, format, work, &copy.submit).await
}

pub(super) async fn replicate(client: &Client, format: Format, crossing: &Crossing) -> Result<()> {
    let work = Work::Replication(Replication {
        hypervisor: crossing.hypervisor,
        from: crossing.from,
        machines: crossing.machines.clone(),
        transport: crossing.transport.transport,
    });
    submit(client, format, work, &crossing.submit).await
}

pub(super) async fn convert(client: &Client, format: Format, crossing: &Crossing) -> Result<()> {
    let work = Work::Conversion(Conversion {
        hypervisor: crossing.hypervisor,
        from: crossing.from,
        machines: crossing.machines.clone(),
        transport: crossing.transport.transport,
    });
    submit(client, format, work, &crossing.submit).await
}

/// Asks for the job; shows it, or watches it to its end.
pub(super) async fn submit(client: &Client, format: Format, work: Work, options: &Submit) -> Result<()> {
    let body = CreateJob { work, priority: options.priority.into() };
    let created = client.create_job(&body, options.idempotency_key.as_deref()).await?;
    if options.watch {
        eprintln!("{} ({})", created.summary.id, created.summary.kind.as_str());
        return watch::to_the_end(client, created.summary.id, format).await;
    }
    job::show(format, &created)
}
