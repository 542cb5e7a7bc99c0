//! What goes through the service account and what does not: without a transit key nothing of an encrypted volume does, nor
//! does what a key keeps from that account; copies in the tenant's own account and region need no way at all. Refusals name
//! the reason and the way out before anything is made; the way out is then taken. Instances of both operating systems.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use snapferry_api::job::Job;
use snapferry_api::protect::{Vault, VaultTo};
use snapferry_api::restore::RestoreFrom;
use snapferry_tests::{
    ACCOUNT, ELSEWHERE, REGION, Rig, RigOptions, SERVICE, TestInstance, VOLUMES, breaking, key_for,
    key_for_both, says, vault,
};
use snapferry_types::instance::OsFamily;
use snapferry_types::{JobId, RecoveryPointId, TransportWish};

async fn rig() -> Rig {
    let options = RigOptions::one_node();
    Rig::start(options).await.unwrap()
}

/// The configuration of an agent that has no transit key.
fn without_transit_key(text: &str) -> String {
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("transit_kms_key_id")).collect();
    kept.join("\n")
}

/// An instance and the content that it had.
struct Cell {
    instance: TestInstance,
    content: Vec<Vec<u64>>,
    key: Option<String>,
}

impl Cell {
    async fn place(rig: &Rig, os: OsFamily, key: Option<&str>) -> Self {
        let sim = rig.sim.context();
        let instance = TestInstance::place_as(sim, "one", 2, os, key).unwrap();
        assert_eq!(rig.describe(&instance.id).await.unwrap().config.os, os);
        let content = instance.content(sim).unwrap();
        Self { instance, content, key: key.map(ToOwned::to_owned) }
    }

    /// A job has restored all volumes: the content that was, each under this key.
    async fn check(&self, rig: &Rig, job: &Job, key: Option<&str>) {
        self.instance.check(rig.sim.context(), job, &self.content).unwrap();
        let made = job.tasks.iter().flat_map(|task| &task.made).filter(|made| made.kind == "volume");
        let made: Vec<_> = made.collect();
        assert_eq!(made.len(), self.instance.volumes.len(), "{job:#?}");
        for made in made {
            let is = rig.key_of_volume(&made.id).await.unwrap();
            assert_eq!(is.as_deref(), key, "the key of {}", made.id);
        }
    }
}

async fn snapped(rig: &Rig, instance: &TestInstance, to: Option<Vault>) -> RecoveryPointId {
    let job = rig.succeed(rig.snap(&instance.id, to).await.unwrap()).await.unwrap();
    Rig::recovery_point(&job).unwrap()
}

async fn back_up(rig: &Rig, instance: &TestInstance, transport: TransportWish) -> JobId {
    rig.back_up_by(&instance.id, transport).await.unwrap()
}

async fn copy(rig: &Rig, source: RecoveryPointId, transport: TransportWish) -> JobId {
    rig.copy_by(source, transport).await.unwrap()
}

async fn restore(
    rig: &Rig,
    (point, from): (RecoveryPointId, RestoreFrom),
    transport: TransportWish,
) -> JobId {
    rig.restore_with(point, from, VOLUMES, transport, None).await.unwrap()
}

/// Calls that make or share something, or move blocks; those that only ask are not among them.
fn n_calls(rig: &Rig) -> u64 {
    let of_ec2 = [
        "CreateSnapshots",
        "CopySnapshot",
        "ModifySnapshotAttribute",
        "CreateVolume",
        "AttachVolume",
        "ImportSnapshot",
    ];
    let of_ebs = ["StartSnapshot", "PutSnapshotBlock", "GetSnapshotBlock"];
    let of_ec2: u64 = of_ec2.iter().map(|action| rig.calls("ec2", action)).sum();
    of_ec2 + of_ebs.iter().map(|action| rig.calls("ebs", action)).sum::<u64>()
}

