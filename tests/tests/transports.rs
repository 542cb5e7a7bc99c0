//! HotAdd, Import and Automatic with the real processes: bytes go through the kernel's block devices and through a
//! bucket, come back equal, and leave nothing in either account.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use awssim::faults::Latency;
use snapferry_api::job::{Job, JobState, StreamingBackup, Work};
use snapferry_api::restore::{Restore, RestoreFrom, RestoreTarget};
use snapferry_tests::{ACCOUNT, Rig, RigOptions, SERVICE, TestInstance, write_data};
use snapferry_types::{JobId, RecoveryPointId, TransportWish};

fn options() -> RigOptions {
    RigOptions { n_agents: 1, with_service_resources: true, ..RigOptions::default() }
}

async fn back_up(rig: &Rig, instance: &TestInstance, transport: TransportWish) -> JobId {
    rig.submit(Work::StreamingBackup(StreamingBackup {
        hypervisor: rig.tenant,
        instances: vec![instance.id.clone()],
        region: None,
        media_agent: None,
        full: false,
        transport,
        retention: None,
    }))
    .await
    .unwrap()
}

async fn restore(
    rig: &Rig,
    recovery_point: RecoveryPointId,
    transport: TransportWish,
    kms_key_id: Option<String>,
) -> JobId {
    rig.submit(Work::Restore(Restore {
        recovery_point,
        from: RestoreFrom::MediaAgent,
        volumes: Vec::new(),
        target: RestoreTarget::Volumes { availability_zone: None, attach: None },
        tags: Vec::new(),
        transport,
        kms_key_id,
    }))
    .await
    .unwrap()
}

fn says(job: &Job, words: &str) -> bool {
    job.tasks.iter().flat_map(|task| &task.notes).any(|note| note.text.contains(words))
}

/// What an account has of everything that moving blocks makes.
fn transient(rig: &Rig, account: &str) -> Vec<String> {
    let mut inventory = rig.sim.context().world.inventory(Some(account));
    let kinds = ["images", "s3_objects", "s3_uploads", "import_tasks"];
    let mut left: Vec<String> =
        kinds.iter().flat_map(|kind| inventory.remove(*kind).unwrap_or_default()).collect();
    if account == SERVICE {
        // The nodes' own volumes stay.
        let volumes = inventory.remove("volumes").unwrap_or_default();
        if volumes.len() > rig.agents.len() {
            left.extend(volumes);
        }
        left.extend(inventory.remove("snapshots").unwrap_or_default());
    }
    left
}

