//! Faults on the side of AWS and of the queue: separate processes, a real RabbitMQ. Every test proves that its fault
//! took place, that the job said what it should, and that AWS holds nothing but what is meant to stay.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use awssim::faults::{Effect, Quotas, Rule};
use snapferry_api::hypervisor::ReadAs;
use snapferry_testkit::eventually;
use snapferry_tests::{ACCOUNT, Rig, RigOptions, SERVICE, TestInstance, TicketTap, set_role, write_data};
use snapferry_types::TaskState;

/// Restores what a backup job made and compares it.
async fn check_restore(
    rig: &Rig,
    instance: &TestInstance,
    job: &snapferry_api::job::Job,
    content: &[Vec<u64>],
) {
    let restore = rig.restore(Rig::recovery_point(job).unwrap()).await.unwrap();
    let restored = rig.succeed(restore).await.unwrap();
    instance.check(rig.sim.context(), &restored, content).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatch_delivered_again_to_another_agent_runs_once() {
    delivered_again(RigOptions::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatch_delivered_again_to_the_same_agent_runs_once() {
    delivered_again(RigOptions { slots: 2, ..RigOptions::one_agent() }).await;
}

async fn delivered_again(options: RigOptions) {
    let mut rig = Rig::start(RigOptions { own_broker: true, ..options }).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 40).unwrap();
    let content = instance.content(&sim).unwrap();
    let mut tap = TicketTap::open(&rig.broker).await.unwrap();
    // Not one block is read before this is taken away.
    rig.hold_reads(0);
    let id = rig.back_up(&instance.id).await.unwrap();
    let ticket = tap.next().await.unwrap();
    rig.wait(id, "the task runs", |job| job.tasks[0].state == TaskState::Running).await.unwrap();

    let voids = || {
        let logs = rig.agents.iter().map(|agent| agent.log().unwrap_or_default());
        logs.map(|log| log.matches("offer is void").count()).sum::<usize>()
    };
    assert_eq!(voids(), 0);
    tap.publish(&ticket).await.unwrap();
    eventually(Duration::from_secs(30), "the second delivery is looked at", || async { voids() == 1 })
        .await
        .unwrap();
    let job = rig.client.job(id).await.unwrap();
    assert_eq!(job.tasks[0].state, TaskState::Running, "the delivery came while the task ran");
    rig.let_go();
    let job = rig.succeed(id).await.unwrap();

    tap.publish(&ticket).await.unwrap();
    eventually(Duration::from_secs(30), "the third delivery is looked at", || async { voids() == 2 })
        .await
        .unwrap();
    // A delivery that the agents did not settle would be here, or come again.
    let broker = rig.broker.own().unwrap();
    assert_eq!(broker.depth(&TicketTap::queue()).await.unwrap(), Some((0, 0)));
    let after = rig.client.job(id).await.unwrap();
    assert_eq!((after.tasks[0].attempts, after.tasks[0].state), (1, TaskState::Succeeded));
    assert_eq!(rig.client.recovery_points(&Default::default()).await.unwrap().items.len(), 1);
    assert_eq!(rig.calls("ec2", "CreateSnapshots"), 1);
    check_restore(&rig, &instance, &job, &content).await;
    rig.left(2, 4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_end_in_mid_task_are_renewed() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 300).unwrap();
    let content = instance.content(&sim).unwrap();
    // More blocks wait than can be on their way: the others are asked for after the end.
    rig.hold_reads(20);
    let id = rig.back_up(&instance.id).await.unwrap();
    rig.wait(id, "blocks are being read", |job| job.tasks[0].progress.bytes_read > 0).await.unwrap();
    let (signed_in, read) = (rig.calls("sts", "AssumeRole"), rig.calls("ebs", "GetSnapshotBlock"));
    sim.world.expire_sessions();
    rig.let_go();
    let job = rig.succeed(id).await.unwrap();
    assert_eq!(job.tasks[0].attempts, 1, "the attempt goes on with new credentials");
    assert!(rig.calls("sts", "AssumeRole") > signed_in, "nobody signed in again");
    assert!(rig.calls("ebs", "GetSnapshotBlock") > read, "all was read before the end");
    check_restore(&rig, &instance, &job, &content).await;
    rig.left(2, 4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_of_both_kinds_only_slows_down() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 40).unwrap();
    let content = instance.content(&sim).unwrap();
    sim.faults.set_quotas(Quotas { get_per_account: 60.0, put_per_account: 60.0, ..Quotas::default() });
    let throttle = |snapshot_level, action: &str| {
        Rule::new(Effect::Throttle { snapshot_level }).on("ebs", action).times(10)
    };
    sim.faults.set_rules(vec![
        throttle(true, "GetSnapshotBlock"),
        throttle(false, "ListSnapshotBlocks").times(1),
        throttle(true, "PutSnapshotBlock"),
        throttle(false, "StartSnapshot").times(1),
        Rule::new(Effect::Throttle { snapshot_level: false }).on("ec2", "CreateSnapshots").times(1),
    ]);
    let job = rig.succeed(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    assert_eq!(job.tasks[0].attempts, 1);
    assert!(job.tasks[0].progress.throttled > 10, "{:?}", job.tasks[0].progress);
    check_restore(&rig, &instance, &job, &content).await;
    let counters = sim.faults.counters();
    assert!(counters.throttled_of("ebs", "GetSnapshotBlock") > 0, "the account's quota was never reached");
    assert!(counters.throttled_of("ebs", "PutSnapshotBlock") > 0, "the account's quota was never reached");
    assert_eq!(rig.fired(), 10 + 1 + 10 + 1 + 1);
    rig.left(2, 4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_role_may_not_do_is_named_and_leaves_nothing() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 5).unwrap();
    let content = instance.content(&sim).unwrap();

    // The role asks for another external id than the one that was registered.
    set_role(&rig.sim, "something-else", Vec::new());
    let (_, task) = rig.fail(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    let error = task.error.unwrap();
    assert_eq!((error.class.as_str(), task.attempts), ("access_denied", 1));
    assert!(error.message.contains(&format!("arn:aws:iam::{ACCOUNT}:role/snapferry")), "{}", error.message);
    assert!(error.message.contains("external id"), "{}", error.message);
    assert!(!error.message.contains(snapferry_tests::EXTERNAL_ID), "{}", error.message);
    rig.left(0, 2).await.unwrap();

    for (action, object) in
        [("ec2:CreateSnapshots", instance.id.as_str()), ("ebs:GetSnapshotBlock", "snapshot snap-")]
    {
        rig.deny(&[action]);
        let (_, task) = rig.fail(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
        let error = task.error.unwrap();
        assert_eq!((error.class.as_str(), task.attempts), ("access_denied", 1), "{}", error.message);
        assert!(error.message.contains(action), "{}", error.message);
        assert!(error.message.contains(object), "{}", error.message);
        rig.left(0, 2).await.unwrap();
    }
    assert_eq!(rig.client.recovery_points(&Default::default()).await.unwrap().items.len(), 0);

    // With the permissions back, the same works: the denials were the cause.
    rig.deny(&[]);
    let job = rig.succeed(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    rig.deny(&["ec2:CreateVolume"]);
    let restore = rig.restore(Rig::recovery_point(&job).unwrap()).await.unwrap();
    let (_, task) = rig.fail(restore).await.unwrap();
    let error = task.error.unwrap();
    assert_eq!(error.class, "access_denied");
    assert!(error.message.contains("ec2:CreateVolume"), "{}", error.message);
    rig.left(2, 2).await.unwrap();
    rig.deny(&[]);
    check_restore(&rig, &instance, &job, &content).await;
    rig.left(2, 4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_hangs_breaks_off_or_differs_once_is_asked_for_again() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 40).unwrap();
    let content = instance.content(&sim).unwrap();
    let read =
        |effect, skip, times| Rule { skip, ..Rule::new(effect).on("ebs", "GetSnapshotBlock").times(times) };
    let put =
        |effect, skip, times| Rule { skip, ..Rule::new(effect).on("ebs", "PutSnapshotBlock").times(times) };
    let failed = || Effect::Error {
        status: 500,
        code: "InternalServerException".to_owned(),
        message: None,
        reason: None,
    };
    let rules = vec![
        read(Effect::Hang { seconds: None }, 5, 2),
        read(Effect::TruncateBody { keep_bytes: None }, 20, 2),
        read(Effect::FlipBit, 40, 1),
        read(Effect::WrongChecksum, 60, 1),
        read(failed(), 80, 3),
        put(Effect::Hang { seconds: None }, 5, 1),
        put(Effect::LoseReply, 20, 2),
        put(failed(), 40, 3),
    ];
    let expected: u64 = rules.iter().filter_map(|rule| rule.count).sum();
    sim.faults.set_rules(rules);
    let job = rig.succeed(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    assert_eq!(job.tasks[0].attempts, 1);
    let restore = rig.restore(Rig::recovery_point(&job).unwrap()).await.unwrap();
    let restored = rig.succeed(restore).await.unwrap();
    assert_eq!(restored.tasks[0].attempts, 1);
    instance.check(&sim, &restored, &content).unwrap();
    assert_eq!(rig.fired(), expected, "{:#?}", sim.faults.rules());
    rig.left(2, 4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_error_in_a_hundred_fails_no_attempt() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 150).unwrap();
    let content = instance.content(&sim).unwrap();
    let failing = |action: &str| {
        let effect = Effect::Error {
            status: 500,
            code: "InternalServerException".to_owned(),
            message: None,
            reason: None,
        };
        Rule { probability: 0.01, ..Rule::new(effect).on("ebs", action) }
    };
    sim.faults.set_rules(vec![failing("GetSnapshotBlock"), failing("PutSnapshotBlock")]);
    let job = rig.succeed(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    let restored = rig.succeed(rig.restore(Rig::recovery_point(&job).unwrap()).await.unwrap()).await.unwrap();
    assert_eq!((job.tasks[0].attempts, restored.tasks[0].attempts), (1, 1));
    let met: Vec<u64> = sim.faults.rules().iter().map(|report| report.fired).collect();
    assert!(met.iter().all(|fired| *fired > 0), "{met:?} failed");
    instance.check(&sim, &restored, &content).unwrap();
    rig.left(2, 4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_never_matches_its_checksum_is_never_stored() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 10).unwrap();
    let content = instance.content(&sim).unwrap();
    rig.hurt(Rule { block: Some(7), ..Rule::new(Effect::FlipBit).on("ebs", "GetSnapshotBlock") });
    let (_, task) = rig.fail(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    let error = task.error.unwrap();
    assert_eq!((error.class.as_str(), task.attempts), ("corrupt", 1));
    assert!(error.message.contains("block 7 of snapshot snap-"), "{}", error.message);
    assert!(rig.fired() >= 2, "the block was not read again");
    assert_eq!(rig.client.recovery_points(&Default::default()).await.unwrap().items.len(), 0);
    rig.left(0, 2).await.unwrap();

    sim.faults.set_rules(Vec::new());
    let job = rig.succeed(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    check_restore(&rig, &instance, &job, &content).await;
    rig.left(2, 4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_somebody_deleted_means_a_full_read_that_is_said() {
    let rig = Rig::start(RigOptions::one_agent()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 10).unwrap();
    rig.succeed(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    assert_eq!(rig.delete_all_snapshots().await.unwrap(), 2);
    assert_eq!(rig.count("snapshots"), 0);
    write_data(&sim, &instance.volumes[0], 4, 1, 99).unwrap();
    let content = instance.content(&sim).unwrap();

    let job = rig.succeed(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    let task = &job.tasks[0];
    assert_eq!(task.attempts, 1);
    assert!(task.progress.bytes_read >= 20 << 20, "read {} bytes", task.progress.bytes_read);
    for volume in &instance.volumes {
        let said = task.notes.iter().any(|note| {
            note.warning && note.text.contains(volume) && note.text.contains("reading it in full")
        });
        assert!(said, "{volume}: {:#?}", task.notes);
    }
    check_restore(&rig, &instance, &job, &content).await;
    rig.left(2, 4).await.unwrap();

    // The same when it was noticed before.
    assert_eq!(rig.delete_all_snapshots().await.unwrap(), 2);
    assert_eq!(rig.client.reconcile(rig.tenant).await.unwrap().missing.len(), 2);
    let last = Rig::recovery_point(&job).unwrap();
    let job = rig.succeed(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    let task = &job.tasks[0];
    assert!(task.progress.bytes_read >= 20 << 20, "read {} bytes", task.progress.bytes_read);
    let words = format!("read in full: the snapshots that {last} was read from do not exist any more");
    assert!(task.notes.iter().any(|note| note.text == words), "{:#?}", task.notes);
    check_restore(&rig, &instance, &job, &content).await;
    rig.left(2, 6).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_read_by_the_service_account_when_that_is_wanted() {
    let rig = Rig::start(RigOptions { read_as: ReadAs::Service, ..RigOptions::one_agent() }).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 10).unwrap();
    rig.succeed(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    write_data(&sim, &instance.volumes[0], 4, 1, 99).unwrap();
    let content = instance.content(&sim).unwrap();
    let job = rig.succeed(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    let bytes_read = job.tasks[0].progress.bytes_read;
    assert!(bytes_read <= 2 << 20, "an incremental read {bytes_read} bytes for 1 MiB of changes");

    let counters = sim.faults.counters();
    let readers = counters.calls.iter().filter(|count| count.action == "GetSnapshotBlock");
    assert!(readers.map(|count| count.account.as_str()).eq([SERVICE]), "{counters:#?}");
    // Two new snapshots each time, the second time also two bases; all are shared, read, and taken back.
    assert_eq!(counters.calls_of("ec2", "ModifySnapshotAttribute"), 12);
    check_restore(&rig, &instance, &job, &content).await;
    rig.left(2, 4).await.unwrap();
}
