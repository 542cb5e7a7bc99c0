//! From where restores read.

use snapferry_api::job::{DeleteRecoveryPoint, Work};
use snapferry_api::protect::{Vault, VaultTo};
use snapferry_api::restore::RestoreFrom as Asked;
use snapferry_scheduler::store::{ClaimVerdict, Step};
use snapferry_types::RecoveryPointId;
use snapferry_types::catalogue::{RecoveryPointMeta, VaultMeta};
use snapferry_types::ledger::{LedgerState, Purpose};
use snapferry_types::spec::{Operation, RestoreFrom, RestoreSpec, TaskSpec};

use super::world::{World, source_entry};

fn restore_of(spec: &TaskSpec) -> &RestoreSpec {
    match &spec.operation {
        Operation::Restore(restore) => restore,
        other => panic!("{other:?}"),
    }
}

fn snapshot_of(spec: &TaskSpec) -> Option<&str> {
    match &restore_of(spec).from {
        RestoreFrom::Library => None,
        RestoreFrom::Snapshots(held) => Some(match &held.vault {
            None => held.meta.volumes[0].snapshot_id.as_str(),
            Some(vault) => vault.snapshots[0].1.as_str(),
        }),
    }
}

fn from(point: RecoveryPointId, from: Asked) -> Work {
    Work::Restore(World::restore_request(point, from))
}

async fn streamed(world: &World, snapshot: &str) -> RecoveryPointId {
    let spec = world.running("i-0a").await;
    world.record(&spec, Step::Ledger(source_entry(&spec, snapshot))).await.unwrap();
    for mut entry in spec.superseded.clone() {
        entry.state = LedgerState::Gone;
        world.record(&spec, Step::Ledger(entry)).await.unwrap();
    }
    let point = world.sealed(&spec, "i-0a", snapshot, None);
    world.record(&spec, Step::Sealed(point.clone())).await.unwrap();
    world.succeed(&spec).await;
    point.id
}

async fn snapped_and_copied(world: &World, snapshot: &str) -> (RecoveryPointId, RecoveryPointId) {
    let point = world.snapped(world.snap_request("i-0a"), snapshot).await;
    let spec = world.at_work(Work::BackupCopy(world.copy_request(&[point]))).await;
    (point, world.copied(&spec).await)
}

pub(crate) async fn a_restore_reads_the_fastest_that_exists(url: String) {
    let world = World::new(url).await;
    let old = streamed(&world, "snap-01").await;
    let new = streamed(&world, "snap-02").await;
    let (point, copy) = snapped_and_copied(&world, "snap-03").await;
    for (named, snapshot, holder) in [
        (old, None, old),
        (new, Some("snap-02"), new),
        (point, Some("snap-03"), point),
        (copy, Some("snap-03"), point),
    ] {
        let spec = world.at_work(from(named, Asked::Automatic)).await;
        assert_eq!((snapshot_of(&spec), restore_of(&spec).recovery_point), (snapshot, holder));
        assert_eq!(spec.media_agent.is_some(), snapshot.is_none(), "snapshots need no MediaAgent");
        assert!(spec.service_access.is_none(), "EBS direct needs no service account");
        world.succeed(&spec).await;
    }
}

pub(crate) async fn a_restore_keeps_to_what_was_asked_for(url: String) {
    let world = World::new(url).await;
    let old = streamed(&world, "snap-01").await;
    streamed(&world, "snap-02").await;
    let why = world.refused(from(old, Asked::Snapshot)).await;
    assert!(why.contains("a MediaAgent has a copy"), "{why}");
    let only = world.snapped(world.snap_request("i-0b"), "snap-04").await;
    let why = world.refused(from(only, Asked::MediaAgent)).await;
    assert!(why.contains("its snapshots or copies of them exist"), "{why}");
    let (point, copy) = snapped_and_copied(&world, "snap-03").await;
    let spec = world.at_work(from(point, Asked::MediaAgent)).await;
    assert_eq!(
        (snapshot_of(&spec), restore_of(&spec).recovery_point),
        (None, copy),
        "by its name in the library"
    );
    assert_eq!(spec.media_agent.as_ref().unwrap().id, world.media_agent);
}

pub(crate) async fn lost_snapshots_are_no_source(url: String) {
    let world = World::new(url).await;
    let (point, copy) = snapped_and_copied(&world, "snap-01").await;
    world.submit(&World::job(from(point, Asked::Automatic))).await;
    let offer = world.offer().await;
    world.lose(&["snap-01"]).await;
    let spec = world.claim(offer).await;
    assert_eq!(restore_of(&spec).recovery_point, copy, "it is decided when the work begins");
    assert_eq!(spec.media_agent.as_ref().unwrap().id, world.media_agent);
    world.succeed(&spec).await;

    let other = world.snapped(world.snap_request("i-0b"), "snap-02").await;
    world.submit(&World::job(from(other, Asked::Automatic))).await;
    let offer = world.offer().await;
    world.lose(&["snap-02"]).await;
    let verdict = world.store.claim(world.by(offer), "test").await.unwrap();
    assert!(matches!(verdict, ClaimVerdict::Gone(why) if why.contains("no MediaAgent has a copy")));
    let why = world.refused(from(other, Asked::Automatic)).await;
    assert!(why.contains("its snapshots were deleted"), "{why}");
}

