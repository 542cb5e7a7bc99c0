//! The cells of the README's table for backup, copy and restore to volumes: operation, transport, copy, encryption and
//! operating system, backups and copies in full and of what changed, restores under the key that it was under and under
//! another one. What the rules allow is done and compared byte for byte, key for key; what they forbid is refused before
//! anything is made.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicU64, Ordering};

use snapferry_api::job::{Job, JobState, StreamingBackup, Work};
use snapferry_api::protect::BackupCopy;
use snapferry_api::restore::{Restore, RestoreFrom, RestoreTarget};
use snapferry_tests::{
    ACCOUNT, REGION, Rig, RigOptions, SERVICE, TestInstance, key_for_both, says, write_data,
};
use snapferry_types::instance::OsFamily;
use snapferry_types::{BLOCK_SIZE, RecoveryPointId, TransportWish};

const WRITES: [TransportWish; 3] = [TransportWish::EbsDirect, TransportWish::HotAdd, TransportWish::Import];

/// How the volumes of an instance are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Plain,
    AwsManaged,
    Customer,
}

/// One instance in a set-up.
struct Cell {
    rig: Rig,
    instance: TestInstance,
    /// Key of its volumes.
    key: Option<String>,
    /// One that the tenant and the service account may use.
    other_key: String,
    n_changes: AtomicU64,
}

/// A recovery point, and the content that the instance had then.
struct Point {
    id: RecoveryPointId,
    content: Vec<Vec<u64>>,
}

impl Cell {
    async fn new(os: OsFamily, encryption: Encryption) -> Self {
        let options = RigOptions { n_agents: 1, with_service_resources: true, ..RigOptions::default() };
        let rig = Rig::start(options).await.unwrap();
        let sim = rig.sim.context();
        let key = match encryption {
            Encryption::Plain => None,
            Encryption::AwsManaged => Some(sim.world.managed_key(ACCOUNT, REGION)),
            // The service account may use it: its people have let it in.
            Encryption::Customer => Some(sim.world.create_key(ACCOUNT, REGION, Some(key_for_both()))),
        };
        let instance = TestInstance::place_as(sim, "one", 3, os, key.as_deref()).unwrap();
        let other_key = sim.world.create_key(ACCOUNT, REGION, Some(key_for_both()));
        Self { rig, instance, key, other_key, n_changes: AtomicU64::new(0) }
    }

    /// A recovery point of what the instance has now.
    fn point(&self, job: &Job) -> Point {
        let content = self.instance.content(self.rig.sim.context()).unwrap();
        Point { id: point_of(job), content }
    }

    /// Changes two blocks of one volume.
    fn change(&self) {
        let seed = 100 + self.n_changes.fetch_add(1, Ordering::Relaxed);
        write_data(self.rig.sim.context(), &self.instance.volumes[1], 1, 1, seed).unwrap();
    }

    fn back_up(&self, transport: TransportWish, full: bool) -> Work {
        Work::StreamingBackup(StreamingBackup {
            hypervisor: self.rig.tenant,
            instances: vec![self.instance.id.clone()],
            region: None,
            media_agent: None,
            full,
            transport,
            retention: None,
        })
    }

    fn copy(&self, source: RecoveryPointId, transport: TransportWish, full: bool) -> Work {
        Work::BackupCopy(BackupCopy {
            hypervisor: self.rig.tenant,
            recovery_points: vec![source],
            media_agent: None,
            full,
            transport,
            retention: None,
        })
    }

    /// A new IntelliSnap recovery point.
    async fn snap(&self) -> Point {
        let job = self.rig.snap(&self.instance.id, None).await.unwrap();
        self.point(&self.rig.succeed(job).await.unwrap())
    }

    /// Does what can be done and answers the recovery point; sees the rest refused, by the API or by the agent.
    async fn done_or_refused(&self, work: Work, answer: Result<(), &str>) -> Option<Point> {
        let kind = work.kind().as_str();
        let Err(words) = answer else {
            let wish = wish_of(&work);
            let job = self.end(work).await;
            moved_by(&job, wish, false);
            self.nothing_in_between(kind);
            return Some(self.point(&job));
        };
        let before = self.rig.count("snapshots");
        match self.rig.submit(work).await {
            Ok(id) => {
                let ended = self.rig.wait(id, "the job ends", |job| job.summary.state.is_terminal());
                refused(&ended.await.unwrap(), words);
            }
            Err(error) => {
                let text = format!("{error:#}").to_lowercase();
                assert!(text.contains(&words.to_lowercase()), "{text}");
            }
        }
        assert_eq!(self.rig.count("snapshots"), before, "a refused {kind} made snapshots");
        self.nothing_in_between(kind);
        None
    }

    /// Does what reads the two blocks that changed and no others.
    async fn done_of_changes(&self, work: Work) -> Point {
        let (kind, wish) = (work.kind().as_str(), wish_of(&work));
        let job = self.end(work).await;
        moved_by(&job, wish, false);
        assert_eq!(job.tasks[0].progress.bytes_read, 2 * BLOCK_SIZE as u64, "{kind} by {wish:?}: {job:#?}");
        self.nothing_in_between(kind);
        self.point(&job)
    }