/// As [`breaking::refused`], with one of an instance's volumes by name, and without a call that makes something.
async fn refused(
    rig: &Rig,
    instance: &TestInstance,
    job: impl Future<Output = JobId>,
    class: &str,
    words: &[&str],
) -> Job {
    let before = n_calls(rig);
    let job = breaking::refused(rig, job, class, words).await;
    let message = &job.tasks[0].error.as_ref().unwrap().message;
    let names_one = instance.volumes.iter().any(|volume| message.contains(volume));
    assert!(names_one, "none of {:?} is in: {message}", instance.volumes);
    assert_eq!(n_calls(rig), before, "something was made");
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_transit_key_what_is_encrypted_is_not_moved_through_the_service_account() {
    let mut rig = rig().await;
    rig.reconfigure_agent(without_transit_key).await.unwrap();
    let sim = rig.sim.context().clone();
    let managed = sim.world.managed_key(ACCOUNT, REGION);
    let customer = sim.world.create_key(ACCOUNT, REGION, Some(key_for_both()));
    let mut cells = Vec::new();
    for (os, key) in [
        (OsFamily::Windows, &managed),
        (OsFamily::Linux, &managed),
        (OsFamily::Windows, &customer),
        (OsFamily::Linux, &customer),
    ] {
        cells.push(Cell::place(&rig, os, Some(key)).await);
    }
    let (mut vaulted, mut backed_up) = (Vec::new(), Vec::new());
    for cell in &cells {
        let elsewhere = vault(VaultTo::Tenant, Some(ELSEWHERE));
        vaulted.push(snapped(&rig, &cell.instance, Some(elsewhere)).await);
    }
    assert_eq!(rig.lose_snapshots(|_| true).await.unwrap(), 8);
    for cell in &cells {
        backed_up.push(rig.backed_up(&cell.instance).await.unwrap());
    }

    // Restores: what was encrypted would lie there in plain.
    for ((cell, in_library), in_vault) in cells.iter().zip(&backed_up).zip(&vaulted) {
        for transport in [TransportWish::HotAdd, TransportWish::Import] {
            let asked = format!("{} was asked for", transport.as_str());
            let words = [
                asked.as_str(),
                "would lie in the service account in plain",
                "set transit_kms_key_id",
                "or use EBS direct",
                "nothing was made",
            ];
            let from = (*in_library, RestoreFrom::MediaAgent);
            refused(&rig, &cell.instance, restore(&rig, from, transport), "invalid", &words).await;
            let from = (*in_vault, RestoreFrom::Automatic);
            let job = refused(&rig, &cell.instance, restore(&rig, from, transport), "invalid", &words).await;
            let read = format!("read are their copies in {ACCOUNT}/{ELSEWHERE}");
            assert!(says(&job, &read), "{job:#?}");
        }
    }
    assert_eq!(rig.n_staged(0), 0, "a disk image was written");

    // Backups: AWS shares nothing under its own key. Those of Linux instances are in refusals.rs and preflight.rs.
    let windows = &cells[0].instance;
    let source = snapped(&rig, windows, None).await;
    let hot_add = TransportWish::HotAdd;
    let words = [managed.as_str(), "AWS does not share", "transit_kms_key_id"];
    let of_a_wish = [&words[..], &["hot_add was asked for", "nothing was made"]].concat();
    refused(&rig, windows, back_up(&rig, windows, hot_add), "invalid", &of_a_wish).await;
    refused(&rig, windows, copy(&rig, source, hot_add), "invalid", &of_a_wish).await;
    let to_service = async {
        let to = Some(vault(VaultTo::ServiceCopy, None));
        rig.snap(&windows.id, to).await.unwrap()
    };
    let of_a_vault = [&words[..], &["transit_kms_key_id of the agents"]].concat();
    refused(&rig, windows, to_service, "invalid", &of_a_vault).await;
    // The copies in the vault, the snapshots that the next backups are compared with, and one recovery point.
    rig.only_these_are_left(8 + 8 + 2, 8).await.unwrap();

    // The way out that is named needs no transit key.
    for ((cell, in_library), in_vault) in cells.iter().zip(&backed_up).zip(&vaulted) {
        for from in [(*in_library, RestoreFrom::MediaAgent), (*in_vault, RestoreFrom::Automatic)] {
            let id = restore(&rig, from, TransportWish::EbsDirect).await;
            let job = rig.succeed(id).await.unwrap();
            assert!(says(&job, "blocks are moved by ebs_direct, as asked for"), "{job:#?}");
            cell.check(&rig, &job, cell.key.as_deref()).await;
        }
    }
    rig.succeed(copy(&rig, source, TransportWish::EbsDirect).await).await.unwrap();
    rig.shared_with(0).await.unwrap();
    rig.only_these_are_left(8 + 8 + 2, 8 + 16).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_in_the_tenants_own_account_and_region_are_not_moved_whatever_is_asked_for() {
    let mut rig = rig().await;
    // Nor is there need of a transit key.
    rig.reconfigure_agent(without_transit_key).await.unwrap();
    let sim = rig.sim.context().clone();
    let of_copies = sim.world.create_key(ACCOUNT, REGION, None);
    let managed = sim.world.managed_key(ACCOUNT, REGION);
    let customer = sim.world.create_key(ACCOUNT, REGION, None);
    let mut cells = Vec::new();
    for (os, key) in [
        (OsFamily::Windows, None),
        (OsFamily::Linux, Some(&managed)),
        (OsFamily::Windows, Some(&managed)),
        (OsFamily::Linux, Some(&customer)),
        (OsFamily::Windows, Some(&customer)),
    ] {
        let cell = Cell::place(&rig, os, key.map(String::as_str)).await;
        let to = Vault { kms_key_id: Some(of_copies.clone()), ..vault(VaultTo::Tenant, None) };
        let point = snapped(&rig, &cell.instance, Some(to)).await;
        cells.push((cell, point));
    }
    assert_eq!(rig.calls("ec2", "CopySnapshot"), 10);
    let n_lost = rig.lose_snapshots(|state| state.kms_key_id.as_ref() != Some(&of_copies)).await.unwrap();
    assert_eq!(n_lost, 10, "all but the copies");

    let (before, n_volumes_before) = (n_calls(&rig), rig.calls("ec2", "CreateVolume"));
    for (cell, point) in &cells {
        for transport in [TransportWish::Automatic, TransportWish::HotAdd] {
            let id = restore(&rig, (*point, RestoreFrom::Automatic), transport).await;
            let job = rig.succeed(id).await.unwrap();
            assert!(says(&job, &format!("read are their copies in {ACCOUNT}/{REGION}")), "{job:#?}");
            assert!(says(&job, "no blocks are moved: volumes are made of the snapshots"), "{job:#?}");
            assert!(!says(&job, "blocks are moved by"), "{job:#?}");
            let is_said = says(&job, "hot_add, which was asked for, has nothing to do");
            assert_eq!(is_said, transport == TransportWish::HotAdd, "{job:#?}");
            assert_eq!(says(&job, "was not encrypted"), cell.key.is_none(), "{job:#?}");
            // Of an encrypted snapshot there are encrypted volumes only.
            let wanted = cell.key.as_ref().unwrap_or(&of_copies);
            cell.check(&rig, &job, Some(wanted)).await;
        }
    }
    let n_volumes = rig.calls("ec2", "CreateVolume") - n_volumes_before;
    assert_eq!((n_calls(&rig) - before, n_volumes), (20, 20), "more than the volumes was made");
    rig.only_these_are_left(10, 10 + 20).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_add_of_what_a_key_keeps_from_the_service_account_is_refused_until_it_is_let_in() {
    let rig = rig().await;
    let sim = rig.sim.context().clone();
    let key = sim.world.create_key(ACCOUNT, REGION, Some(key_for(&[ACCOUNT])));
    let linux = Cell::place(&rig, OsFamily::Linux, Some(&key)).await;
    let windows = Cell::place(&rig, OsFamily::Windows, Some(&key)).await;
    let source = snapped(&rig, &linux.instance, None).await;
    let hot_add = TransportWish::HotAdd;
    let words = [
        "hot_add was asked for",
        key.as_str(),
        SERVICE,
        "kms:Decrypt is denied",
        "or read by EBS direct as the tenant",
        "nothing was made",
    ];
    refused(&rig, &linux.instance, copy(&rig, source, hot_add), "access_denied", &words).await;
    refused(&rig, &windows.instance, back_up(&rig, &windows.instance, hot_add), "access_denied", &words)
        .await;
    rig.only_these_are_left(2, 4).await.unwrap();

    // The ways out that are named: EBS direct, and a policy that lets it in.
    let by_tenant = rig.backed_up(&windows.instance).await.unwrap();
    assert!(sim.world.set_key_policy(&key, key_for_both()));
    let job = rig.succeed(copy(&rig, source, hot_add).await).await.unwrap();
    assert!(says(&job, "blocks are moved by hot_add, as asked for"), "{job:#?}");
    let copied = Rig::recovery_point(&job).unwrap();
    for (cell, point) in [(&windows, by_tenant), (&linux, copied)] {
        let id = restore(&rig, (point, RestoreFrom::MediaAgent), TransportWish::EbsDirect).await;
        cell.check(&rig, &rig.succeed(id).await.unwrap(), Some(&key)).await;
    }
    rig.shared_with(0).await.unwrap();
    rig.only_these_are_left(4, 4 + 4).await.unwrap();
}