/// A recovery point whose snapshot has a copy in the service account.
async fn vaulted(world: &World, snapshot: &str, copy: &str) -> RecoveryPointId {
    vaulted_volumes(world, &[(snapshot, copy)]).await
}

/// A recovery point of as many volumes as snapshots, with their copies in the service account.
async fn vaulted_volumes(world: &World, snapshots: &[(&str, &str)]) -> RecoveryPointId {
    let mut request = world.snap_request("i-0a");
    request.vault = Some(Vault { to: VaultTo::ServiceCopy, region: None, kms_key_id: None });
    let spec = world.at_work(Work::IntelliSnap(request)).await;
    let mut point = world.sealed(&spec, "i-0a", snapshots[0].0, None);
    let mut meta: RecoveryPointMeta = serde_json::from_slice(&point.metadata).unwrap();
    let mut vault = VaultMeta {
        account: world.admin.account.clone(),
        region: "eu-central-1".parse().unwrap(),
        kms_key_id: None,
        snapshots: Vec::new(),
    };
    let first = meta.volumes.remove(0);
    for (n, (snapshot, copy)) in snapshots.iter().enumerate() {
        let mut own = source_entry(&spec, snapshot);
        own.purpose = Purpose::RecoveryPoint;
        let mut vaulted = source_entry(&spec, copy);
        (vaulted.purpose, vaulted.account) = (Purpose::Vault, vault.account.clone());
        for entry in [own, vaulted] {
            world.record(&spec, Step::Ledger(entry)).await.unwrap();
        }
        let mut volume = first.clone();
        volume.snapshot_id = snapshot.parse().unwrap();
        if n > 0 {
            volume.volume_id = format!("vol-{n:017x}").parse().unwrap();
        }
        vault.snapshots.push((volume.volume_id.clone(), copy.parse().unwrap()));
        meta.volumes.push(volume);
    }
    meta.vaults.push(vault);
    point.metadata = serde_json::to_vec(&meta).unwrap();
    world.record(&spec, Step::Sealed(point.clone())).await.unwrap();
    world.succeed(&spec).await;
    point.id
}

pub(crate) async fn copies_in_a_vault_are_a_source_when_the_snapshots_are_lost(url: String) {
    let world = World::new(url).await;
    let point = vaulted(&world, "snap-01", "snap-0f").await;
    let spec = world.at_work(from(point, Asked::Automatic)).await;
    assert_eq!(snapshot_of(&spec), Some("snap-01"), "what is there needs no moving");
    assert!(spec.service_access.is_none());
    world.succeed(&spec).await;

    world.lose(&["snap-01"]).await;
    for asked in [Asked::Automatic, Asked::Snapshot] {
        let spec = world.at_work(from(point, asked)).await;
        assert_eq!((snapshot_of(&spec), restore_of(&spec).recovery_point), (Some("snap-0f"), point));
        assert_eq!(spec.service_access.as_ref().unwrap().account, world.admin.account, "it owns the copy");
        assert!(spec.media_agent.is_none());
        let delete = Work::DeleteRecoveryPoint(DeleteRecoveryPoint { recovery_point: point });
        let why = world.refused(delete).await;
        assert!(why.contains(&spec.task.to_string()), "it is being read: {why}");
        world.succeed(&spec).await;
    }
    let why = world.refused(from(point, Asked::MediaAgent)).await;
    assert!(why.contains("copies of them exist"), "{why}");

    // A library is nearer, unless the snapshots are asked for; of copies that are lost, too, only that is left.
    let second = vaulted(&world, "snap-02", "snap-0e").await;
    let copy = world.at_work(Work::BackupCopy(world.copy_request(&[second]))).await;
    let copy = world.copied(&copy).await;
    world.lose(&["snap-01", "snap-02"]).await;
    for (asked, snapshot, holder) in
        [(Asked::Automatic, None, copy), (Asked::Snapshot, Some("snap-0e"), second)]
    {
        let spec = world.at_work(from(second, asked)).await;
        assert_eq!((snapshot_of(&spec), restore_of(&spec).recovery_point), (snapshot, holder));
        world.succeed(&spec).await;
    }
    world.lose(&["snap-01", "snap-02", "snap-0e", "snap-0f"]).await;
    let why = world.refused(from(second, Asked::Snapshot)).await;
    assert!(why.contains("a MediaAgent has a copy"), "{why}");
    let why = world.refused(from(point, Asked::Automatic)).await;
    assert!(why.contains("no vault has copies"), "{why}");
}

