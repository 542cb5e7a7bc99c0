//! The simulator's own endpoint, below `/_awssim/`: unsigned JSON for tests and operators, no part of AWS.
//!
//! | method and path | what |
//! |---|---|
//! | `GET health` | `{"status":"ok"}` and what the store holds |
//! | `GET`, `DELETE counters` | calls, bytes and injected faults; set them to nothing |
//! | `GET`, `PUT`, `POST`, `DELETE faults` | the rules with how often each fired; replace all; add one; remove all |
//! | `GET`, `PUT quotas` · `latency` · `behaviour` | see [`Quotas`], [`Latency`] (a list), [`Behaviour`] |
//! | `POST clock` | `{"advance_seconds":n}` |
//! | `POST accounts` | `{"account":"111122223333"}`; answers its administrator's key |
//! | `POST users` | `{"account":…,"name":…,"policies":[…]}`; without policies it may do everything; answers its key |
//! | `POST roles` | `{"account":…,"name":…,"trust":{…},"policies":[…]}`; answers its `arn` |
//! | `POST keys` | `{"account":…,"region":…,"policy":{…},"alias":"alias/…"}`, the last two optional; answers its `arn` |
//! | `PUT keys` | `{"arn":…,"state":"Enabled"\|"Disabled"\|"PendingDeletion","policy":{…}}`, the last two optional |
//! | `POST access-nodes` | `{"account":…,"region":…,"instance":…,"device_dir":…}`: volumes attached to the instance become block devices of this machine, linked in the folder |
//! | `POST key-pairs` | `{"account":…,"region":…,"name":…}`; RunInstances then refuses the account's other names |
//! | `POST marks` | `{"id":…,"product_codes":[…],"outpost":…,"is_failed":…}` of a volume, a snapshot, an instance or a subnet: Marketplace codes, ARN of the Outpost, a volume's state `error` |
//! | `POST volumes/{id}/content?offset=` | the body into the volume |
//! | `GET volumes/{id}/content?offset=&length=` | bytes of the volume |
//! | `GET volumes/{id}/map` | the ranges that have data |
//! | `POST snapshots/synthetic` | see [`NewSynthetic`] |
//! | `GET inventory?account=` | every live resource of an account; objects, unended uploads and imports of S3 among them |

mod content;
mod operations;

pub use operations::{NewSynthetic, Operations};

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::faults::body::{ReplyBody, full};
use crate::faults::{Behaviour, Latency, Quotas, Rule};
use crate::store::StoreError;

/// Longest JSON body accepted, in bytes.
const MOST_JSON: usize = 1 << 20;

/// An error answer: a status and what to tell.
#[derive(Debug)]
struct AdminError(StatusCode, String);

impl AdminError {
    fn bad_request(message: impl ToString) -> Self {
        Self(StatusCode::BAD_REQUEST, message.to_string())
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::VolumeNotFound(_) | StoreError::SnapshotNotFound(_) => StatusCode::NOT_FOUND,
            StoreError::Io { .. } | StoreError::Damaged { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            StoreError::AlreadyExists(_) => StatusCode::CONFLICT,
            StoreError::BadId(_)
            | StoreError::OutOfRange { .. }
            | StoreError::Pending(_)
            | StoreError::NotPending(_)
            | StoreError::ConflictingUpdate { .. }
            | StoreError::Unrelated { .. }
            | StoreError::Synthetic(_)
            | StoreError::BadSpec(_) => StatusCode::BAD_REQUEST,
        };
        Self(status, format!("failed to {error}"))
    }
}

type Answer = Result<Response<ReplyBody>, AdminError>;

/// Answers a request whose path starts with `/_awssim/`. Never fails: errors are answers.
pub async fn handle<O: Operations + 'static>(
    ctx: Arc<O>,
    req: hyper::Request<Incoming>,
) -> Response<ReplyBody> {
    let path = req.uri().path().to_owned();
    let path = path.strip_prefix("/_awssim").unwrap_or(&path);
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let answer = route(&ctx, &segments, req).await;
    answer.unwrap_or_else(|AdminError(status, message)| {
        let body = json!({ "error": message }).to_string();
        let mut response = Response::new(full(body));
        *response.status_mut() = status;
        response
    })
}

