//! Jobs and hypervisors.

use std::time::Duration;

use snapferry_api::hypervisor::HypervisorQuery;
use snapferry_api::job::{JobQuery, JobState, Work};
use snapferry_scheduler::clock::Clock as _;
use snapferry_scheduler::store::{Gauges, Step, Store, StoreError, Submission};
use snapferry_scheduler::vault::Vault;
use snapferry_types::TaskState;

use super::world::{World, tenant};

pub(crate) async fn a_repeated_key_makes_one_job(url: String) {
    let world = World::new(url).await;
    let request = world.backup("i-0a");
    let keyed = Submission { request: &request, idempotency_key: Some("a\nk".to_owned()), only: None };
    let first = world.store.submit(&keyed).await.unwrap();
    let (second, third) = tokio::join!(world.store.submit(&keyed), world.store.submit(&keyed));
    assert!(first.new);
    for again in [second.unwrap(), third.unwrap()] {
        assert_eq!((again.job, again.new), (first.job, false));
    }
    let other = world.backup("i-0b");
    let reused = Submission { request: &other, ..keyed.clone() };
    assert!(
        matches!(world.store.submit(&reused).await, Err(StoreError::IdempotencyMismatch(key)) if key == "k")
    );
    assert_eq!(world.store.jobs(&JobQuery::default(), 10).await.unwrap().items.len(), 1);

    // Two at once with a new key are one job, too.
    let keyed = Submission { request: &request, idempotency_key: Some("a\nnew".to_owned()), only: None };
    let (one, two) = tokio::join!(world.store.submit(&keyed), world.store.submit(&keyed));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.job, two.job);
    assert!(one.new != two.new);
}

pub(crate) async fn impossible_and_foreign_work_is_refused(url: String) {
    let world = World::new(url).await;
    let request = world.backup("i-0a");
    let foreign = Submission { request: &request, idempotency_key: None, only: Some(world.admin.id) };
    assert!(matches!(world.store.submit(&foreign).await, Err(StoreError::NotFound { .. })));
    let mut of_admin = request.clone();
    let mut elsewhere = request.clone();
    if let (Work::StreamingBackup(admin), Work::StreamingBackup(region)) =
        (&mut of_admin.work, &mut elsewhere.work)
    {
        admin.hypervisor = world.admin.id;
        region.region = Some("us-east-1".parse().unwrap());
    }
    for request in [&of_admin, &elsewhere] {
        let submission = Submission { request, idempotency_key: None, only: None };
        assert!(matches!(world.store.submit(&submission).await, Err(StoreError::Invalid(_))));
    }
    assert!(world.store.jobs(&JobQuery::default(), 10).await.unwrap().items.is_empty());
}

pub(crate) async fn what_there_is_is_counted(url: String) {
    let world = World::new(url).await;
    let since_ms = world.clock.wall_ms();
    let there =
        Gauges { nodes_online: 1, nodes: 1, media_agents_online: 1, media_agents: 1, ..Gauges::default() };
    assert_eq!(world.store.gauges(since_ms).await.unwrap(), there);
    world.submit(&world.backup("i-0a")).await;
    world.clock.advance(Duration::from_secs(7));
    let later = world.store.gauges(since_ms + 1).await.unwrap();
    assert_eq!(later, Gauges { nodes_online: 0, media_agents_online: 0, longest_wait_ms: 7_000, ..there });
}

