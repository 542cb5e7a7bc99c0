//! The EBS direct APIs: ListSnapshotBlocks, ListChangedBlocks, GetSnapshotBlock, StartSnapshot, PutSnapshotBlock,
//! CompleteSnapshot, in AWS's rest-json.
//!
//! The handler gets a caller whose signature was checked. It asks the fault rules, then the world (may this caller
//! do that to this snapshot?), then the store. It keeps no state: what a token or a started snapshot says is in
//! the token or in the store.

mod backend;
mod complete;
mod error;
mod expiry;
mod get;
mod list;
mod put;
mod route;
mod start;
mod token;

use std::time::Duration;

use crate::server::RequestBody;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};

use crate::faults::body::ReplyBody;
use crate::faults::{Call, FaultPlan, Faults};
use crate::store::BlockStore;
use error::EbsError;
use route::{Action, Route};

pub use backend::{Backend, EbsSnapshot, SnapshotState};
pub use expiry::fail_expired;
pub use start::{Start, Started, Tag};

/// One request with all that its answer depends on, but for a body.
struct Request<'a, B: Backend> {
    backend: &'a B,
    caller: &'a B::Caller,
    region: &'a str,
    route: Route,
    headers: HeaderMap,
    plan: FaultPlan,
}

impl<B: Backend> Request<'_, B> {
    fn store(&self) -> &BlockStore {
        self.backend.store()
    }

    fn faults(&self) -> &Faults {
        self.backend.faults()
    }

    /// Seconds since 1970.
    fn now(&self) -> u64 {
        self.faults().clock().epoch_seconds()
    }

    fn snapshot(&self, id: &str) -> Result<EbsSnapshot, EbsError> {
        Ok(self.backend.snapshot(self.caller, self.region, id, self.route.action.name())?)
    }

    /// A snapshot that can be read by this caller.
    fn completed(&self, id: &str) -> Result<EbsSnapshot, EbsError> {
        let snapshot = self.snapshot(id)?;
        match snapshot.state {
            SnapshotState::Completed => Ok(snapshot),
            SnapshotState::Pending | SnapshotState::Error => Err(wrong_state(id, "completed")),
        }
    }

    /// A snapshot that this caller started and that still takes blocks.
    fn writable(&self, id: &str) -> Result<(), EbsError> {
        let snapshot = self.snapshot(id)?;
        let visible_after = Duration::from_millis(self.faults().behaviour().start_visible_after_millis);
        let age = self.faults().clock().now().duration_since(snapshot.start_time).unwrap_or_default();
        if snapshot.state == SnapshotState::Pending && age < visible_after {
            self.faults().count_fault("not_visible_yet");
            return Err(EbsError::snapshot_not_found(id));
        }
        match snapshot.state {
            SnapshotState::Pending => Ok(()),
            SnapshotState::Completed | SnapshotState::Error => Err(wrong_state(id, "pending")),
        }
    }

    /// A snapshot that this caller started and that did not fail; being completed already is no obstacle.
    fn completable(&self, id: &str) -> Result<(), EbsError> {
        match self.snapshot(id)?.state {
            SnapshotState::Pending | SnapshotState::Completed => Ok(()),
            SnapshotState::Error => Err(wrong_state(id, "pending")),
        }
    }
}

fn wrong_state(id: &str, wanted: &str) -> EbsError {
    EbsError::validation("INVALID_SNAPSHOT_ID", format!("The snapshot '{id}' is not in the {wanted} state."))
}

/// Answers a request whose signature was checked. Never fails: errors are answers.
pub async fn serve<B: Backend>(
    backend: &B,
    caller: &B::Caller,
    region: &str,
    req: hyper::Request<RequestBody>,
) -> Response<ReplyBody> {
    let (parts, body) = req.into_parts();
    let answer = match Route::parse(&parts.method, parts.uri.path(), parts.uri.query()) {
        Ok(route) => answer(backend, caller, region, route, parts.headers, body).await,
        Err(error) => Err(error),
    };
    let mut response = answer.unwrap_or_else(|error| error.response());
    let id = format!("{:032x}", rand::random::<u128>());
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

async fn answer<B: Backend>(
    backend: &B,
    caller: &B::Caller,
    region: &str,
    route: Route,
    headers: HeaderMap,
    body: RequestBody,
) -> Result<Response<ReplyBody>, EbsError> {
    fail_expired(backend);
    let call = Call {
        snapshot: Some(route.snapshot_id.as_str()).filter(|id| !id.is_empty()),
        block: route.block_index,
        ..Call::new("ebs", route.action.name(), backend.account(caller), region)
    };
    let plan = backend.faults().before_call(call).await?;
    let request = Request { backend, caller, region, route, headers, plan };
    match request.route.action {
        Action::ListSnapshotBlocks => list::snapshot_blocks(&request),
        Action::ListChangedBlocks => list::changed_blocks(&request),
        Action::GetSnapshotBlock => get::snapshot_block(&request),
        Action::StartSnapshot => start::snapshot(&request, body).await,
        Action::PutSnapshotBlock => put::snapshot_block(&request, body).await,
        Action::CompleteSnapshot => complete::snapshot(&request),
    }
}

fn json_response<B: Backend>(
    request: &Request<'_, B>,
    status: u16,
    json: Bytes,
) -> Result<Response<ReplyBody>, EbsError> {
    let response = Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(request.plan.body(vec![json]));
    response.map_err(|error| EbsError::internal(error.to_string()))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