pub(crate) async fn what_is_here_and_there_is_restored_volume_by_volume(url: String) {
    let world = World::new(url).await;
    let point = vaulted_volumes(&world, &[("snap-01", "snap-0f"), ("snap-02", "snap-0e")]).await;
    let spec = world.at_work(from(point, Asked::Automatic)).await;
    let RestoreFrom::Snapshots(held) = &restore_of(&spec).from else { panic!("{spec:?}") };
    let volumes: Vec<_> = held.meta.volumes.iter().map(|volume| volume.volume_id.clone()).collect();
    world.succeed(&spec).await;

    // The first is left in the vault, the second where it was made.
    world.lose(&["snap-01", "snap-0e"]).await;
    let why = world.refused(from(point, Asked::Automatic)).await;
    for word in [volumes[0].as_str(), volumes[1].as_str(), "one by one, to volumes"] {
        assert!(why.contains(word), "{word}: {why}");
    }
    for (volume, is_vault) in volumes.iter().zip([true, false]) {
        let mut restore = World::restore_request(point, Asked::Automatic);
        restore.volumes = vec![volume.clone()];
        let spec = world.at_work(Work::Restore(restore)).await;
        let RestoreFrom::Snapshots(held) = &restore_of(&spec).from else { panic!("{spec:?}") };
        assert_eq!(held.vault.is_some(), is_vault, "{volume}");
        world.succeed(&spec).await;
    }
    world.lose(&["snap-01", "snap-0e", "snap-0f"]).await;
    let why = world.refused(from(point, Asked::Automatic)).await;
    assert!(why.contains(&format!("snapshots of {} were deleted", volumes[0])), "{why}");
    assert!(why.contains(&format!("only {} can be restored", volumes[1])), "{why}");
}

pub(crate) async fn a_restore_that_does_not_find_snapshots_reads_a_copy_next(url: String) {
    let world = World::new(url).await;
    let point = vaulted(&world, "snap-01", "snap-0f").await;
    let spec = world.at_work(from(point, Asked::Automatic)).await;
    assert_eq!(snapshot_of(&spec), Some("snap-01"));
    let lost = |ids: &[&str]| Step::Lost(ids.iter().map(|id| id.parse().unwrap()).collect());
    for _ in 0..2 {
        world.record(&spec, lost(&["snap-01"])).await.unwrap();
    }
    let next = world.at_work(from(point, Asked::Automatic)).await;
    assert_eq!(snapshot_of(&next), Some("snap-0f"));
    world.record(&next, lost(&["snap-0f"])).await.unwrap();
    let why = world.refused(from(point, Asked::Automatic)).await;
    assert!(why.contains("no vault has copies"), "{why}");

    // AWS was late to tell: the next look at the account finds them.
    let found = world.lose(&[]).await;
    assert_eq!(found.missing.len(), 0);
    let again = world.at_work(from(point, Asked::Automatic)).await;
    assert_eq!(snapshot_of(&again), Some("snap-01"));

    // Whatever an agent says, only what its restore reads is noted.
    let other = vaulted(&world, "snap-02", "snap-0e").await;
    world.record(&again, lost(&["snap-02", "snap-0e"])).await.unwrap();
    let untouched = world.at_work(from(other, Asked::Automatic)).await;
    assert_eq!(snapshot_of(&untouched), Some("snap-02"));
    let backup = world.running("i-0b").await;
    assert!(world.record(&backup, lost(&["snap-01"])).await.is_err(), "it restores nothing");
}

pub(crate) async fn a_base_that_a_restore_reads_is_not_superseded(url: String) {
    let world = World::new(url).await;
    let point = streamed(&world, "snap-01").await;
    let restore = world.at_work(from(point, Asked::Automatic)).await;
    assert_eq!(snapshot_of(&restore), Some("snap-01"));
    let backup = world.running("i-0a").await;
    assert!(backup.superseded.is_empty(), "the restore reads it");
    let second = world.at_work(from(point, Asked::Automatic)).await;
    assert_eq!(snapshot_of(&second), None, "a backup that is at work may replace it");
}

pub(crate) async fn what_is_deleted_is_not_restored(url: String) {
    let world = World::new(url).await;
    let (point, copy) = snapped_and_copied(&world, "snap-01").await;
    let delete = |point| World::job(Work::DeleteRecoveryPoint(DeleteRecoveryPoint { recovery_point: point }));
    let restore = world.at_work(from(copy, Asked::Automatic)).await;
    for held in [point, copy] {
        let why = world.refused(delete(held).work).await;
        assert!(why.contains(&restore.task.to_string()), "it reads one and names the other: {why}");
    }
    world.succeed(&restore).await;
    let job = world.submit(&delete(point)).await;
    for named in [point, copy] {
        let why = world.refused(from(named, Asked::Snapshot)).await;
        assert!(why.contains("is being deleted"), "{why}");
    }
    world.store.cancel_job(job).await.unwrap();
    world.submit(&World::job(from(point, Asked::Snapshot))).await;
}
