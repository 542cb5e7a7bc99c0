//! HotAdd, Import and Automatic with the real processes: bytes go through the kernel's block devices and through a
//! bucket, come back equal, and leave nothing in either account.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::time::Duration;

use awssim::faults::{Effect, Latency, Rule};
use awssim::world::{AtRest, KeyState, Marks};
use snapferry_api::job::{Job, JobState, StreamingBackup, Work};
use snapferry_api::restore::{RestoreFrom, RestoreTarget};
use snapferry_testkit::eventually;
use snapferry_tests::{
    ACCOUNT, ELSEWHERE, REGION, Rig, RigOptions, SERVICE, TestInstance, key_for_both, says, write_data,
};
use snapferry_types::instance::OsFamily;
use snapferry_types::{JobId, RecoveryPointId, TransportWish};

const BOUND: Duration = Duration::from_secs(60);
/// Between two looks at an account.
const LOOK: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread")]
async fn hot_add_reads_a_full_and_an_incremental_backup_and_writes_them_back() {
    let rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 20).unwrap();
    let job = rig.succeed(rig.back_up_by(&instance.id, TransportWish::HotAdd).await.unwrap()).await.unwrap();
    assert!(says(&job, "blocks are moved by hot_add, as asked for"), "{job:#?}");
    let first = (Rig::recovery_point(&job).unwrap(), instance.content(&sim).unwrap());
    rig.nothing_is_left().unwrap();
    rig.shared_with(0).await.unwrap();

    write_data(&sim, &instance.volumes[1], 300, 2, 9).unwrap();
    let job = rig.succeed(rig.back_up_by(&instance.id, TransportWish::HotAdd).await.unwrap()).await.unwrap();
    assert_eq!(job.tasks[0].progress.bytes_read, 2 << 20, "an incremental reads what changed");
    let second = (Rig::recovery_point(&job).unwrap(), instance.content(&sim).unwrap());

    for (point, content) in [first, second] {
        let job =
            rig.succeed(rig.restore_by(point, TransportWish::HotAdd, None).await.unwrap()).await.unwrap();
        instance.check(&sim, &job, &content).unwrap();
        rig.nothing_is_left().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn import_writes_a_backup_back_and_leaves_no_object() {
    let rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 20).unwrap();
    let content = instance.content(&sim).unwrap();
    let job =
        rig.succeed(rig.back_up_by(&instance.id, TransportWish::EbsDirect).await.unwrap()).await.unwrap();
    let point = Rig::recovery_point(&job).unwrap();
    let job = rig.succeed(rig.restore_by(point, TransportWish::Import, None).await.unwrap()).await.unwrap();
    assert!(says(&job, "blocks are moved by import"), "{job:#?}");
    instance.check(&sim, &job, &content).unwrap();
    rig.nothing_is_left().unwrap();
    assert_eq!(rig.n_staged(0), 0, "image files are left in the staging folder");
    let nodes: Vec<_> = std::fs::read_dir(rig.dir.join("staging")).unwrap().flatten().collect();
    assert_eq!(nodes.len(), 1, "the image lay in the node's own folder: {nodes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn automatic_says_what_it_took_and_out_of_what() {
    let rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 2).unwrap();
    let job =
        rig.succeed(rig.back_up_by(&instance.id, TransportWish::Automatic).await.unwrap()).await.unwrap();
    assert!(says(&job, "the least in money and time of: ebs_direct"), "{job:#?}");
    assert!(says(&job, "import not possible: Import only writes"), "{job:#?}");
}