    /// Restores, compares content and key, and looks that nothing is left in between.
    async fn restored(
        &self,
        point: &Point,
        from: RestoreFrom,
        transport: TransportWish,
        under: Option<&String>,
    ) {
        let work = Work::Restore(Restore {
            recovery_point: point.id,
            from,
            volumes: Vec::new(),
            target: RestoreTarget::Volumes { availability_zone: None, attach: None },
            tags: Vec::new(),
            transport,
            kms_key_id: under.cloned(),
        });
        let job = self.end(work).await;
        let what = format!("{from:?} by {transport:?} under {under:?}");
        assert_eq!(job.summary.state, JobState::Succeeded, "{what}: {job:#?}");
        moved_by(&job, transport, from == RestoreFrom::Snapshot);
        self.instance.check(self.rig.sim.context(), &job, &point.content).unwrap();
        for made in job.tasks[0].made.iter().filter(|made| made.kind == "volume") {
            let key = self.rig.key_of_volume(&made.id).await.unwrap();
            assert_eq!(key.as_ref(), under.or(self.key.as_ref()), "{what}: the key of {}", made.id);
        }
        self.nothing_in_between(&what);
    }

    /// Restores each of so many recovery points of a library, and the last by every transport, also under another key.
    async fn all_restored(&self, points: &[Point], n: usize) {
        assert_eq!(points.len(), n);
        let (last, others) = points.split_last().unwrap();
        for point in others {
            self.restored(point, RestoreFrom::MediaAgent, TransportWish::EbsDirect, None).await;
        }
        for transport in WRITES {
            for under in [None, Some(&self.other_key)] {
                self.restored(last, RestoreFrom::MediaAgent, transport, under).await;
            }
        }
    }

    async fn end(&self, work: Work) -> Job {
        let id = self.rig.submit(work).await.unwrap();
        self.rig.wait(id, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap()
    }

    fn nothing_in_between(&self, what: &str) {
        let mut inventory = self.rig.sim.context().world.inventory(Some(SERVICE));
        for kind in ["snapshots", "images", "s3_objects", "s3_uploads", "import_tasks"] {
            assert_eq!(inventory.remove(kind).unwrap_or_default(), Vec::<String>::new(), "{what}: {kind}");
        }
        assert_eq!(inventory.remove("volumes").map_or(0, |one| one.len()), 1, "{what}: only the node's own");
    }
}

const fn wish_of(work: &Work) -> TransportWish {
    match work {
        Work::StreamingBackup(backup) => backup.transport,
        Work::BackupCopy(copy) => copy.transport,
        _ => TransportWish::Automatic,
    }
}

/// Sees that a job kept its wish, chose where it had none, and moved nothing where the snapshots are in place.
fn moved_by(job: &Job, wish: TransportWish, is_in_place: bool) {
    let words = match wish.only() {
        _ if is_in_place => "no blocks are moved: volumes are made of the snapshots".to_owned(),
        Some(only) => format!("blocks are moved by {}, as asked for", only.as_str()),
        None => "the least in money and time of".to_owned(),
    };
    assert!(says(job, &words), "{job:#?}");
}

fn point_of(job: &Job) -> RecoveryPointId {
    assert_eq!(job.summary.state, JobState::Succeeded, "{job:#?}");
    Rig::recovery_point(job).unwrap()
}

fn refused(job: &Job, words: &str) {
    assert_eq!(job.summary.state, JobState::Failed, "{job:#?}");
    let error = job.tasks[0].error.as_ref().unwrap();
    assert!(error.message.contains(words), "{}", error.message);
    assert_eq!(job.tasks[0].attempts, 1, "{error:?}");
}

/// Whether blocks of such volumes can be read by a transport.
fn can_read(transport: TransportWish, encryption: Encryption) -> Result<(), &'static str> {
    match (transport, encryption) {
        (TransportWish::Import, _) => Err("Import only writes"),
        _ => Ok(()),
    }
}

async fn row(os: OsFamily, encryption: Encryption) {
    let cell = Cell::new(os, encryption).await;
    let mut streamed = Vec::new();
    for transport in WRITES {
        let answer = can_read(transport, encryption);
        let in_full = cell.done_or_refused(cell.back_up(transport, true), answer).await;
        if let Some(in_full) = in_full {
            cell.change();
            let of_changes = cell.done_of_changes(cell.back_up(transport, false)).await;
            streamed.extend([in_full, of_changes]);
        }
    }
    streamed.extend(cell.done_or_refused(cell.back_up(TransportWish::Automatic, true), Ok(())).await);
    cell.all_restored(&streamed, 2 + 2 + 1).await;

    let mut copied = Vec::new();
    for transport in WRITES {
        // A recovery point has one copy.
        let snapped = cell.snap().await;
        for under in [None, Some(&cell.other_key)] {
            cell.restored(&snapped, RestoreFrom::Snapshot, TransportWish::Automatic, under).await;
        }
        let answer = can_read(transport, encryption);
        let in_full = cell.done_or_refused(cell.copy(snapped.id, transport, true), answer).await;
        if let Some(in_full) = in_full {
            cell.change();
            let next = cell.snap().await;
            let of_changes = cell.done_of_changes(cell.copy(next.id, transport, false)).await;
            copied.extend([in_full, of_changes]);
        }
    }
    cell.all_restored(&copied, 2 + 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn linux_plain() {
    row(OsFamily::Linux, Encryption::Plain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn linux_under_the_aws_managed_key() {
    row(OsFamily::Linux, Encryption::AwsManaged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn linux_under_a_customer_key() {
    row(OsFamily::Linux, Encryption::Customer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_plain() {
    row(OsFamily::Windows, Encryption::Plain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_under_the_aws_managed_key() {
    row(OsFamily::Windows, Encryption::AwsManaged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_under_a_customer_key() {
    row(OsFamily::Windows, Encryption::Customer).await;
}
