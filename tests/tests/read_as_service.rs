//! Blocks read by EBS direct with the service account's credentials: backups and backup copies in full and of
//! what changed, of both operating systems, plain and under each kind of key. What can be shared is read by that
//! account alone and comes back as it was, and no share is left; what cannot is refused before anything is made,
//! with the reason and the way out.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use snapferry_api::hypervisor::ReadAs;
use snapferry_api::restore::RestoreFrom;
use snapferry_tests::{
    ACCOUNT, CommandLine, EXTERNAL_ID, REGION, Rig, RigOptions, SERVICE, TestInstance, VOLUMES, breaking,
    key_for, key_for_both, says, write_data,
};
use snapferry_types::instance::OsFamily;
use snapferry_types::{JobId, RecoveryPointId, TransportWish};

const BLOCK: u64 = 512 << 10;
/// Data of each of two volumes.
const DATA_MIB: u64 = 3;

async fn rig(read_as: ReadAs) -> Rig {
    Rig::start(RigOptions { n_agents: 1, read_as, ..RigOptions::default() }).await.unwrap()
}

/// Blocks that were asked for, by the account that asked.
fn readers(rig: &Rig) -> BTreeMap<String, u64> {
    let counters = rig.sim.context().faults.counters();
    let reads = counters.calls.into_iter().filter(|count| count.action == "GetSnapshotBlock");
    reads.map(|count| (count.account, count.calls)).collect()
}

/// Calls that make a snapshot, or share one, or take that back.
fn n_calls(rig: &Rig) -> u64 {
    rig.calls("ec2", "CreateSnapshots") + rig.calls("ec2", "ModifySnapshotAttribute")
}

/// What a job reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// Both volumes.
    All,
    /// The MiB that [`Cell::change`] has written.
    Changes,
}

/// An instance in a set-up.
struct Cell<'a> {
    rig: &'a Rig,
    instance: TestInstance,
    key: Option<&'a str>,
}

impl<'a> Cell<'a> {
    async fn place(rig: &'a Rig, os: OsFamily, key: Option<&'a str>) -> Self {
        let instance = TestInstance::place_as(rig.sim.context(), "one", DATA_MIB, os, key).unwrap();
        assert_eq!(rig.describe(&instance.id).await.unwrap().config.os, os);
        Self { rig, instance, key }
    }

    fn change(&self, seed: u64) {
        write_data(self.rig.sim.context(), &self.instance.volumes[1], 1, 1, seed).unwrap();
    }

    async fn back_up(&self, transport: TransportWish) -> JobId {
        self.rig.back_up_by(&self.instance.id, transport).await.unwrap()
    }

    async fn snapped(&self) -> RecoveryPointId {
        let job = self.rig.succeed(self.rig.snap(&self.instance.id, None).await.unwrap()).await.unwrap();
        Rig::recovery_point(&job).unwrap()
    }

    async fn copy(&self, source: RecoveryPointId, transport: TransportWish) -> JobId {
        self.rig.copy_by(source, transport).await.unwrap()
    }

    /// Sees a job of the instance as it is now done over so many shares, which are taken back, and restores what it
    /// made.
    async fn done(&self, job: impl Future<Output = JobId>, reads: Reads, n_shares: u64) {
        let (rig, sim) = (self.rig, self.rig.sim.context());
        let (before, key) = (rig.calls("ec2", "ModifySnapshotAttribute"), self.key);
        let job = rig.succeed(job.await).await.unwrap();
        let what = format!("{} of {reads:?} under {key:?}", job.summary.kind.as_str());
        assert!(says(&job, "blocks are moved by ebs_direct, as asked for"), "{what}: {job:#?}");
        let bytes_read = job.tasks[0].progress.bytes_read;
        match reads {
            Reads::All => assert!(bytes_read >= 2 * (DATA_MIB << 20), "{what}: {bytes_read} bytes"),
            Reads::Changes => assert_eq!(bytes_read, 2 * BLOCK, "{what}"),
        }
        let n_changed = rig.calls("ec2", "ModifySnapshotAttribute") - before;
        assert_eq!(n_changed, 2 * n_shares, "{what}: each is shared once and taken back once");
        rig.shared_with(0).await.unwrap();
        rig.nothing_is_left().unwrap();

        let (point, from) = (Rig::recovery_point(&job).unwrap(), RestoreFrom::MediaAgent);
        let restore = rig.restore_with(point, from, VOLUMES, TransportWish::EbsDirect, None);
        let restored = rig.succeed(restore.await.unwrap()).await.unwrap();
        self.instance.check(sim, &restored, &self.instance.content(sim).unwrap()).unwrap();
        let made = restored.tasks.iter().flat_map(|task| &task.made).filter(|made| made.kind == "volume");
        for made in made {
            let is = rig.key_of_volume(&made.id).await.unwrap();
            assert_eq!(is.as_deref(), key, "{what}: the key of {}", made.id);
        }
    }

    /// As [`breaking::refused`], with one of the instance's volumes or its snapshots by name, and nothing tried.
    async fn refused(&self, job: impl Future<Output = JobId>, class: &str, words: &[&str]) {
        let rig = self.rig;
        let before = (n_calls(rig), readers(rig));
        let job = breaking::refused(rig, job, class, words).await;
        let message = &job.tasks[0].error.as_ref().unwrap().message;
        let snapshots = rig.snapshots_of(ACCOUNT, REGION).await.unwrap();
        let snapshots = snapshots.iter().map(|state| state.snapshot.to_string());
        let mut names = self.instance.volumes.iter().cloned().chain(snapshots);
        assert!(names.any(|name| message.contains(&name)), "nothing is named in: {message}");
        assert_eq!((n_calls(rig), readers(rig)), before, "it was found out by trying");
    }
}

