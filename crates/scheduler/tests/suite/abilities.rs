//! Tasks that ask for a transport which not every access node can do.

use std::time::Duration;

use snapferry_api::job::{CreateJob, TaskError, Work};
use snapferry_scheduler::store::{ClaimBy, ClaimVerdict, FinishOutcome, ImagesOfNode, NodeFigures, Offer};
use snapferry_types::{TaskId, Transport, TransportWish};

use super::world::{LIMITS, World, node};

fn hot_add(world: &World, instance: &str) -> CreateJob {
    let mut request = world.backup(instance);
    if let Work::StreamingBackup(backup) = &mut request.work {
        backup.transport = TransportWish::HotAdd;
    }
    request
}

/// A node with so many slots that can do a transport beside EBS direct, or none.
async fn add_node(world: &World, slots: u32, can: Option<Transport>) -> NodeFigures {
    let mut transports = vec![Transport::EbsDirect];
    transports.extend(can);
    let node = NodeFigures { slots, transports, ..node() };
    world.store.node_seen(&node).await.unwrap();
    node
}

/// The world's own node can do nothing but EBS direct.
async fn world_of(url: String) -> World {
    let mut world = World::new(url).await;
    world.node.transports = vec![Transport::EbsDirect];
    world.hello().await;
    world
}

async fn claim_as(world: &World, offer: Offer, node: &NodeFigures) -> ClaimVerdict {
    let by = ClaimBy { node: node.id, incarnation: node.incarnation, ..world.by(offer) };
    world.store.claim(by, "test").await.unwrap()
}

async fn notes(world: &World, task: TaskId) -> Vec<String> {
    let job = world.store.task(task).await.unwrap().job;
    let tasks = world.store.job(job).await.unwrap().tasks;
    tasks.into_iter().flat_map(|task| task.notes).map(|note| note.text).collect()
}

