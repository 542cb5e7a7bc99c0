//! `snapferry recovery-point …`

use anyhow::Result;
use snapferry_api::Client;
use snapferry_api::recovery_point::{
    Reconciled, RecoveryPoint as Shown, RecoveryPointQuery, RecoveryPointSummary, RecoveryPointVault,
    SnapshotsState,
};
use snapferry_types::ByteCount;

use crate::args::RecoveryPoint;
use crate::output::{self, Format};
use crate::{tail, watch};

pub(super) async fn run(client: &Client, format: Format, verb: &RecoveryPoint) -> Result<()> {
    match verb {
        RecoveryPoint::List { hypervisor, instance } => {
            let ask = |after| {
                let instance = instance.clone();
                async move {
                    let query = RecoveryPointQuery { hypervisor: *hypervisor, instance, after, limit: None };
                    client.recovery_points(&query).await
                }
            };
            let items = tail::all(ask).await?;
            let head =
                ["id", "instance", "name", "point in time", "kind", "snapshots", "size", "read", "stored"];
            output::list(format, &items, &head, |one| {
                vec![
                    one.id.to_string(),
                    one.instance.to_string(),
                    one.instance_name.clone().unwrap_or_default(),
                    output::time(one.point_in_time),
                    kind(one),
                    word(one.snapshots).to_owned(),
                    ByteCount(one.logical_bytes).to_string(),
                    ByteCount(one.read_bytes).to_string(),
                    ByteCount(one.stored_bytes).to_string(),
                ]
            })
        }
        RecoveryPoint::Show { id } => show(format, &client.recovery_point(*id).await?),
        RecoveryPoint::Delete { id, watch } => {
            let job = client.delete_recovery_point(*id).await?;
            if *watch {
                return watch::to_the_end(client, job.summary.id, format).await;
            }
            super::job::show(format, &job)
        }
        RecoveryPoint::Reconcile { hypervisor } => reconciled(format, &client.reconcile(*hypervisor).await?),
    }
}

/// What it is made of and, where blocks were read, whether all of them were.
fn kind(one: &RecoveryPointSummary) -> String {
    let word = one.kind.as_str();
    match (one.kind.is_in_library(), one.incremental) {
        (false, _) => word.to_owned(),
        (true, true) => format!("{word}, incremental"),
        (true, false) => format!("{word}, full"),
    }
}

const fn word(snapshots: SnapshotsState) -> &'static str {
    match snapshots {
        SnapshotsState::None => "",
        SnapshotsState::Kept => "kept",
        SnapshotsState::Missing => "MISSING",
    }
}

fn vaults(vaults: &[RecoveryPointVault]) -> String {
    let each = vaults.iter().map(|one| format!("{}/{} {}", one.account, one.region, word(one.snapshots)));
    each.collect::<Vec<_>>().join(", ")
}

fn reconciled(format: Format, answer: &Reconciled) -> Result<()> {
    let join = |ids: Vec<String>| ids.join(" ");
    output::one(
        format,
        answer,
        &[
            ("snapshots looked for", answer.n_checked.to_string()),
            ("missing", join(answer.missing.iter().map(ToString::to_string).collect())),
            ("recovery points", join(answer.recovery_points.iter().map(ToString::to_string).collect())),
        ],
    )
}

fn show(format: Format, point: &Shown) -> Result<()> {
    let summary = &point.summary;
    let config = &point.config;
    output::one(
        format,
        point,
        &[
            ("id", summary.id.to_string()),
            ("instance", summary.instance.to_string()),
            ("name", summary.instance_name.clone().unwrap_or_default()),
            ("type", config.instance_type.clone()),
            ("os", config.os.as_str().to_owned()),
            ("region", summary.region.to_string()),
            ("zone", config.availability_zone.clone()),
            ("point in time", output::time(summary.point_in_time)),
            ("kind", kind(summary)),
            ("copy of", summary.copy_of.map(|id| id.to_string()).unwrap_or_default()),
            ("snapshots", word(summary.snapshots).to_owned()),
            ("vaults", vaults(&point.vaults)),
            ("kept until", summary.keep_until.map(output::time).unwrap_or_default()),
            ("base", point.base.map(|id| id.to_string()).unwrap_or_default()),
            ("size", ByteCount(summary.logical_bytes).to_string()),
            ("read", ByteCount(summary.read_bytes).to_string()),
            ("stored", ByteCount(summary.stored_bytes).to_string()),
        ],
    )?;
    if format == Format::Table {
        println!();
        output::list(format, &point.volumes, &["volume", "device", "size", "snapshot", "kept"], |volume| {
            vec![
                volume.id.to_string(),
                volume.device_name.clone().unwrap_or_default(),
                ByteCount(volume.size_bytes).to_string(),
                volume.snapshot.to_string(),
                if volume.snapshot_kept { "kept".to_owned() } else { String::new() },
            ]
        })?;
    }
    Ok(())
}
