//! `snapferry restore …`

use anyhow::Result;
use snapferry_api::Client;
use snapferry_api::job::Work;
use snapferry_api::restore::{AttachTo, NewInstance, Restore as RestoreWork, RestoreTarget};

use super::submit::submit;
use crate::args::{Restore, RestoreWhat};
use crate::output::Format;

pub(super) async fn run(client: &Client, format: Format, restore: &Restore) -> Result<()> {
    let (what, target) = target_of(restore);
    let work = Work::Restore(RestoreWork {
        recovery_point: what.recovery_point,
        from: what.from.into(),
        volumes: what.volumes.clone(),
        target,
        tags: what.tags.clone(),
        transport: what.transport.transport,
        kms_key_id: what.kms_key.clone(),
    });
    submit(client, format, work, &what.submit).await
}

fn target_of(restore: &Restore) -> (&RestoreWhat, RestoreTarget) {
    match restore {
        Restore::Volumes { what, availability_zone, attach_to, devices } => {
            let attach = attach_to.clone().map(|instance| AttachTo { instance, devices: devices.clone() });
            (what, RestoreTarget::Volumes { availability_zone: availability_zone.clone(), attach })
        }
        Restore::Instance {
            what,
            name,
            instance_type,
            subnet,
            security_groups,
            key_name,
            iam_instance_profile,
            private_ip,
            stopped,
        } => {
            let new = NewInstance {
                name: name.clone(),
                instance_type: instance_type.clone(),
                subnet_id: subnet.clone(),
                security_group_ids: security_groups.clone(),
                key_name: key_name.clone(),
                iam_instance_profile: iam_instance_profile.clone(),
                private_ip: private_ip.clone(),
                stopped: *stopped,
            };
            (what, RestoreTarget::Instance(Box::new(new)))
        }
        Restore::InPlace { what, delete_old_volumes, leave_stopped } => {
            let (delete_old_volumes, leave_stopped) = (*delete_old_volumes, *leave_stopped);
            (what, RestoreTarget::InPlace { delete_old_volumes, leave_stopped })
        }
        Restore::DiskImage { what, folder, format } => {
            (what, RestoreTarget::DiskImage { folder: folder.clone(), format: *format })
        }
    }
}
