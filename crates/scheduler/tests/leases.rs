//! The watch over leases, the dispatcher and the outbox, on clocks that the test turns.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod suite;

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use snapferry_api::job::Priority;
use snapferry_queue::{EmbeddedQueue, QueueName, TicketPublisher as _};
use snapferry_scheduler::clock::Clock as _;
use snapferry_scheduler::config::{DispatchConfig, LeaseConfig};
use snapferry_scheduler::dispatch::Dispatcher;
use snapferry_scheduler::dispatch::outbox::Outbox;
use snapferry_scheduler::lease::LeaseWatch;
use snapferry_scheduler::metrics::Metrics;
use snapferry_scheduler::store::{ClaimBy, ClaimVerdict, StoreError};
use snapferry_types::TaskState;
use suite::world::{QUEUE, World, tenant};

struct Rig {
    world: World,
    metrics: Metrics,
    _folder: tempfile::TempDir,
}

async fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(format!("sqlite:{}", folder.path().join("db").display())).await;
    Rig { world, metrics: Metrics::register(&Registry::new()).unwrap(), _folder: folder }
}

impl Rig {
    fn watch(&self) -> LeaseWatch {
        let clock = self.world.clock.clone();
        LeaseWatch::new(self.world.store.clone(), clock, &LeaseConfig::default(), self.metrics.clone())
    }

    fn dispatcher(&self) -> Dispatcher {
        Dispatcher::new(
            self.world.store.clone(),
            self.world.clock.clone(),
            DispatchConfig::default(),
            Duration::from_secs(60),
            self.metrics.clone(),
        )
    }

    /// Lets time pass as it does: with a round every few seconds.
    async fn pass(&self, watch: &LeaseWatch, seconds: u64) {
        for _ in 0..seconds / 5 {
            self.world.clock.advance(Duration::from_secs(5));
            watch.round().await.unwrap();
        }
    }

