//! What the programs and the API say to bad input: which thing, and the way out.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use snapferry_api::hypervisor::{CreateHypervisor, CreateRole, ReadAs, TenantSignIn};
use snapferry_api::problem::CONTENT_TYPE;
use snapferry_testkit::Process;
use snapferry_tests::{REGION, Rig, RigOptions, TOKENS, TestInstance};
use snapferry_types::{JobId, RecoveryPointId};

#[tokio::test]
async fn a_configuration_with_an_unknown_key_ends_with_code_2_and_names_key_and_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    let cases = [
        (
            "snapferry-scheduler",
            None,
            "deployment = 'd'\ndatabase = 'sqlite:x'\n[http]\nlisen = '127.0.0.1:0'",
        ),
        (
            "snapferry-media-agent",
            None,
            "name = 'm'\nlisten = '127.0.0.1:0'\n[library]\ndir = 'x'\nlisen = 1",
        ),
        ("snapferry-agent", None, "[agent]\nname = 'a'\ndata_dir = 'x'\nregion = 'eu-central-1'\nlisen = 1"),
        ("snapferry", Some("up"), "lisen = 1"),
    ];
    for (binary, command, text) in cases {
        std::fs::write(&file, text).unwrap();
        let path = file.to_string_lossy();
        let arguments: Vec<&str> = command.into_iter().chain(["--config", &path]).collect();
        let mut process =
            Process::spawn(binary, &arguments, &[], &folder.path().join(format!("{binary}.log"))).unwrap();
        let status = process.wait(Duration::from_secs(30)).await.unwrap();
        let log = process.log().unwrap();
        assert_eq!(status.code(), Some(2), "{binary}: {log}");
        assert!(log.contains("lisen") && log.contains(&*path), "{binary}: {log}");
    }
}

/// A request as anybody may send it, and the problem that must come back.
struct Api<'a> {
    rig: &'a Rig,
    http: reqwest::Client,
}

impl Api<'_> {
    async fn refuses(
        &self,
        (status, says): (u16, &str),
        token: &str,
        (method, path): (Method, String),
        body: Option<(&str, Vec<u8>)>,
    ) {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.rig.api_url()));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some((content_type, body)) = body {
            request = request.header("content-type", content_type).body(body);
        }
        let response = request.send().await.unwrap();
        let what = format!("{method} {path}");
        assert_eq!(response.status(), StatusCode::from_u16(status).unwrap(), "{what}");
        assert_eq!(response.headers().get("content-type").unwrap(), CONTENT_TYPE, "{what}");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["status"], status, "{what}: {problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{what}: {detail:?} does not say {says:?}");
        assert!(detail.len() < 1_000, "{what}: bad input comes back whole: {detail:?}");
    }
}

fn get(path: impl Into<String>) -> (Method, String) {
    (Method::GET, path.into())
}

fn post(path: impl Into<String>) -> (Method, String) {
    (Method::POST, path.into())
}

fn backup(hypervisor: impl std::fmt::Display, region: &str) -> (&'static str, Vec<u8>) {
    let body = json!({ "work": {
        "kind": "streaming_backup",
        "hypervisor": hypervisor.to_string(),
        "instances": ["i-0123456789abcdef0"],
        "region": region,
    } });
    ("application/json", body.to_string().into_bytes())
}

fn restore(recovery_point: impl std::fmt::Display) -> (&'static str, Vec<u8>) {
    let body = json!({ "work": {
        "kind": "restore",
        "recovery_point": recovery_point.to_string(),
        "target": { "kind": "volumes" },
    } });
    ("application/json", body.to_string().into_bytes())
}