/// Restores, and looks at everything that lies in the service account meanwhile, time and again; answers the job and what
/// was there, beside the nodes' own volumes.
async fn watched(
    rig: &Rig,
    point: RecoveryPointId,
    transport: TransportWish,
    key: Option<&String>,
) -> (Job, BTreeSet<AtRest>) {
    let world = &rig.sim.context().world;
    let own = world.at_rest(SERVICE);
    let job = rig.restore_by(point, transport, key.cloned()).await.unwrap();
    let ended = rig.wait(job, "the job ends", |job| job.summary.state.is_terminal());
    tokio::pin!(ended);
    let mut seen = BTreeSet::new();
    loop {
        seen.extend(world.at_rest(SERVICE).into_iter().filter(|one| !own.contains(one)));
        if let Ok(job) = tokio::time::timeout(LOOK, &mut ended).await {
            let job = job.unwrap();
            assert_eq!(job.summary.state, JobState::Succeeded, "{job:#?}");
            return (job, seen);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_volume_is_never_in_plain_in_between() {
    let rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let transit = rig.transports.as_ref().unwrap().transit_key.clone();
    let key = sim.world.create_key(ACCOUNT, snapferry_tests::REGION, None);
    let instance = TestInstance::place(&sim, "one", 4).unwrap();
    let content = instance.content(&sim).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    // Each call takes so long that nothing comes and goes between two looks.
    sim.faults.set_latency(vec![
        Latency::of("ec2", 50.0),
        Latency::of("s3", 50.0),
        Latency::of("vmie", 200.0),
    ]);
    let cases = [
        (TransportWish::HotAdd, &["volume", "snapshot"][..]),
        (TransportWish::Import, &["s3_object", "import", "snapshot"][..]),
    ];
    for (transport, kinds) in cases {
        let (job, seen) = watched(&rig, point, transport, Some(&key)).await;
        for kind in kinds {
            let n_seen = seen.iter().filter(|one| one.kind == *kind).count();
            assert!(n_seen >= instance.volumes.len(), "{transport:?}: a {kind} was never seen: {seen:#?}");
        }
        for one in &seen {
            assert_eq!(one.key.as_ref(), Some(&transit), "{transport:?}: {one:?}");
        }
        instance.check(&sim, &job, &content).unwrap();
        rig.nothing_is_left().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_plain_in_between_is_seen() {
    let rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 4).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    sim.faults.set_latency(vec![Latency::of("ec2", 50.0)]);
    // A plain volume may lie there in plain: the look of the test above would see it.
    let (_, seen) = watched(&rig, point, TransportWish::HotAdd, None).await;
    assert!(seen.len() >= 2 && seen.iter().all(|one| one.key.is_none()), "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_cannot_be_kept_is_refused_before_anything_is_made() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 2).unwrap();
    let refused = rig.back_up_by(&instance.id, TransportWish::HotAdd).await.unwrap();
    let job = rig.wait(refused, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap();
    assert_eq!(job.summary.state, JobState::Failed);
    let error = job.tasks[0].error.clone().unwrap();
    assert!(error.message.contains("hot_add was asked for and cannot be used"), "{error:?}");
    assert_eq!((error.class.as_str(), job.tasks[0].attempts), ("invalid", 1));
    assert_eq!((rig.count("snapshots"), rig.count("images")), (0, 0));
    rig.nothing_is_left().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_in_the_middle_of_a_hot_add_leaves_nothing_when_another_has_finished() {
    let rig_options = RigOptions { n_agents: 2, ..RigOptions::one_node() };
    let mut rig = Rig::start(rig_options).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 200).unwrap();
    let content = instance.content(&sim).unwrap();
    // Attaching takes several calls: the kill comes between them.
    sim.faults.set_latency(vec![Latency::of("ec2", 300.0)]);
    let job = rig.back_up_by(&instance.id, TransportWish::HotAdd).await.unwrap();
    let attached = |job: &Job| job.tasks[0].progress.phase == "read";
    let running = rig.wait(job, "blocks are read", attached).await.unwrap();
    let node = running.tasks[0].access_node.unwrap();
    let index = rig.agent_of(node).await.unwrap();
    rig.agents[index].kill9().unwrap();
    sim.faults.set_latency(Vec::new());
    let done = rig.succeed(job).await.unwrap();
    assert!(done.tasks[0].attempts >= 2, "the kill came too late to matter: {done:#?}");
    rig.nothing_is_left().unwrap();
    rig.shared_with(0).await.unwrap();
    let point = Rig::recovery_point(&done).unwrap();
    let job =
        rig.succeed(rig.restore_by(point, TransportWish::EbsDirect, None).await.unwrap()).await.unwrap();
    instance.check(&sim, &job, &content).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_marketplace_code_is_read_directly_and_not_by_hot_add() {
    let rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 8).unwrap();
    let content = instance.content(&sim).unwrap();
    // That of a data volume is not the instance's.
    for (marked, code) in
        [(instance.volumes[1].as_str(), "2ndcode"), (instance.id.as_str(), "25m7kc8qgpkuaqn6g0clzvcvx")]
    {
        let marks = Marks { product_codes: vec![code.to_owned()], ..Marks::default() };
        sim.world.mark(marked, marks).unwrap();
        let (_, task) =
            rig.fail(rig.back_up_by(&instance.id, TransportWish::HotAdd).await.unwrap()).await.unwrap();
        let error = task.error.unwrap();
        assert_eq!((error.class.as_str(), task.attempts), ("invalid", 1), "{}", error.message);
        assert!(error.message.contains(code) && error.message.contains("EBS direct"), "{}", error.message);
        assert_eq!(rig.calls("ec2", "CreateSnapshots"), 0, "it is refused before anything is made");
    }
    let snapped = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
    let snapped = Rig::recovery_point(&snapped).unwrap();
    let (_, task) = rig.fail(rig.copy_by(snapped, TransportWish::HotAdd).await.unwrap()).await.unwrap();
    let error = task.error.unwrap();
    assert_eq!((error.class.as_str(), task.attempts), ("invalid", 1), "{}", error.message);
    assert!(error.message.contains("product codes") && error.message.contains("EBS direct"), "{error:?}");
    rig.only_these_are_left(2, 2).await.unwrap();

    for transport in [TransportWish::EbsDirect, TransportWish::Automatic] {
        let job = rig.succeed(rig.back_up_by(&instance.id, transport).await.unwrap()).await.unwrap();
        assert!(says(&job, "blocks are moved by ebs_direct"), "{job:#?}");
        let restored = rig.restore_copy(Rig::recovery_point(&job).unwrap()).await.unwrap();
        instance.check(&sim, &restored, &content).unwrap();
    }
    let job = rig.succeed(rig.copy_by(snapped, TransportWish::Automatic).await.unwrap()).await.unwrap();
    assert!(says(&job, "blocks are moved by ebs_direct"), "{job:#?}");
    let restored = rig.restore_copy(Rig::recovery_point(&job).unwrap()).await.unwrap();
    instance.check(&sim, &restored, &content).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_add_and_import_by_a_node_of_another_region_are_refused_before_anything_is_made() {
    let rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let placed = sim.place_instance(ACCOUNT, ELSEWHERE, "far", None, &[1]).unwrap();
    write_data(&sim, &placed.volumes[0], 1, 20, 8).unwrap();
    let instance = TestInstance::of(&sim, placed).unwrap();
    let content = instance.content(&sim).unwrap();
    let back_up = |transport| {
        rig.submit(Work::StreamingBackup(StreamingBackup {
            hypervisor: rig.tenant,
            instances: vec![instance.id.clone()],
            region: Some(ELSEWHERE.parse().unwrap()),
            media_agent: None,
            full: false,
            transport,
            retention: None,
        }))
    };
    let is_refused = async |id: JobId| {
        let (_, task) = rig.fail(id).await.unwrap();
        let error = task.error.unwrap();
        assert_eq!((error.class.as_str(), task.attempts), ("invalid", 1), "{}", error.message);
        for word in [REGION, ELSEWHERE] {
            assert!(error.message.contains(word), "{}", error.message);
        }
    };
    is_refused(back_up(TransportWish::HotAdd).await.unwrap()).await;
    assert_eq!(rig.calls("ec2", "CreateSnapshots"), 0);

    // EBS direct reaches it from anywhere.
    let job = rig.succeed(back_up(TransportWish::Automatic).await.unwrap()).await.unwrap();
    assert!(says(&job, "blocks are moved by ebs_direct"), "{job:#?}");
    let point = Rig::recovery_point(&job).unwrap();
    for transport in [TransportWish::HotAdd, TransportWish::Import] {
        is_refused(rig.restore_by(point, transport, None).await.unwrap()).await;
    }
    assert_eq!((rig.calls("ebs", "StartSnapshot"), rig.calls("ec2", "CreateVolume")), (0, 0));
    let restored = rig.restore_copy(point).await.unwrap();
    instance.check(&sim, &restored, &content).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_an_account_encrypts_by_default_what_was_plain_is_not_moved_so_or_that_is_said() {
    let rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 8).unwrap();
    let content = instance.content(&sim).unwrap();
    sim.world.encrypt_by_default(SERVICE, REGION, true);
    // Reading is not in the way.
    let job = rig.succeed(rig.back_up_by(&instance.id, TransportWish::HotAdd).await.unwrap()).await.unwrap();
    let point = Rig::recovery_point(&job).unwrap();
    let before = rig.holdings();
    for transport in [TransportWish::HotAdd, TransportWish::Import] {
        let (_, task) = rig.fail(rig.restore_by(point, transport, None).await.unwrap()).await.unwrap();
        let error = task.error.unwrap();
        assert_eq!((error.class.as_str(), task.attempts), ("invalid", 1), "{}", error.message);
        for word in [SERVICE, "by default", "use EBS direct", "nothing was made"] {
            assert!(error.message.contains(word), "{word} is not in: {}", error.message);
        }
        assert_eq!(rig.holdings(), before, "something was made");
    }
    let job = rig.restore_by(point, TransportWish::Automatic, None).await.unwrap();
    let job = rig.succeed(job).await.unwrap();
    instance.check(&sim, &job, &content).unwrap();
    assert!(says(&job, "blocks are moved by ebs_direct") && !says(&job, "by default:"), "{job:#?}");
    let key = sim.world.create_key(ACCOUNT, REGION, Some(key_for_both()));
    let job = rig.restore_by(point, TransportWish::HotAdd, Some(key.clone())).await.unwrap();
    let job = rig.succeed(job).await.unwrap();
    instance.check(&sim, &job, &content).unwrap();
    sim.world.encrypt_by_default(SERVICE, REGION, false);

    sim.world.encrypt_by_default(ACCOUNT, REGION, true);
    let default = sim.world.managed_key(ACCOUNT, REGION);
    for transport in [TransportWish::EbsDirect, TransportWish::HotAdd, TransportWish::Import] {
        let job = rig.succeed(rig.restore_by(point, transport, None).await.unwrap()).await.unwrap();
        instance.check(&sim, &job, &content).unwrap();
        assert!(says(&job, &format!("account {ACCOUNT} encrypts all new volumes of {REGION} by default")));
        for made in &job.tasks[0].made {
            assert_eq!(rig.key_of_volume(&made.id).await.unwrap().as_deref(), Some(&*default), "{made:?}");
        }
    }
    rig.nothing_is_left().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_copied_before_it_is_read_leaves_nothing_when_it_is_cancelled_or_killed() {
    let mut rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let sim = rig.sim.context().clone();
    let managed = sim.world.managed_key(ACCOUNT, REGION);
    let instance = TestInstance::place_as(&sim, "one", 8, OsFamily::Linux, Some(&managed)).unwrap();
    let content = instance.content(&sim).unwrap();
    let copying = async |rig: &Rig, copy_millis: u64| {
        rig.copies_take(copy_millis);
        let id = rig.back_up_by(&instance.id, TransportWish::HotAdd).await.unwrap();
        let has_copies = |_: &Job| rig.count("snapshots") == 4;
        rig.wait(id, "snapshots are copied", has_copies).await.unwrap();
        id
    };
    let id = copying(&rig, 600_000).await;
    rig.client.cancel_job(id).await.unwrap();
    let ended = rig.wait(id, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap();
    assert_eq!(ended.summary.state, JobState::Cancelled, "{ended:#?}");
    rig.only_these_are_left(0, 2).await.unwrap();

    let id = copying(&rig, 8_000).await;
    rig.agents[0].kill9().unwrap();
    rig.add_agent().unwrap();
    let job = rig.succeed(id).await.unwrap();
    assert_eq!(job.tasks[0].attempts, 2, "the first attempt was not interrupted");
    assert_eq!(rig.calls("ec2", "CopySnapshot"), 2 + 2, "a copy was made twice");
    rig.only_these_are_left(2, 2).await.unwrap();
    let restored = rig.restore_copy(Rig::recovery_point(&job).unwrap()).await.unwrap();
    instance.check(&sim, &restored, &content).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_copy_that_fails_after_aws_took_it_is_named_with_volume_and_key() {
    let rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let world = &rig.sim.context().world;
    let instance = TestInstance::place(rig.sim.context(), "one", 3).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    for transport in [TransportWish::HotAdd, TransportWish::Import] {
        let key = world.create_key(ACCOUNT, REGION, None);
        // All that was asked beforehand had a good answer.
        rig.hurt(Rule::new(Effect::Hang { seconds: None }).on("ec2", "CopySnapshot"));
        let id = rig.restore_by(point, transport, Some(key.clone())).await.unwrap();
        eventually(BOUND, "a copy is asked for", || async { rig.fired() > 0 }).await.unwrap();
        assert!(world.set_key_state(&key, KeyState::Disabled));
        rig.let_go();
        let (_, task) = rig.fail(id).await.unwrap();
        let error = task.error.unwrap();
        assert_eq!((error.class.as_str(), task.attempts), ("invalid", 1), "{}", error.message);
        let is_named = instance.volumes.iter().any(|volume| error.message.contains(volume));
        assert!(is_named && error.message.contains("copy snap-"), "{}", error.message);
        for word in [key.as_str(), ACCOUNT, "ended as error", "not accessible"] {
            assert!(error.message.contains(word), "{word} is not in: {}", error.message);
        }
        rig.only_these_are_left(2, 2).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_has_nothing_to_do_where_the_snapshots_are_and_the_job_says_so() {
    let rig = Rig::start(RigOptions::one_node()).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 3).unwrap();
    let content = instance.content(rig.sim.context()).unwrap();
    let snapped = rig.succeed(rig.snap(&instance.id, None).await.unwrap()).await.unwrap();
    let point = Rig::recovery_point(&snapped).unwrap();
    let target = RestoreTarget::Volumes { availability_zone: None, attach: None };
    let by = TransportWish::HotAdd;
    let id = rig.restore_with(point, RestoreFrom::Snapshot, target, by, None).await.unwrap();
    let job = rig.succeed(id).await.unwrap();
    let words = "no blocks are moved: volumes are made of the snapshots; hot_add, which was asked for, has nothing to do";
    assert!(says(&job, words), "{job:#?}");
    assert_eq!(rig.calls("ec2", "AttachVolume"), 0);
    instance.check(rig.sim.context(), &job, &content).unwrap();
}