fn nothing_is_left(rig: &Rig) {
    assert_eq!(transient(rig, SERVICE), Vec::<String>::new(), "left in the service account");
    assert_eq!(transient(rig, ACCOUNT), Vec::<String>::new(), "left in the tenant's account");
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_add_reads_a_full_and_an_incremental_backup_and_writes_them_back() {
    let rig = Rig::start(options()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 20).unwrap();
    let job = rig.succeed(back_up(&rig, &instance, TransportWish::HotAdd).await).await.unwrap();
    assert!(says(&job, "blocks are moved by hot_add, as asked for"), "{job:#?}");
    let first = (Rig::recovery_point(&job).unwrap(), instance.content(&sim).unwrap());
    nothing_is_left(&rig);
    rig.shared_with(0).await.unwrap();

    write_data(&sim, &instance.volumes[1], 300, 2, 9).unwrap();
    let job = rig.succeed(back_up(&rig, &instance, TransportWish::HotAdd).await).await.unwrap();
    assert_eq!(job.tasks[0].progress.bytes_read, 2 << 20, "an incremental reads what changed");
    let second = (Rig::recovery_point(&job).unwrap(), instance.content(&sim).unwrap());

    for (point, content) in [first, second] {
        let job = rig.succeed(restore(&rig, point, TransportWish::HotAdd, None).await).await.unwrap();
        instance.check(&sim, &job, &content).unwrap();
        nothing_is_left(&rig);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn import_writes_a_backup_back_and_leaves_no_object() {
    let rig = Rig::start(options()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 20).unwrap();
    let content = instance.content(&sim).unwrap();
    let job = rig.succeed(back_up(&rig, &instance, TransportWish::EbsDirect).await).await.unwrap();
    let point = Rig::recovery_point(&job).unwrap();
    let job = rig.succeed(restore(&rig, point, TransportWish::Import, None).await).await.unwrap();
    assert!(says(&job, "blocks are moved by import"), "{job:#?}");
    instance.check(&sim, &job, &content).unwrap();
    nothing_is_left(&rig);
    let staged = std::fs::read_dir(rig.dir.join("agent-1-staging")).unwrap().count();
    assert_eq!(staged, 0, "image files are left in the staging folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn automatic_says_what_it_took_and_out_of_what() {
    let rig = Rig::start(options()).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 2).unwrap();
    let job = rig.succeed(back_up(&rig, &instance, TransportWish::Automatic).await).await.unwrap();
    assert!(says(&job, "the least in money and time of: ebs_direct"), "{job:#?}");
    assert!(says(&job, "import not possible: Import only writes"), "{job:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_volume_is_never_in_plain_in_between() {
    let rig = Rig::start(options()).await.unwrap();
    let sim = rig.sim.context().clone();
    let key = sim.world.create_key(ACCOUNT, snapferry_tests::REGION, None);
    let instance = TestInstance::place(&sim, "one", 4).unwrap();
    let content = instance.content(&sim).unwrap();
    let job = rig.succeed(back_up(&rig, &instance, TransportWish::EbsDirect).await).await.unwrap();
    let point = Rig::recovery_point(&job).unwrap();
    for transport in [TransportWish::HotAdd, TransportWish::Import] {
        let job = rig.succeed(restore(&rig, point, transport, Some(key.clone())).await).await.unwrap();
        instance.check(&sim, &job, &content).unwrap();
        nothing_is_left(&rig);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_cannot_be_kept_is_refused_before_anything_is_made() {
    let rig = Rig::start(RigOptions { n_agents: 1, ..RigOptions::default() }).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 2).unwrap();
    let refused = back_up(&rig, &instance, TransportWish::HotAdd).await;
    let job = rig.wait(refused, "the job ends", |job| job.summary.state.is_terminal()).await.unwrap();
    assert_eq!(job.summary.state, JobState::Failed);
    let error = job.tasks[0].error.clone().unwrap();
    assert!(error.message.contains("hot_add was asked for and cannot be used"), "{error:?}");
    assert_eq!((error.class.as_str(), job.tasks[0].attempts), ("invalid", 1));
    assert_eq!((rig.count("snapshots"), rig.count("images")), (0, 0));
    nothing_is_left(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_in_the_middle_of_a_hot_add_leaves_nothing_when_another_has_finished() {
    let rig_options = RigOptions { n_agents: 2, ..options() };
    let mut rig = Rig::start(rig_options).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 200).unwrap();
    let content = instance.content(&sim).unwrap();
    // Attaching takes several calls: the kill comes between them.
    sim.faults.set_latency(vec![Latency::of("ec2", 300.0)]);
    let job = back_up(&rig, &instance, TransportWish::HotAdd).await;
    let attached = |job: &Job| job.tasks[0].progress.phase == "read";
    let running = rig.wait(job, "blocks are read", attached).await.unwrap();
    let node = running.tasks[0].access_node.unwrap();
    let index = rig.agent_of(node).await.unwrap();
    rig.agents[index].kill9().unwrap();
    sim.faults.set_latency(Vec::new());
    let done = rig.succeed(job).await.unwrap();
    assert!(done.tasks[0].attempts >= 2, "the kill came too late to matter: {done:#?}");
    nothing_is_left(&rig);
    rig.shared_with(0).await.unwrap();
    let point = Rig::recovery_point(&done).unwrap();
    let job = rig.succeed(restore(&rig, point, TransportWish::EbsDirect, None).await).await.unwrap();
    instance.check(&sim, &job, &content).unwrap();
}