fn json_text(text: &str) -> Option<(&'static str, Vec<u8>)> {
    Some(("application/json", text.as_bytes().to_vec()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_answers_bad_requests_with_a_problem_that_helps() {
    let rig =
        Rig::start(RigOptions { n_agents: 1, with_tokens: true, ..RigOptions::default() }).await.unwrap();
    let stranger = CreateHypervisor {
        name: "stranger".to_owned(),
        account: "333333333333".parse().unwrap(),
        regions: vec![REGION.parse().unwrap()],
        endpoint_url: Some(rig.sim.endpoint()),
        read_as: ReadAs::Tenant,
        role: CreateRole::Tenant {
            use_admin_account_resources: rig.provider,
            sign_in: TenantSignIn::AssumeRole {
                role_arn: "arn:aws:iam::333333333333:role/snapferry".to_owned(),
                external_id: "of-the-stranger".into(),
            },
        },
    };
    rig.client.create_hypervisor(&stranger).await.unwrap();
    let instance = TestInstance::place(rig.sim.context(), "one", 2).unwrap();
    let job = rig.succeed(rig.back_up(&instance.id).await.unwrap()).await.unwrap();
    let (job_id, point) = (job.summary.id, Rig::recovery_point(&job).unwrap());
    let api = Api { rig: &rig, http: reqwest::Client::new() };
    let jobs = || post("/v1/jobs");
    let operator = TOKENS.operator;

    // Malformed.
    api.refuses((400, "line 1"), operator, jobs(), json_text("{ \"work\": ")).await;
    api.refuses((400, "wrk"), operator, jobs(), json_text("{ \"wrk\": 1 }")).await;
    api.refuses((415, "application/json"), operator, jobs(), Some(("text/plain", b"{}".to_vec()))).await;
    api.refuses((413, "1 MiB"), operator, jobs(), json_text(&" ".repeat((1 << 20) + 1))).await;
    api.refuses((400, "nonsense"), operator, get("/v1/jobs/nonsense"), None).await;
    api.refuses((400, "nonsense"), operator, get("/v1/recovery-points/nonsense"), None).await;
    api.refuses((400, "limit"), operator, get("/v1/jobs?limit=0"), None).await;
    api.refuses(
        (400, "i-xyz"),
        operator,
        jobs(),
        json_text(&format!(
            r#"{{"work":{{"kind":"streaming_backup","hypervisor":"{}","instances":["i-xyz"]}}}}"#,
            rig.tenant
        )),
    )
    .await;
    api.refuses((404, "openapi"), operator, get("/v1/nothing"), None).await;

    // Oversized.
    let long = "j".repeat(7_000);
    api.refuses((400, "jjjj"), operator, get(format!("/v1/jobs/{long}")), None).await;
    api.refuses((400, "jjjj"), operator, get(format!("/v1/recovery-points/{long}")), None).await;
    api.refuses((400, "jjjj"), operator, jobs(), Some(backup(&long, REGION))).await;
    api.refuses((400, "jjjj"), operator, jobs(), Some(backup(rig.tenant, &long))).await;
    api.refuses((400, "jjjj"), operator, jobs(), Some(restore(&long))).await;

    // Unknown.
    let (no_job, no_point) = (JobId::generate(), RecoveryPointId::generate());
    let no_job = no_job.to_string();
    api.refuses((404, &no_job), operator, get(format!("/v1/jobs/{no_job}")), None).await;
    api.refuses((404, &no_point.to_string()), operator, jobs(), Some(restore(no_point))).await;
    // Which region was asked for, and which there are.
    api.refuses((400, "eu-west-3"), operator, jobs(), Some(backup(rig.tenant, "eu-west-3"))).await;
    api.refuses((400, "nowhere"), operator, jobs(), Some(backup(rig.tenant, "nowhere"))).await;

    // Foreign: another tenant's things do not exist.
    let other = TOKENS.stranger;
    let (job_path, point_path) = (format!("/v1/jobs/{job_id}"), format!("/v1/recovery-points/{point}"));
    api.refuses((404, &job_id.to_string()), other, get(job_path.clone()), None).await;
    api.refuses((404, "there is no job"), other, post(format!("{job_path}/cancel")), None).await;
    api.refuses((404, "there is no job"), other, get(format!("{job_path}/events")), None).await;
    api.refuses((404, "there is no"), other, get(point_path.clone()), None).await;
    api.refuses((404, "there is no"), other, (Method::DELETE, point_path), None).await;
    api.refuses((404, "there is no"), other, jobs(), Some(restore(point))).await;
    api.refuses((404, "there is no"), other, jobs(), Some(backup(rig.tenant, REGION))).await;
    api.refuses((404, "there is no"), other, get(format!("/v1/hypervisors/{}", rig.tenant)), None).await;
    api.refuses((403, "tenants"), other, get("/v1/access-nodes"), None).await;
    // The owner sees them.
    let own = api.http.get(format!("{}{job_path}", rig.api_url())).bearer_auth(TOKENS.tenant).send().await;
    assert_eq!(own.unwrap().status(), StatusCode::OK);

    // Not allowed, or nobody at all.
    api.refuses((403, "viewer"), TOKENS.viewer, jobs(), Some(restore(point))).await;
    api.refuses((401, "Bearer"), "", get(job_path.clone()), None).await;
    api.refuses((401, "token"), "wrong-0123456789abcdef", get(job_path.clone()), None).await;

    // None of it made a job or touched the recovery point.
    assert_eq!(rig.client.jobs(&Default::default()).await.unwrap().items.len(), 1);
    rig.client.recovery_point(point).await.unwrap();
    rig.left(2, 2).await.unwrap();
}