pub(crate) async fn lists_come_in_pages(url: String) {
    let world = World::new(url).await;
    let mut asked = Vec::new();
    for n in 0..5 {
        asked.push(world.submit(&world.backup(&format!("i-0{n}"))).await);
    }
    asked.sort();
    asked.reverse();
    let mut seen = Vec::new();
    let mut query = JobQuery::default();
    loop {
        let page = world.store.jobs(&query, 2).await.unwrap();
        seen.extend(page.items.iter().map(|job| job.id));
        match page.next {
            Some(next) => query.after = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, asked);
    let open = JobQuery { open: Some(true), hypervisor: Some(world.tenant.id), ..JobQuery::default() };
    assert_eq!(world.store.jobs(&open, 100).await.unwrap().items.len(), 5);
    world.store.cancel_job(asked[0]).await.unwrap();
    assert_eq!(world.store.jobs(&open, 100).await.unwrap().items.len(), 4);
    let named = HypervisorQuery { name: Some("acme".to_owned()), ..HypervisorQuery::default() };
    assert_eq!(world.store.hypervisors(&named, 10).await.unwrap().items, std::slice::from_ref(&world.tenant));
}

pub(crate) async fn a_cancelled_job_ends_where_nobody_works(url: String) {
    let world = World::new(url).await;
    let waiting = world.submit(&world.backup("i-0a")).await;
    world.store.cancel_job(waiting).await.unwrap();
    assert_eq!(world.store.job(waiting).await.unwrap().summary.state, JobState::Cancelled);

    let offered = world.submit(&world.backup("i-0b")).await;
    world.offer().await;
    assert_eq!(world.store.outbox(10).await.unwrap().len(), 1);
    world.store.cancel_job(offered).await.unwrap();
    assert!(world.store.outbox(10).await.unwrap().is_empty(), "a cancelled offer is not published");

    let spec = world.running("i-0c").await;
    world.store.cancel_job(spec.job).await.unwrap();
    let job = world.store.job(spec.job).await.unwrap();
    assert_eq!(job.summary.state, JobState::Cancelling);
    assert_eq!(job.tasks[0].state, TaskState::Running, "its agent is told at the next renewal");
}

pub(crate) async fn a_hypervisor_in_use_stays(url: String) {
    let world = World::new(url).await;
    let refused = world.store.delete_hypervisor(world.admin.id).await;
    assert!(matches!(refused, Err(StoreError::Conflict(why)) if why.contains("tenant")));
    let job = world.submit(&world.backup("i-0a")).await;
    let refused = world.store.delete_hypervisor(world.tenant.id).await;
    assert!(matches!(refused, Err(StoreError::Conflict(why)) if why.contains("unfinished")));
    world.store.cancel_job(job).await.unwrap();
    // What is over leaves an attempt, a note and a checkpoint, and none of that holds the account.
    let spec = world.running("i-0b").await;
    let note = Step::Note { warning: false, text: "on its way".to_owned() };
    for step in [note, Step::Checkpoint(vec![1])] {
        world.record(&spec, step).await.unwrap();
    }
    world.succeed(&spec).await;
    assert_eq!(world.store.job(spec.job).await.unwrap().tasks[0].attempts, 1);
    world.store.delete_hypervisor(world.tenant.id).await.unwrap();
    world.store.delete_hypervisor(world.admin.id).await.unwrap();
    assert!(matches!(world.store.hypervisor(world.tenant.id).await, Err(StoreError::NotFound { .. })));
}

pub(crate) async fn secrets_open_only_with_their_key(url: String) {
    let world = World::new(url).await;
    let taken = world.store.create_hypervisor(&tenant("acme", &world.admin)).await;
    assert!(matches!(taken, Err(StoreError::Conflict(_))));
    let of_tenant = world.store.create_hypervisor(&tenant("beta", &world.tenant)).await;
    assert!(matches!(of_tenant, Err(StoreError::Invalid(_))));
    let mut direct = world.backup("i-0a");
    if let Work::StreamingBackup(backup) = &mut direct.work {
        backup.transport = snapferry_types::TransportWish::EbsDirect;
    }
    let spec = world.at_work(direct.work).await;
    assert_eq!(spec.tenant_access.roles.len(), 1);
    assert!(spec.service_access.is_none(), "the tenant reads, so the service account stays home");
    let open = world.running("i-0b").await;
    assert!(
        open.service_access.is_some(),
        "any transport may be chosen, so the service account may have a part"
    );
    let wrong = Store::open(&world.url, Vault::new(&[8; 32]).unwrap(), world.clock.clone()).await;
    assert!(matches!(wrong, Err(StoreError::Vault(_))));
}
