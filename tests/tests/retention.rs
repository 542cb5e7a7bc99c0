//! Retention as the running scheduler does it: what is not to be kept any longer is deleted by jobs of its own, in AWS and
//! in the library, and what is kept can still be restored.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use snapferry_api::fleet::Maintenance;
use snapferry_api::job::{JobQuery, StreamingBackup, Work};
use snapferry_api::page::PageQuery;
use snapferry_api::protect::{IntelliSnap, Retention, VaultTo};
use snapferry_api::restore::{RestoreFrom, RestoreTarget};
use snapferry_testkit::eventually;
use snapferry_tests::{ACCOUNT, ELSEWHERE, REGION, Rig, RigOptions, TestInstance, vault, write_data};
use snapferry_types::catalogue::RecoveryPointKind;
use snapferry_types::{RecoveryPointId, TransportWish};

const BOUND: Duration = Duration::from_secs(60);
const LAST_ONE: Option<Retention> = Some(Retention { days: None, last: Some(1) });

fn streaming(rig: &Rig, instance: &TestInstance) -> Work {
    Work::StreamingBackup(StreamingBackup {
        hypervisor: rig.tenant,
        instances: vec![instance.id.clone()],
        region: None,
        media_agent: None,
        full: true,
        transport: TransportWish::EbsDirect,
        retention: LAST_ONE,
    })
}

fn snapshots(rig: &Rig, instance: &TestInstance) -> Work {
    Work::IntelliSnap(IntelliSnap {
        hypervisor: rig.tenant,
        instances: vec![instance.id.clone()],
        region: None,
        vault: Some(vault(VaultTo::Tenant, Some(ELSEWHERE))),
        retention: LAST_ONE,
    })
}

/// Bytes of all files below a folder.
fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|one| {
            if one.path().is_dir() {
                bytes_below(&one.path())
            } else {
                one.metadata().map_or(0, |meta| meta.len())
            }
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_any_longer_goes_from_aws_and_from_the_library() {
    let mut rig = Rig::start(RigOptions { n_agents: 1, ..RigOptions::default() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 20).unwrap();
    for (kind, work, from) in [
        (RecoveryPointKind::Streamed, streaming(&rig, &instance), RestoreFrom::MediaAgent),
        (RecoveryPointKind::Snapshot, snapshots(&rig, &instance), RestoreFrom::Snapshot),
    ] {
        let before = all_snapshots(&rig).await;
        let first = made(&rig, &work).await;
        let of_first: BTreeSet<String> = all_snapshots(&rig).await.difference(&before).cloned().collect();
        assert!(!of_first.is_empty());
        for volume in &instance.volumes {
            write_data(&sim, volume, 1, 20, 99).unwrap();
        }
        let content = instance.content(&sim).unwrap();
        let second = made(&rig, &work).await;
        let only_second = || async {
            let points = rig.points(kind).await.unwrap();
            points.iter().map(|point| point.id).collect::<Vec<RecoveryPointId>>() == [second]
        };
        eventually(BOUND, "the first goes", only_second).await.unwrap();
        assert_ne!(first, second);
        let jobs = rig.client.jobs(&JobQuery::default()).await.unwrap().items;
        let deletion = jobs.iter().find(|job| job.kind.as_str() == "delete_recovery_point").unwrap();
        rig.succeed(deletion.id).await.unwrap();
        let left = all_snapshots(&rig).await;
        assert!(left.is_disjoint(&of_first), "{left:?} has some of {of_first:?}");

        if kind == RecoveryPointKind::Streamed {
            collect_garbage(&mut rig, 36 << 20).await;
        }
        let volumes = RestoreTarget::Volumes { availability_zone: None, attach: None };
        let restore = rig.restore_with(second, from, volumes, TransportWish::Automatic, None).await.unwrap();
        instance.check(&sim, &rig.succeed(restore).await.unwrap(), &content).unwrap();
    }
    // The base of the next streaming backup, and the snapshots of the second IntelliSnap backup with their copies.
    rig.left(2 + 4, 2 * 3).await.unwrap();
}

async fn made(rig: &Rig, work: &Work) -> RecoveryPointId {
    let job = rig.succeed(rig.submit(work.clone()).await.unwrap()).await.unwrap();
    Rig::recovery_point(&job).unwrap()
}

/// Has the library's garbage collected, which is at least so many bytes. A process that starts learns of it at once.
async fn collect_garbage(rig: &mut Rig, n_bytes: u64) {
    let packs = rig.dir.join("library/objects/packs");
    let before = bytes_below(&packs);
    let media_agent = rig.client.media_agents(&PageQuery::default()).await.unwrap().items[0].id;
    rig.client.maintain(media_agent, Maintenance::CollectGarbage).await.unwrap();
    rig.media_agent.kill9().unwrap();
    rig.restart_media_agent().unwrap();
    let is_gone = || async { bytes_below(&packs) + n_bytes <= before };
    eventually(BOUND, "the garbage goes", is_gone).await.unwrap_or_else(|error| {
        panic!("{error}: {before} bytes before, {} after", bytes_below(&packs));
    });
}

async fn all_snapshots(rig: &Rig) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for region in [REGION, ELSEWHERE] {
        let states = rig.snapshots_of(ACCOUNT, region).await.unwrap();
        all.extend(states.into_iter().map(|state| state.snapshot.to_string()));
    }
    all
}