async fn route<O: Operations + 'static>(
    ctx: &Arc<O>,
    segments: &[&str],
    req: hyper::Request<Incoming>,
) -> Answer {
    let (method, query) = (req.method().clone(), Query::parse(req.uri().query()));
    let faults = ctx.faults();
    match (&method, segments) {
        (&Method::GET, ["health"]) => answer(&json!({ "status": "ok", "store": ctx.store().stats() })),
        (&Method::GET, ["counters"]) => answer(&faults.counters()),
        (&Method::DELETE, ["counters"]) => {
            faults.clear_counters();
            done()
        }
        (&Method::GET, ["faults"]) => answer(&faults.rules()),
        (&Method::PUT, ["faults"]) => {
            faults.set_rules(json::<Vec<Rule>>(req).await?);
            done()
        }
        (&Method::POST, ["faults"]) => {
            faults.add_rule(json::<Rule>(req).await?);
            done()
        }
        (&Method::DELETE, ["faults"]) => {
            faults.clear();
            done()
        }
        (&Method::GET, ["quotas"]) => answer(&faults.quotas()),
        (&Method::PUT, ["quotas"]) => {
            faults.set_quotas(json::<Quotas>(req).await?);
            done()
        }
        (&Method::GET, ["latency"]) => answer(&faults.latency()),
        (&Method::PUT, ["latency"]) => {
            faults.set_latency(json::<Vec<Latency>>(req).await?);
            done()
        }
        (&Method::GET, ["behaviour"]) => answer(&faults.behaviour()),
        (&Method::PUT, ["behaviour"]) => {
            faults.set_behaviour(json::<Behaviour>(req).await?);
            done()
        }
        (&Method::POST, ["clock"]) => {
            let Advance { advance_seconds } = json(req).await?;
            faults.clock().advance(std::time::Duration::from_secs(advance_seconds));
            done()
        }
        (&Method::POST, [kind @ ("accounts" | "users" | "roles" | "keys")]) => {
            let body = json(req).await?;
            let made = match *kind {
                "accounts" => ctx.create_account(body),
                "users" => ctx.create_user(body),
                "keys" => ctx.create_key(body),
                _ => ctx.create_role(body),
            };
            answer(&made.map_err(AdminError::bad_request)?)
        }
        (&Method::POST, [kind @ ("access-nodes" | "key-pairs" | "marks")]) => {
            answer(&ctx.declare(kind, json(req).await?).map_err(AdminError::bad_request)?)
        }
        (&Method::PUT, ["keys"]) => {
            ctx.change_key(json(req).await?).map_err(AdminError::bad_request)?;
            done()
        }
        (&Method::POST, ["volumes", id, "content"]) => {
            content::write(&**ctx, id, query.number("offset")?.unwrap_or(0), req.into_body()).await
        }
        (&Method::GET, ["volumes", id, "content"]) => {
            content::read(ctx, id, query.number("offset")?.unwrap_or(0), query.number("length")?)
        }
        (&Method::GET, ["volumes", id, "map"]) => content::map(&**ctx, id),
        (&Method::POST, ["snapshots", "synthetic"]) => {
            answer(&operations::synthetic(&**ctx, &json(req).await?)?)
        }
        (&Method::GET, ["inventory"]) => {
            let account =
                query.text("account").ok_or_else(|| AdminError::bad_request("account is missing"))?;
            answer(&ctx.inventory(account).map_err(AdminError::bad_request)?)
        }
        _ => {
            let message = format!("there is no {method} /_awssim/{}", segments.join("/"));
            Err(AdminError(StatusCode::NOT_FOUND, message))
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_seconds: u64,
}

/// The parameters after the question mark; none of them needs escapes.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str) -> Result<Option<u64>, AdminError> {
        let number = self.text(name).map(str::parse);
        number.transpose().map_err(|error| AdminError::bad_request(format!("{name}: {error}")))
    }
}

async fn json<T: DeserializeOwned>(req: hyper::Request<Incoming>) -> Result<T, AdminError> {
    let body = Limited::new(req.into_body(), MOST_JSON).collect().await.map_err(AdminError::bad_request)?;
    serde_json::from_slice(&body.to_bytes()).map_err(AdminError::bad_request)
}

fn answer(value: &impl Serialize) -> Answer {
    let text = serde_json::to_vec(value)
        .map_err(|error| AdminError(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let response =
        Response::builder().header("content-type", "application/json").body(full(Bytes::from(text)));
    response.map_err(AdminError::bad_request)
}

/// The answer to a call that changed a switch.
fn done() -> Answer {
    answer(&json!({ "status": "ok" }))
}
