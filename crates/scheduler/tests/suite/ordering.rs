//! Who waits for whom.

use std::time::Duration;

use snapferry_api::job::{TaskError, Work};
use snapferry_api::restore::{RestoreFrom, RestoreTarget};
use snapferry_scheduler::store::FinishOutcome;
use snapferry_types::{MediaAgentId, TaskState};

use super::world::{LIMITS, World, media_agent};

pub(crate) async fn a_silent_media_agent_starves_nobody(url: String) {
    let world = World::new(url).await;
    let silent = MediaAgentId::generate();
    world.store.media_agent_seen(&media_agent(silent)).await.unwrap();
    for n in 0..40 {
        let mut request = world.backup(&format!("i-{n:04x}"));
        if let Work::StreamingBackup(backup) = &mut request.work {
            backup.media_agent = Some(silent);
        }
        world.submit(&request).await;
    }
    world.clock.advance(Duration::from_secs(120));
    world.hello().await;
    assert_eq!(world.try_offer().await, None);
    world.submit(&world.backup("i-0a")).await;
    let spec = world.claim(world.offer().await).await;
    assert_eq!(spec.media_agent.as_ref().unwrap().id, world.media_agent);
}

pub(crate) async fn a_later_backup_does_not_overtake(url: String) {
    let world = World::new(url).await;
    let first = world.running("i-0a").await;
    world.clock.advance(Duration::from_secs(1));
    let second = world.submit(&world.backup("i-0a")).await;
    let error = TaskError { class: "throttled".to_owned(), message: String::new() };
    let failed = FinishOutcome::Failed { retryable: true, error };
    world.store.finish(first.task, first.fence, None, failed, &LIMITS).await.unwrap();
    world.clock.advance(LIMITS.retry_max);
    world.hello().await;
    assert_eq!(world.store.end_waits().await.unwrap(), 1);
    assert_eq!(world.store.task(first.task).await.unwrap().state, TaskState::Ready);
    let again = world.claim(world.offer().await).await;
    assert_eq!(again.task, first.task, "it has begun, so it goes on first");

    // The same when it was given back in good order, which is no attempt.
    let yielded = FinishOutcome::Yielded { shutting_down: true };
    world.store.finish(again.task, again.fence, None, yielded, &LIMITS).await.unwrap();
    let again = world.claim(world.offer().await).await;
    assert_eq!(again.task, first.task);
    assert_eq!(world.try_offer().await, None);
    world.succeed(&again).await;
    assert_eq!(world.offer().await.task, world.only_task(second).await);
}

pub(crate) async fn a_restore_in_place_has_the_instance_to_itself(url: String) {
    let world = World::new(url).await;
    let point = world.snapped(world.snap_request("i-0a"), "snap-01").await;
    let mut in_place = World::restore_request(point, RestoreFrom::Automatic);
    in_place.target = RestoreTarget::InPlace { delete_old_volumes: false, leave_stopped: false };
    let backup = world.running("i-0a").await;
    let elsewhere = world.running("i-0b").await;
    world.submit(&World::job(Work::Restore(in_place))).await;
    assert_eq!(world.try_offer().await, None, "it waits for the backup");
    world.succeed(&backup).await;
    let restore = world.claim(world.offer().await).await;
    world.submit(&world.backup("i-0a")).await;
    world.submit(&World::job(Work::IntelliSnap(world.snap_request("i-0a")))).await;
    world.submit(&World::job(Work::Restore(World::restore_request(point, RestoreFrom::Automatic)))).await;
    assert_eq!(world.try_offer().await, None, "the others wait for it");
    world.succeed(&restore).await;
    world.offer().await;
    world.succeed(&elsewhere).await;
}
