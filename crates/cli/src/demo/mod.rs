//! `snapferry demo`: the main job on two simulated accounts, with every process's real code in this one process.
//! A Linux and a Windows instance with real file systems are backed up, changed, backed up again and restored; every
//! restored volume is compared byte for byte. Exit code 0 only if all is equal.

mod accounts;
mod compare;
mod figures;
mod image;
mod instances;
mod stage;
mod tools;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use indicatif::MultiProgress;
use snapferry_api::job::{StreamingBackup, Work};
use snapferry_api::protect::{BackupCopy, IntelliSnap};
use snapferry_api::restore::{NewInstance, Restore, RestoreFrom, RestoreTarget};
use snapferry_service::Exit;
use snapferry_types::{InstanceId, RecoveryPointId, TransportWish};

use crate::args::Demo;
use figures::Figures;
use instances::DemoInstance;
use stage::Stage;

/// Runs the demonstration.
pub(crate) async fn run(args: &Demo) -> Result<Exit> {
    tools::ensure(args.image.as_deref())?;
    let temporary;
    let dir: PathBuf = match &args.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
            dir.clone()
        }
        None => {
            temporary = tempfile::Builder::new().prefix("snapferry-demo-").tempdir()?;
            temporary.path().to_owned()
        }
    };
    let stage = Stage::start(&dir).await?;
    let outcome = play(&stage, &dir, args).await;
    stage.stop().await?;
    outcome
}

async fn play(stage: &Stage, dir: &Path, args: &Demo) -> Result<Exit> {
    let mut figures = Figures::default();
    say("making two instances with real file systems");
    let disks = dir.join("disks");
    std::fs::create_dir_all(&disks)?;
    let mut instances = instances::make(stage, &disks, args.image.as_deref()).await?;
    let ids: Vec<InstanceId> = instances.iter().map(|one| one.id.clone()).collect();

    say("first backup of both");
    let first = work(stage, &mut figures, "first backup", backup(stage, &ids)).await?;
    for one in &mut instances {
        one.keep_truth(&disks, "first")?;
    }

    say("a day's work on both");
    for one in &mut instances {
        one.change(stage, &disks)?;
    }
    say("second backup of both: only what changed");
    let second = work(stage, &mut figures, "second backup", backup(stage, &ids)).await?;
    for one in &mut instances {
        one.keep_truth(&disks, "second")?;
    }

    say("restoring the second recovery points as new instances, the first as volumes");
    let mut equal = true;
    for one in &instances {
        let point = stage::recovery_point_of(&second, &one.id)?;
        let target = RestoreTarget::Instance(Box::new(NewInstance {
            name: Some(format!("{} (restored)", one.name)),
            ..NewInstance::default()
        }));
        let name = format!("restore {} as instance", one.name);
        let job = work(stage, &mut figures, &name, restore(point, target)).await?;
        equal &= compare::job(stage, &mut figures, &job, one, "second")?;
        let point = stage::recovery_point_of(&first, &one.id)?;
        let name = format!("restore {} as volumes", one.name);
        let target = RestoreTarget::Volumes { availability_zone: None, attach: None };
        let job = work(stage, &mut figures, &name, restore(point, target)).await?;
        equal &= compare::job(stage, &mut figures, &job, one, "first")?;
    }
    say("IntelliSnap backups, their backup copies, and a restore of each");
    let snaps = work(stage, &mut figures, "IntelliSnap backup", intelli_snap(stage, &ids)).await?;
    work(stage, &mut figures, "backup copy", backup_copy(stage)).await?;
    for one in &instances {
        let point = stage::recovery_point_of(&snaps, &one.id)?;
        for (from, word) in [(RestoreFrom::Snapshot, "its snapshots"), (RestoreFrom::MediaAgent, "its copy")]
        {
            let name = format!("restore {} from {word}", one.name);
            let target = RestoreTarget::Volumes { availability_zone: None, attach: None };
            let job = work(stage, &mut figures, &name, restore_from(point, from, target)).await?;
            equal &= compare::job(stage, &mut figures, &job, one, "second")?;
        }
    }
    let left = stage.left_behind(&instances)?;
    figures.print(stage).await?;
    report(equal, &left, &instances)
}

fn report(equal: bool, left: &[String], instances: &[DemoInstance]) -> Result<Exit> {
    let n_volumes: usize = instances.iter().map(|one| one.volumes.len()).sum();
    if !left.is_empty() {
        println!("\nleft behind in the accounts: {}", left.join(", "));
        return Ok(Exit::Failed);
    }
    if !equal {
        println!("\nNOT EQUAL: see the table");
        return Ok(Exit::Failed);
    }
    println!(
        "\nAll {} restored volumes are equal to the originals, byte for byte; nothing was left behind in AWS.",
        4 * n_volumes
    );
    Ok(Exit::Success)
}

/// Submits, watches to the end, and takes down the figures.
async fn work(
    stage: &Stage,
    figures: &mut Figures,
    name: &str,
    work: Work,
) -> Result<snapferry_api::job::Job> {
    let bars = MultiProgress::new();
    let before = figures::Moment::now(stage);
    let job = stage.run(work, &bars).await.with_context(|| name.to_owned())?;
    figures.add(name, &job, before, figures::Moment::now(stage));
    Ok(job)
}

fn backup(stage: &Stage, instances: &[InstanceId]) -> Work {
    Work::StreamingBackup(StreamingBackup {
        hypervisor: stage.tenant,
        instances: instances.to_vec(),
        region: None,
        media_agent: None,
        full: false,
        transport: TransportWish::default(),
        retention: None,
    })
}

fn intelli_snap(stage: &Stage, instances: &[InstanceId]) -> Work {
    Work::IntelliSnap(IntelliSnap {
        hypervisor: stage.tenant,
        instances: instances.to_vec(),
        region: None,
        vault: None,
        retention: None,
    })
}

/// Of all that were not copied yet.
fn backup_copy(stage: &Stage) -> Work {
    Work::BackupCopy(BackupCopy {
        hypervisor: stage.tenant,
        recovery_points: Vec::new(),
        media_agent: None,
        full: false,
        transport: TransportWish::Automatic,
        retention: None,
    })
}

/// From the MediaAgent: the demo shows what was stored.
fn restore(recovery_point: RecoveryPointId, target: RestoreTarget) -> Work {
    restore_from(recovery_point, RestoreFrom::MediaAgent, target)
}

fn restore_from(recovery_point: RecoveryPointId, from: RestoreFrom, target: RestoreTarget) -> Work {
    Work::Restore(Restore {
        recovery_point,
        from,
        volumes: Vec::new(),
        target,
        tags: Vec::new(),
        transport: TransportWish::Automatic,
        kms_key_id: None,
    })
}

fn say(what: &str) {
    eprintln!("• {what}");
}