/// A backup and a backup copy, in full and of what changed: 6 snapshots stay, and 8 volumes are restored.
async fn works(rig: &Rig, os: OsFamily, key: Option<&str>) {
    let (cell, by) = (Cell::place(rig, os, key).await, TransportWish::EbsDirect);
    cell.done(cell.back_up(by), Reads::All, 2).await;
    cell.change(101);
    // With what is read the snapshots before are shared, too: the listing of what changed needs both.
    cell.done(cell.back_up(by), Reads::Changes, 4).await;

    let source = cell.snapped().await;
    cell.done(cell.copy(source, by), Reads::All, 2).await;
    cell.change(102);
    let source = cell.snapped().await;
    cell.done(cell.copy(source, by), Reads::Changes, 4).await;
}

async fn row(os: OsFamily) {
    let rig = rig(ReadAs::Service).await;
    let sim = rig.sim.context().clone();
    let for_both = sim.world.create_key(ACCOUNT, REGION, Some(key_for_both()));
    for key in [None, Some(for_both.as_str())] {
        works(&rig, os, key).await;
    }

    // AWS shares nothing under its own key.
    let managed = sim.world.managed_key(ACCOUNT, REGION);
    let cell = Cell::place(&rig, os, Some(&managed)).await;
    let source = cell.snapped().await;
    let words = [
        managed.as_str(),
        "AWS does not share with other accounts",
        "read as the tenant",
        "encrypt the volume under a customer-managed key",
    ];
    for wish in [TransportWish::EbsDirect, TransportWish::Automatic] {
        cell.refused(cell.back_up(wish), "invalid", &words).await;
        cell.refused(cell.copy(source, wish), "invalid", &words).await;
    }

    // A key that keeps the service account out.
    let for_tenant = sim.world.create_key(ACCOUNT, REGION, Some(key_for(&[ACCOUNT])));
    let cell = Cell::place(&rig, os, Some(&for_tenant)).await;
    let source = cell.snapped().await;
    let let_in = format!("let account {SERVICE} use the key in its policy");
    let words = [
        for_tenant.as_str(),
        "kms:Decrypt is denied",
        let_in.as_str(),
        "or read by EBS direct as the tenant",
        "nothing was made",
    ];
    for wish in [TransportWish::EbsDirect, TransportWish::Automatic] {
        cell.refused(cell.back_up(wish), "access_denied", &words).await;
        cell.refused(cell.copy(source, wish), "access_denied", &words).await;
    }
    // The first way out that is named.
    assert!(sim.world.set_key_policy(&for_tenant, key_for_both()));
    cell.done(cell.copy(source, TransportWish::EbsDirect), Reads::All, 2).await;

    let all = readers(&rig);
    assert_eq!(all.keys().collect::<Vec<_>>(), [SERVICE], "{all:?}");
    rig.shared_with(0).await.unwrap();
    rig.only_these_are_left(2 * 6 + 2 * 2, 2 * (2 + 8) + 2 * 2 + 2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_linux_instances_what_can_be_shared_is_read_so_and_the_rest_is_refused() {
    row(OsFamily::Linux).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_windows_instances_what_can_be_shared_is_read_so_and_the_rest_is_refused() {
    row(OsFamily::Windows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_option_of_the_command_line_says_who_reads() {
    let rig = rig(ReadAs::Tenant).await;
    let shell = CommandLine { server: rig.api_url(), token: None };
    let file = rig.dir.join("external-id");
    std::fs::write(&file, EXTERNAL_ID).unwrap();
    let (file, role) = (file.display().to_string(), format!("arn:aws:iam::{ACCOUNT}:role/snapferry"));
    let (provider, endpoint) = (rig.provider.to_string(), rig.sim.endpoint());
    let account = ["--account", ACCOUNT, "--region", REGION, "--endpoint-url", &endpoint];
    let sign_in = ["--role-arn", &role, "--external-id-file", &file];
    let uses = ["--use-admin-account-resources", &provider];
    let cases: [(&str, &[&str], &str, &str); 2] =
        [("without-it", &[], "tenant", ACCOUNT), ("with-it", &["--read-as-service"], "service", SERVICE)];
    for (name, option, read_as, reader) in cases {
        let add = ["hypervisor", "add-tenant", name];
        let shown = shell.json(&[&add[..], &account, &sign_in, &uses, option].concat()).await.unwrap();
        assert_eq!(shown["read_as"], read_as, "{shown:#}");
        // Each has an instance of its own: of one that was read before there is nothing to read.
        let instance = TestInstance::place(rig.sim.context(), name, DATA_MIB).unwrap();
        let (tenant, before) = (shown["id"].as_str().unwrap(), readers(&rig));
        let back_up = ["backup", tenant, instance.id.as_str(), "--transport", "ebs-direct"];
        shell.done(&back_up).await.unwrap();
        let mut now = readers(&rig);
        now.retain(|account, n| before.get(account) != Some(n));
        assert_eq!(now.keys().collect::<Vec<_>>(), [reader], "{now:?}");
    }
    rig.shared_with(0).await.unwrap();
}