    async fn state(&self, task: snapferry_types::TaskId) -> TaskState {
        self.world.store.task(task).await.unwrap().state
    }
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_runs_out_and_is_given_up() {
    let rig = rig().await;
    let watch = rig.watch();
    let spec = rig.world.running("i-0a").await;
    watch.renewed(spec.task, spec.fence.epoch, rig.world.clock.mono());
    rig.pass(&watch, 95).await;
    assert_eq!(rig.state(spec.task).await, TaskState::Running, "90 s and 10 s of grace are not over");
    rig.pass(&watch, 5).await;
    assert_eq!(rig.state(spec.task).await, TaskState::Suspect);
    rig.pass(&watch, 25).await;
    assert_eq!(rig.state(spec.task).await, TaskState::Suspect);
    rig.pass(&watch, 5).await;
    assert_eq!(rig.state(spec.task).await, TaskState::RetryWait);
    assert_eq!(rig.world.store.task(spec.task).await.unwrap().crashes, 1);
}

#[tokio::test]
async fn a_renewed_lease_lives() {
    let rig = rig().await;
    let watch = rig.watch();
    let spec = rig.world.running("i-0a").await;
    for _ in 0..20 {
        watch.renewed(spec.task, spec.fence.epoch, rig.world.clock.mono());
        rig.pass(&watch, 20).await;
    }
    assert_eq!(rig.state(spec.task).await, TaskState::Running);
    rig.pass(&watch, 80).await;
    assert_eq!(rig.state(spec.task).await, TaskState::Suspect);
    watch.renewed(spec.task, spec.fence.epoch, rig.world.clock.mono());
    rig.world.store.renew(spec.task, spec.fence, None).await.unwrap();
    rig.pass(&watch, 60).await;
    assert_eq!(rig.state(spec.task).await, TaskState::Running, "a suspect that came back has a whole lease");
}

#[tokio::test]
async fn a_scheduler_that_was_blind_gives_fresh_leases() {
    let rig = rig().await;
    let spec = rig.world.running("i-0a").await;
    // Restarted: the new process knows no deadline.
    let watch = rig.watch();
    rig.world.clock.advance(Duration::from_secs(3_600));
    watch.round().await.unwrap();
    rig.pass(&watch, 95).await;
    assert_eq!(rig.state(spec.task).await, TaskState::Running);

    // Stopped for ten minutes and woken.
    rig.world.clock.advance(Duration::from_secs(600));
    watch.round().await.unwrap();
    rig.pass(&watch, 95).await;
    assert_eq!(rig.state(spec.task).await, TaskState::Running);

    // The database did not answer.
    watch.blind();
    rig.pass(&watch, 95).await;
    assert_eq!(rig.state(spec.task).await, TaskState::Running);
    rig.pass(&watch, 10).await;
    assert_eq!(rig.state(spec.task).await, TaskState::Suspect, "and then it is really over");
}

#[tokio::test]
async fn the_queue_is_kept_short() {
    let rig = rig().await;
    for n in 0..9 {
        rig.world.submit(&rig.world.backup(&format!("i-0{n}"))).await;
    }
    let mut dispatcher = rig.dispatcher();
    assert_eq!(dispatcher.round().await.unwrap(), 3, "two free slots and a quarter, rounded up");
    assert_eq!(dispatcher.round().await.unwrap(), 0);
    let offer = rig.world.store.open_offers().await.unwrap()[0];
    rig.world.claim(offer).await;
    assert_eq!(dispatcher.round().await.unwrap(), 0, "the claim took a slot");
    let mut second = suite::world::node();
    second.slots = 4;
    rig.world.store.node_seen(&second).await.unwrap();
    assert_eq!(dispatcher.round().await.unwrap(), 5, "6 slots, 1 leased, 2 to spare, 2 offered");
}

#[tokio::test]
async fn an_offer_that_nobody_takes_is_made_again() {
    let rig = rig().await;
    let job = rig.world.submit(&rig.world.backup("i-0a")).await;
    let task = rig.world.only_task(job).await;
    let mut dispatcher = rig.dispatcher();
    dispatcher.round().await.unwrap();
    let first = rig.world.store.open_offers().await.unwrap()[0];
    rig.world.clock.advance(Duration::from_secs(119));
    rig.world.hello().await;
    dispatcher.round().await.unwrap();
    assert_eq!(rig.world.store.open_offers().await.unwrap(), [first]);
    rig.world.clock.advance(Duration::from_secs(2));
    dispatcher.round().await.unwrap();
    let second = rig.world.store.open_offers().await.unwrap()[0];
    assert_eq!(second.task, task);
    assert_ne!(second.dispatch, first.dispatch);
    assert_eq!(rig.world.store.outbox(10).await.unwrap().len(), 1, "the old offer is not published any more");
    let verdict = rig.world.store.claim(rig.world.by(first), "test").await.unwrap();
    assert!(matches!(verdict, ClaimVerdict::Gone(_)));
    rig.world.claim(second).await;
}

#[tokio::test]
async fn a_small_tenant_is_offered_beside_a_large_one() {
    let rig = rig().await;
    let small = rig.world.store.create_hypervisor(&tenant("small", &rig.world.admin)).await.unwrap();
    for n in 0..40 {
        rig.world.submit(&rig.world.backup(&format!("i-0{n:02}"))).await;
    }
    let mut theirs = rig.world.backup("i-0aa");
    if let snapferry_api::job::Work::StreamingBackup(backup) = &mut theirs.work {
        backup.hypervisor = small.id;
    }
    theirs.priority = Priority::Normal;
    let job = rig.world.submit(&theirs).await;
    rig.dispatcher().round().await.unwrap();
    let task = rig.world.store.job(job).await.unwrap().tasks.remove(0);
    assert_eq!(task.state, TaskState::Dispatched, "not behind the forty");
}

#[tokio::test]
async fn the_outbox_outlives_an_outage_and_a_missing_queue() {
    let rig = rig().await;
    let queue = EmbeddedQueue::default();
    let name: QueueName = QUEUE.parse().unwrap();
    let outbox = Outbox::new(rig.world.store.clone(), Arc::new(queue.clone()), rig.metrics.clone());
    rig.world.submit(&rig.world.backup("i-0a")).await;
    let offer = rig.world.offer().await;
    queue.set_unavailable(true);
    let published = outbox.flush().await.unwrap();
    assert_eq!((published.n_confirmed, published.n_failed), (0, 1));
    assert_eq!(rig.world.store.outbox(10).await.unwrap().len(), 1, "an outage loses nothing");
    queue.set_unavailable(false);
    assert_eq!(outbox.flush().await.unwrap().n_confirmed, 1, "a missing queue is declared");
    assert_eq!(queue.n_ready(&name), 1);
    assert!(rig.world.store.outbox(10).await.unwrap().is_empty());

    // Confirmed, but the process died before it noted that: the offer goes out twice and runs once.
    let again = snapferry_wire::Ticket {
        task: offer.task,
        dispatch: offer.dispatch,
        kind: snapferry_types::TaskKind::StreamingBackup,
    };
    queue.publish(&name, &again).await.unwrap();
    assert_eq!(queue.n_ready(&name), 2);
    rig.world.claim(offer).await;
    let other = suite::world::node();
    rig.world.store.node_seen(&other).await.unwrap();
    let late = ClaimBy { node: other.id, incarnation: other.incarnation, ..rig.world.by(offer) };
    assert!(matches!(rig.world.store.claim(late, "test").await.unwrap(), ClaimVerdict::Gone(_)));
}

#[tokio::test]
async fn an_older_scheduler_stops_when_another_has_the_database() {
    let rig = rig().await;
    let spec = rig.world.running("i-0a").await;
    let watch = rig.watch();
    watch.round().await.unwrap();
    let vault = suite::world::vault();
    let newer = snapferry_scheduler::store::Store::open(&rig.world.url, vault, rig.world.clock.clone());
    let newer = newer.await.unwrap();
    rig.world.clock.advance(Duration::from_secs(3_600));
    assert!(matches!(watch.round().await, Err(StoreError::Superseded)));
    assert_eq!(newer.task(spec.task).await.unwrap().state, TaskState::Running, "it expires nothing any more");
}
