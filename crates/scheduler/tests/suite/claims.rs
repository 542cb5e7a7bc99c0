//! Offers and claims.

use std::time::Duration;

use snapferry_scheduler::store::{ClaimBy, ClaimVerdict};
use snapferry_types::{IncarnationId, MediaAgentId, TaskState};

use super::world::{World, media_agent, node};

pub(crate) async fn two_claims_make_one_grant(url: String) {
    let world = World::new(url).await;
    let other = node();
    world.store.node_seen(&other).await.unwrap();
    for n in 0..8 {
        world.submit(&world.backup(&format!("i-0{n}"))).await;
        let offer = world.offer().await;
        let theirs = ClaimBy { node: other.id, incarnation: other.incarnation, ..world.by(offer) };
        let (ours, theirs) =
            tokio::join!(world.store.claim(world.by(offer), "test"), world.store.claim(theirs, "test"));
        let verdicts = [ours.unwrap(), theirs.unwrap()];
        let n_granted = verdicts.iter().filter(|one| matches!(one, ClaimVerdict::Granted(_))).count();
        let n_gone = verdicts.iter().filter(|one| matches!(one, ClaimVerdict::Gone(_))).count();
        assert_eq!((n_granted, n_gone), (1, 1), "{verdicts:?}");
        assert_eq!(world.store.task(offer.task).await.unwrap().attempts, 1);
    }
}

pub(crate) async fn the_same_process_gets_the_same_grant(url: String) {
    let world = World::new(url).await;
    world.submit(&world.backup("i-0a")).await;
    let offer = world.offer().await;
    let first = world.claim(offer).await;
    let again = world.claim(offer).await;
    assert_eq!((again.fence, again.attempt), (first.fence, 1));
    assert_eq!(first.fence.epoch, 1);
    assert_eq!(first.fence.generation, world.store.generation());
    assert!(world.store.outbox(10).await.unwrap().is_empty(), "a claimed offer is not published again");
}

pub(crate) async fn a_withdrawn_offer_is_gone(url: String) {
    let world = World::new(url).await;
    world.submit(&world.backup("i-0a")).await;
    let stale = world.offer().await;
    assert!(world.store.withdraw(stale).await.unwrap());
    assert!(!world.store.withdraw(stale).await.unwrap(), "twice is once");
    assert!(matches!(world.store.claim(world.by(stale), "test").await.unwrap(), ClaimVerdict::Gone(_)));
    let fresh = world.offer().await;
    assert_eq!(fresh.task, stale.task);
    assert!(matches!(world.store.claim(world.by(stale), "test").await.unwrap(), ClaimVerdict::Gone(_)));
    world.claim(fresh).await;
    assert!(!world.store.withdraw(fresh).await.unwrap(), "it was taken");
}

pub(crate) async fn an_offer_survives_a_crash_before_publishing(url: String) {
    let mut world = World::new(url).await;
    world.submit(&world.backup("i-0a")).await;
    let offer = world.offer().await;
    world.reopen().await;
    let outbox = world.store.outbox(10).await.unwrap();
    assert_eq!(outbox.iter().map(|entry| entry.dispatch).collect::<Vec<_>>(), [offer.dispatch]);
    world.store.published(offer.dispatch).await.unwrap();
    assert!(world.store.outbox(10).await.unwrap().is_empty());
    assert_eq!(world.store.open_offers().await.unwrap(), [offer]);
}

pub(crate) async fn only_the_announced_process_of_the_queue_may_claim(url: String) {
    let world = World::new(url).await;
    world.submit(&world.backup("i-0a")).await;
    let offer = world.offer().await;
    let stranger = ClaimBy { node: node().id, ..world.by(offer) };
    let second = ClaimBy { incarnation: IncarnationId::generate(), ..world.by(offer) };
    let mut elsewhere = node();
    elsewhere.queue = "snapferry.task.v1.eu-west-1.linux.default".to_owned();
    world.store.node_seen(&elsewhere).await.unwrap();
    let elsewhere = ClaimBy { node: elsewhere.id, incarnation: elsewhere.incarnation, ..world.by(offer) };
    for by in [stranger, second, elsewhere] {
        assert!(matches!(world.store.claim(by, "test").await.unwrap(), ClaimVerdict::NotYou(_)));
    }
    assert_eq!(world.store.task(offer.task).await.unwrap().state, TaskState::Dispatched);
    world.claim(offer).await;
}

pub(crate) async fn cancel_and_claim_have_one_outcome(url: String) {
    let world = World::new(url).await;
    for n in 0..8 {
        let job = world.submit(&world.backup(&format!("i-0{n}"))).await;
        let offer = world.offer().await;
        let (claimed, cancelled) =
            tokio::join!(world.store.claim(world.by(offer), "test"), world.store.cancel_job(job));
        cancelled.unwrap();
        let row = world.store.task(offer.task).await.unwrap();
        match claimed.unwrap() {
            ClaimVerdict::Granted(grant) => {
                assert_eq!(row.state, TaskState::Running);
                let desired = world.store.renew(offer.task, grant.spec.fence, None).await.unwrap();
                assert_eq!(desired, snapferry_scheduler::store::Desired::Cancel);
            }
            ClaimVerdict::Gone(_) => assert_eq!(row.state, TaskState::Cancelled),
            ClaimVerdict::NotYou(why) => panic!("{why}"),
        }
    }
}

pub(crate) async fn one_backup_of_an_instance_at_a_time(url: String) {
    let world = World::new(url).await;
    world.submit(&world.backup("i-0a")).await;
    world.submit(&world.backup("i-0a")).await;
    let first = world.offer().await;
    assert_eq!(world.try_offer().await, None, "both would build on the same base");
    let spec = world.claim(first).await;
    assert_eq!(world.try_offer().await, None);
    let done = snapferry_scheduler::store::FinishOutcome::Succeeded(Vec::new());
    world.store.finish(spec.task, spec.fence, None, done, &super::world::LIMITS).await.unwrap();
    assert!(world.try_offer().await.is_some());
}

pub(crate) async fn work_waits_for_its_media_agent(url: String) {
    let world = World::new(url).await;
    world.submit(&world.backup("i-0a")).await;
    world.clock.advance(Duration::from_secs(120));
    world.store.node_seen(&world.node).await.unwrap();
    assert_eq!(world.try_offer().await, None, "no MediaAgent was heard for two minutes");
    let fuller = MediaAgentId::generate();
    let mut figures = media_agent(fuller);
    figures.stored_bytes = 1 << 30;
    world.store.media_agent_seen(&figures).await.unwrap();
    world.store.media_agent_seen(&media_agent(world.media_agent)).await.unwrap();
    let spec = world.claim(world.offer().await).await;
    assert_eq!(spec.media_agent.as_ref().unwrap().id, world.media_agent, "the emptier one is chosen");
}
