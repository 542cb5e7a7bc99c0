//! The client of the HTTP API: one method a call. It retries nothing: who calls decides, with
//! [`ClientError::retryable`] and, for new jobs, an idempotency key.

mod error;
mod events;

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use snapferry_types::{HypervisorId, JobId, MediaAgentId, RecoveryPointId};

pub use self::error::ClientError;
pub use self::events::JobEvents;
use crate::fleet::{AccessNode, AskMaintenance, Maintenance, MediaAgent};
use crate::hypervisor::{CreateHypervisor, Hypervisor, HypervisorQuery};
use crate::instance::{Instance, InstanceQuery};
use crate::job::{CreateJob, Job, JobQuery, JobSummary, Priority, SetPriority};
use crate::ledger::{LedgerLine, LedgerQuery, Reap, Reaped};
use crate::page::{Page, PageQuery};
use crate::problem::{Problem, ProblemCode};
use crate::recovery_point::{Reconciled, RecoveryPoint, RecoveryPointQuery, RecoveryPointSummary};

/// A call without a body to stream answers within this time, or fails.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// A call that asks AWS about many things first.
const SLOW_CALL_TIMEOUT: Duration = Duration::from_secs(15 * 60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Larger answers than this are refused.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A connection to one scheduler.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<SecretString>,
}