pub(crate) async fn a_task_goes_to_a_node_that_can(url: String) {
    let world = world_of(url).await;
    let able = add_node(&world, 1, Some(Transport::HotAdd)).await;
    add_node(&world, 1, Some(Transport::Import)).await;
    world.submit(&hot_add(&world, "i-0a")).await;
    let offer = world.offer().await;
    match claim_as(&world, offer, &world.node).await {
        ClaimVerdict::NotYou(reason) => assert!(reason.contains("hot_add"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let granted = claim_as(&world, offer, &able).await;
    assert!(matches!(granted, ClaimVerdict::Granted(_)), "{granted:?}");
}

pub(crate) async fn a_task_waits_while_the_nodes_that_can_are_busy(url: String) {
    let world = world_of(url).await;
    let able = add_node(&world, 1, Some(Transport::HotAdd)).await;
    world.submit(&hot_add(&world, "i-0a")).await;
    let ClaimVerdict::Granted(first) = claim_as(&world, world.offer().await, &able).await else {
        panic!("not granted")
    };
    let waits = world.submit(&hot_add(&world, "i-0b")).await;
    world.clock.advance(Duration::from_secs(1));
    let other = world.submit(&world.backup("i-0c")).await;
    // It holds up nothing that other nodes can do.
    assert_eq!(world.offer().await.task, world.only_task(other).await);
    assert_eq!(world.try_offer().await, None);
    world.succeed(&first.spec).await;
    world.store.node_seen(&able).await.unwrap();
    assert_eq!(world.offer().await.task, world.only_task(waits).await);
}

pub(crate) async fn no_more_is_offered_than_the_nodes_that_can_have_room_for(url: String) {
    let world = world_of(url).await;
    add_node(&world, 2, Some(Transport::HotAdd)).await;
    for instance in ["i-0a", "i-0b", "i-0c"] {
        world.submit(&hot_add(&world, instance)).await;
    }
    world.offer().await;
    world.offer().await;
    assert_eq!(world.try_offer().await, None, "nodes that cannot would only hand it back");
}

pub(crate) async fn what_nobody_can_is_offered_to_be_refused_unless_it_was_begun(url: String) {
    let world = world_of(url).await;
    world.submit(&hot_add(&world, "i-0a")).await;
    // The agent says why it cannot.
    let spec = world.claim(world.offer().await).await;
    let error = TaskError { class: "invalid".to_owned(), message: String::new() };
    let refused = FinishOutcome::Failed { retryable: false, error };
    world.store.finish(spec.task, spec.fence, None, refused, &LIMITS).await.unwrap();

    let able = add_node(&world, 1, Some(Transport::HotAdd)).await;
    world.submit(&hot_add(&world, "i-0b")).await;
    let ClaimVerdict::Granted(begun) = claim_as(&world, world.offer().await, &able).await else {
        panic!("not granted")
    };
    let yielded = FinishOutcome::Yielded { shutting_down: true };
    world.store.finish(begun.spec.task, begun.spec.fence, None, yielded, &LIMITS).await.unwrap();
    world.clock.advance(Duration::from_secs(120));
    world.hello().await;
    assert_eq!(world.try_offer().await, None, "what was moved already is not thrown away");
    let since_ms = snapferry_scheduler::clock::Clock::wall_ms(&*world.clock) - 60_000;
    for _ in 0..2 {
        world.store.tell_waiting(since_ms).await.unwrap();
    }
    let told = notes(&world, begun.spec.task).await;
    let told = told.iter().filter(|text| text.contains("waits for an access node that can do hot_add"));
    assert_eq!(told.count(), 1);
    world.store.node_seen(&able).await.unwrap();
    assert_eq!(world.offer().await.task, begun.spec.task);
}

pub(crate) async fn another_queue_has_the_node_that_can(url: String) {
    let world = world_of(url).await;
    let elsewhere = NodeFigures {
        queue: "snapferry.task.v1.eu-central-1.linux.fast".to_owned(),
        group: "fast".to_owned(),
        transports: vec![Transport::EbsDirect, Transport::HotAdd],
        ..node()
    };
    world.store.node_seen(&elsewhere).await.unwrap();
    let job = world.submit(&hot_add(&world, "i-0a")).await;
    assert_eq!(world.try_offer().await, None, "not on the queue of those that cannot");
    let group = world.store.waiting().await.unwrap().remove(0);
    let offer = world.store.offer(&group, &elsewhere.queue, 0).await.unwrap().unwrap();
    assert_eq!(offer.task, world.only_task(job).await);
}

pub(crate) async fn staged_images_are_of_use_to_the_node_that_has_the_task(url: String) {
    let world = World::new(url).await;
    let (running, over) = (world.running("i-0a").await, world.running("i-0b").await);
    world.succeed(&over).await;
    let unknown = TaskId::generate();
    let all = [running.task, over.task, unknown];
    let here = world.store.no_longer_staged(world.node.id, &all).await.unwrap();
    assert_eq!(here, [over.task, unknown]);
    let elsewhere = world.store.no_longer_staged(node().id, &all).await.unwrap();
    assert_eq!(elsewhere, all, "another node has gone on with it");
}

pub(crate) async fn of_disk_images_it_is_said_whose_tasks_are_over(url: String) {
    let world = World::new(url).await;
    let (running, done, failed) =
        (world.running("i-0a").await, world.running("i-0b").await, world.running("i-0c").await);
    world.succeed(&done).await;
    let error = TaskError { class: "invalid".to_owned(), message: String::new() };
    let outcome = FinishOutcome::Failed { retryable: false, error };
    world.store.finish(failed.task, failed.fence, None, outcome, &LIMITS).await.unwrap();
    let unknown = TaskId::generate();
    let said = world.store.images_of(&[running.task, done.task, failed.task, unknown]).await.unwrap();
    assert_eq!(said, ImagesOfNode { over: vec![done.task, failed.task], unknown: vec![unknown] });
}
