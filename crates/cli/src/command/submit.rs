//! `snapferry backup` and `snapferry restore …`: asks for a job and, if wanted, watches it.

use anyhow::Result;
use snapferry_api::Client;
use snapferry_api::job::{CreateJob, Priority, StreamingBackup, Work};
use snapferry_api::restore::{NewInstance, Restore as RestoreWork, RestoreFrom, RestoreTarget};
use snapferry_types::TransportWish;

use super::job;
use crate::args::{Backup, Restore, RestoreWhat, Submit};
use crate::output::Format;
use crate::watch;

pub(super) async fn backup(client: &Client, format: Format, backup: &Backup) -> Result<()> {
    let work = Work::StreamingBackup(StreamingBackup {
        hypervisor: backup.hypervisor,
        instances: backup.instances.clone(),
        region: backup.region.clone(),
        media_agent: backup.media_agent,
        full: backup.full,
        transport: TransportWish::default(),
        retention: None,
    });
    submit(client, format, work, &backup.submit).await
}

pub(super) async fn restore(client: &Client, format: Format, restore: &Restore) -> Result<()> {
    let (what, target) = match restore {
        Restore::Volumes { what, availability_zone } => {
            (what, RestoreTarget::Volumes { availability_zone: availability_zone.clone(), attach: None })
        }
        Restore::Instance { what, name, instance_type, subnet, security_groups, key_name } => (
            what,
            RestoreTarget::Instance(Box::new(NewInstance {
                name: name.clone(),
                instance_type: instance_type.clone(),
                subnet_id: subnet.clone(),
                security_group_ids: security_groups.clone(),
                key_name: key_name.clone(),
                ..NewInstance::default()
            })),
        ),
    };
    let RestoreWhat { recovery_point, volumes, tags, submit: options } = what;
    let work = Work::Restore(RestoreWork {
        recovery_point: *recovery_point,
        from: RestoreFrom::default(),
        transport: TransportWish::default(),
        kms_key_id: None,
        volumes: volumes.clone(),
        target,
        tags: tags.clone(),
    });
    submit(client, format, work, options).await
}

async fn submit(client: &Client, format: Format, work: Work, options: &Submit) -> Result<()> {
    let body = CreateJob { work, priority: Priority::default() };
    let created = client.create_job(&body, options.idempotency_key.as_deref()).await?;
    if options.watch {
        eprintln!("{} ({})", created.summary.id, created.summary.kind.as_str());
        return watch::to_the_end(client, created.summary.id, format).await;
    }
    job::show(format, &created)
}