impl Client {
    /// A client of the scheduler at `base_url`, such as `http://127.0.0.1:7480`. Opens nothing yet.
    ///
    /// # Errors
    /// [`ClientError::Url`] when the URL is none that a scheduler may have.
    pub fn new(base_url: &str, token: Option<SecretString>) -> Result<Self, ClientError> {
        let refuse = |reason: String| ClientError::Url { url: base_url.to_owned(), reason };
        let mut base = Url::parse(base_url).map_err(|error| refuse(error.to_string()))?;
        if base.cannot_be_a_base() || !matches!(base.scheme(), "http" | "https") {
            return Err(refuse("expected http:// or https://".to_owned()));
        }
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|error| refuse(error.to_string()))?;
        Ok(Self { http, base, token })
    }

    /// Registers an account.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_hypervisor(&self, body: &CreateHypervisor) -> Result<Hypervisor, ClientError> {
        self.answer(self.request(Method::POST, "v1/hypervisors")?.json(body)).await
    }

    /// A page of the registered accounts.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn hypervisors(&self, query: &HypervisorQuery) -> Result<Page<Hypervisor>, ClientError> {
        self.list("v1/hypervisors", query).await
    }

    /// A registered account.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn hypervisor(&self, id: HypervisorId) -> Result<Hypervisor, ClientError> {
        self.answer(self.request(Method::GET, &format!("v1/hypervisors/{id}"))?).await
    }

    /// Removes an account that has no open job and no recovery point.
    ///
    /// # Errors
    /// [`ClientError`]; a conflict says what is still there.
    pub async fn delete_hypervisor(&self, id: HypervisorId) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, &format!("v1/hypervisors/{id}"))?).await.map(drop)
    }

    /// The account's instances as AWS knows them now.
    ///
    /// # Errors
    /// [`ClientError`]; AWS's own refusal is a problem with the code `aws`.
    pub async fn instances(
        &self,
        id: HypervisorId,
        query: &InstanceQuery,
    ) -> Result<Page<Instance>, ClientError> {
        self.list(&format!("v1/hypervisors/{id}/instances"), query).await
    }

    /// Asks for work. With the same `idempotency_key` a repeated call answers the same job.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_job(
        &self,
        body: &CreateJob,
        idempotency_key: Option<&str>,
    ) -> Result<Job, ClientError> {
        let mut request = self.request(Method::POST, "v1/jobs")?.json(body);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        self.answer(request).await
    }

    /// A page of jobs, newest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn jobs(&self, query: &JobQuery) -> Result<Page<JobSummary>, ClientError> {
        self.list("v1/jobs", query).await
    }

    /// A job with its tasks.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn job(&self, id: JobId) -> Result<Job, ClientError> {
        self.answer(self.request(Method::GET, &format!("v1/jobs/{id}"))?).await
    }

    /// Cancels what is left of a job; agents stop at their next renewal.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn cancel_job(&self, id: JobId) -> Result<Job, ClientError> {
        self.answer(self.request(Method::POST, &format!("v1/jobs/{id}/cancel"))?).await
    }

    /// Suspends what is left of a job: running tasks stop at a safe point and keep their progress.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn suspend_job(&self, id: JobId) -> Result<Job, ClientError> {
        self.answer(self.request(Method::POST, &format!("v1/jobs/{id}/suspend"))?).await
    }

    /// Lets a suspended job go on, on whatever access node is free.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn resume_job(&self, id: JobId) -> Result<Job, ClientError> {
        self.answer(self.request(Method::POST, &format!("v1/jobs/{id}/resume"))?).await
    }

    /// Changes the band of a job's tasks that are not done.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_priority(&self, id: JobId, priority: Priority) -> Result<Job, ClientError> {
        let request = self.request(Method::PUT, &format!("v1/jobs/{id}/priority"))?;
        self.answer(request.json(&SetPriority { priority })).await
    }

    /// The events of a job from now on; the stream ends after its terminal state. A broken connection is an error
    /// item, after which the caller may watch again from `after_note`, the highest [`crate::job::Note::seq`] it saw.
    ///
    /// # Errors
    /// [`ClientError`] when the stream does not open.
    pub async fn watch_job(&self, id: JobId, after_note: Option<u64>) -> Result<JobEvents, ClientError> {
        let mut request =
            self.request(Method::GET, &format!("v1/jobs/{id}/events"))?.header("accept", "text/event-stream");
        if let Some(seq) = after_note {
            request = request.header("last-event-id", seq.to_string());
        }
        let response = request.send().await.map_err(|source| self.unreachable(source))?;
        Ok(JobEvents::new(refuse_problem(response).await?))
    }

    /// A page of the catalogue, newest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn recovery_points(
        &self,
        query: &RecoveryPointQuery,
    ) -> Result<Page<RecoveryPointSummary>, ClientError> {
        self.list("v1/recovery-points", query).await
    }

    /// A recovery point.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn recovery_point(&self, id: RecoveryPointId) -> Result<RecoveryPoint, ClientError> {
        self.answer(self.request(Method::GET, &format!("v1/recovery-points/{id}"))?).await
    }

    /// Asks for the removal of a recovery point; the job does it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_recovery_point(&self, id: RecoveryPointId) -> Result<Job, ClientError> {
        self.answer(self.request(Method::DELETE, &format!("v1/recovery-points/{id}"))?).await
    }

    /// A page of the access nodes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn access_nodes(&self, query: &PageQuery) -> Result<Page<AccessNode>, ClientError> {
        self.list("v1/access-nodes", query).await
    }

    /// A page of the MediaAgents.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn media_agents(&self, query: &PageQuery) -> Result<Page<MediaAgent>, ClientError> {
        self.list("v1/media-agents", query).await
    }

    /// A page of the ledger, oldest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ledger(&self, query: &LedgerQuery) -> Result<Page<LedgerLine>, ClientError> {
        self.list("v1/ledger", query).await
    }

    /// Removes now what nobody owns, or says what would go.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn reap(&self, body: &Reap) -> Result<Reaped, ClientError> {
        let request = self.request(Method::POST, "v1/ledger/reap")?.json(body);
        self.answer_slowly(request).await
    }

    /// Looks which snapshots of a tenant's recovery points still exist.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn reconcile(&self, id: HypervisorId) -> Result<Reconciled, ClientError> {
        self.answer_slowly(self.request(Method::POST, &format!("v1/hypervisors/{id}/reconcile"))?).await
    }

    /// Asks a MediaAgent for work on its library.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn maintain(&self, id: MediaAgentId, work: Maintenance) -> Result<MediaAgent, ClientError> {
        let request = self.request(Method::POST, &format!("v1/media-agents/{id}/maintenance"))?;
        self.answer(request.json(&AskMaintenance { work })).await
    }

    /// Answers when the scheduler is up and its database answers.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn health(&self) -> Result<(), ClientError> {
        self.send(self.request(Method::GET, "healthz")?).await.map(drop)
    }

    async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &impl Serialize,
    ) -> Result<Page<T>, ClientError> {
        self.answer(self.request(Method::GET, path)?.query(query)).await
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, ClientError> {
        let url = self
            .base
            .join(path)
            .map_err(|error| ClientError::Url { url: path.to_owned(), reason: error.to_string() })?;
        let mut request = self.http.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        Ok(request)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response =
            request.timeout(CALL_TIMEOUT).send().await.map_err(|source| self.unreachable(source))?;
        refuse_problem(response).await
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        read_answer(self.send(request).await?).await
    }

    /// For calls that wait for many answers of AWS.
    async fn answer_slowly<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let sent = request.timeout(SLOW_CALL_TIMEOUT).send().await;
        let response = sent.map_err(|source| self.unreachable(source))?;
        read_answer(refuse_problem(response).await?).await
    }

    fn unreachable(&self, source: reqwest::Error) -> ClientError {
        ClientError::Unreachable { url: self.base.to_string(), source }
    }
}

async fn read_answer<T: DeserializeOwned>(mut response: Response) -> Result<T, ClientError> {
    let url = response.url().to_string();
    let body = body_of(&mut response).await?;
    serde_json::from_slice(&body).map_err(|source| ClientError::Answer { url, reason: source.to_string() })
}

async fn refuse_problem(mut response: Response) -> Result<Response, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = body_of(&mut response).await?;
    let problem = serde_json::from_slice(&body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&body).chars().take(500).collect::<String>();
        Problem { status: status.as_u16(), ..Problem::new(ProblemCode::Unknown, format!("{status}: {text}")) }
    });
    Err(ClientError::Problem(Box::new(problem)))
}

async fn body_of(response: &mut Response) -> Result<Vec<u8>, ClientError> {
    let url = response.url().to_string();
    let mut body = Vec::new();
    while let Some(part) =
        response.chunk().await.map_err(|source| ClientError::Unreachable { url: url.clone(), source })?
    {
        body.extend_from_slice(&part);
        if body.len() > MAX_ANSWER_BYTES {
            return Err(ClientError::Answer { url, reason: format!("more than {MAX_ANSWER_BYTES} bytes") });
        }
    }
    Ok(body)
}
