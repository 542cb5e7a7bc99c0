//! A library in a bucket, over S3's own protocol: what is stored there comes back, what nobody refers to goes, and a
//! bucket that fails for a while costs time only.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use awssim::faults::{Effect, Rule};
use snapferry_api::fleet::Maintenance;
use snapferry_testkit::eventually;
use snapferry_tests::{Rig, RigOptions, SERVICE, TestInstance, write_data};

const BOUND: Duration = Duration::from_secs(60);

fn options() -> RigOptions {
    RigOptions { n_agents: 1, library_in_bucket: true, ..RigOptions::default() }
}

/// Keys of the objects in the library's bucket.
fn objects(rig: &Rig) -> Vec<String> {
    rig.sim.context().world.inventory(Some(SERVICE)).remove("s3_objects").unwrap_or_default()
}

fn failing(action: &str, times: u64) -> Rule {
    let code = "InternalError".to_owned();
    let error = Effect::Error { status: 500, code, message: None, reason: None };
    Rule::new(error).on("s3", action).times(times)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_in_a_bucket_comes_back_and_goes_when_nobody_refers_to_it() {
    let mut rig = Rig::start(options()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 40).unwrap();
    let before = instance.content(&sim).unwrap();
    let first = rig.backed_up(&instance).await.unwrap();
    let n_first = objects(&rig).len();
    assert!(
        n_first > 0 && objects(&rig).iter().all(|key| key.contains("library/here/")),
        "{:?}",
        objects(&rig)
    );
    write_data(&sim, &instance.volumes[0], 4, 30, 99).unwrap();
    let after = instance.content(&sim).unwrap();
    let second = rig.backed_up(&instance).await.unwrap();
    assert!(rig.calls("s3", "UploadPart") > 0, "nothing was long enough for a multipart upload");

    for (point, content) in [(first, &before), (second, &after)] {
        let job = rig.restore_copy(point).await.unwrap();
        instance.check(&sim, &job, content).unwrap();
    }
    // The daemon has nothing that the bucket has not.
    rig.restart_media_agent().unwrap();
    let n_both = objects(&rig).len();
    rig.succeed(rig.client.delete_recovery_point(first).await.unwrap().summary.id).await.unwrap();
    let media_agent = rig.client.media_agents(&Default::default()).await.unwrap().items[0].id;
    rig.client.maintain(media_agent, Maintenance::CollectGarbage).await.unwrap();
    eventually(BOUND, "garbage is collected", || async { objects(&rig).len() < n_both }).await.unwrap();
    let (_, scrub) = rig.scrubbed().await.unwrap();
    assert!(scrub.bytes_read > 0 && scrub.damaged == 0, "{scrub:?}");
    let job = rig.restore_copy(second).await.unwrap();
    instance.check(&sim, &job, &after).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_fails_for_a_while_costs_time_only() {
    let rig = Rig::start(options()).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 40).unwrap();
    let content = instance.content(&sim).unwrap();
    sim.faults.set_rules(vec![failing("PutObject", 2), failing("UploadPart", 2), failing("GetObject", 2)]);
    let point = rig.backed_up(&instance).await.unwrap();
    let job = rig.restore_copy(point).await.unwrap();
    instance.check(&sim, &job, &content).unwrap();
    assert_eq!(rig.fired(), 6, "not every fault happened");
    assert_eq!(rig.sim.context().world.inventory(Some(SERVICE)).get("s3_uploads").map_or(0, Vec::len), 0);
}
