//! The scheduler as its callers see it: the HTTP API through the client, and the lease service through gRPC.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod rig;
mod suite;

use futures::StreamExt as _;
use rig::{OPERATOR, Rig, TENANT, VIEWER};
use snapferry_api::hypervisor::{CreateRole, HypervisorQuery, Role};
use snapferry_api::job::{JobEvent, JobQuery, JobState};
use snapferry_api::page::PageQuery;
use snapferry_api::recovery_point::RecoveryPointQuery;
use snapferry_api::{ClientError, ProblemCode};
use snapferry_types::{JobId, TaskState};
use snapferry_wire::v1;
use suite::world::{admin, tenant};

fn code<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> ProblemCode {
    outcome.unwrap_err().code().unwrap()
}

#[tokio::test]
async fn a_backup_from_request_to_recovery_point() {
    let rig = Rig::start().await;
    let operator = rig.client(OPERATOR);
    let (_, acme) = rig.accounts().await;
    let node = rig.node().await;
    let job = operator.create_job(&rig.backup(&acme, "i-0a"), Some("k1")).await.unwrap();
    assert_eq!(job.summary.state, JobState::Queued);
    let again = operator.create_job(&rig.backup(&acme, "i-0a"), Some("k1")).await.unwrap();
    assert_eq!(again.summary.id, job.summary.id);
    let mut events = operator.watch_job(job.summary.id, None).await.unwrap();

    let granted = rig.claim_next(&node).await;
    assert!(granted.lease_ms > 0);
    let spec = snapferry_types::spec::TaskSpec::try_from(granted).unwrap();
    let mut lease = rig.lease().await;
    let progress =
        v1::Progress { phase: "read".to_owned(), blocks_total: 8, blocks_done: 3, ..Default::default() };
    let reply = lease
        .renew(v1::RenewRequest {
            task_id: spec.task.to_string(),
            fence: Some(spec.fence.into()),
            progress: Some(progress),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.desired(), v1::Desired::Run);
    let point = rig.seal(&spec, "i-0a", "snap-01").await;
    let stale = v1::Fence { epoch: spec.fence.epoch + 1, ..spec.fence.into() };
    let succeeded = v1::finish_request::Outcome::Succeeded(v1::Succeeded {
        made: vec![v1::Made {
            kind: "recovery_point".to_owned(),
            id: point.to_string(),
            source: String::new(),
        }],
    });
    let finish = |fence| v1::FinishRequest {
        task_id: spec.task.to_string(),
        fence: Some(fence),
        progress: None,
        phases: Vec::new(),
        log_excerpt: String::new(),
        outcome: Some(succeeded.clone()),
    };
    let refused = lease.finish(finish(stale)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    lease.finish(finish(spec.fence.into())).await.unwrap();
    lease.finish(finish(spec.fence.into())).await.unwrap();

    let mut last = None;
    let mut notes = Vec::new();
    while let Some(event) = events.next().await {
        match event.unwrap() {
            JobEvent::Job(job) => last = Some(*job),
            JobEvent::Note(note) => notes.push(note.text),
        }
    }
    let last = last.unwrap();
    assert_eq!(last.summary.state, JobState::Succeeded);
    assert_eq!(last.tasks[0].progress.blocks_done, 3);
    assert_eq!(last.tasks[0].made[0].id, point.to_string());
    assert_eq!(notes, ["attempt 1 begins", "succeeded"]);
    let shown = operator.recovery_point(point).await.unwrap();
    assert_eq!(shown.summary.media_agent, Some(rig.media_agent));
    let listed = operator.recovery_points(&RecoveryPointQuery::default()).await.unwrap();
    assert_eq!(listed.items, [shown.summary]);

    let metrics = reqwest::Client::new().get(format!("{}/metrics", rig.url)).bearer_auth(OPERATOR);
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    for line in [
        "# TYPE snapferry_scheduler_tasks gauge",
        "snapferry_scheduler_claims_total{verdict=\"granted\"} 1",
        "snapferry_scheduler_offers_published_total{outcome=\"confirmed\"} 1",
    ] {
        assert!(metrics.lines().any(|one| one == line), "{line} is not in:\n{metrics}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn bad_requests_are_refused_with_a_sentence() {
    let rig = Rig::start().await;
    let (_, acme) = rig.accounts().await;
    let raw = reqwest::Client::new();
    let post = async |path: &str, kind: &str, body: String| {
        let request =
            raw.post(format!("{}{path}", rig.url)).bearer_auth(OPERATOR).header("content-type", kind);
        let response = request.body(body).send().await.unwrap();
        let kind = response.headers().get("content-type").unwrap().to_str().unwrap().to_owned();
        assert_eq!(kind, "application/problem+json");
        let status = response.status().as_u16();
        let problem: snapferry_api::Problem = response.json().await.unwrap();
        assert_eq!(problem.status, status);
        (status, problem.detail)
    };
    let json = "application/json";
    assert_eq!(post("/v1/jobs", json, "{".to_owned()).await.0, 400);
    assert_eq!(post("/v1/jobs", "text/plain", "{}".to_owned()).await.0, 415);
    assert_eq!(post("/v1/jobs", json, " ".repeat((1 << 20) + 1)).await.0, 413);
    let unknown = format!(
        r#"{{"work":{{"kind":"streaming_backup","hypervisor":"{acme}","instances":["i-0a"]}},"prioritty":"low"}}"#
    );
    let (status, detail) = post("/v1/jobs", json, unknown).await;
    assert!(status == 400 && detail.contains("prioritty"), "{detail}");
    let wrong_kind = format!(
        r#"{{"work":{{"kind":"streaming_backup","hypervisor":"{}","instances":["i-0a"]}}}}"#,
        JobId::generate()
    );
    let (status, detail) = post("/v1/jobs", json, wrong_kind).await;
    assert!(status == 400 && detail.contains("is not a hypervisor id"), "{detail}");
    let no_instance =
        format!(r#"{{"work":{{"kind":"streaming_backup","hypervisor":"{acme}","instances":["x"]}}}}"#);
    let (status, detail) = post("/v1/jobs", json, no_instance).await;
    assert!(status == 400 && detail.contains("EC2 instance id"), "{detail}");
    let get = async |path: &str| {
        let response = raw.get(format!("{}{path}", rig.url)).bearer_auth(OPERATOR).send().await.unwrap();
        response.status().as_u16()
    };
    assert_eq!(get("/v1/jobs/nonsense").await, 400);
    assert_eq!(get(&format!("/v1/jobs/{}", JobId::generate())).await, 404);
    assert_eq!(get("/v1/jobs?limit=0").await, 400);
    assert_eq!(get("/v1/jobs?limit=99999").await, 400);
    assert_eq!(get("/v1/jobs?after=rubbish").await, 400);
    assert_eq!(get("/v1/jobs?hypervisr=x").await, 400);
    assert_eq!(get("/v1/nothing").await, 404);
    assert_eq!(get("/healthz").await, 200);
    assert_eq!(get("/metrics").await, 200);
    assert_eq!(get("/openapi.json").await, 200);

    let operator = rig.client(OPERATOR);
    let mut no_id = tenant("beta", &operator.hypervisor(acme).await.unwrap());
    if let CreateRole::Tenant { sign_in, .. } = &mut no_id.role {
        *sign_in = snapferry_api::hypervisor::TenantSignIn::AssumeRole {
            role_arn: "arn:aws:iam::333333333333:role/x".to_owned(),
            external_id: "x".into(),
        };
    }
    let refused = operator.create_hypervisor(&no_id).await.unwrap_err();
    assert!(refused.to_string().contains("333333333333"), "{refused}");
    rig.stop().await;
}

#[tokio::test]
async fn every_token_sees_only_what_it_may() {
    let rig = Rig::start().await;
    let (operator, viewer, own) = (rig.client(OPERATOR), rig.client(VIEWER), rig.client(TENANT));
    assert_eq!(
        code(rig.client("nobody-has-this-one").jobs(&JobQuery::default()).await),
        ProblemCode::Unauthenticated
    );
    assert_eq!(
        code(own.jobs(&JobQuery::default()).await),
        ProblemCode::Forbidden,
        "its hypervisor is not there yet"
    );
    let (service, acme) = rig.accounts().await;
    let admin = operator.hypervisor(service).await.unwrap();
    let other = operator.create_hypervisor(&tenant("other", &admin)).await.unwrap().id;
    let node = rig.node().await;

    assert_eq!(code(viewer.create_job(&rig.backup(&acme, "i-0a"), None).await), ProblemCode::Forbidden);
    assert_eq!(viewer.media_agents(&PageQuery::default()).await.unwrap().items.len(), 1);
    for refused in [
        code(own.access_nodes(&PageQuery::default()).await),
        code(own.media_agents(&PageQuery::default()).await),
        code(own.ledger(&Default::default()).await),
        code(own.create_hypervisor(&suite::world::admin()).await),
    ] {
        assert_eq!(refused, ProblemCode::Forbidden);
    }
    let seen = own.hypervisors(&HypervisorQuery::default()).await.unwrap().items;
    assert_eq!(seen.iter().map(|one| one.id).collect::<Vec<_>>(), [acme]);
    assert!(matches!(seen[0].role, Role::Tenant { use_admin_account_resources: None, .. }));
    assert_eq!(code(own.hypervisor(service).await), ProblemCode::NotFound);
    assert_eq!(code(own.create_job(&rig.backup(&other, "i-0a"), None).await), ProblemCode::NotFound);
    let theirs = operator.create_job(&rig.backup(&other, "i-0a"), None).await.unwrap().summary.id;
    assert_eq!(code(own.job(theirs).await), ProblemCode::NotFound);
    assert_eq!(code(own.cancel_job(theirs).await), ProblemCode::NotFound);
    assert_eq!(code(own.watch_job(theirs, None).await), ProblemCode::NotFound);
    assert!(own.jobs(&JobQuery::default()).await.unwrap().items.is_empty());
    operator.cancel_job(theirs).await.unwrap();

    let mine = own.create_job(&rig.backup(&acme, "i-0a"), None).await.unwrap().summary.id;
    let spec = snapferry_types::spec::TaskSpec::try_from(rig.claim_next(&node).await).unwrap();
    let mut lease = rig.lease().await;
    let message = format!("MediaAgent {} at {} hung up on {}", rig.media_agent, rig::ENDPOINT, node.node_id);
    lease
        .finish(v1::FinishRequest {
            task_id: spec.task.to_string(),
            fence: Some(spec.fence.into()),
            progress: None,
            phases: Vec::new(),
            log_excerpt: String::new(),
            outcome: Some(v1::finish_request::Outcome::Failed(v1::Failed {
                retryable: false,
                error_class: "media_agent_unavailable".to_owned(),
                message,
            })),
        })
        .await
        .unwrap();
    let task = own.job(mine).await.unwrap().tasks.remove(0);
    assert_eq!((task.state, task.access_node, task.media_agent), (TaskState::Failed, None, None));
    let shown = serde_json::to_string(&task).unwrap();
    for hidden in [rig.media_agent.to_string(), node.node_id.clone(), rig::ENDPOINT.to_owned()] {
        assert!(!shown.contains(&hidden), "{hidden} is in {shown}");
        let full = serde_json::to_string(&operator.job(mine).await.unwrap()).unwrap();
        assert!(full.contains(&hidden), "operators see {hidden}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn secrets_never_come_out() {
    let rig = Rig::start().await;
    rig.accounts().await;
    let raw = reqwest::Client::new();
    for path in ["/v1/hypervisors", "/openapi.json", "/metrics"] {
        let text = raw
            .get(format!("{}{path}", rig.url))
            .bearer_auth(OPERATOR)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        assert!(!text.contains(suite::world::SECRET));
    }
    let wrong = rig.client(OPERATOR).create_hypervisor(&admin()).await.unwrap_err();
    assert_eq!(wrong.code(), Some(ProblemCode::Conflict), "{wrong}");
    rig.stop().await;
}

#[tokio::test]
async fn a_second_process_of_a_node_is_refused_until_the_first_says_farewell() {
    let rig = Rig::start().await;
    let node = rig.node().await;
    let mut lease = rig.lease().await;
    let mut second = node.clone();
    second.incarnation = snapferry_types::IncarnationId::generate().to_string();
    let refused = lease.node_hello(second.clone()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::AlreadyExists);
    let farewell = v1::NodeHelloRequest { slots: 0, ..node };
    assert!(!lease.node_hello(farewell).await.unwrap().into_inner().accept_work);
    assert!(lease.node_hello(second).await.unwrap().into_inner().accept_work);
    rig.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_stops_its_agent() {
    let rig = Rig::start().await;
    let operator = rig.client(OPERATOR);
    let (_, acme) = rig.accounts().await;
    let node = rig.node().await;
    let job = operator.create_job(&rig.backup(&acme, "i-0a"), None).await.unwrap().summary.id;
    let spec = snapferry_types::spec::TaskSpec::try_from(rig.claim_next(&node).await).unwrap();
    assert_eq!(operator.cancel_job(job).await.unwrap().summary.state, JobState::Cancelling);
    let mut lease = rig.lease().await;
    let renew = v1::RenewRequest {
        task_id: spec.task.to_string(),
        fence: Some(spec.fence.into()),
        ..Default::default()
    };
    let reply = lease.renew(renew).await.unwrap().into_inner();
    assert_eq!(reply.desired(), v1::Desired::Cancel);
    let cancelled = v1::FinishRequest {
        task_id: spec.task.to_string(),
        fence: Some(spec.fence.into()),
        progress: None,
        phases: Vec::new(),
        log_excerpt: String::new(),
        outcome: Some(v1::finish_request::Outcome::Cancelled(v1::Cancelled {})),
    };
    lease.finish(cancelled).await.unwrap();
    assert_eq!(operator.job(job).await.unwrap().summary.state, JobState::Cancelled);
    rig.stop().await;
}

#[tokio::test]
async fn new_work_is_checked_and_only_operators_choose_machines() {
    let rig = Rig::start().await;
    let (operator, viewer, own) = (rig.client(OPERATOR), rig.client(VIEWER), rig.client(TENANT));
    let (service, acme) = rig.accounts().await;
    rig.node().await;
    let raw = reqwest::Client::new();
    let post = async |token: &str, work: String| {
        let body = format!("{{\"work\":{work}}}");
        let request = raw.post(format!("{}/v1/jobs", rig.url)).bearer_auth(token);
        let response = request.header("content-type", "application/json").body(body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let point = snapferry_types::RecoveryPointId::generate();
    let agent = rig.media_agent;
    for (work, status, sentence) in [
        (
            format!(r#"{{"kind":"intelli_snap","hypervisor":"{acme}","instances":[]}}"#),
            400,
            "instances: name 1",
        ),
        (
            format!(
                r#"{{"kind":"intelli_snap","hypervisor":"{acme}","instances":["i-0a"],"retention":{{}}}}"#
            ),
            400,
            "retention: give days",
        ),
        (
            format!(
                r#"{{"kind":"intelli_snap","hypervisor":"{acme}","instances":["i-0a"],"retention":{{"days":0}}}}"#
            ),
            400,
            "days are 1 to",
        ),
        (
            format!(r#"{{"kind":"backup_copy","hypervisor":"{acme}","transport":"import"}}"#),
            400,
            "import only writes",
        ),
        (format!(r#"{{"kind":"backup_copy","hypervisor":"{acme}"}}"#), 409, "nothing to copy"),
        (
            format!(
                r#"{{"kind":"backup_copy","hypervisor":"{acme}","recovery_points":["{point}","{point}"]}}"#
            ),
            400,
            "named twice",
        ),
        (
            format!(
                r#"{{"kind":"restore","recovery_point":"{point}","target":{{"kind":"disk_image","folder":"a/../b"}}}}"#
            ),
            400,
            "folder:",
        ),
    ] {
        let (found, body) = post(OPERATOR, work).await;
        assert!(found == status && body.contains(sentence), "{found}: {body}");
    }
    for work in [
        format!(r#"{{"kind":"backup_copy","hypervisor":"{acme}","media_agent":"{agent}"}}"#),
        format!(
            r#"{{"kind":"restore","recovery_point":"{point}","target":{{"kind":"disk_image","folder":"a"}}}}"#
        ),
    ] {
        let (status, body) = post(TENANT, work).await;
        assert!(status == 403 && body.contains("only an operator"), "{status}: {body}");
    }

    let nothing = own.reconcile(acme).await.unwrap();
    assert_eq!((nothing.n_checked, nothing.missing.len()), (0, 0));
    operator.reconcile(acme).await.unwrap();
    assert_eq!(code(viewer.reconcile(acme).await), ProblemCode::Forbidden);
    assert_eq!(code(own.reconcile(service).await), ProblemCode::NotFound);
    assert_eq!(code(operator.reconcile(service).await), ProblemCode::InvalidRequest);
    rig.stop().await;
}

#[tokio::test]
async fn replication_and_conversion_are_refused_with_the_reason_and_the_way_out() {
    const FOREIGN: [&str; 4] = [
        "may not use another account's resources",
        "use EBS direct",
        "or an access node in the target account without the option",
        "this version does no replication or conversion yet",
    ];
    const NOT_YET: [&str; 2] = ["not available yet", "the rules allow it, this version does not do it"];
    const NOTHING_TO_CONVERT: [&str; 2] =
        ["comes from another vendor", "already use replication or a restore"];
    let rig = Rig::start().await;
    let (service, acme) = rig.accounts().await;
    let raw = reqwest::Client::new();
    let refused = async |token: &str, path: &str, body: String| {
        let request = raw.post(format!("{}{path}", rig.url)).bearer_auth(token);
        let response = request.header("content-type", "application/json").body(body).send().await.unwrap();
        let problem: snapferry_api::Problem = response.json().await.unwrap();
        (problem.status, problem.detail)
    };
    for (kind, vendor, foreign, other) in [
        ("replication", "amazon", &FOREIGN[..], &NOT_YET[..]),
        ("replication", "vmware", &FOREIGN[..], &NOT_YET[..]),
        ("conversion", "vmware", &FOREIGN[..], &NOT_YET[..]),
        ("conversion", "amazon", &NOTHING_TO_CONVERT[..], &NOTHING_TO_CONVERT[..]),
    ] {
        let name = if vendor == "amazon" { "Amazon" } else { "VMware" };
        let from = format!("{kind} from {name} to Amazon");
        for (transport, sentences) in
            [("hot_add", foreign), ("import", foreign), ("ebs_direct", other), ("automatic", other)]
        {
            let body = format!(
                r#"{{"work":{{"kind":"{kind}","hypervisor":"{acme}","from":"{vendor}","machines":["a"],"transport":"{transport}"}}}}"#
            );
            // The tenant's own token is told the same.
            for token in [OPERATOR, TENANT] {
                let (status, why) = refused(token, "/v1/jobs", body.clone()).await;
                assert_eq!(status, 400, "{body}: {why}");
                for sentence in sentences {
                    assert!(why.contains(sentence), "{body}: {sentence} is not in: {why}");
                }
                if sentences != NOTHING_TO_CONVERT {
                    assert!(why.contains(&from), "{body}: {why}");
                }
                let is_by = sentences == NOT_YET;
                assert_eq!(why.contains(&format!("{from}, by EBS direct")), is_by, "{body}: {why}");
            }
        }
    }
    let into_service = format!(
        r#"{{"work":{{"kind":"replication","hypervisor":"{service}","from":"amazon","machines":["a"],"transport":"hot_add"}}}}"#
    );
    let (status, why) = refused(OPERATOR, "/v1/jobs", into_service).await;
    assert!(status == 400 && why.contains("is an admin hypervisor; name a tenant"), "{status}: {why}");

    // A tenant with an access node of its own, which the way out speaks of, is none that the API knows yet.
    let own = r#"{"name":"own","account":"333333333333","regions":["eu-central-1"],"role":{"kind":"tenant",
        "sign_in":{"kind":"access_key","access_key_id":"AKIAAAAAAAAAAAAAAAAA","secret_access_key":"x"}}}"#;
    let (status, why) = refused(OPERATOR, "/v1/hypervisors", own.to_owned()).await;
    assert!(status == 400 && why.contains("use_admin_account_resources"), "{status}: {why}");
    let jobs = rig.client(OPERATOR).jobs(&JobQuery::default()).await.unwrap().items;
    assert!(jobs.is_empty(), "{jobs:?}");
    rig.stop().await;
}
